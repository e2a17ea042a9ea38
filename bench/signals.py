"""Every command that writes, interrupted by Ctrl-C and by SIGTERM, and begun a second time while it is at work.

    python bench/signals.py [CASE ...] [--most N] [--seed S]        (needs a C compiler, `cc`, for bench/kills.c)

The cases are those of bench/kills.py. A signal comes before an event of the file system: SIGINT to the command and its
workers, as a terminal sends it, or SIGTERM to the command. It ends with status 130 or 143 and one line that is no traceback
(or it had come to its end), each part of the result is the old or the new one, and nothing else is left; the same command then
goes on.
Two writers: the command is held before an event while a second one runs. One of them may be refused, in one line; whoever
comes to its end, the result is the new one, and nothing is left.
Results go to bench/results/signals.json, after every case.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from killed.cases import CASES
from killed.states import copied
from kills import MADE, ROOT, Control, begun, command, judged, listed, prepared, undisturbed

RESULTS = ROOT / "bench" / "results" / "signals.json"
SIGNALS = {"SIGINT": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}


def disturbed(name: str, place: Path, control: Control, most: int, seed: int) -> dict[str, Any]:
    """Counts of what became of a case."""
    case, folder = CASES[name], place / "run"
    before = begun(name, place)
    events = undisturbed(name, before, place, control)
    old, new = case.content(before), case.content(MADE[name])
    random = np.random.default_rng(seed)
    row: dict[str, Any] = {"events": events, "failed": []}

    def said() -> list[str]:
        text = (place / "said.txt").read_text(errors="replace").replace("\r", "\n")
        return [line for line in text.splitlines() if line.strip()]

    def after(what: str, event: int, wrong: list[str]) -> None:
        found = judged(case, folder, old, new)
        if found.startswith("lost"):
            wrong.append(found)
        if remains := sorted(n for n in listed(folder) if ".part" in n):
            wrong.append(f"left: {remains}")
        status, _ = command(case.words, folder, control)
        if status and not (case.stays and found == "new"):
            wrong.append(f"next run: {said()[-1:]}")
        elif (then := judged(case, folder, old, new)) != "new":
            wrong.append(f"next run: {then}")
        if wrong:
            row["failed"].append({"of": what, "event": event, "wrong": wrong})
            print(f"{name}, {what}, event {event}: {wrong}", flush=True)

    for what, (sends, ends) in SIGNALS.items():
        row[what] = 0
        for n in sorted(1 + random.choice(events, min(most, events), replace=False)):
            copied(before, folder)
            status, _ = command(case.words, folder, control, int(n), sends=sends)
            code, wrong, lines = os.waitstatus_to_exitcode(status), list[str](), said()
            if code not in (ends, 0):
                wrong.append(f"status {code}: {lines[-1:]}")
            if any("Traceback" in line for line in lines) or (code == ends and sum("error" in x for x in lines) > 1):
                wrong.append(f"said {lines[-3:]}")
            if code == ends and not lines:
                wrong.append("nothing was said")
            row[what] += 1
            after(what, int(n), wrong)
    row["two writers"] = 0
    for n in sorted(1 + random.choice(events, min(most, events), replace=False)):
        copied(before, folder)
        second: list[int] = []

        def beside(event: int, n: int = int(n), second: list[int] = second) -> None:
            if event == n:
                second.append(_second(case.words, folder, place))

        status, _ = command(case.words, folder, control, watch=beside)
        lines = (place / "second.txt").read_text(errors="replace").replace("\r", "\n").splitlines()
        wrong = [f"second said {lines[-3:]}"] if any("Traceback" in x for x in lines) else []
        if any("Traceback" in x for x in said()):
            wrong.append(f"first said {said()[-3:]}")
        if status and second and second[0]:
            wrong.append(f"neither came to its end: {said()[-1:]}, {lines[-1:]}")
        row["two writers"] += 1
        after("two writers", int(n), wrong)
    return row


def _second(words: list[str], folder: Path, place: Path) -> int:
    """Run a command that is not counted: its status."""
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).leave_alone()
        os.chdir(folder)
        out = os.open(place / "second.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv, status = ["nearsight", *words], 99
        try:
            from nearsight.cli.commands import main

            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--most", type=int, default=2, help="events of a case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    place, control = prepared()
    told = arguments.results
    rows = json.loads(told.read_text())["cases"] if told.exists() else {}
    for name in arguments.cases or CASES:
        if name in rows:
            continue
        try:
            rows[name] = row = disturbed(name, place, control, arguments.most, arguments.seed)
        except SystemExit as error:
            control.disarm()
            print(f"{name}: not tried: {error}", flush=True)
            continue
        print(f"{name:28s} {' '.join(f'{k} {v}' for k, v in row.items() if k != 'failed')}", flush=True)
        told.write_text(json.dumps({"cases": {n: rows[n] for n in CASES if n in rows}}, indent=1) + "\n")
    if any(row["failed"] for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Every command that writes, killed at every event of the file system: the old result or the new one is whole.

    python bench/kills.py [CASE ...] [--most N] [--seed S]        (needs a C compiler, `cc`, for bench/kills.c)

A case is a command, into a new place or over an old result. Its events (opening to write, writing, truncating, flushing,
renaming, exchanging, linking, removing) are counted in an undisturbed run by a library that is loaded before all others, and
SIGKILL comes before the n-th, for every n or for a sample of N. Afterwards the result is read: it is what was there, or what
was to be. Then the command runs again: it succeeds, and leaves nothing that an undisturbed run does not leave.
Results go to bench/results/kills.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from killed.cases import CASES, KEPT, Case, Content

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "kills.json"
SECONDS = 300


# --- a process that can be killed


class Control:
    """What bench/kills.c looks at: whether it counts, how far it is, where it kills, where it writes the events."""

    @staticmethod
    def write(path: Path, folder: Path) -> None:
        """A file that counts what happens below a folder."""
        path.write_bytes(struct.pack("4i", 0, 0, 0, 0) + str(folder).encode().ljust(8176, b"\0"))

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 8192)

    def arm(self, at: int, log: int) -> None:
        """Count from 0, and kill at an event (0: at none)."""
        self.map[:16] = struct.pack("4i", 1, 0, at, log)

    def disarm(self) -> int:
        """Stop counting: how many there were."""
        _, count, _, _ = struct.unpack("4i", self.map[:16])
        self.map[:16] = struct.pack("4i", 0, 0, 0, 0)
        return count


def _command(words: list[str], folder: Path, control: Control, at: int = 0, log: int = 0) -> tuple[int, int]:
    """Run a command in a forked group of processes: its wait status, and its events."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.chdir(folder)
        out = os.open(folder.parent / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["nearsight", *words]
        status = 0
        control.arm(at, log)
        try:
            from nearsight.cli.commands import main

            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 99
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    end = time.monotonic() + SECONDS
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status, control.disarm()
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            raise SystemExit(f"{words} takes more than {SECONDS} s")
        time.sleep(0.005)


def _listed(folder: Path) -> set[str]:
    """What is there; the names of cached samples aside, which may be more or fewer."""
    names = {str(p.relative_to(folder)) for p in folder.rglob("*")}
    return {n for n in names if not n.startswith("cache/")} | {n for n in names if ".part" in n}


def kill(name: str, place: Path, control: Control, most: int, seed: int) -> dict[str, Any]:
    """Counts of what became of a case."""
    case, folder = CASES[name], place / "run"
    started = time.perf_counter()

    def fresh() -> Content:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case.prepare(folder)
        return case.content(folder)

    if case.needs is not None and case.needs not in KEPT:
        kill(case.needs, place, control, 0, seed)
    old = fresh()
    log = os.open(place / "events.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    status, events = _command(case.words, folder, control, 0, log)
    os.close(log)
    if status:
        raise SystemExit(f"{name}: {(place / 'said.txt').read_text()}")
    new, names = case.content(folder), _listed(folder)
    KEPT[name] = place / f"made-{len(KEPT)}"
    shutil.copytree(folder, KEPT[name])
    random = np.random.default_rng(seed)
    most = min(most, case.most)
    chosen = range(1, events + 1)
    if events > most:
        chosen = [] if not most else sorted({1, events, *(1 + random.choice(events, most, replace=False)).tolist()})
    row = {"events": events, "kills": 0, "old": 0, "new": 0, "part": 0, "lost": 0, "leftovers": 0, "failed": []}
    for n in chosen:
        fresh()
        status, _ = _command(case.words, folder, control, n)
        if status == 0:  # fewer events than before
            continue
        row["kills"] += 1
        what = _judged(case, folder, old, new)
        row[what.split(":")[0]] += 1
        left = sorted(_listed(folder) - names)
        status, _ = _command(case.words, folder, control)
        again = "" if status == 0 else f"the next run: {(place / 'said.txt').read_text().strip()[-300:]}"
        if what == "new" and "is there already" in again:  # a command that never writes over a result
            again = ""
        if not again and _judged(case, folder, None, new) != "new":
            again = f"the next run: {_judged(case, folder, None, new)}"
        remains = sorted(_listed(folder) - names)
        row["leftovers"] += bool(remains)
        row["lost"] += bool(again) and not what.startswith("lost")
        if what.startswith("lost") or remains or again:
            row["failed"].append({"event": n, "after": what, "then": again, "left": left, "remains": remains})
            print(f"{name}, event {n}: {what}; {again}; {remains}", flush=True)
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def _judged(case: Case, folder: Path, old: Content, new: Content) -> str:
    """old, new, part (of one that goes on), or lost: and how."""
    try:
        found = case.content(folder)
    except Exception as error:
        return f"lost: {type(error).__name__} {str(error)[:300]}"
    if found == new:
        return "new"
    if found == old:
        return "old"
    return "part" if case.goes_on and (found is not None or old is None) else f"lost: {found}"


def main() -> None:
    """Start again with the library that counts, then the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--most", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if "KILLS" not in os.environ:
        with tempfile.TemporaryDirectory(prefix="kills-") as place:
            library = Path(place, "kills.so")
            subprocess.run(
                ["cc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "bench" / "kills.c", "-ldl"], check=True
            )
            control = Path(place, "control")
            Control.write(control, Path(place, "run"))
            settings = {
                "KILLS": str(control),
                "LD_PRELOAD": str(library),
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            }
            raise SystemExit(subprocess.run([sys.executable, *sys.argv], env={**os.environ, **settings}).returncode)
    place = Path(os.environ["KILLS"]).parent
    control = Control(Path(os.environ["KILLS"]))
    os.environ["XDG_CACHE_HOME"] = str(place / "home")
    import matplotlib.pyplot  # noqa: F401

    import nearsight.dft.run
    import nearsight.learn.train  # noqa: F401
    # loaded once, before the forks

    rows = json.loads(arguments.results.read_text())["cases"] if arguments.results.exists() else {}
    names = arguments.cases or list(CASES)
    for name in names:
        rows[name] = row = kill(name, place, control, arguments.most, arguments.seed)
        told = " ".join(
            f"{k} {row[k]}" for k in ("events", "kills", "old", "new", "part", "lost", "leftovers", "seconds")
        )
        print(f"{name:28s} {told}", flush=True)
        arguments.results.write_text(json.dumps({"cases": rows}, indent=1) + "\n")
    if any(rows[name]["lost"] or rows[name]["leftovers"] for name in names):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

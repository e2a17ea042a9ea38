"""Every command that writes, killed at every event of the file system: the old result or the new one is whole.

    python bench/kills.py [CASE ...] [--most N] [--states N] [--all] [--seed S]    (needs a C compiler, `cc`, for bench/kills.c)

A case of bench/killed/cases.py is a command, into a new place or over an old result. Its events (opening to write, writing,
truncating, flushing, renaming, exchanging, linking, removing) are counted in an undisturbed run by a library that is loaded
before all others. That run is held before each event while the folder is copied: what a SIGKILL there leaves behind
(bench/killed/states.py). Of each kind of state one is taken, for --all every state, for --states N at most N kinds.
Beside them --most N real kills: SIGKILL comes before the n-th event, for a sample of N, to the command and to its workers, in a
session of its own whose last process is waited for; what it leaves is judged as the state copied before that event is.
What is left is read: each part is what was there, or what was to be. Then the command runs again: it succeeds, comes
to the result of an undisturbed run, and leaves nothing that such a run does not leave.
Results go to bench/results/kills.json, after every case; the same command leaves out those that are there of the same seed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import mmap
import os
import pkgutil
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from killed.cases import CASES, ROOT, Case
from killed.contents import Content
from killed.states import States, copied

RESULTS = ROOT / "bench" / "results" / "kills.json"
SECONDS = 300
WORDS = 10  # 32-bit integers at the head of what bench/kills.c looks at
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans become children of the bench, which waits for them


# --- a process that can be killed


class Control:
    """What bench/kills.c looks at: whether it counts, how far it is, where it kills, where it writes the events."""

    @staticmethod
    def write(path: Path, folder: Path) -> None:
        """A file that counts what happens below a folder."""
        path.write_bytes(bytes(4 * WORDS) + str(folder).encode().ljust(8192 - 4 * WORDS, b"\0"))

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 8192)

    def arm(self, at: int, log: int, leader: int, sends: int, holding: bool) -> None:
        """Count from 0, and kill the group of the leader at an event (0: at none), or wait at each.

        sends: a signal in place of SIGKILL.
        """
        self._set(1, 0, at, log, leader, sends, int(holding), 0, 0, 0)

    def disarm(self) -> int:
        """Stop counting: how many there were."""
        count = self._words()[1]
        self._set(*[0] * WORDS)
        return count

    def waiting(self) -> int:
        """The event before which a process waits; 0 for none."""
        waits, goes = self._words()[-2:]
        return waits if waits > goes else 0

    def go(self, event: int) -> None:
        """Let the process do it."""
        self.map[4 * WORDS - 4 : 4 * WORDS] = struct.pack("i", event)

    def _words(self) -> tuple[int, ...]:
        return struct.unpack(f"{WORDS}i", self.map[: 4 * WORDS])

    def _set(self, *words: int) -> None:
        self.map[: 4 * WORDS] = struct.pack(f"{WORDS}i", *words)


def command(
    words: list[str],
    folder: Path,
    control: Control,
    at: int = 0,
    log: int = 0,
    watch: Callable[[int], None] | None = None,
    sends: int = 0,
) -> tuple[int, int]:
    """Run a command in a forked session: its wait status, and its events. All that it started has ended.

    at: the event before which it is killed.  watch: what looks at the folder before each.  sends: a signal for SIGKILL.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        out = os.open(folder.parent / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["nearsight", *words]
        status = 0
        control.arm(at, log, os.getpid(), sends, watch is not None)
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
    end, found = time.monotonic() + SECONDS, None
    while True:
        if watch is not None and (event := control.waiting()):
            watch(event)
            control.go(event)
            continue
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if ended == child:
            found = status
        elif ended == 0:
            if time.monotonic() > end:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                raise SystemExit(f"{words} takes more than {SECONDS} s")
            time.sleep(0.005 if watch is None else 0.0001)
    assert found is not None
    return found, control.disarm()


MADE: dict[str, Path] = {}  # the folder of a case after its undisturbed run


def listed(folder: Path) -> set[str]:
    """What is there; the names of cached samples aside, which may be more or fewer."""
    names = {str(p.relative_to(folder)) for p in folder.rglob("*")}
    return {n for n in names if not n.startswith("cache/") or ".part" in n}


def begun(name: str, place: Path) -> Path:
    """A folder as it is before the command."""
    case, before = CASES[name], place / f"before-{len(MADE)}"
    shutil.rmtree(before, ignore_errors=True)
    before.mkdir()
    if case.needs is not None:
        if case.needs not in MADE:
            undisturbed(case.needs, begun(case.needs, place), place, Control(Path(os.environ["KILLS"])))
        shutil.rmtree(before)
        before = place / f"before-{len(MADE)}"
        copied(MADE[case.needs], before)
    case.prepare(before)
    return before


def undisturbed(name: str, before: Path, place: Path, control: Control, watch: States | None = None) -> int:
    """How many events an undisturbed run has. It is kept in MADE."""
    folder = place / "run"
    copied(before, folder)
    log = os.open(place / "events.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    status, events = command(CASES[name].words, folder, control, 0, log, watch)
    os.close(log)
    if status:
        raise SystemExit(f"{name}: {(place / 'said.txt').read_text()}")
    MADE[name] = place / f"made-{len(MADE)}"
    copied(folder, MADE[name])
    return events


def kill(name: str, place: Path, control: Control, arguments: argparse.Namespace) -> dict[str, Any]:
    """Counts of what became of a case."""
    case, folder = CASES[name], place / "run"
    started = time.perf_counter()
    before = begun(name, place)
    shutil.rmtree(place / "states", ignore_errors=True)
    (place / "states").mkdir()
    states = States(folder, place / "states")
    events = undisturbed(name, before, place, control, states)
    trial = _Trial(case, folder, control, case.content(before), case.content(MADE[name]), listed(MADE[name]))
    if all(trial.old[key] == trial.new[key] for key in trial.new):
        raise SystemExit(f"{name}: the bench cannot tell old from new: {trial.old}, {trial.new}")
    row = {"seed": arguments.seed, "events": events, "states": len(states.seen)}
    row |= {"kinds": len(states.kinds()), "tried": 0, "every": False, "kills": 0, "alike": 0}
    row |= {"old": 0, "new": 0, "between": 0, "lost": 0, "leftovers": 0}
    random = np.random.default_rng(arguments.seed)
    failed: list[dict[str, Any]] = []
    kinds = states.kinds()
    if len(kinds) > arguments.states:
        kinds = [kinds[n] for n in sorted(random.choice(len(kinds), arguments.states, replace=False))]
    judged: dict[str, str] = {}  # what became of each kind
    for kind in kinds:
        for state in kind if arguments.all else kind[-1:]:
            copied(state.folder, folder)
            told = trial.judge(row, failed, state.events)
            judged[state.kind] = told
            row["tried"] += 1
    row["every"] = len(kinds) == row["kinds"]
    by_event = {n: state.kind for state in states.seen.values() for n in state.events}
    for n in sorted(1 + random.choice(events, min(arguments.most, events), replace=False)):
        copied(before, folder)
        status, _ = command(case.words, folder, control, int(n))
        if status == 0:  # fewer events than before
            continue
        row["kills"] += 1
        told = trial.judge(row, failed, [int(n)])
        row["alike"] += told == judged.get(by_event[n], told)
    return row | {"seconds": round(time.perf_counter() - started, 1), "failed": failed}


@dataclass(frozen=True)
class _Trial:
    """What is left of a case is judged, and the command runs again.  names: what an undisturbed run leaves."""

    case: Case
    folder: Path
    control: Control
    old: Content
    new: Content
    names: set[str]

    def judge(self, row: dict[str, Any], failed: list[dict[str, Any]], events: list[int]) -> str:
        """Counts what became of a folder, and tells it. events: before which it stood so."""
        case, folder = self.case, self.folder
        what = judged(case, folder, self.old, self.new)
        left = sorted(listed(folder) - self.names)
        status, _ = command(case.words, folder, self.control)
        said = (folder.parent / "said.txt").read_text().strip()[-300:]
        again = "" if status == 0 or (case.stays and what == "new" and "Traceback" not in said) else f"next run: {said}"
        if not again and (then := judged(case, folder, self.old, self.new)) != "new":
            again = f"next run: {then}"
        remains = sorted(listed(folder) - self.names)
        row[what.split(":")[0] if not again else "lost"] += 1
        row["leftovers"] += bool(remains)
        if what.startswith("lost") or remains or again:
            failed.append({"events": events, "after": what, "then": again, "left": left, "remains": remains})
            print(f"{case.words}, event {events}: {what}; {again}; {remains}", flush=True)
        return what


def judged(case: Case, folder: Path, old: Content, new: Content) -> str:
    """old, new, between (each part is one of these, or may grow), or lost: and how."""
    try:
        found = case.content(folder)
    except Exception as error:  # whatever a reader says of what is not whole
        return f"lost: {type(error).__name__} {str(error)[:300]}"
    if found == new:
        return "new"
    if found == old:
        return "old"
    wrong = [key for key in new if found[key] not in (old[key], new[key]) and key not in case.grows]
    return f"lost: {wrong}" if wrong else "between"


def prepared() -> tuple[Path, Control]:
    """Start the program again with the library that counts; there, load all that commands need, and tell where to work."""
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
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    place = Path(os.environ["KILLS"]).parent
    control = Control(Path(os.environ["KILLS"]))
    os.environ["XDG_CACHE_HOME"] = str(place / "home")
    import matplotlib.pyplot  # noqa: F401

    import nearsight.dft.run
    import nearsight.learn.train

    for module in pkgutil.walk_packages(nearsight.__path__, "nearsight."):  # loaded once, before the forks
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return place, control


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--most", type=int, default=3, help="real kills of a case")
    parser.add_argument("--states", type=int, default=10**6, help="kinds of states of a case")
    parser.add_argument("--all", action="store_true", help="every state, not one of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    place, control = prepared()
    told = arguments.results
    rows = json.loads(told.read_text())["cases"] if told.exists() else {}
    names, refused = arguments.cases or list(CASES), list[str]()
    for name in names:
        done = rows.get(name, {})
        if done.get("seed") == arguments.seed and done.get("tried", 0) >= min(arguments.states, done["kinds"]):
            continue
        try:
            rows[name] = row = kill(name, place, control, arguments)
        except SystemExit as error:
            control.disarm()
            print(f"{name}: not tried: {error}", flush=True)
            refused.append(name)
            continue
        said = " ".join(f"{k} {v}" for k, v in row.items() if k not in ("seed", "failed"))
        print(f"{name:28s} {said}", flush=True)
        told.write_text(json.dumps({"cases": {n: rows[n] for n in CASES if n in rows}}, indent=1) + "\n")
    if refused or any(rows[name]["lost"] or rows[name]["leftovers"] for name in names):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

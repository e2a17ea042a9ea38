"""Every command that writes, killed at every event of the file system: the old result or the new one is whole.

    python bench/kills.py [CASE ...] [--most N] [--seed S]        (needs a C compiler, `cc`, for bench/kills.c)

A case of bench/killed/cases.py is a command, into a new place or over an old result. Its events (opening to write, writing,
truncating, flushing, renaming, exchanging, linking, removing) are counted in an undisturbed run by a library that is loaded
before all others, and SIGKILL comes before the n-th, for every n or for a sample of N: to the command and to its workers.
Every try begins with a fresh copy of the same folder, in a session of its own, whose last process is waited for.
Afterwards the result is read: each part is what was there, or what was to be. Then the command runs again: it succeeds, comes
to the result of an undisturbed run, and leaves nothing that such a run does not leave.
Results go to bench/results/kills.json, after every case; the same command leaves out those that are there of the same seed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
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
from killed.cases import CASES, ROOT, Case
from killed.contents import Content

RESULTS = ROOT / "bench" / "results" / "kills.json"
SECONDS = 300
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans become children of the bench, which waits for them


# --- a process that can be killed


class Control:
    """What bench/kills.c looks at: whether it counts, how far it is, where it kills, where it writes the events."""

    @staticmethod
    def write(path: Path, folder: Path) -> None:
        """A file that counts what happens below a folder."""
        path.write_bytes(struct.pack("5i", 0, 0, 0, 0, 0) + str(folder).encode().ljust(8172, b"\0"))

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 8192)

    def arm(self, at: int, log: int, leader: int) -> None:
        """Count from 0, and kill the group of the leader at an event (0: at none)."""
        self.map[:20] = struct.pack("5i", 1, 0, at, log, leader)

    def disarm(self) -> int:
        """Stop counting: how many there were."""
        count = struct.unpack("5i", self.map[:20])[1]
        self.map[:20] = struct.pack("5i", 0, 0, 0, 0, 0)
        return count


def _command(words: list[str], folder: Path, control: Control, at: int = 0, log: int = 0) -> tuple[int, int]:
    """Run a command in a forked session: its wait status, and its events. All that it started has ended."""
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
        control.arm(at, log, os.getpid())
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
            time.sleep(0.005)
    assert found is not None
    return found, control.disarm()


_MADE: dict[str, Path] = {}  # the folder of a case after its undisturbed run


def _copied(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


def _listed(folder: Path) -> set[str]:
    """What is there; the names of cached samples aside, which may be more or fewer."""
    names = {str(p.relative_to(folder)) for p in folder.rglob("*")}
    return {n for n in names if not n.startswith("cache/") or ".part" in n}


def _begun(name: str, place: Path) -> Path:
    """A folder as it is before the command."""
    case, before = CASES[name], place / f"before-{len(_MADE)}"
    shutil.rmtree(before, ignore_errors=True)
    before.mkdir()
    if case.needs is not None:
        if case.needs not in _MADE:
            _undisturbed(case.needs, _begun(case.needs, place), place, Control(Path(os.environ["KILLS"])))
        shutil.rmtree(before)
        before = place / f"before-{len(_MADE)}"
        _copied(_MADE[case.needs], before)
    case.prepare(before)
    return before


def _undisturbed(name: str, before: Path, place: Path, control: Control) -> int:
    """How many events an undisturbed run has. It is kept in _MADE."""
    folder = place / "run"
    _copied(before, folder)
    log = os.open(place / "events.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    status, events = _command(CASES[name].words, folder, control, 0, log)
    os.close(log)
    if status:
        raise SystemExit(f"{name}: {(place / 'said.txt').read_text()}")
    _MADE[name] = place / f"made-{len(_MADE)}"
    shutil.rmtree(_MADE[name], ignore_errors=True)
    shutil.copytree(folder, _MADE[name], symlinks=True)
    return events


def kill(name: str, place: Path, control: Control, most: int, seed: int) -> dict[str, Any]:
    """Counts of what became of a case."""
    case, folder = CASES[name], place / "run"
    started = time.perf_counter()
    before = _begun(name, place)
    events = _undisturbed(name, before, place, control)
    old, new, names = case.content(before), case.content(_MADE[name]), _listed(_MADE[name])
    if all(old[key] == new[key] for key in new):
        raise SystemExit(f"{name}: the bench cannot tell old from new: {old}, {new}")
    random = np.random.default_rng(seed)
    chosen = range(1, events + 1)
    if events > most:
        chosen = sorted({1, events, *(1 + random.choice(events, most, replace=False)).tolist()})
    row = {"seed": seed, "events": events, "kills": 0, "old": 0, "new": 0, "between": 0, "lost": 0, "leftovers": 0}
    failed: list[dict[str, Any]] = []
    for n in chosen:
        _copied(before, folder)
        status, _ = _command(case.words, folder, control, n)
        if status == 0:  # fewer events than before
            continue
        row["kills"] += 1
        what = _judged(case, folder, old, new)
        left = sorted(_listed(folder) - names)
        status, _ = _command(case.words, folder, control)
        said = (place / "said.txt").read_text().strip()[-300:]
        again = "" if status == 0 or (case.stays and what == "new" and "Traceback" not in said) else f"next run: {said}"
        if not again and (then := _judged(case, folder, old, new)) != "new":
            again = f"next run: {then}"
        remains = sorted(_listed(folder) - names)
        row[what.split(":")[0] if not again else "lost"] += 1
        row["leftovers"] += bool(remains)
        if what.startswith("lost") or remains or again:
            failed.append({"event": n, "after": what, "then": again, "left": left, "remains": remains})
            print(f"{name}, event {n}: {what}; {again}; {remains}", flush=True)
    return row | {"seconds": round(time.perf_counter() - started, 1), "failed": failed}


def _judged(case: Case, folder: Path, old: Content, new: Content) -> str:
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
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    place = Path(os.environ["KILLS"]).parent
    control = Control(Path(os.environ["KILLS"]))
    os.environ["XDG_CACHE_HOME"] = str(place / "home")
    import matplotlib.pyplot  # noqa: F401

    import nearsight.dft.run
    import nearsight.learn.train  # noqa: F401
    # loaded once, before the forks

    told = arguments.results
    rows = json.loads(told.read_text())["cases"] if told.exists() else {}
    names, refused = arguments.cases or list(CASES), list[str]()
    for name in names:
        most = arguments.most
        if (
            name in rows
            and rows[name]["seed"] == arguments.seed
            and rows[name]["kills"] >= min(most, rows[name]["events"])
        ):
            continue
        try:
            rows[name] = row = kill(name, place, control, most, arguments.seed)
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

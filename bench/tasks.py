"""A thousand calculations whose workers are killed: all done, none twice, no torn file.

    python bench/tasks.py [--jobs 1000] [--kills 3] [--workers 2] [--executor local]

H2 with its atoms displaced at random, SZ at 40 Ry, by `dataset build`. A worker is killed by SIGKILL after each fifth of the
jobs, and the whole build, with all its workers, once; the same command goes on. Then every folder is read again, and the ledger
counted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nearsight.tasks.sets.listing import failures, list_set

H2 = "h2\n1.0\n4 0 0\n0 4 0\n0 0 4\nH\n2\nCartesian\n0 0 0\n0 0 0.74\n"


def descendants(parent: int) -> list[int]:
    """Processes below one, by /proc."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = place.read_text().rpartition(")")[2].split()
            children.setdefault(int(words[1]), []).append(int(place.parent.name))
    found, rest = [], [parent]
    while rest:
        below = children.get(rest.pop(), [])
        found += below
        rest += below
    return found


def workers(parent: int) -> list[int]:
    """Those that hold calculations: not what only watches over others."""
    found = []
    for pid in descendants(parent):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            found += [pid] if b"serve(" in line or b"spawn_main" in line else []
    return found


def done(folder: Path) -> int:
    """Folders in their places."""
    return sum(p.name.isdigit() for p in folder.iterdir()) if folder.is_dir() else 0


def build(command: Sequence[str], folder: Path, kills: Sequence[int], end_at: int | None) -> tuple[int, int]:
    """Run the build, killing a worker when so many are done, and everything at `end_at`. Returns (kills, exit status)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    left, killed = list(kills), 0
    while process.poll() is None:
        time.sleep(0.05)
        count = done(folder)
        if end_at is not None and count >= end_at:
            for pid in [process.pid, *descendants(process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            break
        if left and count >= left[0] and (crew := workers(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(crew[killed % len(crew)], signal.SIGKILL)
                killed += 1
            left.pop(0)
    return killed, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("jobs", 1000), ("kills", 3), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--executor", default="local")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "h2.vasp").write_text(H2)
        (place / "set.yaml").write_text(
            f"structure: h2.vasp\ndistort: {{count: {given.jobs}, sigma_ang: 0.03, clip_ang: 0.1}}\n"
            f"workers: {given.workers}\nscf: {{basis: sz, mesh_cutoff_ry: 40, kmesh: [1, 1, 1]}}\n"
        )
        out = place / "set"
        told = ["dataset", "build", str(place / "set.yaml"), "-o", str(out), "--executor", given.executor]
        command = [sys.executable, "-m", "nearsight.cli", *told]
        marks = [given.jobs * (k + 1) // (given.kills + 2) for k in range(given.kills)]
        began = time.perf_counter()
        first, _ = build(command, out, marks, given.jobs * (given.kills + 1) // (given.kills + 2))
        cut = done(out)
        second, status = build(command, out, [], None)
        seconds = time.perf_counter() - began
        found = list_set(out)
        rows = (
            sqlite3.connect(out / "ledger.sqlite").execute("SELECT state, count(*) FROM job GROUP BY state").fetchall()
        )
        result = {
            "executor": given.executor,
            "jobs": given.jobs,
            "workers": given.workers,
            "workers_killed": first + second,
            "done_when_the_build_was_killed": cut,
            "exit_status": status,
            "entries": len(found.entries),
            "different_contents": len({e.sha256 for e in found.entries}),
            "unreadable": len(found.broken),
            "unconverged": sum(e.converged is not True for e in found.entries),
            "ledger": dict(rows),
            "failed": len(failures(out)),
            "left_over_parts": len(list(out.rglob("*.part"))),
            "seconds": round(seconds, 1),
        }
    place = Path(__file__).parent / "results" / "tasks.json"
    table = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps({**table, given.executor: result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

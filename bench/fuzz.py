"""Every reader against files that went wrong: one line that says so, never a traceback, a crash, a hang, or a wrong answer.

    OMP_NUM_THREADS=1 python bench/fuzz.py READER N [--seed S] [--keep FOLDER]     (READER: all, or one of bench/fuzzed)

Each try alters a copy of a sound original and reads it in a process beside, which survives many tries and is begun anew after
a crash or a hang. An attempt has 20 s, and resident memory for three times the files beyond 64 MiB. What is accepted is
judged by laws that are computed here, and against the original. Results go to bench/results/fuzz.json; a try that failed is
kept in FOLDER and can be run again by its seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from fuzzed import READERS, Fuzzed  # noqa: E402
from fuzzed.contract import ROOT  # noqa: E402
from fuzzed.worker import FAULTS, FLOOR, SECONDS, TIMES, Outcome, Worker, attempt  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "fuzz.json"


def spoilt(reader: Fuzzed, originals: list[Path], place: Path, seed: int) -> tuple[Path, Path]:
    """A copy of an original that was altered, and the original. The same for the same seed."""
    random = np.random.default_rng(seed)
    original = originals[int(random.integers(len(originals)))]
    altered = place / original.name
    if original.is_dir():
        shutil.copytree(original, altered)
    else:
        shutil.copy(original, altered)
    reader.alter(altered, random)
    return altered, original


def sound_originals(name: str, folder: Path) -> list[Path]:
    """The originals of a reader, each of which it reads. Raises SystemExit where it does not."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        originals = READERS[name].originals(folder)
        for original in originals:
            outcome = attempt(READERS[name], original, original)
            if outcome.kind not in ("accepted", "memory"):  # the first one loads what it needs
                raise SystemExit(f"{name}: the original {original.name} is not sound: {outcome.kind}: {outcome.said}")
    return originals


def fuzz(name: str, tries: int, seed: int, keep: Path | None) -> dict[str, Any]:
    """Counts of outcomes, and the failed tries with their seeds."""
    reader, count, failed = READERS[name], Counter[str](), []
    slowest = hungriest = Outcome("", "")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "originals")
        folder.mkdir()
        originals = sound_originals(name, folder)
        worker, started = Worker(reader), time.perf_counter()
        try:
            for n in range(seed, seed + tries):
                work = Path(place, "try")
                work.mkdir()
                altered, original = spoilt(reader, originals, work, n)
                outcome = worker(altered, original)
                count[outcome.kind] += 1
                if outcome.kind in FAULTS:
                    failed.append({"seed": n, "kind": outcome.kind, "said": outcome.said})
                    print(f"{name} {n}: {outcome.kind}: {outcome.said[-700:]}", flush=True)
                    if keep is not None:
                        shutil.copytree(work, keep / f"{name}-{n}", symlinks=True, dirs_exist_ok=True)
                slowest = max(slowest, outcome, key=lambda o: o.seconds)
                hungriest = max(hungriest, outcome, key=lambda o: o.grown)
                shutil.rmtree(work)
        finally:
            worker.close()
            worker.trace.unlink()
        seconds = time.perf_counter() - started
    row = {"tries": tries, "refused": count["refused"], "accepted": count["accepted"]}
    row |= {kind: count[kind] for kind in FAULTS}
    row |= {"tries_per_second": round(tries / seconds, 1), "slowest_seconds": round(slowest.seconds, 2)}
    return row | {"most_MiB": round(hungriest.grown / 2**20, 1), "failed": failed}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=["all", *READERS])
    parser.add_argument("tries", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--slow", nargs="*", default=[], metavar="READER", help="readers with a fifth of the tries")
    parser.add_argument("--but", nargs="*", default=[], metavar="READER", help="readers to leave out of `all`")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    told = arguments.results
    rows = json.loads(told.read_text())["readers"] if told.exists() else {}
    rows = {name: row for name, row in rows.items() if name in READERS}
    print(f"{'reader':12s} {'tries':>6s} {'refused':>8s} {'accepted':>9s}" + "".join(f"{k:>10s}" for k in FAULTS))
    mine = [name for name in READERS if name not in arguments.but] if arguments.reader == "all" else [arguments.reader]
    for name in mine:
        tries = max(1, arguments.tries // 5) if name in arguments.slow else arguments.tries
        rows[name] = row = {"seed": arguments.seed} | fuzz(name, tries, arguments.seed, arguments.keep)
        numbers = "".join(f"{row[k]:10d}" for k in FAULTS)
        more = f"{row['tries_per_second']:8.1f}/s {row['slowest_seconds']:6.2f} s {row['most_MiB']:7.1f} MiB"
        print(f"{name:12s} {row['tries']:6d} {row['refused']:8d} {row['accepted']:9d}{numbers}{more}", flush=True)
        limits = {"seconds": SECONDS, "memory_times_file": TIMES, "memory_beyond_MiB": FLOOR // 2**20}
        told.write_text(json.dumps({**limits, "readers": rows}, indent=1) + "\n")
    if any(rows[name][kind] for name in mine for kind in FAULTS):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

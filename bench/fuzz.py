"""Every reader against files that went wrong: one line that says so, never a traceback, a crash, a hang, or a wrong answer.

    OMP_NUM_THREADS=1 python bench/fuzz.py READER N [--seed S] [--keep FOLDER]     (READER: all, or some: xyz,cif)

Each try alters a copy of a sound original and reads it in a process beside, which survives many tries and is begun anew after
a crash or a hang. An attempt has 20 s, and resident memory for three times the files beyond 64 MiB. What is accepted is
judged by laws that are computed here, and against the original. Results go to bench/results/fuzz.json, every 50 tries: the
same command goes on with them. A try that failed is kept in FOLDER and can be run again by its seed.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from fuzzed import READERS, Fuzzed  # noqa: E402
from fuzzed.contract import ROOT  # noqa: E402
from fuzzed.worker import FAULTS, FLOOR, SECONDS, TIMES, Worker, attempt  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "fuzz.json"
TOLD = 50  # tries after which the counts are written


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


def fuzz(name: str, tries: int, row: dict[str, Any], keep: Path | None) -> Iterator[dict[str, Any]]:
    """Counts of outcomes, and the failed tries with their seeds: again and again, until there are so many tries.

    row: what an earlier run came to, which is gone on with.
    """
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "originals")
        folder.mkdir()
        originals = sound_originals(name, folder)
        worker, before, started = Worker(reader), row["seconds"], time.perf_counter()
        try:
            for n in range(row["seed"] + row["tries"], row["seed"] + tries):
                work = Path(place, "try")
                work.mkdir()
                altered, original = spoilt(reader, originals, work, n)
                outcome = worker(altered, original)
                row["tries"] += 1
                row[outcome.kind] += 1
                if outcome.kind in FAULTS:
                    row["failed"].append({"seed": n, "kind": outcome.kind, "said": outcome.said})
                    print(f"{name} {n}: {outcome.kind}: {outcome.said[-700:]}", flush=True)
                    if keep is not None:
                        shutil.copytree(work, keep / f"{name}-{n}", symlinks=True, dirs_exist_ok=True)
                row["slowest_seconds"] = max(row["slowest_seconds"], round(outcome.seconds, 2))
                row["most_MiB"] = max(row["most_MiB"], round(outcome.grown / 2**20, 1))
                row["seconds"] = round(before + time.perf_counter() - started, 1)
                shutil.rmtree(work)
                if row["tries"] % TOLD == 0:
                    yield row
        finally:
            worker.close()
            worker.trace.unlink()
    yield row


def begun(earlier: dict[str, Any] | None, seed: int) -> dict[str, Any]:
    """The counts to begin with: those of an earlier run from the same seed, or none."""
    counts = ("tries", "refused", "accepted", *FAULTS, "seconds", "slowest_seconds", "most_MiB")
    if earlier is not None and earlier.get("seed") == seed and all(key in earlier for key in counts):
        return earlier
    return {"seed": seed, **dict.fromkeys(counts, 0), "failed": []}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", help="all, or some by their names, with commas between")
    parser.add_argument("tries", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--slow", nargs="*", default=[], metavar="READER", help="readers with a fifth of the tries")
    parser.add_argument("--but", nargs="*", default=[], metavar="READER", help="readers to leave out of `all`")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--anew", action="store_true", help="do not go on with tries that the results tell of")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    told = arguments.results
    rows = json.loads(told.read_text())["readers"] if told.exists() else {}
    rows = {name: row for name, row in rows.items() if name in READERS}
    print(f"{'reader':12s} {'tries':>6s} {'refused':>8s} {'accepted':>9s}" + "".join(f"{k:>10s}" for k in FAULTS))
    asked = list(READERS) if arguments.reader == "all" else arguments.reader.split(",")
    if unknown := [name for name in asked if name not in READERS]:
        parser.error(f"no reader {', '.join(unknown)}: there are {', '.join(READERS)}")
    mine = [name for name in asked if name not in arguments.but]
    limits = {"seconds": SECONDS, "memory_times_file": TIMES, "memory_beyond_MiB": FLOOR // 2**20}
    for name in mine:
        tries = max(1, arguments.tries // 5) if name in arguments.slow else arguments.tries
        row = begun(None if arguments.anew else rows.get(name), arguments.seed)
        for counts in fuzz(name, tries, row, arguments.keep):
            rows[name] = counts
            part = told.with_suffix(".part")
            part.write_text(json.dumps({**limits, "readers": rows}, indent=1) + "\n")
            part.replace(told)
        row = rows[name]
        numbers = "".join(f"{row[k]:10d}" for k in FAULTS)
        more = f"{row['seconds']:8.0f} s {row['slowest_seconds']:6.2f} s {row['most_MiB']:7.1f} MiB"
        print(f"{name:12s} {row['tries']:6d} {row['refused']:8d} {row['accepted']:9d}{numbers}{more}", flush=True)
    if any(rows[name][kind] for name in mine for kind in FAULTS):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Every reader against files that went wrong: one line that says so, never a traceback, a crash, a hang, or a wrong answer.

    OMP_NUM_THREADS=1 python bench/fuzz.py READER N [--seed S] [--keep FOLDER]     (READER: all, or one of bench/fuzzed.py)

Each try alters a copy of a sound original and reads it in a process of its own, which has 20 s and memory for three times
the files beside 400 MiB of its own. What is accepted is judged by laws that are computed here, and against the original.
Results go to bench/results/fuzz.json; a try that failed is kept in FOLDER and can be run again by its seed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from fuzzed import READERS, ROOT, Fuzzed, Unsound  # noqa: E402

from nearsight.core.errors import NearsightError  # noqa: E402

SECONDS = 20
OWN_MEMORY = 400 * 1024**2
RESULTS = ROOT / "bench" / "results" / "fuzz.json"
FAULTS = ("traceback", "crash", "hang", "memory", "unsound", "words")


@dataclass(frozen=True)
class Outcome:
    """kind: refused, accepted, or one of the faults.  said: the message, or what was wrong."""

    kind: str
    said: str
    seconds: float = 0.0
    mebibytes: float = 0.0


def attempt(reader: Fuzzed, altered: Path, original: Path) -> Outcome:
    """Read and judge in this process."""
    try:
        found = reader.read(altered)
    except Unsound as error:
        return Outcome("unsound", str(error))
    except NearsightError as error:
        said = str(error)
        return Outcome("words" if "\n" in said or not said or len(said) > 700 else "refused", said)
    except MemoryError:
        return Outcome("memory", traceback.format_exc()[-300:])
    except Exception:
        return Outcome("traceback", traceback.format_exc()[-1500:])
    try:
        reader.judge(found, original)
    except Unsound as error:
        return Outcome("unsound", str(error))
    except NearsightError as error:  # it says so before it computes with it
        return Outcome("refused", str(error))
    except Exception:
        return Outcome("unsound", traceback.format_exc()[-1500:])
    return Outcome("accepted", "")


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


def apart(reader: Fuzzed, altered: Path, original: Path) -> Outcome:
    """The attempt in a child with limits."""
    size = sum(p.stat().st_size for p in ([altered] if altered.is_file() else altered.rglob("*")))
    read, write = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(read)
        _limit(3 * size + OWN_MEMORY)
        before = _peak()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        outcome = attempt(reader, altered, original)
        with os.fdopen(write, "w") as pipe:
            json.dump([outcome.kind, outcome.said, (_peak() - before) / 1024], pipe)
        os._exit(0)
    os.close(write)
    status = _waited(child)
    seconds = time.perf_counter() - started
    with os.fdopen(read) as pipe:
        text = pipe.read()
    if status is None:
        return Outcome("hang", f"more than {SECONDS} s", seconds)
    if not text:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Outcome("crash", f"signal or status {number}", seconds)
    kind, said, kibibytes = json.loads(text)
    return Outcome(kind, said, seconds, kibibytes)


def _limit(room: int) -> None:
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _waited(child: int) -> int | None:
    """The status of a child; None if it had to be killed."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def fuzz(name: str, tries: int, seed: int, keep: Path | None) -> dict[str, Any]:
    """Counts of outcomes, and the failed tries with their seeds."""
    reader, count, failed = READERS[name], Counter[str](), []
    worst = Outcome("", "")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "originals")
        folder.mkdir()
        originals = reader.originals(folder)
        for original in originals:
            outcome = attempt(reader, original, original)
            if outcome.kind != "accepted":
                raise SystemExit(f"{name}: the original {original.name} is not sound: {outcome.kind}: {outcome.said}")
        for n in range(seed, seed + tries):
            work = Path(place, "try")
            work.mkdir()
            altered, original = spoilt(reader, originals, work, n)
            outcome = apart(reader, altered, original)
            count[outcome.kind] += 1
            if outcome.kind in FAULTS:
                failed.append({"seed": n, "kind": outcome.kind, "said": outcome.said})
                print(f"{name} {n}: {outcome.kind}: {outcome.said[-700:]}", flush=True)
                if keep is not None:
                    shutil.copytree(work, keep / f"{name}-{n}", dirs_exist_ok=True)
            worst = max(worst, outcome, key=lambda o: o.seconds)
            shutil.rmtree(work)
    row = {"tries": tries, "refused": count["refused"], "accepted": count["accepted"]}
    row |= {kind: count[kind] for kind in FAULTS}
    return row | {"slowest_seconds": round(worst.seconds, 2), "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=["all", *READERS])
    parser.add_argument("tries", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = json.loads(RESULTS.read_text())["readers"] if RESULTS.exists() else {}
    print(f"{'reader':12s} {'tries':>6s} {'refused':>8s} {'accepted':>9s}" + "".join(f"{k:>10s}" for k in FAULTS))
    for name in READERS if arguments.reader == "all" else [arguments.reader]:
        rows[name] = row = {"seed": arguments.seed} | fuzz(name, arguments.tries, arguments.seed, arguments.keep)
        numbers = "".join(f"{row[k]:10d}" for k in FAULTS)
        print(f"{name:12s} {row['tries']:6d} {row['refused']:8d} {row['accepted']:9d}{numbers}", flush=True)
        RESULTS.write_text(json.dumps({"seconds": SECONDS, "readers": rows}, indent=1) + "\n")
    if any(rows[name][kind] for name in rows for kind in FAULTS):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

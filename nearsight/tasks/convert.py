"""Data from any program into any layout that is written: one run, or a folder of them, in parallel and resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearsight.core import registry as parts
from nearsight.core.errors import BadInput
from nearsight.formats import registry
from nearsight.formats.basis_files import is_folder_of_orbitals
from nearsight.formats.outputs import claim_folder, claim_place
from nearsight.formats.sets.entry import read_provenance, write_provenance
from nearsight.tasks.batch import Report, run_batch
from nearsight.tasks.executors.contract import ExecutorTable
from nearsight.tasks.ledger import Job, Outcome

ENDINGS = {"tbmodels": ".hdf5", "sisl": ".HSX"}  # formats that are one file
_HIDDEN = "."


@dataclass(frozen=True)
class Converted:
    """runs: how many there were.  failed: (name, error) of those without a result.  worked: outcomes of this call.

    left: what the user is to do next, where the executor says so.
    """

    target: Path
    runs: int
    worked: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]
    left: str | None = None


def convert(
    source: Path | str,
    target: Path | str,
    read_as: str | None = None,
    write_as: str = "deeph",
    workers: int | None = None,
    report: Report = lambda outcome, done, total: None,
    names: Sequence[str] | None = None,
    executor: ExecutorTable | None = None,
) -> Converted:
    """Convert a run, or every run in a folder into a folder of the same names; what is converted already stays.

    read_as, write_as: names of formats; without the former each run's is found.  workers: processes, one for each core.
    report: called after each run with its outcome, how many are done and how many there are.  names: of the runs to take, if
    not all (of a data set its entries).  A folder's failures are told in the report and in `failures.json`, and tried again by
    the next call.  executor: where a folder is worked off, see `executors.contract`.
    Raises BadInput for a source that holds no runs, a name of a format that is not known, a target that is taken; of a single
    run whatever reading and writing raise.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise BadInput(f"no such file or folder: {source}")
    if workers is not None and workers < 1:
        raise BadInput(f"workers: {workers} can do nothing: give 1 or more")
    for name in (read_as, write_as):
        if name is not None and name not in parts.kinds("formats"):
            parts.load("formats", name)  # says what is known
    if os.path.realpath(source) == os.path.realpath(target):
        raise BadInput(f"{target} is the input: give the result a place of its own")
    one = names is None and (source.is_file() or (is_run(source, read_as) and not holds_runs(source, read_as)))
    if one:
        if write_as == "deeph":
            claim_folder(target, "calculation", [source])
        else:
            claim_place(target, [source])
        registry.write(target, registry.read(source, read_as), write_as)
        return Converted(target, 1, (), ())
    runs = list(runs_in(source, read_as)) if names is None else [source / name for name in names]
    if not any(is_run(path, read_as) for path in runs):
        raise BadInput(
            f"{source} holds no run of a known program: give --from NAME ({', '.join(parts.kinds('formats'))})"
        )
    claim_folder(target, "data set", [source])
    ending = ENDINGS.get(write_as, "")
    jobs = [
        Job(path.name, _digest(path, read_as, write_as), (str(source), str(path), str(target), read_as, write_as))
        for path in runs
    ]
    config = {"convert": str(source), "from": read_as, "to": write_as}
    made = run_batch(
        target, jobs, convert_one, lambda name: (target / (name + ending)).exists(), config, workers, report, executor
    )
    return Converted(target, len(jobs), made.worked, made.failed, made.left)


def is_run(path: Path, read_as: str | None) -> bool:
    """Whether a format, or the one that is named, recognises a path."""
    return registry.find(path) is not None if read_as is None else registry.load(read_as).recognises(path)


def holds_runs(source: Path, read_as: str | None) -> bool:
    """Two folders or more that are runs: a run itself has at most one such (ABACUS's OUT.NAME)."""
    folders = (p for p in sorted(source.iterdir()) if p.is_dir() and p.name[0] != _HIDDEN)
    return sum(is_run(p, read_as) for p in folders) > 1


def runs_in(source: Path, read_as: str | None) -> Iterator[Path]:
    """Every folder in a folder, every link, and every file that a format recognises, by name; not the orbitals of a set."""
    for path in sorted(source.iterdir()):
        if is_folder_of_orbitals(path):
            continue
        if path.name[0] != _HIDDEN and (path.is_dir() or path.is_symlink() or is_run(path, read_as)):
            yield path


def convert_one(work: tuple[str, str, str, str | None, str]) -> str:
    """One run, read and written whole or not at all. Returns the sha256 of what was written."""
    root, path, target, read_as, write_as = work
    source = Path(path)
    check_links(source, Path(root))
    place = Path(target) / (source.name + ENDINGS.get(write_as, ""))
    registry.write(place, registry.read(source, read_as), write_as)
    if write_as == "deeph" and (told := read_provenance(source) if source.is_dir() else None):
        write_provenance(place, told)
    digest = hashlib.sha256()
    for file in [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file()):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def check_links(path: Path, root: Path) -> None:
    """Raises BadInput for a link that leads out of the folder of runs: what is read is what was given."""
    inside = Path(os.path.realpath(root))
    for file in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())]:
        if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(inside):
            raise BadInput(f"{file} is a link out of {root}, which is not followed: copy what it names into the run")


def _digest(path: Path, read_as: str | None, write_as: str) -> str:
    """Of the names, sizes and times of a run's files, and of the formats."""
    files = [path] if path.is_file() or path.is_symlink() else sorted(p for p in path.rglob("*") if p.is_file())
    told = [(str(p.relative_to(path.parent)), s.st_size, s.st_mtime_ns) for p in files if (s := p.lstat())]
    return hashlib.sha256(json.dumps([told, read_as, write_as]).encode()).hexdigest()

"""The overlaps of one structure or of many: a calculation folder each, in parallel and resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearsight.core.errors import BadInput
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.overlap import OrbitalSource, overlap_from
from nearsight.formats import registry
from nearsight.formats.basis_files import choose, is_folder_of_orbitals
from nearsight.formats.outputs import claim_folder
from nearsight.formats.structures import frames
from nearsight.tasks.batch import Report, run_batch
from nearsight.tasks.ledger import Job, Outcome

_NAMES = {"POSCAR", "CONTCAR"}  # files of structures without an ending
_NONE = {".py", ".html", ".png", ".eps", ".pov"}  # that ASE writes, and no structure is read from


@dataclass(frozen=True)
class Overlaps:
    """structures: how many there were.  worked: outcomes of this call.  failed: (name, error) of those without a result."""

    target: Path
    structures: int
    worked: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]


def write_overlap(
    structure: Structure | Path | str,
    out: Path | str,
    source: OrbitalSource,
    initial_hamiltonian: bool = False,
    vacuum: float | None = None,
) -> None:
    """The calculation folder of one structure with its overlap and, where asked for, H0.

    vacuum: [angstrom] of the box around a molecule without a cell.  Raises NearsightError as `overlap_from`, and for a place
    that is taken.
    """
    path = None if isinstance(structure, Structure) else Path(structure)
    claim_folder(out, "calculation", [path])
    found = structure if isinstance(structure, Structure) else registry.read_structure(structure, vacuum)
    _refuse_another(Path(out))
    registry.write(out, overlap_from(found, source, initial_hamiltonian))


def write_overlaps(
    sources: Sequence[Path | str],
    out: Path | str,
    source: OrbitalSource,
    initial_hamiltonian: bool = False,
    vacuum: float | None = None,
    workers: int | None = None,
    report: Report = lambda outcome, done, total: None,
) -> Overlaps:
    """The overlaps of all structures of files and folders; what is done already is not done again.

    sources: one structure alone is written to `out` itself; several files, a file with several frames, or a folder of
    structures make `out/NAME` each, failures being told in the report and in `failures.json`.
    Raises BadInput for a source without structures, two structures of one name, a place that is taken.
    """
    out = Path(out)
    named = [(name, path) for s in sources for name, path in _named(Path(s))]
    if not named:
        raise BadInput("no structure is given: name files of structures, or a folder of them")
    if len(named) == 1 and len(sources) == 1 and not _is_folder_of_structures(Path(sources[0])):
        write_overlap(named[0][1], out, source, initial_hamiltonian, vacuum)
        return Overlaps(out, 1, (), ())
    known = dict[str, Path]()
    for name, path in named:
        if known.setdefault(name, path) != path:
            raise BadInput(f"{known[name]} and {path} would both be written to {out / name}: rename one")
    claim_folder(out, "data set", sources)
    stand = _digest_of_source(source, initial_hamiltonian, vacuum)
    jobs = [
        Job(name, _digest(path, stand), (str(path), str(out / name), source, initial_hamiltonian, vacuum))
        for name, path in known.items()
    ]
    config = {
        "overlap": [str(s) for s in sources],
        "species": None if source.folder is None else str(source.folder),
        "orbitals": list(source.names),
        "gaussian": source.gaussian,
        "h0": initial_hamiltonian,
        "scf": source.settings.model_dump(mode="json", include={"basis", "functional", "mesh"}),
    }
    made = run_batch(out, jobs, overlap_one, lambda name: (out / name / "info.json").exists(), config, workers, report)
    return Overlaps(out, len(jobs), made.worked, made.failed)


def overlap_one(work: tuple[str, str, OrbitalSource, bool, float | None]) -> str:
    """One structure, whole or not at all. Returns the sha256 of its overlap."""
    path, place, source, initial_hamiltonian, vacuum = work
    write_overlap(path, place, source, initial_hamiltonian, vacuum)
    return hashlib.sha256((Path(place) / "overlap.h5").read_bytes()).hexdigest()


def _refuse_another(out: Path) -> None:
    """Raises BadInput for a folder that holds a calculation which no overlap alone may replace."""
    if (out / "info.json").exists() and "overlap_of" not in registry.read(out).result:
        raise BadInput(f"{out} holds a calculation that is more than an overlap: give the overlap a folder of its own")


def _is_folder_of_structures(path: Path) -> bool:
    return path.is_dir() and not _is_structure(path)


def _is_structure(path: Path) -> bool:
    return (path / "POSCAR").is_file() or registry.find(path) is not None


def _named(path: Path) -> Iterator[tuple[str, Path]]:
    """(name, what `read_structure` takes) of every structure at a path."""
    if not path.exists() and not (path.name.isdigit() and path.parent.is_file()):
        raise BadInput(f"no such file or folder: {path}")
    if not _is_folder_of_structures(path):
        yield from _frames(path)
        return
    inside = [p for p in sorted(path.iterdir()) if p.name[0] != "." and not is_folder_of_orbitals(p)]
    inside = [p for p in inside if p.is_dir() or _is_named_as_structure(p)]
    if not inside:
        raise BadInput(f"{path} holds no structures: files that ASE reads, or folders with a POSCAR")
    for p in inside:
        yield from _frames(p)


def _frames(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_dir() or not path.exists() or registry.find(path) is not None:
        yield (path.name if path.is_dir() or path.exists() else f"{path.parent.stem}_{path.name}"), path
        return
    name = path.stem if path.suffix else path.name
    found = frames(path)
    width = max(4, len(str(len(found) - 1)))
    for n, frame in enumerate(found):
        yield (name if len(found) == 1 else f"{name}_{n:0{width}d}"), frame


def _is_named_as_structure(path: Path) -> bool:
    """Whether ASE knows a file by its name alone, or it is a calculation in one file."""
    from ase.io.formats import UnknownFileTypeError, filetype

    if path.name.split(".")[0].upper() in _NAMES or registry.find(path) is not None:
        return True
    if path.suffix.lower() in _NONE:
        return False
    try:
        return bool(filetype(str(path), read=False, guess=False))
    except (UnknownFileTypeError, OSError):
        return False


def _digest(path: Path, stand: str) -> str:
    """Of the structure's file, by name, size and time, and of all that its overlap depends on besides."""
    file = path if path.exists() else path.parent
    files = sorted(p for p in file.iterdir() if p.is_file()) if file.is_dir() else [file]
    told = [(str(p), s.st_size, s.st_mtime_ns) for p in files if (s := p.stat())]
    return hashlib.sha256(json.dumps([told, str(path), stand]).encode()).hexdigest()


def _digest_of_source(source: OrbitalSource, initial_hamiltonian: bool, vacuum: float | None) -> str:
    """Of settings and of the bytes of every file of orbitals that the folder may give."""
    settings = source.settings.model_dump(mode="json", include={"basis", "functional", "mesh"})
    told: list[object] = [settings, source.names, source.gaussian, initial_hamiltonian, vacuum]
    if source.folder is not None:
        if not source.folder.is_dir():
            choose(source.folder, SYMBOLS[1])  # says so
        for p in sorted(p for p in source.folder.iterdir() if p.is_file()):
            told.append((p.name, p.stat().st_size, p.stat().st_mtime_ns))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

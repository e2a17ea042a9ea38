"""Everything that reads a calculation goes through here: whatever its format is, it trains, restarts and is drawn alike.

Formats are parts of the group `formats` (core/registry.py): our own, and those that other distributions register as entry
points of the group `nearsight.formats`, each a class that keeps the contract `Format`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nearsight.core import registry
from nearsight.core.calculation import Calculation
from nearsight.core.errors import STUMBLES, BadInput, NearsightError, Unavailable
from nearsight.core.laws import require_lawful
from nearsight.core.structure import Structure, check_bounds
from nearsight.formats import structures
from nearsight.formats.format import Format
from nearsight.formats.outputs import claim_folder, claim_place

GROUP = "formats"


def load(name: str) -> Format:
    """The format of a name. Raises BadInput for one that is not known, Unavailable for one that cannot be loaded."""
    part = registry.load(GROUP, name)
    found = part() if isinstance(part, type) else part
    if not isinstance(found, Format):
        raise Unavailable(
            f"formats {name!r} of another package is no nearsight.formats.format.Format: tell its authors"
        )
    return found


def find(path: Path | str) -> Format | None:
    """The format of a path, our own first; None for one that no format recognises.

    A third party's format that cannot be loaded is passed over: it is told where nothing else recognises the path.
    """
    for found in _formats():
        if isinstance(found, Format) and found.recognises(Path(path)):
            return found
    return None


def _formats() -> Iterator[Format | NearsightError]:
    for name in registry.kinds(GROUP):
        try:
            yield load(name)
        except NearsightError as error:
            yield error


def read(path: Path | str, format: str | None = None) -> Calculation:
    """A structure with its matrices from a path, in Hartree and Bohr.

    format: its name; None finds it.  Raises BadInput for a path that does not exist, is of no known format, is broken, or
    holds matrices that cannot be: see `core.laws`.
    """
    return require_lawful(read_unchecked(path, format), path)


def read_unchecked(path: Path | str, format: str | None = None) -> Calculation:
    """As `read`, for whoever wants to see which laws the matrices break."""
    path = Path(path)
    if not path.exists():
        raise BadInput(f"no such file or folder: {path}")
    found = load(format) if format is not None else find(path)
    if found is None:
        broken = "".join(f"; {e}" for e in _formats() if isinstance(e, NearsightError))
        known = ", ".join(registry.kinds(GROUP))
        raise BadInput(
            f"{path} is of no known format ({known}): a calculation folder has POSCAR, info.json and *.h5{broken}"
        )
    try:
        calculation = found.read(path)
    except NearsightError:
        raise
    except STUMBLES as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path} is not whole, or is not what {found.name} files are: {said:.120}") from error
    check_bounds(calculation.structure, str(path))
    return calculation


def write(path: Path | str, calculation: Calculation, format: str = "deeph") -> None:
    """Write a calculation, whole or not at all.

    Raises BadInput for a format that is unknown or only read, or a place that is not the result's own; Unavailable for one that
    cannot be written.
    """
    writer = load(format)
    claim_folder(path, "calculation") if format == "deeph" else claim_place(path)
    writer.write(Path(path), calculation.as_calculation())


def read_structure(path: Path | str, vacuum: float | None = None) -> Structure:
    """A structure from any file that ASE reads, or from a calculation of any format; FILE/N is frame N, else the last.

    vacuum: [angstrom] the distance from the outermost atoms to the faces of a box, along every direction in which the
        file gives no cell vector: a molecule has none, a sheet two.
    Raises BadInput: no such file; a format that is not recognised or a broken file; no cell; a cell of zero volume; two
    atoms closer than 0.3 angstrom; no atoms; sites that are occupied in part.
    """
    path = Path(path)
    found = find(path) if path.exists() else None
    if found is not None:
        if vacuum is not None:
            raise BadInput(f"{path} has a cell: --vacuum is for molecules, sheets and wires without one")
        return structures.check_structure(found.read_structure(path), str(path))
    return structures.read_structure(path, vacuum)


def read_settings(path: Path | str) -> Mapping[str, Any] | None:
    """The configuration that a calculation records; None where it records none, or is of no known format."""
    path = Path(path)
    found = find(path) if path.exists() else None
    return None if found is None else found.read_settings(path) or None


def list_folders(path: Path | str) -> list[Path]:
    """The calculations in a folder, sorted by name, whatever their format; the path itself if it is one.

    Raises BadInput if there is no such folder, or no calculation in it.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"no such folder: {path}")
    if find(path) is not None:
        return [path]
    inside = sorted(p for p in path.iterdir() if p.name[0] != ".") if path.is_dir() else []
    found = [p for p in inside if find(p) is not None]
    if not found:
        raise BadInput(f"{path} holds no calculation folders (each with POSCAR, info.json and *.h5)")
    return found


def list_structures(path: Path | str) -> list[Path]:
    """Names for `read_structure` of all structures at a path: calculations, folders with a POSCAR, frames of a file.

    Raises BadInput if there is no such path, or no structure in it.
    """
    path = Path(path)
    if path.is_file() and find(path) is None:
        return structures.frames(path)
    if not path.exists():
        raise BadInput(f"no such file or folder: {path}")
    if _is_structure(path):
        return [path]
    found = sorted(p for p in path.iterdir() if p.name[0] != "." and _is_structure(p))
    if not found:
        raise BadInput(f"{path} holds no structures (folders with a POSCAR)")
    return found


def _is_structure(path: Path) -> bool:
    return (path / "POSCAR").is_file() or find(path) is not None

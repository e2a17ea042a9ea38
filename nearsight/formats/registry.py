"""One registry of file formats: `read(path)` finds the one that fits, `write(path, calculation)` takes one by name.

A third party adds a format with an entry point in the group `nearsight.formats` that names an object with the three
functions of `Format`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from nearsight.core.errors import NearsightError
from nearsight.formats import deeph
from nearsight.formats.deeph import Calculation

GROUP = "nearsight.formats"


@dataclass(frozen=True)
class Format:
    """One program's form of a calculation.

    recognises(path): whether a path looks like it, cheaply.  read(path): the calculation, in the project's units and
    conventions.  write(path, calculation): None for a format that is only read.
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Path], Calculation]
    write: Callable[[Path, Calculation], None] | None = None


def _write_deeph(path: Path, calculation: Calculation) -> None:
    c = calculation
    deeph.write_folder(
        path,
        c.structure,
        c.overlap,
        c.hamiltonian,
        c.density_matrix,
        fermi_level=c.fermi_level,
        electrons=c.electrons,
        result=c.result or None,
    )


@cache
def formats() -> dict[str, Format]:
    """All known formats by name: our own, then those of installed packages."""
    known = {"deeph": Format(deeph.is_folder, deeph.read_folder, _write_deeph)}
    for entry in entry_points(group=GROUP):
        known.setdefault(entry.name, entry.load())
    return known


def read(path: Path | str, format: str | None = None) -> Calculation:
    """A structure with its matrices from a path, in Hartree and Bohr.

    Raises NearsightError for a path that does not exist, is of no known format or is broken.
    """
    path = Path(path)
    if not path.exists():
        raise NearsightError(f"no such file or folder: {path}")
    if format is not None:
        return _named(format).read(path)
    for candidate in formats().values():
        if candidate.recognises(path):
            return candidate.read(path)
    raise NearsightError(
        f"{path} is of no known format ({', '.join(formats())}): a calculation folder has POSCAR, info.json and *.h5"
    )


def write(path: Path | str, calculation: Calculation, format: str = "deeph") -> None:
    """Write a calculation, whole or not at all. Raises NearsightError for a format that is unknown or only read."""
    writer = _named(format).write
    if writer is None:
        raise NearsightError(
            f"the format {format} is only read; write {', '.join(n for n, f in formats().items() if f.write)}"
        )
    writer(Path(path), calculation)


def _named(name: str) -> Format:
    if name not in formats():
        near = get_close_matches(name, formats(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise NearsightError(f"no format {name!r}{hint} (known: {', '.join(formats())})")
    return formats()[name]

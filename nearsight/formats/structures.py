"""Structures from the files of other programs, by way of ASE; what cannot be computed is refused with its remedy."""

from __future__ import annotations

from pathlib import Path

import torch

from nearsight.core.errors import NearsightError
from nearsight.core.pairs import neighbours
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG
from nearsight.formats.deeph import read_poscar

CLOSEST_ANG = 0.3  # atoms nearer than this are a mistake in the input: H2 has 0.74


def read_structure(path: Path | str, vacuum: float | None = None) -> Structure:
    """A structure from any file that ASE reads, or from a calculation folder (its POSCAR); FILE/N is frame N, else the last.

    vacuum: [angstrom] the distance from the outermost atoms to the faces of a box, along every direction in which the
        file gives no cell vector: a molecule has none, a sheet two.
    Raises NearsightError: no such file; a format that is not recognised or a broken file; no cell; a cell of zero
    volume; two atoms closer than 0.3 angstrom; no atoms.
    """
    path = Path(path)
    frame = None
    if not path.exists() and path.parent.is_file() and path.name.isdigit():
        path, frame = path.parent, int(path.name)
    if not path.exists():
        raise NearsightError(f"no such file: {path}")
    if path.is_dir():
        if not (path / "POSCAR").is_file():
            raise NearsightError(f"{path} is a folder without a POSCAR: give a structure file or a calculation folder")
        return check_structure(read_poscar(path / "POSCAR"), str(path))
    return check_structure(_read_by_ase(path, vacuum, frame), str(path if frame is None else path / str(frame)))


def frames(path: Path | str) -> list[Path]:
    """Names for `read_structure` of all structures of a file: FILE/0, FILE/1, ... of one with several, else FILE."""
    import ase.io

    path = Path(path)
    if not path.is_file():
        raise NearsightError(f"no such file: {path}")
    try:
        count = len(ase.io.read(path, index=":"))
    except Exception:  # read_structure says what is wrong
        return [path]
    return [path] if count == 1 else [path / str(n) for n in range(count)]


def _read_by_ase(path: Path, vacuum: float | None, frame: int | None = None) -> Structure:
    import ase.io
    from ase import Atoms

    try:
        atoms = ase.io.read(path, index=-1 if frame is None else frame)
    except Exception as error:  # ASE's readers raise whatever a broken file makes them stumble over
        reason = str(error).splitlines()[0] if str(error) else "it does not have the form its name promises"
        raise NearsightError(
            f"{path} cannot be read as a structure ({reason}); cif, xyz, POSCAR, xsf, ... are known"
        ) from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise NearsightError(f"{path} holds no atoms")
    if vacuum is not None:
        if vacuum <= 0:
            raise NearsightError(f"a vacuum of {vacuum} angstrom makes no box: give a positive length")
        empty = [axis for axis in range(3) if not atoms.cell.array[axis].any()]
        if not empty:
            raise NearsightError(f"{path} has a cell: --vacuum is for molecules, sheets and wires without one")
        atoms.center(vacuum=vacuum, axis=tuple(empty))
    elif not atoms.cell.array.any():
        raise NearsightError(
            f"{path} has no cell: put the molecule in a box with --vacuum ANGSTROM (5 or more), or give the file a cell"
        )
    return Structure(
        torch.tensor(atoms.cell.array / BOHR_ANG, dtype=torch.float64),
        torch.tensor(atoms.positions / BOHR_ANG, dtype=torch.float64),
        torch.tensor(atoms.numbers, dtype=torch.int64),
    )


def check_structure(structure: Structure, name: str = "the structure") -> Structure:
    """The structure itself if it can be computed, else NearsightError: see `read_structure`."""
    if not (torch.isfinite(structure.cell).all() and torch.isfinite(structure.positions).all()):
        raise NearsightError(f"{name} has coordinates that are not finite")
    if len(structure) == 0:
        raise NearsightError(f"{name} holds no atoms")
    unknown = [n for n, z in enumerate(structure.numbers.tolist()) if not 0 < z < len(SYMBOLS)]
    if unknown:
        raise NearsightError(f"{name}: atom {unknown[0]} is of no known element")
    lengths = structure.cell.norm(dim=1)
    if float(structure.volume) <= 1e-6 * float(lengths.max()) ** 3:
        raise NearsightError(
            f"{name} has a cell of zero volume: give three independent lattice vectors "
            "(a sheet or a wire needs a vector through the empty space too)"
        )
    i, j, R = neighbours(structure, CLOSEST_ANG / BOHR_ANG)
    if len(i):
        first = int(torch.argmin(i * len(structure) + j))
        a, b, cell = int(i[first]), int(j[first]), R[first]
        vector = structure.positions[b] + cell.to(structure.cell) @ structure.cell - structure.positions[a]
        symbols = structure.symbols
        image = f" in cell {tuple(cell.tolist())}" if bool(cell.any()) else ""
        raise NearsightError(
            f"{name}: atoms {a} ({symbols[a]}) and {b} ({symbols[b]}){image} are {float(vector.norm()) * BOHR_ANG:.3f} "
            f"angstrom apart: move them, or remove the repeated one (atoms count from 0)"
        )
    return structure


def to_ase(structure: Structure):  # type: ignore[no-untyped-def]  # ASE's types are optional
    """The structure as ASE's Atoms (angstrom), periodic in all directions."""
    from ase import Atoms

    cell, positions = (x.detach().cpu().double().numpy() * BOHR_ANG for x in (structure.cell, structure.positions))
    return Atoms(numbers=structure.numbers.cpu().numpy(), positions=positions, cell=cell, pbc=True)

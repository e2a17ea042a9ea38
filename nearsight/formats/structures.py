"""Structures from the files of other programs, by way of ASE; what cannot be computed is refused with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearsight.core.errors import BadInput
from nearsight.core.pairs import neighbours
from nearsight.core.structure import APART_ANG, PROVENANCE, Structure, check_bounds
from nearsight.core.units import BOHR_ANG
from nearsight.formats.ase_files import last_frame, stream
from nearsight.formats.files import read_json
from nearsight.formats.poscar import read_poscar

if TYPE_CHECKING:
    from ase import Atoms

INDEX = "structures.json"  # of a folder of structure files: their names, and how each was made
PROVENANCE_FILE = "provenance.json"  # how the structure of a folder was made
HEAVIEST_U = 1000.0  # mass of an atom; the heaviest nuclides have 300
CLOSEST_ANG = 0.3  # atoms nearer than this are a mistake in the input: H2 has 0.74


def read_structure(path: Path | str, vacuum: float | None = None) -> Structure:
    """A structure from any file that ASE reads, or a folder with a POSCAR: see `nearsight.formats.registry.read_structure`."""
    path = Path(path)
    frame = None
    if not path.exists() and path.parent.is_file() and path.name.isdigit():
        path, frame = path.parent, int(path.name)
    if not path.exists():
        raise BadInput(f"no such file: {path}")
    if path.is_dir():
        if not (path / "POSCAR").is_file():
            raise BadInput(f"{path} is a folder without a POSCAR: give a structure file or a calculation folder")
        return check_structure(with_provenance(read_poscar(path / "POSCAR"), path), str(path))
    name = str(path if frame is None else path / str(frame))
    return check_structure(with_provenance(_structure_of(_frame(path, frame), name, vacuum), path), name)


def provenance_place(path: Path) -> Path:
    """Where it stands how a structure was made: in its folder, or beside a file whose format has no place for it."""
    return path / PROVENANCE_FILE if path.is_dir() else path.with_name(f"{path.name}.provenance.json")


def with_provenance(structure: Structure, path: Path) -> Structure:
    """The structure with what is told beside its file of how it was made. Raises BadInput for a file that is none."""
    place = provenance_place(path)
    if structure.provenance or not place.is_file():
        return structure
    told = read_json(place)
    if not isinstance(told, dict):
        raise BadInput(f"{place} does not hold how a structure was made: remove it")
    return replace(structure, provenance={k: told[k] for k in PROVENANCE if told.get(k) is not None})


def read_frames(path: Path | str, vacuum: float | None = None) -> Iterator[Structure]:
    """All structures of a file, one after the other as they are read. Raises BadInput as `read_structure` does."""
    for n, atoms in enumerate(stream(Path(path))):
        name = f"{path}/{n}"
        yield check_structure(_structure_of(atoms, name, vacuum), name)


def read_atoms(path: Path | str, vacuum: float | None = None) -> Atoms:
    """The same as ASE's Atoms [angstrom], with what a Structure does not hold: velocities, masses, atoms that are held fixed.

    Raises BadInput as `read_structure` does.
    """
    path = Path(path)
    structure = read_structure(path, vacuum)
    frame = None
    if not path.exists():
        path, frame = path.parent, int(path.name)
    atoms = _frame(path / "POSCAR" if path.is_dir() else path, frame).copy()
    atoms.calc = None
    made = structure.to_ase()
    made.set_constraint(atoms.constraints)
    if atoms.has("momenta"):
        made.set_momenta(atoms.get_momenta(), apply_constraint=False)
    if atoms.has("masses"):
        made.set_masses(_masses(atoms, str(path)))
    return made


def _masses(atoms: Atoms, name: str) -> np.ndarray:
    """Of a file that states them: isotopes [u]. Raises BadInput for masses that no atom has."""
    masses = np.asarray(atoms.get_masses(), dtype=float)
    wrong = np.flatnonzero(~((masses > 0) & (masses < HEAVIEST_U)))
    if len(wrong):
        raise BadInput(f"{name}: atom {wrong[0]} has a mass of {masses[wrong[0]]:g} u: correct it, or leave masses out")
    return masses


def frames(path: Path | str) -> list[Path]:
    """Names for `read_structure` of all structures of a file: FILE/0, FILE/1, ... of one with several, else FILE.

    Of a folder that `nearsight structures` wrote: its files.  Raises BadInput where there is no such file.
    """
    path = Path(path)
    if (path / INDEX).is_file():
        return [path / name for name in _listed(path / INDEX)]
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    try:
        count = len(_all_frames(path))
    except BadInput:  # read_structure says what is wrong
        return [path]
    return [path] if count == 1 else [path / str(n) for n in range(count)]


def _listed(index: Path) -> list[str]:
    """The names of the files that an index of structures holds. Raises BadInput for one that is none, or leads elsewhere."""
    told = read_json(index)
    rows = told.get("structures") if isinstance(told, dict) else None
    names = [row.get("file") if isinstance(row, dict) else None for row in rows] if isinstance(rows, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise BadInput(f"{index} is no list of structures: name the files themselves")
    return [str(name) for name in names]


def _frame(path: Path, frame: int | None) -> Atoms:
    """One frame; None takes the last."""
    if frame is not None:
        found = _all_frames(path)
        if frame >= len(found):
            raise BadInput(f"{path} has {len(found)} structures, from 0 on: there is no {path / str(frame)}")
        return found[frame].copy()
    return last_frame(path)


def _all_frames(path: Path) -> tuple[Atoms, ...]:
    """Every frame of a file, which is read once while it does not change."""
    status = path.stat()
    return _read_once(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read_once(path: Path, changed: int, size: int) -> tuple[Atoms, ...]:
    found = []
    for atoms in stream(path):
        atoms.calc = None  # energies and forces of other programs are not kept
        found.append(atoms)
    return tuple(found)


def _structure_of(atoms: Atoms, name: str, vacuum: float | None) -> Structure:
    if len(atoms) == 0:
        raise BadInput(f"{name} holds no atoms")
    if vacuum is not None:
        if vacuum <= 0:
            raise BadInput(f"a vacuum of {vacuum} angstrom makes no box: give a positive length")
        empty = [axis for axis in range(3) if not atoms.cell.array[axis].any()]
        if not empty:
            raise BadInput(f"{name} has a cell: --vacuum is for molecules, sheets and wires without one")
        atoms.center(vacuum=vacuum, axis=tuple(empty))
        atoms.pbc[empty] = 2 * vacuum < APART_ANG  # a box; what is no box is taken as it is
    elif not atoms.cell.array.any():
        raise BadInput(
            f"{name} has no cell: put the molecule in a box with --vacuum ANGSTROM (5 or more), or give the file a cell"
        )
    try:
        return Structure.from_ase(atoms)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def check_structure(structure: Structure, name: str = "the structure") -> Structure:
    """The structure itself if it can be computed, else BadInput: see `read_structure`."""
    check_bounds(structure, name)
    crowded = _crowded(structure)
    if crowded is not None:
        raise _too_close(structure, name, *crowded, torch.zeros(3, dtype=torch.int64))
    i, j, R = neighbours(structure, CLOSEST_ANG / BOHR_ANG)
    if len(i):
        first = int(torch.argmin(i * len(structure) + j))
        raise _too_close(structure, name, int(i[first]), int(j[first]), R[first])
    return structure


def _crowded(structure: Structure) -> tuple[int, int] | None:
    """Two atoms that share a cube small enough to be too close, so that a list of close pairs stays as short as the atoms."""
    edge = CLOSEST_ANG / BOHR_ANG / 3**0.5
    cell = structure.cell.detach().cpu().double()
    fractions = structure.positions.detach().cpu().double() @ torch.linalg.inv(cell)
    cubes = torch.floor((fractions - fractions.floor()) @ cell / edge).to(torch.int64)
    _, cube, counts = torch.unique(cubes, dim=0, return_inverse=True, return_counts=True)
    if int(counts.max()) == 1:
        return None
    a, b = torch.nonzero(cube == int(counts.argmax()))[:2, 0].tolist()
    return a, b


def _too_close(structure: Structure, name: str, a: int, b: int, cell: Tensor) -> BadInput:
    vectors = structure.cell.detach().cpu().double()
    difference = (structure.positions[b] - structure.positions[a]).detach().cpu().double()
    if not bool(cell.any()):  # of atoms in different cells of the file: the nearest images
        cell = -torch.round(difference @ torch.linalg.inv(vectors)).to(torch.int64)
    vector = difference + cell.to(vectors) @ vectors
    symbols = structure.symbols
    image = f" in cell {tuple(cell.tolist())}" if bool(cell.any()) else ""
    return BadInput(
        f"{name}: atoms {a} ({symbols[a]}) and {b} ({symbols[b]}){image} are {float(vector.norm()) * BOHR_ANG:.3f} "
        f"angstrom apart: move them, or remove the repeated one (atoms count from 0)"
    )

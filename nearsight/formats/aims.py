"""FHI-aims: real-space H and S of `output_rs_matrices plain`, with geometry.in. Hartree and angstrom.

rs_indices.out has the cells, where each row's elements begin and end in each cell, and their columns; rs_hamiltonian.out and
rs_overlap.out one value an element.  Elements of one triangle alone are stored; the other is their mirror image.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_text
from nearsight.core.spin import COLLINEAR, NONE
from nearsight.core.structure import Structure, atomic_number
from nearsight.formats.assembly import FARTHEST, Assembly, basis_of
from nearsight.formats.format import Format
from nearsight.formats.levels import KEY, levels_beside
from nearsight.formats.orders import AIMS

AIMS_BOHR = 0.52917721  # angstrom, the program's own
INDICES, OVERLAP, ORBITALS, GEOMETRY = "rs_indices.out", "rs_overlap.out", "basis-indices.out", "geometry.in"
HAMILTONIANS = (("rs_hamiltonian.out",), ("rs_hamiltonian_up.out", "rs_hamiltonian_dn.out"))


class Aims(Format):
    """The folder of a run."""

    name = "aims"
    holds = frozenset({"overlap", "hamiltonian", "none", "collinear"})

    def recognises(self, path: Path) -> bool:
        """The index file that the matrices share."""
        return (path / INDICES).is_file()

    def read(self, path: Path) -> Calculation:
        """H and S of `output_rs_matrices plain`, with the shells of the list of basis functions.

        Raises BadInput where files are missing or do not go together.
        """
        structure = self.read_structure(path)
        orbitals = _table(path / ORBITALS)
        basis = basis_of(structure.numbers.tolist(), _shells(path / ORBITALS, orbitals, len(structure)), str(path))
        row, column, R, place = _elements(path / INDICES, basis.size)
        assembly = Assembly.of_elements(basis, AIMS, row, column, R, str(path / INDICES))
        names = next((n for n in HAMILTONIANS if all((path / f).is_file() for f in n)), None)
        if names is None:
            raise BadInput(f"{path} has no {HAMILTONIANS[0][0]}: run FHI-aims with output_rs_matrices plain")
        H = np.stack([_values(path / n, place) for n in names])
        S = _values(path / OVERLAP, place)[None]
        levels = levels_beside(path, structure)
        return Calculation(
            structure,
            overlap=assembly.matrix(S, NONE),
            hamiltonian=assembly.matrix(H, (NONE, COLLINEAR)[len(H) - 1]),
            electrons=float(structure.numbers.sum()) - _charge(path),
            provenance=Provenance("FHI-aims", None, path, ("FHI-aims's signs of orbitals", "all electrons")),
            result={} if levels is None else {KEY: levels.to_record()},
        )

    def read_structure(self, path: Path) -> Structure:
        """The crystal of geometry.in (angstrom -> Bohr), Cartesian or fractional. Raises BadInput for a damaged one."""
        cell, symbols, positions, fractional = [], [], [], []
        try:
            for line in read_text(path / GEOMETRY, what="geometry.in").splitlines():
                words = line.split("#")[0].split()
                if words and words[0] == "lattice_vector":
                    cell.append([float(w) for w in words[1:4]])
                elif words and words[0] in ("atom", "atom_frac"):
                    positions.append([float(w) for w in words[1:4]])
                    fractional.append(words[0] == "atom_frac")
                    symbols.append(re.sub(r"[^A-Za-z].*", "", words[4]))
            numbers = torch.tensor([atomic_number(s) for s in symbols], dtype=torch.int64)
            box = np.array(cell, dtype=np.float64)
            x = np.array(positions, dtype=np.float64)
            where = np.where(np.array(fractional)[:, None], x @ box, x)
        except (OSError, ValueError, IndexError) as error:
            raise BadInput(f"{path / GEOMETRY} cannot be read as FHI-aims's crystal: {error}") from error
        return Structure(torch.tensor(box / AIMS_BOHR), torch.tensor(where / AIMS_BOHR), numbers)


def _charge(path: Path) -> float:
    """Of the cell, from control.in; all electrons are counted, so that without one they are as many as the protons."""
    control = path / "control.in"
    told = (
        re.search(r"^\s*charge\s+(\S+)", read_text(control, what="control.in", lossy=True), re.MULTILINE)
        if control.is_file()
        else None
    )
    return float(told.group(1)) if told else 0.0


def _table(path: Path) -> NDArray[np.int64]:
    """at., l, m of each orbital."""
    try:
        rows = [
            line.split()
            for line in read_text(path, what="list of orbitals").splitlines()
            if line.split() and line.split()[0].isdigit()
        ]
        return np.array([[int(r[2]), int(r[4]), int(r[5])] for r in rows], dtype=np.int64).reshape(-1, 3)
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(f"{path} cannot be read as FHI-aims's list of orbitals: {error}") from error


def _shells(path: Path, orbitals: NDArray[np.int64], atoms: int) -> list[tuple[int, ...]]:
    shells: list[list[int]] = [[] for _ in range(atoms)]
    n = 0
    while n < len(orbitals):
        atom, l, _ = orbitals[n].tolist()
        here = orbitals[n : n + 2 * l + 1]
        whole = 1 <= atom <= atoms and 0 <= l and len(here) == 2 * l + 1
        if not whole or here[:, 2].tolist() != list(range(-l, l + 1)):
            raise BadInput(f"{path}: its orbitals are no whole shells of the {atoms} atoms of {GEOMETRY}")
        shells[atom - 1].append(l)
        n += 2 * l + 1
    return [tuple(s) for s in shells]


def _elements(path: Path, orbitals: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """row, column [elements], R [elements, 3] and place in the files of values [elements] of every stored element."""
    try:
        text = read_text(path, LARGEST, "file of indices")
        size, cells, told = (
            int(re.search(rf"{name}\s*:\s*(\d+)", text).group(1))  # type: ignore[union-attr]
            for name in ("n_hamiltonian_matrix_size", "n_cells_in_hamiltonian", "n_basis")
        )
        if told != orbitals or max(size, cells * orbitals) > len(text):
            raise ValueError(f"it declares {told} orbitals in {cells} cells, {size} elements")
        head, _, rest = text.partition("index_hamiltonian(1,:,:)")
        first, _, rest = rest.partition("index_hamiltonian(2,:,:)")
        last, _, columns = rest.partition("column_index_hamiltonian")
        R = np.array(head.partition("cell_index")[2].split(), dtype=np.int64).reshape(-1, 3)[:cells]
        begin, end = (np.array(x.split(), dtype=np.int64).reshape(-1, orbitals)[:cells] for x in (first, last))
        column = np.array(columns.split(), dtype=np.int64)[:size] - 1
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read as FHI-aims's indices: {error}") from error
    counts = _counts(begin, end)
    near = (R >= -FARTHEST) & (R <= FARTHEST)  # of cells without elements another number may stand there
    sound = len(column) == size and len(R) == len(counts) == cells and not (end[counts > 0] > size).any()
    if not sound or int(counts.sum()) > size or not near[counts.any(1)].all():  # each element is of one row
        raise BadInput(f"{path} contradicts itself: it was cut off, or is damaged; copy it again")
    cell, row, place = _stored(begin, end)
    return row, column[place], -R[cell], place  # stored: <row, cell R| M |column, cell 0>


def _counts(begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where((begin > 0) & (end >= begin), end - begin + 1, 0)


def _stored(begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Cell, row and place of each element, from where (from 1) the elements of each cell's rows begin and end."""
    counts = _counts(begin, end)
    cells, orbitals = counts.shape
    flat = counts.ravel()
    within = np.arange(int(flat.sum())) - np.repeat(np.cumsum(flat) - flat, flat)
    place = np.repeat(begin.ravel() - 1, flat) + within
    return (
        np.repeat(np.repeat(np.arange(cells), orbitals), flat),
        np.repeat(np.tile(np.arange(orbitals), cells), flat),
        place,
    )


def _values(path: Path, place: NDArray[np.int64]) -> NDArray[np.float64]:
    try:
        values = np.array(read_text(path, LARGEST, "list of numbers").split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a list of numbers: {error}") from error
    if len(place) and len(values) <= int(place.max()):
        raise BadInput(
            f"{path} has {len(values)} numbers where {int(place.max()) + 1} are due: it was cut off, copy it again"
        )
    if not np.isfinite(values).all():
        raise BadInput(f"{path} holds numbers that are not finite")
    return values[place]

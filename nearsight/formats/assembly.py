"""From a program's list of matrix elements to a BlockMatrix, and back: indices, orbital order, signs, the missing half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import Spin
from nearsight.formats.orders import OrbitalOrder

FARTHEST = 10**5  # cells: no pair of atoms that see each other is farther apart


@dataclass(frozen=True, eq=False)
class Assembly:
    """Where each of a program's matrix elements stands in a layout of ours.

    layout: of all pairs that are named, and their reverses.  place: of each listed element in the layout [elements].
    sign: what it is multiplied by [elements].
    """

    layout: BlockLayout
    place: Tensor
    sign: Tensor

    __repr__ = one_line

    @staticmethod
    def of_elements(basis: Basis, order: OrbitalOrder, row: Any, column: Any, R: Any, name: str) -> Assembly:
        """Of elements <row, cell 0| M |column, cell R> in the program's numbering, from 0.

        row, column: [elements].  R: [elements, 3].  name: of the file, for messages.
        Raises BadInput for orbitals or cells that do not exist, and for an element that is listed twice.
        """
        row, column, R = (torch.as_tensor(np.asarray(x, dtype=np.int64)) for x in (row, column, R))
        for which in (row, column):
            if len(which) and not (0 <= int(which.min()) and int(which.max()) < basis.size):
                bad = int(which.max()) if int(which.max()) >= basis.size else int(which.min())
                raise BadInput(f"{name} names orbital {bad}, of {basis.size} (from 0) in the structure: it is damaged")
        if len(R) and int(R.abs().max()) > FARTHEST:
            raise BadInput(f"{name} names a cell that no neighbour is in: the file is damaged, write or copy it again")
        theirs, signs = order.rows(basis)
        ours = torch.argsort(theirs)
        row, column = ours[row], ours[column]
        i, j = basis.atom_of_orbital[row], basis.atom_of_orbital[column]
        pairs = Pairs.of(i, j, R, len(basis.numbers))
        layout = BlockLayout(basis, pairs)
        pair = pairs.find(i, j, R)
        place = layout.boundaries[pair] + (row - basis.offsets[i]) * layout.shapes[pair, 1] + column - basis.offsets[j]
        if len(place) and int(torch.bincount(place, minlength=layout.size).max()) > 1:
            raise BadInput(f"{name} lists the same matrix element twice: the file is damaged, write or copy it again")
        return Assembly(layout, place, signs[row] * signs[column])

    @staticmethod
    def of_blocks(basis: Basis, order: OrbitalOrder, i: Any, j: Any, R: Any, name: str) -> Assembly:
        """Of row-major blocks back to back, one for each pair (i, j, R) of atoms, in the order in which they are listed.

        Raises BadInput for atoms or cells that do not exist, and for a pair that is listed twice.
        """
        i, j = (torch.as_tensor(np.asarray(x, dtype=np.int64)) for x in (i, j))
        atoms = len(basis.numbers)
        if len(i) and not (0 <= int(torch.minimum(i, j).min()) and int(torch.maximum(i, j).max()) < atoms):
            raise BadInput(f"{name} names an atom that the structure, with {atoms} atoms, does not have")
        shapes = torch.stack([basis.counts[i], basis.counts[j]], 1)
        sizes = shapes.prod(1)
        pair = torch.repeat_interleave(torch.arange(len(i)), sizes)
        within = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes)[pair]
        row = basis.offsets[i[pair]] + within // shapes[pair, 1]
        column = basis.offsets[j[pair]] + within % shapes[pair, 1]
        return Assembly.of_elements(basis, order, row, column, torch.as_tensor(np.asarray(R, np.int64))[pair], name)

    def matrix(self, values: Any, spin: Spin) -> BlockMatrix:
        """The matrix of the listed values [components, elements].

        An element that is not listed is its mirror image's conjugate, M_ij(R) = M_ji(-R)^*, or zero if neither is listed.
        """
        listed = torch.as_tensor(np.array(values))
        listed = listed.to(torch.complex128 if listed.is_complex() else torch.float64)
        full = listed.new_zeros(len(listed), self.layout.size)
        full[:, self.place] = listed * self.sign.to(listed.real.dtype)
        there = torch.zeros(self.layout.size, dtype=torch.bool)
        there[self.place] = True
        found = BlockMatrix(self.layout, full, spin)
        return found if bool(there.all()) else found.with_values(torch.where(there, full, found.dagger().values))

    @property
    def missing_pairs(self) -> int:
        """How many pairs of atoms are listed without their reverse."""
        there = torch.zeros(len(self.layout.pairs), dtype=torch.bool)
        there[self.layout.pair[self.place]] = True
        return int((~there).sum())


def to_program(matrix: BlockMatrix, order: OrbitalOrder) -> Tensor:
    """The values of a matrix [components, size] with the rows and columns of each block in a program's order and signs."""
    layout = matrix.layout.to("cpu")
    theirs, signs = order.rows(layout.basis)
    index = torch.argsort(theirs)  # of their row r, which row of ours it is
    offsets, pairs = layout.basis.offsets, layout.pairs
    row, column = index[layout.row], index[layout.column]
    place = (
        layout.boundaries[layout.pair]
        + (row - offsets[pairs.i[layout.pair]]) * layout.shapes[layout.pair, 1]
        + column
        - offsets[pairs.j[layout.pair]]
    )
    values = matrix.values.detach().cpu()
    return values[:, place] * (signs[row] * signs[column]).to(values.real.dtype)


def grouped_by_l(matrix: BlockMatrix) -> BlockMatrix:
    """The matrix with each atom's shells in the order of l, those of one l as they stood."""
    basis = matrix.basis
    index = {}
    for z, shells in basis.shells.items():
        starts = np.cumsum([0, *(2 * l + 1 for l in shells)])
        order = sorted(range(len(shells)), key=lambda n, shells=shells: shells[n])  # type: ignore[misc]
        index[z] = torch.as_tensor(np.concatenate([np.arange(starts[n], starts[n + 1]) for n in order]))
    offsets = basis.offsets.tolist()
    rows = torch.cat([index[z] + offsets[n] for n, z in enumerate(basis.numbers)])
    layout = matrix.layout.to("cpu")
    pairs, row, column = layout.pairs, rows[layout.row], rows[layout.column]
    place = (
        layout.boundaries[layout.pair]
        + (row - basis.offsets[pairs.i[layout.pair]]) * layout.shapes[layout.pair, 1]
        + column
        - basis.offsets[pairs.j[layout.pair]]
    )
    sorted_basis = Basis(basis.numbers, {z: tuple(sorted(s)) for z, s in basis.shells.items()})
    return BlockMatrix(BlockLayout(sorted_basis, pairs), matrix.values.detach().cpu()[:, place], matrix.spin)


def basis_of(numbers: list[int], shells: list[tuple[int, ...]], name: str) -> Basis:
    """A basis from the shells of each atom. Raises BadInput where two atoms of one element differ in theirs."""
    known: dict[int, tuple[int, ...]] = {}
    for z, own in zip(numbers, shells, strict=True):
        if known.setdefault(z, own) != own:
            raise BadInput(
                f"{name}: two atoms of one element have different shells ({list(known[z])} and {list(own)}), which one basis "
                "an element cannot hold: give every atom of an element the same orbitals"
            )
    return Basis.of(torch.tensor(numbers, dtype=torch.int64), known)

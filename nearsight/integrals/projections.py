"""Overlaps <phi|beta> of orbitals with functions on atoms, and what is built of them: |beta> M <beta| and <beta|D|beta>.

Each of the two is the other's adjoint. The non-local pseudopotential is the first, occupations of Hubbard's kind the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.species import RadialFunction, Species
from nearsight.core.structure import Structure
from nearsight.integrals.two_center import (
    EXACT,
    ProjectorPairs,
    Quadrature,
    projection_table,
    through_projectors,
    touching_pairs,
)

CHUNK = 100_000  # pairs of overlaps that are multiplied at once


@dataclass(frozen=True, eq=False)
class Projections:
    """Overlaps of every orbital with every function that it touches; differentiable in the structure. Build with `of`.

    touching: atoms i, k and cells R of the overlaps.  blocks: (element of i, element of k) -> overlaps [n, orbitals of i,
    functions of k].  place: of each entry of `touching` in its blocks.  through: (p, q), entries with the same k.  pair: of
    the layout, for each (p, q); the number of pairs where it has none.
    """

    layout: BlockLayout
    numbers: Tensor
    touching: ProjectorPairs
    blocks: Mapping[tuple[int, int], Tensor]
    place: Tensor
    through: tuple[Tensor, Tensor]
    pair: Tensor

    __repr__ = one_line

    @staticmethod
    def of(
        structure: Structure,
        species: Mapping[int, Species],
        layout: BlockLayout,
        functions: Mapping[int, Sequence[RadialFunction]],
        quadrature: Quadrature = EXACT,
    ) -> Projections:
        """functions: on the atoms of each element, those with (2l+1) beta_lm each; elements may be missing."""
        functions = {z: tuple(f) for z, f in functions.items() if len(f)}
        reach = {z: max((f.cutoff for f in functions.get(z, ())), default=0.0) for z in species}
        touching = touching_pairs(structure, species, reach)
        vectors = structure.positions[touching.k] - structure.positions[touching.i]
        vectors = vectors + touching.R.to(structure.cell) @ structure.cell
        zi, zk = structure.numbers[touching.i], structure.numbers[touching.k]
        blocks: dict[tuple[int, int], Tensor] = {}
        place = torch.zeros(len(touching.i), dtype=torch.int64, device=layout.device)
        for zb, betas in functions.items():
            for za, s in species.items():
                which = ((zi == za) & (zk == zb)).nonzero()[:, 0]
                blocks[za, zb] = projection_table(s, betas, quadrature)(vectors[which])
                place[which] = torch.arange(len(which), device=layout.device)
        p, q = through_projectors(touching)
        pair = layout.pairs.find(touching.i[p], touching.i[q], touching.R[p] - touching.R[q])
        return Projections(layout, structure.numbers, touching, blocks, place, (p, q), pair)

    def _couplings(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        """By elements, and in chunks: element of k, left and right overlaps, elements of the matrix [n, size], atom k [n]."""
        (p, q), inside = self.through, self.pair < len(self.layout.pairs)
        zi, zk = self.numbers[self.touching.i], self.numbers[self.touching.k]
        for za, z in self.blocks:
            for zb, other in self.blocks:
                if other != z:
                    continue
                chosen = ((zk[p] == z) & (zi[p] == za) & (zi[q] == zb) & inside).nonzero()[:, 0]
                for part in chosen.split(CHUNK):
                    left, right = self.blocks[za, z][self.place[p[part]]], self.blocks[zb, z][self.place[q[part]]]
                    size = left.shape[1] * right.shape[1]
                    index = self.layout.boundaries[self.pair[part]][:, None]
                    index = index + torch.arange(size, device=self.layout.device)
                    yield z, left, right, index, self.touching.k[p[part]]

    def matrix(self, couplings: Mapping[int, Tensor]) -> BlockMatrix:
        """sum_k |beta_k> M_k <beta_k|, for M of each element [functions, functions], or of each atom [atoms, ., .]."""
        values = next(iter(couplings.values())).new_zeros(self.layout.size)
        for z, left, right, index, k in self._couplings():
            m = couplings[z]
            product = left @ (m if m.ndim == 2 else m[k]) @ right.mT
            values = values.index_add(0, index.flatten(), product.flatten())
        return BlockMatrix(self.layout, values[None])

    def occupations(self, matrix: BlockMatrix) -> dict[int, Tensor]:
        """n_k = <beta_k| D |beta_k> of the atoms of each element [components, atoms, functions, functions].

        Pairs of orbitals that the matrix does not hold are left out. Atoms of other elements have zeros.
        """
        found = {
            z: matrix.values.new_zeros(len(matrix.values), len(self.numbers), b.shape[2], b.shape[2])
            for (_, z), b in self.blocks.items()
        }
        for z, left, right, index, k in self._couplings():
            d = matrix.values[:, index].unflatten(2, (left.shape[1], right.shape[1]))
            found[z] = found[z].index_add(1, k, left.mT.to(d.dtype) @ d @ right.to(d.dtype))
        return found


def nonlocal_potential(
    structure: Structure, species: Mapping[int, Species], layout: BlockLayout, quadrature: Quadrature = EXACT
) -> BlockMatrix:
    """V_NL = sum_k |chi_k> e_k <chi_k| in the orbitals (Kleinman-Bylander), Ha; differentiable in the structure.

    Raises BadInput for a species that has j-resolved projectors alone.
    """
    for s in species.values():
        if s.relativistic_projectors and not s.projectors:
            raise BadInput(
                f"{s.symbol} has j-resolved projectors alone: write its .ion.xml from a run without spin-orbit coupling"
            )
    functions = {z: tuple(p.radial for p in s.projectors) for z, s in species.items()}
    if not any(functions.values()):
        return BlockMatrix(layout, structure.cell.new_zeros(1, layout.size))
    energies = {
        z: torch.diag(structure.cell.new_tensor([p.energy for p in s.projectors for _ in range(2 * p.l + 1)]))
        for z, s in species.items()
        if s.projectors
    }
    return Projections.of(structure, species, layout, functions, quadrature).matrix(energies)

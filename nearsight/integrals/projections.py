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
from nearsight.core.layout import BlockLayout
from nearsight.core.so3 import angular_momentum
from nearsight.core.species import Projector, RadialFunction, Species
from nearsight.core.spin import NONE, SPINOR, Spin
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

    def matrix(self, couplings: Mapping[int, Tensor], kind: Spin = NONE) -> BlockMatrix:
        """sum_k |beta_k> M_k <beta_k|, for M of each element [functions, functions], or of each atom [atoms, ., .].

        kind: of the matrix; M of one with spin has its components in front [components, functions, functions].
        """
        empty = next(iter(couplings.values())).new_zeros(self.layout.size)
        values = [empty] * kind.components
        for z, left, right, index, k in self._couplings():
            m = couplings[z][None] if kind is NONE else couplings[z]
            left, right = left.to(m.dtype), right.to(m.dtype)
            for c, part in enumerate(m):
                product = left @ (part if part.ndim == 2 else part[k]) @ right.mT
                values[c] = values[c].index_add(0, index.flatten(), product.flatten())
        return BlockMatrix(self.layout, torch.stack(values), kind)

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
    structure: Structure,
    species: Mapping[int, Species],
    layout: BlockLayout,
    quadrature: Quadrature = EXACT,
) -> BlockMatrix:
    """V_NL = sum_k |chi_k> e_k <chi_k| in the orbitals (Kleinman-Bylander), Ha; differentiable in the structure.

    Of a species that has projectors by j alone, their average over the directions of spin: (2j + 1) / (4l + 2) e_lj each.
    """
    functions = {z: tuple(p.radial for p in _scalar(s)) for z, s in species.items()}
    if not any(functions.values()):
        return BlockMatrix(layout, structure.cell.new_zeros(1, layout.size))
    energies = {
        z: torch.diag(
            structure.cell.new_tensor([_average(p) * p.energy for p in _scalar(s) for _ in range(2 * p.l + 1)])
        )
        for z, s in species.items()
        if _scalar(s)
    }
    return Projections.of(structure, species, layout, functions, quadrature).matrix(energies)


def spin_orbit_potential(
    structure: Structure,
    species: Mapping[int, Species],
    layout: BlockLayout,
    quadrature: Quadrature = EXACT,
) -> BlockMatrix:
    """V_NL = sum_k,l,j,m |beta_klj Y_ljm> e_lj <Y_ljm beta_klj| between spinors (Ha), on all pairs that share a projector atom.

    sum_m |Y_ljm><Y_ljm| is the projector onto j: (l + 1 + L.sigma) / (2l + 1) for j = l + 1/2, (l - L.sigma) / (2l + 1) for
    j = l - 1/2. Its part that is the same for both spins is `nonlocal_potential`. Differentiable in the structure.
    Projectors without j act on both spins alike.
    """
    functions = {z: tuple(p.radial for p in _by_j(s)) for z, s in species.items()}
    if not any(functions.values()):
        zero = structure.cell.new_zeros(SPINOR.components, layout.size)
        return BlockMatrix(layout, zero.to(zero.dtype.to_complex()), SPINOR)
    couplings = {
        z: torch.stack([torch.block_diag(*parts) for parts in zip(*(_coupling(p) for p in _by_j(s)), strict=True)])
        for z, s in species.items()
        if _by_j(s)
    }
    made = {z: m.to(structure.cell.device, structure.cell.dtype.to_complex()) for z, m in couplings.items()}
    return Projections.of(structure, species, layout, functions, quadrature).matrix(made, SPINOR)


def _scalar(s: Species) -> tuple[Projector, ...]:
    return s.projectors or s.relativistic_projectors


def _by_j(s: Species) -> tuple[Projector, ...]:
    return s.relativistic_projectors or s.projectors


def _average(p: Projector) -> float:
    """The share (2j + 1) / (4l + 2) of a projector in the average over j; 1 for one without j."""
    return 1.0 if p.j is None or p.l == 0 else (2 * p.j + 1) / (4 * p.l + 2)


def _coupling(p: Projector) -> Tensor:
    """e sum_m |Y_ljm><Y_ljm| between real harmonics [4, 2l+1, 2l+1]."""
    eye = torch.eye(2 * p.l + 1, dtype=torch.complex128)
    along = 0.0 if p.j is None or p.l == 0 else (p.j - p.l) * 2 / (2 * p.l + 1)
    moment = torch.as_tensor(angular_momentum(p.l))
    return p.energy * SPINOR.potentials(torch.cat([_average(p) * eye[None], along * moment]))

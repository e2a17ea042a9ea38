"""From irreps to orbital blocks (Wigner-Eckart), for any orbital content and any number of elements.

A block between shells l1 and l2 is the sum of irreps L = |l1 - l2| .. l1 + l2 of parity (-1)^(l1 + l2). Elements share
orbital *slots*: for each l as many shells as the richest element has. One constant orthogonal matrix takes all irreps of a
P x P block to its elements. Elements an atom lacks are never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearsight.core import so3
from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.models.edges import Edges
from nearsight.models.layers import Irreps
from nearsight.models.records import TensorRecord


class OrbitalSlots:
    """Where each orbital of each element stands in the common P x P block.

    shells: angular momenta of each known element's shells.  slots: l of each common shell.  size: P.
    table: slot of each orbital of each element [elements, most orbitals].
    """

    def __init__(self, shells: Mapping[int, Sequence[int]]) -> None:
        self.shells = {z: tuple(shells[z]) for z in sorted(shells)}
        self.numbers = tuple(self.shells)
        l_max = max(max(s) for s in self.shells.values())
        self.slots = tuple(l for l in range(l_max + 1) for _ in range(max(s.count(l) for s in self.shells.values())))
        self.l_max = l_max
        self.size = sum(2 * l + 1 for l in self.slots)
        first = np.concatenate([[0], np.cumsum([2 * l + 1 for l in self.slots])])
        self.table = torch.zeros(len(self.numbers), self.size, dtype=torch.int64)
        for index, s in enumerate(self.shells.values()):
            seen = dict.fromkeys(range(l_max + 1), 0)
            orbitals: list[int] = []
            for l in s:
                slot = self.slots.index(l) + seen[l]
                seen[l] += 1
                orbitals += range(first[slot], first[slot + 1])
            self.table[index, : len(orbitals)] = torch.tensor(orbitals)

    def index_of(self, numbers: Tensor) -> Tensor:
        """Index of each atom's element [atoms], all of which are known."""
        known = torch.zeros(max(self.numbers) + 1, dtype=torch.int64, device=numbers.device)
        known[list(self.numbers)] = torch.arange(len(self.numbers), device=numbers.device)
        return known[numbers]

    def rotation(self, wigner: Sequence[Tensor], count: int, like: Tensor) -> Tensor:
        """Rotation of all slots of an atom [count, P, P] from D^l, l = 1..l_max."""
        result = like.new_zeros(count, self.size, self.size)
        start = 0
        for l in self.slots:
            stop = start + 2 * l + 1
            result[:, start:stop, start:stop] = wigner[l - 1] if l else 1
            start = stop
        return result

    def coupling(self, rank: int = 0) -> tuple[Irreps, Tensor]:
        """The irreps of a block and the orthogonal matrix float64 from them to its elements, row-major.

        rank: 0 for a scalar of spin, whose matrix is [P^2, P^2]; 1 for an axial vector, (l1 x l2) x 1, whose matrix is
        [3 P^2, 3 P^2], the vector's component outermost.
        """
        first = np.concatenate([[0], np.cumsum([2 * l + 1 for l in self.slots])])
        kinds: list[list[list[tuple[int, int, int]]]] = [[[], []] for _ in range(2 * self.l_max + rank + 1)]
        for a, la in enumerate(self.slots):
            for b, lb in enumerate(self.slots):
                for l in range(abs(la - lb), la + lb + 1):
                    for j in range(abs(l - rank), l + rank + 1):
                        kinds[j][(la + lb + j) % 2].append((a, b, l))
        irreps = Irreps(tuple(len(k[0]) for k in kinds), tuple(len(k[1]) for k in kinds))
        matrix = np.zeros((irreps.dim, 2 * rank + 1, self.size, self.size))
        for j, start, c in irreps.blocks():
            for channel, (a, b, l) in enumerate(kinds[j][0] + kinds[j][1]):
                orbitals = so3.clebsch_gordan(self.slots[a], self.slots[b], l)
                cg = np.einsum("xyl,lsj->jsxy", orbitals, so3.clebsch_gordan(l, rank, j))
                rows = start + np.arange(2 * j + 1) * c + channel
                matrix[rows, :, first[a] : first[a + 1], first[b] : first[b + 1]] = cg
        return irreps, torch.from_numpy(matrix.reshape(irreps.dim, -1))


@dataclass(frozen=True, eq=False)
class BlockMap(TensorRecord):
    """Which element of which P x P block each matrix element is.

    block: atoms' on-site blocks first, then edges' [size].  local: where in the block [size].  transposed: index of the
    transposed matrix element [size].  width: P.
    """

    block: Tensor
    local: Tensor
    transposed: Tensor
    width: int

    __repr__ = one_line

    @staticmethod
    def of(layout: BlockLayout, place: Tensor, numbers: Tensor, slots: OrbitalSlots) -> BlockMap:
        """place: of each pair of the layout among atoms and edges (see `Edges.of`).  numbers: of the atoms [atoms]."""
        row, column = layout.local
        slot, species = slots.table.to(place.device), slots.index_of(numbers)
        pair, matrix = layout.pair.long(), layout.pairs
        local = slot[species[matrix.i[pair]], row] * slots.size + slot[species[matrix.j[pair]], column]
        return BlockMap(place[pair], local, layout.transposed.long(), slots.size)

    def elements(self, site: Tensor, edge: Tensor, sign: int = 1) -> Tensor:
        """Elements [..., size] of the matrix with these on-site blocks [..., atoms, P^2] and edges' blocks [..., edges, P^2].

        sign: of M_ij(R) = sign M_ji(-R), which the matrix obeys.
        """
        lead = site.shape[:-2]
        flat = torch.cat([site.reshape(*lead, -1), edge.reshape(*lead, -1)], -1)
        values = flat.index_select(-1, self.block * (self.width * self.width) + self.local)
        return 0.5 * (values + sign * values.index_select(-1, self.transposed))

    def blocks(self, values: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """The way back: blocks [..., atoms, P, P] and [..., edges, P, P] of elements [..., size], else zero."""
        p = self.width
        flat = values.new_zeros(*values.shape[:-1], (edges.atoms + len(edges)) * p * p)
        flat[..., self.block * (p * p) + self.local] = values
        blocks = flat.view(*values.shape[:-1], -1, p, p)
        return blocks[..., : edges.atoms, :, :], blocks[..., edges.atoms :, :, :]

    def stored(self, edges: Edges) -> Tensor:
        """Edges that are pairs of the matrix, in their order."""
        return torch.unique(self.block[self.block >= edges.atoms]) - edges.atoms

    @classmethod
    def batch(cls, several: Sequence[BlockMap], edges: Sequence[Edges]) -> BlockMap:
        """Those of several structures as one. edges: theirs, which `Edges.batch` joins."""
        atoms, messages = sum(e.atoms for e in edges), sum(e.messages for e in edges)
        blocks, transposed = [], []
        atom, message, rest, value = 0, 0, messages, 0
        for m, e in zip(several, edges, strict=True):
            edge = m.block - e.atoms
            shifted = atoms + edge + torch.where(edge < e.messages, message, rest - e.messages)
            blocks.append(torch.where(edge < 0, m.block + atom, shifted))
            transposed.append(m.transposed + value)
            atom, message, value = atom + e.atoms, message + e.messages, value + len(m.local)
            rest += len(e) - e.messages
        local = torch.cat([m.local for m in several])
        return BlockMap(torch.cat(blocks), local, torch.cat(transposed), several[0].width)

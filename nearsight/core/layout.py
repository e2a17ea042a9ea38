"""Where each element of a block matrix stands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.display import one_line
from nearsight.core.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Bundle:
    """All cells R of some pairs of atoms (i, j), of which each has `count` and blocks of `rows` x `columns`.

    first: the first element of each [atom pairs]; its blocks follow one another, R after R.
    cell: index of each R in `BlockLayout.cells` [atom pairs, count].
    corner: where its block begins in the flat dense matrix [atom pairs].
    """

    first: Tensor
    cell: Tensor
    corner: Tensor
    rows: int
    columns: int
    size: int  # rows of the dense matrix

    __repr__ = one_line

    @property
    def count(self) -> int:
        """Cells R of each pair."""
        return self.cell.shape[1]

    @property
    def elements(self) -> Tensor:
        """Where each element stands in the layout [atom pairs, count, rows * columns]."""
        within = torch.arange(self.count * self.rows * self.columns, device=self.first.device)
        return (self.first[:, None] + within).reshape(len(self.first), self.count, -1)

    @property
    def places(self) -> Tensor:
        """Where each element of a block stands in the flat dense matrix [atom pairs, rows * columns]."""
        row = torch.arange(self.rows, device=self.first.device) * self.size
        within = row[:, None] + torch.arange(self.columns, device=self.first.device)
        return self.corner[:, None] + within.flatten()

    def split(self, elements: int) -> list[Bundle]:
        """In parts of at most so many elements, or of one pair of atoms."""
        step = max(1, elements // (self.count * self.rows * self.columns))
        if step >= len(self.first):
            return [self]
        parts = zip(self.first.split(step), self.cell.split(step), self.corner.split(step), strict=True)
        return [Bundle(*part, self.rows, self.columns, self.size) for part in parts]


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Where each matrix element of each pair stands in the flat vector: pair after pair, each block row-major.

    Only what is used again and again is kept for each element, in 32 bits where they suffice: `pair`, `transposed`, `place`.
    """

    basis: Basis
    pairs: Pairs

    @property
    def device(self) -> torch.device:
        """Where the pairs are, and all that is made of them."""
        return self.pairs.i.device

    def __repr__(self) -> str:
        return f"BlockLayout({len(self.basis.numbers)} atoms, {len(self.pairs)} pairs, {self.size} elements)"

    @cached_property
    def shapes(self) -> Tensor:
        """Rows and columns of each block [pairs, 2]."""
        counts = self.basis.counts.to(self.device)
        return torch.stack([counts[self.pairs.i], counts[self.pairs.j]], 1)

    @cached_property
    def boundaries(self) -> Tensor:
        """First element of each block, and the total at the end [pairs + 1]."""
        sizes = self.shapes.prod(1)
        return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])

    @cached_property
    def size(self) -> int:
        """Number of stored elements."""
        return int(self.boundaries[-1])

    @cached_property
    def pair(self) -> Tensor:
        """Pair of each element [size], int32."""
        pairs = torch.arange(len(self.pairs), device=self.device, dtype=torch.int32)
        return torch.repeat_interleave(pairs, self.shapes.prod(1), output_size=self.size)

    @property
    def local(self) -> tuple[Tensor, Tensor]:
        """Row and column of each element within its block, each [size]."""
        within = torch.arange(self.size, device=self.device) - self.boundaries[self.pair]
        columns = self.shapes[self.pair, 1]
        return within // columns, within % columns

    @property
    def row(self) -> Tensor:
        """Orbital (row of the whole matrix) of each element [size]."""
        return self.basis.offsets.to(self.device)[self.pairs.i[self.pair]] + self.local[0]

    @property
    def column(self) -> Tensor:
        """Orbital (column of the whole matrix) of each element [size]."""
        return self.basis.offsets.to(self.device)[self.pairs.j[self.pair]] + self.local[1]

    @cached_property
    def place(self) -> Tensor:
        """Where each element stands in the flat dense matrix M(k), row * n + column [size]."""
        n = self.basis.size
        return _narrow(self.row * n + self.column, n * n)

    @cached_property
    def transposed(self) -> Tensor:
        """Element (b, a) of the reverse pair for each element (a, b) [size]."""
        index = torch.empty(self.size, dtype=_width(self.size), device=self.device)
        first = self.boundaries[:-1].to(index.dtype)
        other = first[self.pairs.reverse]
        kinds, kind = torch.unique(self.shapes, dim=0, return_inverse=True)
        for n, (rows, columns) in enumerate(kinds.tolist()):
            within = torch.arange(rows * columns, dtype=index.dtype, device=self.device)
            across = within.reshape(columns, rows).T.flatten()  # the reverse block has these rows and columns exchanged
            if len(kinds) == 1:
                return (other[:, None] + across).flatten()
            which = (kind == n).nonzero()[:, 0]
            index[(first[which, None] + within).flatten()] = (other[which, None] + across).flatten()
        return index

    @property
    def half(self) -> Tensor:
        """Indices of the elements of one pair of each (i, j, R), (j, i, -R)."""
        return self.pairs.half[self.pair].nonzero()[:, 0]

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor]:
        """The distinct R [cells, 3], and the index of each pair's R among them [pairs]."""
        cells, index = torch.unique(self.pairs.R, dim=0, return_inverse=True)
        return cells, index

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """The pairs by their atoms: what sums over R work on."""
        p, cell = self.pairs, self.cells[1]
        atoms = p.i * p.atoms + p.j  # the pairs are sorted by it
        _, counts = torch.unique_consecutive(atoms, return_counts=True)
        first = counts.cumsum(0) - counts
        kinds, kind = torch.unique(torch.cat([self.shapes[first], counts[:, None]], 1), dim=0, return_inverse=True)
        offsets, n = self.basis.offsets.to(self.device), self.basis.size
        bundles = []
        for which, (rows, columns, count) in enumerate(kinds.tolist()):
            begin = first[kind == which]
            bundles.append(
                Bundle(
                    first=self.boundaries[begin],
                    cell=cell[begin[:, None] + torch.arange(count, device=self.device)],
                    corner=offsets[p.i[begin]] * n + offsets[p.j[begin]],
                    rows=rows,
                    columns=columns,
                    size=n,
                )
            )
        return tuple(bundles)

    def phases(self, k: Tensor) -> Tensor:
        """exp(2 pi i k.R) [k, pairs] for fractional k [k, 3]."""
        angle = 2 * torch.pi * (k @ self.pairs.R.to(k).T)
        return torch.complex(angle.cos(), angle.sin())

    def to(self, device: torch.device | str) -> BlockLayout:
        """The same layout on a device; itself where it is there already."""
        return self if self.device == torch.device(device) else BlockLayout(self.basis, self.pairs.to(device))


def identity(layout: BlockLayout) -> Tensor:
    """Values of the unit matrix [1, size]."""
    row, column = layout.local
    on_site = torch.zeros(len(layout.pairs), dtype=torch.bool, device=layout.device)
    on_site[layout.pairs.on_site] = True
    return ((row == column) & on_site[layout.pair]).double()[None]


def _width(bound: int) -> torch.dtype:
    """Of an index that is below the bound: 32 bits where they suffice."""
    return torch.int32 if bound < 2**31 else torch.int64


def _narrow(index: Tensor, bound: int) -> Tensor:
    return index.to(_width(bound))

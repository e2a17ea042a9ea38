"""H(k) and S(k) as sparse matrices, from blocks of atoms, without a dense matrix or one of all cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.core.spin import Spin

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """Which atoms (i, j) have a block in M(k), in compressed sparse rows of blocks, and where every element stands in it.

    layout: of the matrices.  factor: rows an orbital has, 2 of spinors (the spins of an atom stand together).
    """

    layout: BlockLayout
    factor: int = 1

    __repr__ = one_line

    @cached_property
    def _blocks(self) -> tuple[Array, Array, Array]:
        """Atoms i, j of each block [blocks], and the block of each pair [pairs]; pairs are sorted by (i, j)."""
        p = self.layout.pairs
        atoms, block = torch.unique_consecutive(p.i * p.atoms + p.j, return_inverse=True)
        flat = atoms.cpu().numpy()
        return flat // p.atoms, flat % p.atoms, block.cpu().numpy()

    @property
    def rows(self) -> Array:
        """Atom i of each block."""
        return self._blocks[0]

    @property
    def columns(self) -> Array:
        """Atom j of each block."""
        return self._blocks[1]

    @cached_property
    def sizes(self) -> Array:
        """Rows of each atom."""
        return self.factor * self.layout.basis.counts.cpu().numpy().astype(np.int64)

    @property
    def size(self) -> int:
        """Rows of M(k)."""
        return self.factor * self.layout.basis.size

    @property
    def block(self) -> int:
        """Rows of a block, where all atoms have as many; else 1."""
        return int(self.sizes[0]) if len(self.sizes) and bool((self.sizes == self.sizes[0]).all()) else 1

    @cached_property
    def indptr(self) -> Array:
        """First block of each atom [atoms + 1]."""
        return _starts(np.bincount(self.rows, minlength=len(self.sizes)))

    @cached_property
    def _offsets(self) -> Array:
        """First row of each atom [atoms + 1]."""
        return _starts(self.sizes)

    @cached_property
    def _before(self) -> Array:
        """Columns of an atom's rows before each block [blocks]."""
        widths = self.sizes[self.columns]
        total = np.cumsum(widths) - widths
        return total - total[self.indptr[self.rows]]

    @cached_property
    def _widths(self) -> Array:
        """Elements in each row of an atom [atoms]."""
        return np.bincount(self.rows, weights=self.sizes[self.columns], minlength=len(self.sizes)).astype(np.int64)

    @cached_property
    def _row_starts(self) -> Array:
        """First element of each row of M(k) [rows + 1], of compressed sparse rows."""
        return _starts(np.repeat(self._widths, self.sizes))

    @cached_property
    def element_columns(self) -> Array:
        """Column of each element of the compressed sparse rows [elements], int32."""
        n = self.layout.pairs.atoms
        found = np.empty(int(self._row_starts[-1]), dtype=np.int32)
        for a in range(n):
            first, last = self.indptr[a], self.indptr[a + 1]
            line = np.concatenate([np.arange(self._offsets[j], self._offsets[j + 1]) for j in self.columns[first:last]])
            begin = self._row_starts[self._offsets[a]]
            found[begin : begin + len(line) * self.sizes[a]] = np.tile(line, self.sizes[a])
        return found

    def _places(self) -> Tensor:
        """Where each element of the layout stands among those of the compressed sparse rows, of spin (0, 0) [size]."""
        layout, (_, _, block) = self.layout, self._blocks
        row, column = (x.cpu() for x in layout.local)
        pair = layout.pair.cpu().long()
        i = layout.pairs.i.cpu()[pair]
        width = torch.from_numpy(self._widths)[i]
        start = torch.from_numpy(self._row_starts[self._offsets[:-1]])[i]
        return start + row * width + torch.from_numpy(self._before)[torch.from_numpy(block)[pair]] + column

    @cached_property
    def _slots(self) -> tuple[Tensor, ...]:
        """`_places` of each spin component."""
        first = self._places()
        if self.factor == 1:
            return (first,)
        pairs, pair = self.layout.pairs, self.layout.pair.cpu().long()
        counts = self.layout.basis.counts.cpu()
        down = counts[pairs.i.cpu()][pair] * torch.from_numpy(self._widths)[pairs.i.cpu()][pair]
        right = counts[pairs.j.cpu()][pair]
        return first, first + right, first + down, first + down + right

    def matrix(self, components: Sequence[Tensor | None], k: Tensor, factors: Tensor | None = None) -> SparseMatrix:
        """M(k) of elements [size], one for each of the spin components of a pattern (None: zero), at a fractional k [3].

        Real for real elements where k and -k are the same point (Gamma, M).
        factors: of the blocks of each pair [pairs], complex.
        """
        layout, (_, _, block) = self.layout, self._blocks
        phases = None
        if bool((k != 0).any()):
            turns = layout.pairs.R.cpu().double() @ k.cpu().double()
            if bool(((2 * k).round() - 2 * k).abs().max() < SAME):  # k and -k are one: M(k) of real elements is real
                phases = 1 - 2 * (2 * turns).round().remainder(2)
            else:
                phases = torch.complex((2 * torch.pi * turns).cos(), (2 * torch.pi * turns).sin())
        if factors is not None:
            phases = factors if phases is None else phases * factors
        given = next(c for c in components if c is not None)
        complex_ = (phases is not None and phases.is_complex()) or any(
            c is not None and c.is_complex() for c in components
        )
        dtype = torch.complex128 if complex_ else torch.float64
        b = self.block
        if b > 1 and self.factor == 1:
            data = torch.zeros(len(self.rows), b * b, dtype=dtype)
            where = torch.from_numpy(block)
            for part in torch.arange(len(block)).split(CHUNK):
                first, last = int(part[0]) * b * b, (int(part[-1]) + 1) * b * b
                values = given[first:last].cpu().reshape(-1, b * b).to(dtype)
                if phases is not None:
                    values = values * phases[part, None]
                data.index_add_(0, where[part], values)
            return SparseMatrix(self, data.reshape(-1, b, b).numpy())
        data = torch.zeros(int(self._row_starts[-1]), dtype=dtype)
        for slot, component in zip(self._slots, components, strict=True):
            if component is not None:
                own = component.cpu().to(dtype)
                data.index_add_(0, slot, own if phases is None else own * phases[layout.pair.cpu().long()])
        return SparseMatrix(self, data.numpy())

    @cached_property
    def upper(self) -> UpperTriangle:
        """The upper triangle, as factorisations take it."""
        if self.block > 1 and self.factor == 1:
            kept = np.flatnonzero(self.columns >= self.rows)
            counts = np.bincount(self.rows[kept], minlength=len(self.sizes))
            return UpperTriangle(self.size, _starts(counts), self.columns[kept], self.block, kept)
        row = np.repeat(np.arange(self.size), np.diff(self._row_starts))
        kept = np.flatnonzero(self.element_columns >= row)
        counts = np.bincount(row[kept], minlength=self.size)
        return UpperTriangle(self.size, _starts(counts), self.element_columns[kept], 1, kept)


CHUNK = 100_000  # pairs whose blocks are summed at once
SAME = 1e-12  # fractions of reciprocal vectors by which k and -k may differ


@dataclass(frozen=True, eq=False)
class UpperTriangle:
    """Compressed sparse rows of the upper triangle with the diagonal: of blocks [block, block], or of elements (block 1).

    kept: which of the matrix's blocks or elements they are.
    """

    size: int
    indptr: Array
    indices: Array
    block: int
    kept: Array

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """M(k): data of blocks [blocks, b, b], or of compressed sparse rows [elements], on a pattern."""

    pattern: BlockPattern
    data: Array

    __repr__ = one_line

    @cached_property
    def scipy(self) -> Any:
        """As SciPy's matrix."""
        p = self.pattern
        shape = (p.size, p.size)
        if self.data.ndim == 3:
            return scipy.sparse.bsr_matrix((self.data, p.columns, p.indptr), shape=shape)
        return scipy.sparse.csr_matrix((self.data, p.element_columns, p._row_starts), shape=shape)

    def __matmul__(self, x: Array) -> Array:
        """M x [rows, m]."""
        return np.asarray(self.scipy @ x)

    def upper(self) -> Array:
        """Its upper triangle, in the order of the pattern's."""
        return self.data[self.pattern.upper.kept]


@dataclass(frozen=True, eq=False)
class Pencil:
    """H(k) - sigma S(k) of one spin (or of spinors) at one k."""

    hamiltonian: SparseMatrix
    overlap: SparseMatrix

    __repr__ = one_line

    @property
    def size(self) -> int:
        """Rows."""
        return self.hamiltonian.pattern.size

    @property
    def complex(self) -> bool:
        """Whether H or S is."""
        return bool(np.iscomplexobj(self.hamiltonian.data) or np.iscomplexobj(self.overlap.data))

    def shifted(self, sigma: float) -> Array:
        """The upper triangle of H - sigma S."""
        return self.hamiltonian.upper() - sigma * self.overlap.upper()


@dataclass(frozen=True, eq=False)
class SparseProblem:
    """H and S whose H(k) c = E S(k) c is to be solved at several k."""

    hamiltonian: BlockMatrix
    overlap: BlockMatrix
    pattern: BlockPattern

    __repr__ = one_line

    @staticmethod
    def of(hamiltonian: BlockMatrix, overlap: BlockMatrix) -> SparseProblem:
        """Both on one layout, that of H."""
        exact = overlap.hermitian()
        if not exact.same_layout(hamiltonian):
            pairs = hamiltonian.pairs.union(exact.pairs)
            layout = BlockLayout(hamiltonian.basis, pairs)
            hamiltonian, exact = hamiltonian.on(layout), exact.on(layout)
        factor = hamiltonian.spin.size_factor
        return SparseProblem(hamiltonian, exact, BlockPattern(hamiltonian.layout, factor))

    @property
    def spin(self) -> Spin:
        """Of the Hamiltonian."""
        return self.hamiltonian.spin

    def at(self, k: Tensor, s: int = 0) -> Pencil:
        """At a fractional k [3], of the independent spin s."""
        kind, own = self.spin, self.overlap.values[0].detach()
        parts = self.hamiltonian.values.detach().chunk(kind.matrices)[s]
        embedded = [own if c in kind.diagonal else None for c in range(len(parts))]
        return Pencil(self.pattern.matrix(parts.unbind(), k), self.pattern.matrix(embedded, k))

    def slope(self, k: Tensor, direction: Tensor, s: int = 0) -> Pencil:
        """dH/dq and dS/dq along a unit vector q: sum_R i (R.q) exp(ik.R) M(R), R in real space.

        direction: components of q along the three cell vectors, cell @ q [3], Bohr.
        """
        cells = 1j * (self.pattern.layout.pairs.R.cpu().double() @ direction)
        kind, own = self.spin, self.overlap.values[0].detach()
        parts = self.hamiltonian.values.detach().chunk(kind.matrices)[s]
        embedded = [own if c in kind.diagonal else None for c in range(len(parts))]
        return Pencil(self.pattern.matrix(parts.unbind(), k, cells), self.pattern.matrix(embedded, k, cells))


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

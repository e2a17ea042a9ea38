"""BlockMatrix: H, S, T, D and their derivatives as blocks on pairs of atoms. The narrow waist of the project."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import scipy.sparse
import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.errors import NearsightError
from nearsight.core.structure import Pairs

Spin = Literal["none", "collinear", "spinor"]
SPIN_COMPONENTS: dict[Spin, int] = {"none": 1, "collinear": 2, "spinor": 4}  # spinor: uu, ud, du, dd


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Where each matrix element of each pair stands in the flat vector: pair after pair, each block row-major."""

    basis: Basis
    pairs: Pairs

    @property
    def device(self) -> torch.device:
        return self.pairs.i.device

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

    @property
    def size(self) -> int:
        """Number of stored elements."""
        return int(self.boundaries[-1])

    @cached_property
    def pair(self) -> Tensor:
        """Pair of each element [size]."""
        return torch.repeat_interleave(torch.arange(len(self.pairs), device=self.device), self.shapes.prod(1))

    @cached_property
    def local(self) -> tuple[Tensor, Tensor]:
        """Row and column of each element within its block, each [size]."""
        within = torch.arange(self.size, device=self.device) - self.boundaries[self.pair]
        columns = self.shapes[self.pair, 1]
        return within // columns, within % columns

    @cached_property
    def row(self) -> Tensor:
        """Orbital (row of the whole matrix) of each element [size]."""
        return self.basis.offsets.to(self.device)[self.pairs.i[self.pair]] + self.local[0]

    @cached_property
    def column(self) -> Tensor:
        return self.basis.offsets.to(self.device)[self.pairs.j[self.pair]] + self.local[1]

    @cached_property
    def transposed(self) -> Tensor:
        """Element (b, a) of the reverse pair for each element (a, b) [size]."""
        reverse = self.pairs.reverse[self.pair]
        row, column = self.local
        return self.boundaries[reverse] + column * self.shapes[reverse, 1] + row

    @cached_property
    def half(self) -> Tensor:
        """Indices of the elements of one pair of each (i, j, R), (j, i, -R)."""
        return self.pairs.half[self.pair].nonzero()[:, 0]

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor]:
        """The distinct R [cells, 3], and the index of each pair's R among them [pairs]."""
        cells, index = torch.unique(self.pairs.R, dim=0, return_inverse=True)
        return cells, index

    def phases(self, k: Tensor) -> Tensor:
        """exp(2 pi i k.R) [k, pairs] for fractional k [k, 3]."""
        angle = 2 * torch.pi * (k @ self.pairs.R.to(k).T)
        return torch.complex(angle.cos(), angle.sin())

    def to(self, device: torch.device | str) -> BlockLayout:
        return self if self.device == torch.device(device) else BlockLayout(self.basis, self.pairs.to(device))


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """M_ij(R) = <i, cell 0| M |j, cell R>, sparse by pair of atoms.

    values: [components, layout.size]; components = 1 (spin none), 2 (collinear: up, down) or 4 (spinor: uu, ud, du, dd).
    Real or complex; dtype and device are those of `values`.
    """

    layout: BlockLayout
    values: Tensor
    spin: Spin = "none"

    def __post_init__(self) -> None:
        expected = (SPIN_COMPONENTS[self.spin], self.layout.size)
        if tuple(self.values.shape) != expected:
            raise NearsightError(f"matrix values have shape {tuple(self.values.shape)}, its layout needs {expected}")

    @property
    def basis(self) -> Basis:
        return self.layout.basis

    @property
    def pairs(self) -> Pairs:
        return self.layout.pairs

    def with_values(self, values: Tensor) -> BlockMatrix:
        return replace(self, values=values)

    def _same(self, other: BlockMatrix) -> None:
        if self.layout is not other.layout and not (
            self.basis.same_as(other.basis)
            and len(self.pairs) == len(other.pairs)
            and all(torch.equal(getattr(self.pairs, f), getattr(other.pairs, f)) for f in ("i", "j", "R"))
        ):
            raise NearsightError(
                "two matrices on different pairs or bases: bring one onto the other's layout with .on()"
            )

    def __add__(self, other: BlockMatrix) -> BlockMatrix:
        self._same(other)
        return self.with_values(self.values + other.values)

    def __sub__(self, other: BlockMatrix) -> BlockMatrix:
        self._same(other)
        return self.with_values(self.values - other.values)

    def __mul__(self, factor: float | Tensor) -> BlockMatrix:
        return self.with_values(self.values * factor)

    __rmul__ = __mul__

    def trace(self, other: BlockMatrix) -> Tensor:
        """Tr[A B] = sum_ij,R A_ij(R) B_ji(-R), summed over spin; for hermitian real matrices the plain dot product."""
        self._same(other)
        b = other.values[:, other.layout.transposed]
        if other.spin == "spinor":
            b = b[[0, 2, 1, 3]]
        return (self.values * b).sum()

    def hermitian(self) -> BlockMatrix:
        """(M + M^dagger) / 2."""
        return self.with_values(0.5 * (self.values + self.dagger().values))

    def dagger(self) -> BlockMatrix:
        v = self.values[:, self.layout.transposed].conj()
        return self.with_values(v[[0, 2, 1, 3]] if self.spin == "spinor" else v)

    def block(self, pair: int) -> Tensor:
        """The block of one pair [components, rows, columns]."""
        a, b = int(self.layout.boundaries[pair]), int(self.layout.boundaries[pair + 1])
        rows, columns = self.layout.shapes[pair].tolist()
        return self.values[:, a:b].reshape(-1, rows, columns)

    def half_values(self) -> Tensor:
        """Values of one of each pair and its reverse: all that a hermitian matrix needs [components, half size]."""
        return self.values[:, self.layout.half]

    @staticmethod
    def from_half(layout: BlockLayout, half_values: Tensor, spin: Spin = "none") -> BlockMatrix:
        """The hermitian matrix with the given half."""
        values = half_values.new_zeros(len(half_values), layout.size)
        values[:, layout.half] = half_values
        filled = BlockMatrix(layout, values, spin)
        missing = ~layout.pairs.half[layout.pair]
        return filled.with_values(torch.where(missing, filled.dagger().values, values))

    def rotate(self, rotation: Tensor) -> BlockMatrix:
        """The matrix of the structure turned by an element [3, 3] of O(3); spin components only for spin none/collinear."""
        if self.spin == "spinor":
            raise NearsightError("rotation of spinor matrices is not available: spin-orbit coupling is not built yet")
        turn = {z: self.basis.rotation(z, rotation.to(self.values)) for z in self.basis.shells}
        values = torch.empty_like(self.values)
        numbers = torch.tensor(self.basis.numbers, device=self.layout.device)
        zi, zj = numbers[self.pairs.i], numbers[self.pairs.j]
        for za, da in turn.items():
            for zb, db in turn.items():
                which = ((zi == za) & (zj == zb)).nonzero()[:, 0]
                if len(which):
                    index = self.layout.boundaries[which][:, None] + torch.arange(
                        len(da) * len(db), device=self.layout.device
                    )
                    blocks = self.values[:, index].reshape(len(self.values), len(which), len(da), len(db))
                    values[:, index] = (da @ blocks @ db.T).flatten(2)
        return self.with_values(values)

    def on(self, layout: BlockLayout) -> BlockMatrix:
        """The same matrix on other pairs: pairs it lacks are zero, pairs that `layout` lacks are dropped."""
        p = layout.pairs
        source = self.pairs.find(p.i, p.j, p.R)[layout.pair]
        present = source < len(self.pairs)
        row, column = layout.local
        source = torch.where(present, source, torch.zeros_like(source))
        index = self.layout.boundaries[source] + row * self.layout.shapes[source, 1] + column
        index = torch.where(present, index, torch.zeros_like(index))
        return BlockMatrix(layout, self.values[:, index] * present, self.spin)

    def at_k(self, k: Tensor) -> Tensor:
        """M(k) = sum_R exp(2 pi i k.R) M(R), dense, for fractional k [k, 3]: [components, k, n, n]; real if all k are 0.

        A spinor gives [1, k, 2n, 2n], spin outermost.
        """
        n = self.basis.size
        if bool((k == 0).all()):
            flat = self.layout.row * n + self.layout.column
            dense = self.values.new_zeros(len(self.values), 1, n * n).index_add(2, flat, self.values[:, None])
            dense = dense.expand(-1, len(k), -1)
        else:
            cells, cell = self.layout.cells
            flat = (cell[self.layout.pair] * n + self.layout.row) * n + self.layout.column
            by_cell = self.values.new_zeros(len(self.values), len(cells) * n * n)
            by_cell = by_cell.index_add(1, flat, self.values).reshape(len(self.values), len(cells), n * n)
            angle = 2 * torch.pi * (k @ cells.to(k).T).to(self.values.real.dtype)
            if by_cell.is_complex():
                dense = torch.complex(angle.cos(), angle.sin()) @ by_cell
            else:  # two real products: half the work of a complex one
                dense = torch.complex(angle.cos() @ by_cell, angle.sin() @ by_cell)
        dense = dense.reshape(len(self.values), len(k), n, n)
        if self.spin != "spinor":
            return dense
        uu, ud, du, dd = dense
        return torch.cat([torch.cat([uu, ud], -1), torch.cat([du, dd], -1)], -2)[None]

    def from_k(self, dense: Tensor, k: Tensor, weights: Tensor) -> BlockMatrix:
        """M_ij(R) = sum_k w_k Re[exp(-2 pi i k.R) M_ij(k)] for hermitian M(k) [components, k, n, n], on this layout.

        Real because time reversal pairs k with -k and only one of the two is passed, with the weight of both.
        """
        n = self.basis.size
        w = weights.to(dense.real.dtype)
        if not dense.is_complex():
            flat = self.layout.row * n + self.layout.column
            return self.with_values(torch.einsum("sknm,k->snm", dense, w).flatten(1)[:, flat])
        cells, cell = self.layout.cells
        angle = 2 * torch.pi * (cells.to(k) @ k.T).to(w.dtype)
        dense = dense.flatten(2)
        by_cell = (angle.cos() * w) @ dense.real + (angle.sin() * w) @ dense.imag
        flat = (cell[self.layout.pair] * n + self.layout.row) * n + self.layout.column
        return self.with_values(by_cell.flatten(1)[:, flat])

    def to_csr(self, k: Tensor | None = None) -> list[scipy.sparse.csr_matrix]:
        """M(k) as one scipy CSR matrix a component (k fractional [3]; None means Gamma)."""
        n = self.basis.size
        row, column = self.layout.row.cpu().numpy(), self.layout.column.cpu().numpy()
        values = self.values
        if k is not None and bool((k != 0).any()):
            values = values * self.layout.phases(k[None].to(values.real.dtype))[0, self.layout.pair]
        return [scipy.sparse.csr_matrix((v.detach().cpu().numpy(), (row, column)), shape=(n, n)) for v in values]

    def to(self, *args: Any, **kwargs: Any) -> BlockMatrix:
        values = self.values.to(*args, **kwargs)
        return BlockMatrix(self.layout.to(values.device), values, self.spin)

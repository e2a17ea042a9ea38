"""BlockMatrix: H, S, T, D and their derivatives as blocks on pairs of atoms. The narrow waist of the project."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import scipy.sparse
import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.bloch import BlochSum
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import NONE, SPINOR, Spin, spin


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """M_ij(R) = <i, cell 0| M |j, cell R>, sparse by pair of atoms.

    values: [spin.components, layout.size], real or complex; dtype and device of the matrix are those of `values`.
    spin: the object, or its name.
    Raises NearsightError for values of another shape.
    """

    layout: BlockLayout
    values: Tensor
    spin: Spin = NONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "spin", spin(self.spin))
        expected = (self.spin.components, self.layout.size)
        if tuple(self.values.shape) != expected:
            raise BadInput(f"matrix values have shape {tuple(self.values.shape)}, its layout needs {expected}")

    def __repr__(self) -> str:
        about = f"{len(self.basis.numbers)} atoms, {self.basis.size} orbitals, {len(self.pairs)} pairs"
        return f"BlockMatrix({about}, spin {self.spin}, {str(self.values.dtype).removeprefix('torch.')})"

    @property
    def basis(self) -> Basis:
        """Which orbital of which atom is which row."""
        return self.layout.basis

    @property
    def pairs(self) -> Pairs:
        """The pairs of atoms that have a block."""
        return self.layout.pairs

    def with_values(self, values: Tensor) -> BlockMatrix:
        """Another matrix of this spin on these pairs [components, size]."""
        return replace(self, values=values)

    def same_layout(self, other: BlockMatrix) -> bool:
        """Whether both have the same orbitals on the same pairs."""
        return self.layout is other.layout or (
            self.basis.same_as(other.basis)
            and len(self.pairs) == len(other.pairs)
            and all(torch.equal(getattr(self.pairs, f), getattr(other.pairs, f)) for f in ("i", "j", "R"))
        )

    def _same(self, other: BlockMatrix) -> None:
        if not self.same_layout(other):
            raise BadInput("two matrices on different pairs or bases: bring one onto the other's layout with .on()")

    def _alike(self, other: BlockMatrix) -> None:
        self._same(other)
        if self.spin is not other.spin:
            raise BadInput(f"two matrices of spin {self.spin} and {other.spin}: bring one to the other's with .embed()")

    def __add__(self, other: BlockMatrix) -> BlockMatrix:
        self._alike(other)
        return self.with_values(self.values + other.values)

    def __sub__(self, other: BlockMatrix) -> BlockMatrix:
        self._alike(other)
        return self.with_values(self.values - other.values)

    def __mul__(self, factor: float | Tensor) -> BlockMatrix:
        return self.with_values(self.values * factor)

    __rmul__ = __mul__

    def embed(self, kind: Spin | str) -> BlockMatrix:
        """This spin-independent matrix as one of another spin: the same for up and down, nothing between them.

        Raises NearsightError where the matrix has spin already, and another one.
        """
        wanted = spin(kind)
        if wanted is self.spin:
            return self
        if self.spin is not NONE:
            raise BadInput(f"a matrix of spin {self.spin} cannot be embedded in spin {wanted}")
        return BlockMatrix(self.layout, wanted.embed(self.values), wanted)

    def trace(self, other: BlockMatrix) -> Tensor:
        """Re Tr[A B] = Re sum_st,ij,R A^st_ij(R) B^ts_ji(-R), real anyway for hermitian matrices.

        A matrix without spin counts as the same for both spins where the other one has spin: Tr[D S] = N for every D.
        """
        self._same(other)
        return self.spin.contraction(self.values, other.spin, other.values.index_select(1, other.layout.transposed))

    def dagger(self) -> BlockMatrix:
        """M^dagger: (M^dagger)^st_ij(R) = conj M^ts_ji(-R)."""
        v = self.values.index_select(1, self.layout.transposed).conj()
        return self.with_values(v if self.spin.components < 3 else v[list(self.spin.dagger)])

    def hermitian(self) -> BlockMatrix:
        """(M + M^dagger) / 2."""
        return self.with_values(0.5 * (self.values + self.dagger().values))

    def time_reversed(self) -> BlockMatrix:
        """T M T^-1, T = K without spin, K exchanging up and down with collinear spin, i sigma_y K for spinors."""
        return self.with_values(self.spin.time_reversed(self.values))

    def block(self, pair: int) -> Tensor:
        """The block of one pair [components, rows, columns]."""
        a, b = int(self.layout.boundaries[pair]), int(self.layout.boundaries[pair + 1])
        rows, columns = self.layout.shapes[pair].tolist()
        return self.values[:, a:b].reshape(-1, rows, columns)

    def half_values(self) -> Tensor:
        """Values of one of each pair and its reverse: all that a hermitian matrix needs [components, half size]."""
        return self.values[:, self.layout.half]

    @staticmethod
    def from_half(layout: BlockLayout, half_values: Tensor, kind: Spin | str = NONE) -> BlockMatrix:
        """The hermitian matrix with the given half."""
        values = half_values.new_zeros(len(half_values), layout.size)
        values[:, layout.half] = half_values
        filled = BlockMatrix(layout, values, spin(kind))
        missing = ~layout.pairs.half[layout.pair]
        return filled.with_values(torch.where(missing, filled.dagger().values, values))

    def rotate(self, rotation: Tensor) -> BlockMatrix:
        """The matrix of the structure turned by an element [3, 3] of O(3): orbitals by Wigner's D, spinors by D(1/2) too."""
        real = rotation.to(self.values.device, self.values.real.dtype)
        turn = {z: self.basis.rotation(z, real).to(self.values.dtype) for z in self.basis.shells}
        values = torch.empty_like(self.values)
        numbers = torch.tensor(self.basis.numbers, device=self.layout.device)
        zi, zj = numbers[self.pairs.i], numbers[self.pairs.j]
        for za, da in turn.items():
            for zb, db in turn.items():
                which = ((zi == za) & (zj == zb)).nonzero()[:, 0]
                if len(which):
                    within = torch.arange(len(da) * len(db), device=self.layout.device)
                    index = self.layout.boundaries[which][:, None] + within
                    blocks = self.values[:, index].reshape(len(self.values), len(which), len(da), len(db))
                    values[:, index] = (da @ blocks @ db.T).flatten(2)
        return self.with_values(self.spin.rotated(values, rotation))

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
        """M(k) = sum_R exp(2 pi i k.R) M(R), dense, for fractional k [k, 3]: [spin.matrices, k, n, n]; real if all k are 0
        and the elements real. A spinor gives [1, k, 2n, 2n], spin outermost."""
        return self.at(BlochSum.at(self.layout, k))

    def at(self, sums: BlochSum) -> Tensor:
        """M(k) at the k-points of sums that were prepared for this layout [spin.matrices, k, N, N]."""
        return self.spin.to_dense(sums.dense(self.values))

    def from_k(self, dense: Tensor, k: Tensor, weights: Tensor) -> BlockMatrix:
        """sum_k w_k exp(-2 pi i k.R) M_ij(k) for hermitian M(k) [spin.matrices, k, N, N], on this layout and of this spin.

        For a matrix with real elements the real part: M(-k) = M(k)^* there, and one of k and -k is passed with the weight of
        both. For one with complex elements the sum as it stands, over all of the zone.
        """
        return self.of(dense, BlochSum.at(self.layout, k), weights)

    def of(self, dense: Tensor, sums: BlochSum, weights: Tensor) -> BlockMatrix:
        """`from_k` by sums that were prepared for this layout."""
        parts = self.spin.from_dense(dense)
        return self.with_values(sums.elements(parts, weights, real=not self.values.is_complex()))

    def to_csr(self, k: Tensor | None = None) -> list[scipy.sparse.csr_matrix]:
        """M(k) as scipy CSR matrices, one for each that `at_k` gives (k fractional [3]; None means Gamma)."""
        n = self.basis.size
        row, column = self.layout.row.cpu().numpy(), self.layout.column.cpu().numpy()
        values = self.values
        if k is not None and bool((k != 0).any()):
            values = values * self.layout.phases(k[None].to(values.real))[0, self.layout.pair]
        parts = [scipy.sparse.csr_matrix((v.detach().cpu().numpy(), (row, column)), shape=(n, n)) for v in values]
        if self.spin is not SPINOR:
            return parts
        return [scipy.sparse.bmat([parts[:2], parts[2:]], format="csr")]

    def to(self, *args: Any, **kwargs: Any) -> BlockMatrix:
        """Moved to a device or a real precision; complex elements stay complex."""
        if self.values.is_complex():
            values = torch.view_as_complex(torch.view_as_real(self.values.resolve_conj()).to(*args, **kwargs))
        else:
            values = self.values.to(*args, **kwargs)
        return BlockMatrix(self.layout.to(values.device), values, self.spin)


def real_parts(x: Tensor) -> Tensor:
    """x itself, or the real and imaginary parts of complex elements [..., 2]: of hermitian matrices only real multiples are
    hermitian, so that they span a real space."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x

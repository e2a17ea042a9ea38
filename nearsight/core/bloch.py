"""Bloch sums: M(k) = sum_R exp(2 pi i k.R) M(R), and the way back.

Where most elements of the (cells, n, n) array are stored, as in small cells, the sum over R is one product of matrices,
[k, cells] by [cells, n n]. Where few are, that array would be many times larger than the matrix: there it is a small product
for each two atoms, [k, R] by [R, elements of a block], for all pairs of atoms with the same number of cells at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout, Bundle

CHUNK = 1 << 22  # numbers in one temporary array
SPARSE = 6  # times the stored elements that the (cells, n, n) array may have


@dataclass(frozen=True, eq=False)
class BlochSum:
    """Sums over the cells of a layout at fixed k-points, of one spin component or several alike.

    k: fractional [k, 3].  gamma: all of them are 0, so that M(k) of a real matrix is real.
    cosine, sine: of 2 pi k.R [cells, k].  spread: where each element stands in (cells, n, n) [size]; None: that is too sparse.
    """

    layout: BlockLayout
    k: Tensor
    gamma: bool
    cosine: Tensor
    sine: Tensor
    spread: Tensor | None

    __repr__ = one_line

    @staticmethod
    def at(layout: BlockLayout, k: Tensor) -> BlochSum:
        """At fractional k [k, 3]; the layout's device counts."""
        k = k.to(layout.device)
        if bool((k == 0).all()):
            one = k.new_ones(1, len(k))
            return BlochSum(layout, k, True, one, torch.zeros_like(one), None)
        cells, cell = layout.cells
        angle = 2 * torch.pi * (cells.to(k) @ k.T)
        n2 = layout.basis.size**2
        sparse = len(cells) * n2 > SPARSE * layout.size
        spread = None if sparse else cell[layout.pair] * n2 + layout.place
        return BlochSum(layout, k, False, angle.cos(), angle.sin(), spread)

    def __len__(self) -> int:
        return len(self.k)

    def dense(self, values: Tensor) -> Tensor:
        """M(k) [components, k, n, n] of the elements of M(R) [components, size]; real for real ones where all k are 0."""
        n = self.layout.basis.size
        if self.gamma:
            zero = values.new_zeros(n * n)
            flat = torch.stack([zero.index_add(0, self.layout.place, v) for v in values])
            return flat.reshape(-1, 1, n, n).expand(-1, len(self.k), -1, -1)
        if self.spread is not None:
            cells = len(self.cosine)
            by_cell = values.new_zeros(len(values), cells * n * n).index_add(1, self.spread, values)
            flat = self._turn(by_cell.reshape(-1, cells, n * n), self.cosine.mT, self.sine.mT)
        else:
            flat = values.new_zeros(len(values), len(self.k), n * n, dtype=values.dtype.to_complex())
            for bundle, cosine, sine in self._bundles():
                summed = self._turn(values[:, bundle.elements], cosine.mT, sine.mT)
                flat[:, :, bundle.places] = summed.transpose(1, 2)
        return flat.reshape(len(values), -1, n, n)

    def elements(self, dense: Tensor, weights: Tensor, real: bool = True, hermitian: bool = False) -> Tensor:
        """sum_k w_k exp(-2 pi i k.R) M(k) [components, size] for M(k) [components, k, n, n]; its real part if asked for.

        The real part is the sum over k and -k of hermitian M(k) that come from real M(R), of which one of the two is given,
        with the weight of both.  hermitian: whether all M(k) are: of real M(R) = M(-R)^T half of the R are summed then.
        """
        w = weights.to(dense.device, dense.real.dtype)
        if self.gamma:
            total = torch.einsum("sknm,k->snm", dense, w.to(dense.dtype)).flatten(1)
            return _real(total, real).index_select(1, self.layout.place)
        flat = dense.flatten(2)
        if self.spread is not None and real and hermitian:
            half, place = self._half
            by_cell = self._return(flat, self.cosine[half] * w, self.sine[half] * w, real)
            return by_cell.flatten(1).index_select(1, place)
        if self.spread is not None:
            by_cell = self._return(flat, self.cosine * w, self.sine * w, real)
            return by_cell.flatten(1).index_select(1, self.spread)
        values = flat.new_zeros(len(flat), self.layout.size, dtype=w.dtype if real else w.dtype.to_complex())
        for bundle, cosine, sine in self._bundles():
            blocks = flat[:, :, bundle.places].transpose(1, 2)  # [components, atom pairs, k, elements]
            values[:, bundle.elements] = self._return(blocks, cosine * w, sine * w, real)
        return values

    @cached_property
    def _half(self) -> tuple[Tensor, Tensor]:
        """One of each two cells R and -R [half], and where each element or its transpose stands in (half, n, n) [size]."""
        cells, cell = self.layout.cells
        sign = (cells.sign() * cells.new_tensor([9, 3, 1])).sum(1)  # that of the first number that is not 0
        half = (sign >= 0).nonzero()[:, 0]
        number = torch.full_like(sign, -1).index_copy_(0, half, torch.arange(len(half), device=half.device))
        of_element = number[cell[self.layout.pair]]
        transposed = self.layout.transposed
        given = torch.where(of_element >= 0, torch.arange(len(transposed), device=half.device), transposed)
        return half, of_element[given] * self.layout.basis.size**2 + self.layout.place[given]

    def _turn(self, values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """(cos + i sin) [..., k, R] times values [..., R, elements]; two real products for real ones: half the work."""
        cosine, sine = cosine.to(values.real.dtype), sine.to(values.real.dtype)
        if values.is_complex():
            return torch.complex(cosine, sine) @ values
        return torch.complex(cosine @ values, sine @ values)

    def _return(self, dense: Tensor, cosine: Tensor, sine: Tensor, real: bool) -> Tensor:
        """(cos - i sin) [..., R, k] times dense [..., k, elements]."""
        cosine, sine = cosine.to(dense.real.dtype), sine.to(dense.real.dtype)
        if not real:
            return torch.complex(cosine, -sine) @ dense.to(dense.dtype.to_complex())
        if dense.is_complex():
            return torch.cat([cosine, sine], -1) @ torch.cat([dense.real, dense.imag], -2)
        return cosine @ dense

    def _bundles(self) -> Iterator[tuple[Bundle, Tensor, Tensor]]:
        """Bundles of bounded size, with the cosine and sine of 2 pi k.R of their cells [atom pairs, R, k]."""
        for bundle in self.layout.bundles:
            more = max(1, -(-len(self.k) // bundle.count))  # numbers at k for each stored element
            for part in bundle.split(CHUNK // more):
                yield part, self.cosine[part.cell], self.sine[part.cell]


def _real(values: Tensor, wanted: bool) -> Tensor:
    return values.real if wanted and values.is_complex() else values

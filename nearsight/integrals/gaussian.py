"""Overlaps of contracted Gaussians in closed form, as radial functions I_L(R) with the angular half of two-centre tables.

r^l exp(-a r^2) has the Bessel transform k^l exp(-k^2/4a) / (2a)^(l + 3/2), and with t = 1/4a + 1/4b, n = (l + l' - L)/2

    int k^(2 + l + l') exp(-t k^2) j_L(kR) dk = sqrt(pi) n! R^L exp(-R^2/4t) L_n^(L+1/2)(R^2/4t) / (2^(L+2) t^(L+n+3/2)),

L_n^(a) the associated Laguerre polynomial.  So exact to rounding, whatever the exponents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import factorial, log, pi, sqrt

import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.gaussians import GaussianBasis
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.integrals.two_center import Channels, assemble

SMALLEST = 1e-11  # |S_ij(R)| of the pairs that are kept
_CHUNK = 4_000_000  # numbers in memory at one time


@dataclass(frozen=True, eq=False)
class GaussianTable:
    """<a|b(R)> for all shells of one element and of another, as a function of the vector R between the atoms."""

    left: GaussianBasis
    right: GaussianBasis

    __repr__ = one_line

    @cached_property
    def _angular(self) -> Channels:
        return Channels(self.left.shells, self.right.shells)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self._angular.shape

    @cached_property
    def _terms(self) -> list[tuple[Tensor, Tensor]]:
        """1/4t and the factor of every pair of primitives, of each channel [primitive pairs]."""
        found = []
        for (a, b, L), sign in zip(self._angular.every, self._angular.signs, strict=True):
            f, g = self.left.gaussians[a], self.right.gaussians[b]
            alpha, beta = (torch.as_tensor(x.exponents) for x in (f, g))
            c = torch.as_tensor(f.coefficients)[:, None] * torch.as_tensor(g.coefficients)
            n = (f.l + g.l - L) // 2
            t = 1 / (4 * alpha[:, None]) + 1 / (4 * beta)
            c = c * (2 * alpha[:, None]) ** -(f.l + 1.5) * (2 * beta) ** -(g.l + 1.5)
            c = c * (4 * pi * sign * sqrt(pi) * factorial(n) / 2 ** (L + 2)) / t ** (L + n + 1.5)
            found.append((1 / (4 * t).flatten(), c.flatten()))
        return found

    @property
    def reach(self) -> float:
        """Distance beyond which every element is below SMALLEST [Bohr]."""
        soft = [min(float(g.exponents.min()) for g in b.gaussians) for b in (self.left, self.right)]
        p, degree = soft[0] * soft[1] / (soft[0] + soft[1]), max(self.left.shells) + max(self.right.shells)
        x = -log(SMALLEST) + 5.0
        for _ in range(20):  # x = p R^2, where the polynomial in front has degree/2 powers of x
            x = -log(SMALLEST) + 5.0 + 0.5 * degree * log(x)
        return sqrt(x / p)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Blocks [pairs, rows, columns] for separations R [pairs, 3]; differentiable in them."""
        widest = max(len(p) for p, _ in self._terms)
        blocks = [self._some(v) for v in vectors.split(max(1, _CHUNK // widest))]
        return torch.cat(blocks) if blocks else vectors.new_zeros(0, *self.shape)

    def _some(self, vectors: Tensor) -> Tensor:
        squared = (vectors * vectors).sum(-1)[:, None]
        radial = []
        for (a, b, L), (p, c) in zip(self._angular.every, self._terms, strict=True):
            x = p.to(vectors) * squared
            n = (self.left.shells[a] + self.right.shells[b] - L) // 2
            radial.append((torch.exp(-x) * _laguerre(n, L + 0.5, x)) @ c.to(vectors))
        return self._angular.blocks(torch.stack(radial, 1), vectors)


def _laguerre(n: int, alpha: float, x: Tensor) -> Tensor:
    """L_n^(alpha)(x) by recursion."""
    before, now = torch.ones_like(x), 1 + alpha - x
    if n == 0:
        return before
    for k in range(1, n):
        before, now = now, ((2 * k + 1 + alpha - x) * now - (k + alpha) * before) / (k + 1)
    return now


@lru_cache(maxsize=256)
def gaussian_table(left: GaussianBasis, right: GaussianBasis) -> GaussianTable:
    """Made once for each pair of elements and kept."""
    return GaussianTable(left, right)


def gaussian_overlap(structure: Structure, bases: Mapping[int, GaussianBasis]) -> BlockMatrix:
    """S_ij(R) on all pairs that have an element above SMALLEST."""
    tables = {(a, b): gaussian_table(x, y) for a, x in bases.items() for b, y in bases.items()}
    numbers = structure.numbers.tolist()
    # reach^2 = x (1/a + 1/b): the sum of sqrt(x/a) and sqrt(x/b) is no less
    radii = torch.tensor([tables[z, z].reach / sqrt(2) for z in numbers], dtype=torch.float64)
    pairs = Pairs.within(structure, radii)
    distance = pairs.vectors(structure).norm(dim=1)
    zi, zj = structure.numbers[pairs.i], structure.numbers[pairs.j]
    near = torch.zeros(len(pairs), dtype=torch.bool)
    for (a, b), table in tables.items():
        near |= (zi == a) & (zj == b) & (distance < table.reach)
    pairs = _only(pairs, near)
    basis = Basis.of(structure.numbers, {z: b.shells for z, b in bases.items()})
    matrix = assemble(BlockLayout(basis, pairs), structure, tables)
    layout = matrix.layout
    large = torch.zeros(len(pairs), dtype=torch.int32)
    large = large.index_add(0, layout.pair, (matrix.values[0].abs() > SMALLEST).int()) > 0
    large |= large[pairs.reverse]
    return BlockMatrix(BlockLayout(basis, _only(pairs, large)), matrix.values[:, large[layout.pair]])


def _only(pairs: Pairs, which: Tensor) -> Pairs:
    return Pairs(pairs.i[which], pairs.j[which], pairs.R[which], pairs.atoms)

"""How bands leave a k-point: velocities and curvatures from derivatives of H(k) and S(k), by perturbation theory.

With H c = e S c, H_a = dH/dk_a, P^a_mn = c_m^dagger (H_a - e_n S_a) c_n and v_a = P^a_nn,

    d e / dk_a          = v_a
    d2 e / dk_a dk_b    = c^dagger (H_ab - e S_ab - v_a S_b - v_b S_a) c + 2 Re sum_m P^a*_mn P^b_mn / (e_n - e_m)

for a single level. Of d levels that are degenerate, the first becomes the matrix W_a = C^dagger (H_a - e S_a) C, whose
eigenvalues along a direction are the velocities; where it vanishes the second, with m outside, is a matrix M_ab, and the
eigenvalues of sum_ab q_a q_b M_ab are the curvatures along q (the k.p method of J. M. Luttinger and W. Kohn, Phys. Rev. 97,
869 (1955), of a basis with overlap). H_a(k) = sum_R i R_a exp(ik.R) H(R): no differences of k.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.structure import Structure
from nearsight.properties.eigenstates import eigenstates
from nearsight.properties.subspace import NearHamiltonian

STEP = 1e-3  # of differences in k [1/Bohr]


@dataclass(frozen=True, eq=False)
class Lattice:
    """H(R) and S(R) with the lattice vectors R of their pairs [pairs, 3], Bohr: all that derivatives need."""

    hamiltonian: BlockMatrix
    overlap: BlockMatrix
    structure: Structure

    __repr__ = one_line

    def first(self, matrix: BlockMatrix, k: Tensor) -> Tensor:
        """dM/dk_a [3, s, k, n, n], Cartesian, of M(k) at fractional k [k, 3]."""
        if isinstance(matrix, NearHamiltonian):
            return self._slopes(matrix, k)
        weights = self._cells(matrix)
        return torch.stack([1j * self._dense(matrix, weights[:, a], k) for a in range(3)])

    def second(self, matrix: BlockMatrix, k: Tensor) -> Tensor:
        """d2M/dk_a dk_b [3, 3, s, k, n, n], Cartesian."""
        if isinstance(matrix, NearHamiltonian):
            up, down = (torch.stack([self._slopes(matrix, k + s * d) for d in self._steps(k)]) for s in (1, -1))
            both = (up - down) / (2 * STEP)
            return 0.5 * (both + both.transpose(0, 1))
        R = self._cells(matrix)
        found = {(a, b): -self._dense(matrix, R[:, a] * R[:, b], k) for a in range(3) for b in range(a, 3)}
        return torch.stack([torch.stack([found[min(a, b), max(a, b)] for b in range(3)]) for a in range(3)])

    def _steps(self, k: Tensor) -> Tensor:
        """STEP along each Cartesian axis, as fractional k [3, 3]."""
        return STEP * self.structure.cell.to(k).T / (2 * pi)

    def _slopes(self, matrix: BlockMatrix, k: Tensor) -> Tensor:
        """dM/dk_a [3, s, k, n, n] by differences, of a matrix that is no Fourier sum."""
        return torch.stack([matrix.at_k(k + d) - matrix.at_k(k - d) for d in self._steps(k)]) / (2 * STEP)

    def _cells(self, matrix: BlockMatrix) -> Tensor:
        """R of each element [size, 3]."""
        cell = self.structure.cell.to(matrix.values.real.dtype).to(matrix.values.device)
        return (matrix.pairs.R.to(cell) @ cell)[matrix.layout.pair]

    def _dense(self, matrix: BlockMatrix, weights: Tensor, k: Tensor) -> Tensor:
        dense = matrix.with_values(matrix.values * weights).at_k(k)
        if matrix is self.overlap:
            kind = self.hamiltonian.spin
            dense = kind.to_dense(kind.embed(dense))
        return dense

    def states(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """e [s, n] and C [s, n, n] at one k [3]."""
        found = next(eigenstates(self.hamiltonian, self.overlap, k[None]))
        return found.energies[:, 0], found.coefficients[:, 0]

    def velocities(self, k: Tensor, energies: Tensor, coefficients: Tensor) -> Tensor:
        """v_a of every level [3, s, k, n] of states at k [k, 3]; of degenerate ones the diagonal of W_a."""
        h, o = self.first(self.hamiltonian, k), self.first(self.overlap, k)
        c = coefficients.to(h.dtype)
        hc = (c.conj() * (h @ c)).sum(-2).real
        return hc - energies * (c.conj() * (o @ c)).sum(-2).real


@dataclass(frozen=True, eq=False)
class Expansion:
    """A set of d degenerate levels near a k-point.

    energy: their mean [Ha].  first: W_a [3, d, d], Ha Bohr.  second: M_ab [3, 3, d, d], Ha Bohr^2, symmetric in a, b.
    """

    energy: float
    first: Tensor
    second: Tensor

    __repr__ = one_line

    @staticmethod
    def of(lattice: Lattice, k: Tensor, component: int, levels: list[int]) -> Expansion:
        """levels: indices of the degenerate levels of the matrix `component` at k [3]."""
        energies, coefficients = lattice.states(k)
        at = k[None]
        e, c = energies[component], coefficients[component]
        h1, s1 = (lattice.first(m, at)[:, component, 0] for m in (lattice.hamiltonian, lattice.overlap))
        h2, s2 = (lattice.second(m, at)[:, :, component, 0] for m in (lattice.hamiltonian, lattice.overlap))
        c = c.to(h1.dtype)
        inside = torch.zeros(len(e), dtype=torch.bool, device=e.device)
        inside[levels] = True
        mean = e[inside].mean()
        own, rest = c[:, inside], c[:, ~inside]
        slope = h1 - mean * s1
        first = own.mH @ slope @ own
        cross = rest.mH @ slope @ own  # [3, m, d]
        weighted = cross / (mean - e[~inside])[:, None]
        sums = torch.einsum("ami,bmj->abij", cross.conj(), weighted)
        second = own.mH @ (h2.to(c.dtype) - mean * s2.to(c.dtype)) @ own + sums + sums.transpose(0, 1)
        if len(levels) == 1:
            shift = own.mH @ s1 @ own  # S_a of the level itself: only where it moves
            second = second - first[:, None] * shift[None] - first[None] * shift[:, None]
        return Expansion(float(mean), 0.5 * (first + first.mH), 0.5 * (second + second.mH))

    @property
    def velocity(self) -> Tensor:
        """Mean velocity of the levels [3], Ha Bohr: of a single one, its own; of a cone, its tilt."""
        return torch.diagonal(self.first, dim1=1, dim2=2).real.mean(1)

    def velocities(self, direction: Tensor) -> Tensor:
        """d e / dq of each level along a unit vector [d], ascending."""
        return torch.linalg.eigvalsh(torch.einsum("a,aij->ij", direction.to(self.first), self.first))

    def curvatures(self, direction: Tensor) -> Tensor:
        """d2 e / dq2 of each level along a unit vector [d], ascending; where the velocities vanish."""
        q = direction.to(self.second)
        return torch.linalg.eigvalsh(torch.einsum("a,b,abij->ij", q, q, self.second))

    @property
    def cone_speeds(self) -> Tensor:
        """Principal speeds v [3], descending, of levels that leave as |v q|: eigenvalues v^2 of Tr[W_a W_b]/d, W traceless."""
        d = self.first.shape[-1]
        w = self.first - self.velocity[:, None, None] * torch.eye(d, dtype=self.first.dtype, device=self.first.device)
        gram = torch.einsum("aij,bji->ab", w, w).real / d
        return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)

    def tensor(self, tolerance: float = 1e-2) -> Tensor | None:
        """d2 e / dk_a dk_b [3, 3] where one tensor serves all levels: one level, or a pair alike; else None."""
        d = self.second.shape[-1]
        mean = torch.diagonal(self.second, dim1=2, dim2=3).real.mean(-1)
        rest = self.second - mean[..., None, None] * torch.eye(d, dtype=self.second.dtype, device=self.second.device)
        return mean if float(rest.abs().max()) <= tolerance * float(mean.abs().max()) else None

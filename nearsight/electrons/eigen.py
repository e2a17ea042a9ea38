"""The generalised eigenproblem H C = S C e at many k-points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError


@dataclass(frozen=True, eq=False)
class InverseCholeskyFactor:
    """L^-1 [k, n, n] of S(k) = L L^dagger at fixed k-points: computed once per geometry, used at every step.

    Of spinors, whose S is the same for up and down, each of the two components is transformed by it.
    """

    k: Tensor
    inverse: Tensor

    def solve(self, hamiltonian: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues [s, k, N] and coefficients C [s, k, N, N] (columns; C^dagger S C = 1) of dense H(k) [s, k, N, N]."""
        e, u = torch.linalg.eigh(self.transform(hamiltonian))
        return e, self._by_spin(u)

    def transform(self, hamiltonian: Tensor) -> Tensor:
        """L^-1 H L^-dagger, hermitian."""
        h = self._by_spin(self._by_spin(hamiltonian, adjoint=False).mH, adjoint=False)
        return 0.5 * (h + h.mH)

    def _by_spin(self, vectors: Tensor, adjoint: bool = True) -> Tensor:
        """L^-dagger (or L^-1) times each spin component of vectors [s, k, N, n], N one or two times the rows of S."""
        left = self.inverse.to(vectors.dtype) if vectors.is_complex() else self.inverse
        left = left.mH if adjoint else left
        n = left.shape[-1]
        if vectors.shape[-2] == n:
            return left @ vectors
        return (left[:, None] @ vectors.unflatten(-2, (-1, n))).flatten(-3, -2)


def factorise(overlap: BlockMatrix, k: Tensor) -> InverseCholeskyFactor:
    """Cholesky factors of S(k).

    Raises NearsightError where S is not positive definite: two atoms (almost) on top of each other, or a basis that is
    linearly dependent.
    """
    s = overlap.at_k(k)[0]
    factor, info = torch.linalg.cholesky_ex(s)
    if bool((info != 0).any()):
        lowest = float(torch.linalg.eigvalsh(s).amin())
        raise NearsightError(
            f"the overlap matrix is not positive definite (lowest eigenvalue {lowest:.1e}): atoms too close together, "
            "or a basis that is too rich; check the structure or choose a smaller basis or a larger energy shift"
        )
    identity = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).expand_as(s)
    return InverseCholeskyFactor(k, torch.linalg.solve_triangular(factor, identity, upper=False))


def eigenvalues(hamiltonian: BlockMatrix, overlap: BlockMatrix, k: Tensor, chunk_elements: int = 20_000_000) -> Tensor:
    """Bands e(k) [components, k, n] in the unit of H, ascending. k: fractional [k, 3]; done in chunks of bounded memory."""
    n = overlap.basis.size
    chunk = max(1, chunk_elements // (n * n))
    bands = []
    for part in k.split(chunk):
        factor = factorise(overlap, part)
        bands.append(torch.linalg.eigvalsh(factor.transform(hamiltonian.at_k(part))))
    return torch.cat(bands, 1)

"""The generalised eigenproblem H C = S C e at many k-points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, NearsightError, NotConverged

ILL_CONDITIONED = 1e-11  # lowest eigenvalue of S from which rounding rules the levels


@dataclass(frozen=True, eq=False)
class InverseCholeskyFactor:
    """L^-1 [k, n, n] of S(k) = L L^dagger at fixed k-points: computed once per geometry, used at every step.

    Of spinors, whose S is the same for up and down, each of the two components is transformed by it.
    """

    k: Tensor
    inverse: Tensor

    __repr__ = one_line

    def solve(self, hamiltonian: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues [s, k, N] and coefficients C [s, k, N, N] (columns; C^dagger S C = 1) of dense H(k) [s, k, N, N].

        Raises BadInput for an H that is not finite, where that shows without waiting for the device.
        """
        h = self.transform(hamiltonian)
        try:
            e, u = torch.linalg.eigh(h)
        except torch.linalg.LinAlgError as error:
            raise _why(hamiltonian) from error
        if e.device.type == "cpu" and not np.isfinite(e.detach().numpy()).all():
            raise _why(hamiltonian)
        return e, self._by_spin(u)

    def levels(self, hamiltonian: Tensor) -> Tensor:
        """Eigenvalues alone [s, k, N], ascending. Raises BadInput for an H that is not finite."""
        try:
            e = torch.linalg.eigvalsh(self.transform(hamiltonian))
        except torch.linalg.LinAlgError as error:
            raise _why(hamiltonian) from error
        if not bool(torch.isfinite(e).all()):
            raise _why(hamiltonian)
        return e

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


def _why(hamiltonian: Tensor) -> NearsightError:
    if not bool(torch.isfinite(hamiltonian).all()):
        return BadInput("the Hamiltonian has elements that are not finite: it cannot be diagonalised")
    return NotConverged(
        "the levels of H(k) did not converge: look for elements of H or S that are out of all proportion"
    )


def factorise(overlap: BlockMatrix, k: Tensor) -> InverseCholeskyFactor:
    """Inverse Cholesky factors of S(k) at fractional k [k, 3].

    Raises NearsightError where S is not positive definite, or so little that rounding would rule: two atoms (almost) on top
    of each other, or a basis that is linearly dependent.
    """
    return factorise_dense(overlap.at_k(k)[0], k)


def factorise_dense(s: Tensor, k: Tensor) -> InverseCholeskyFactor:
    """`factorise` of dense S(k) [k, n, n]."""
    factor, info = torch.linalg.cholesky_ex(s)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(s.shape[-1], dtype=s.dtype, device=s.device), upper=False)
    # |L^-1|^2 = Tr S^-1, the sum of all inverse eigenvalues
    lowest = 1 / inverse.abs().square().sum((-2, -1))
    if bool(((info == 0) & (lowest > ILL_CONDITIONED)).all()):
        return InverseCholeskyFactor(k, inverse)
    if not bool(torch.isfinite(s).all()):
        raise BadInput("the overlap matrix has elements that are not finite")
    least = float(torch.linalg.eigvalsh(s).amin())
    what = "ill-conditioned" if least > 0 else "not positive definite"
    raise BadInput(
        f"the overlap matrix is {what} (lowest eigenvalue {least:.1e}): atoms too close together, "
        "or a basis that is too rich; check the structure or choose a smaller basis or a larger energy shift"
    )


def eigenvalues(hamiltonian: BlockMatrix, overlap: BlockMatrix, k: Tensor, chunk_elements: int = 20_000_000) -> Tensor:
    """Bands e(k) [spin.matrices, k, N] in the unit of H, ascending. k: fractional [k, 3]; in chunks of bounded memory."""
    n = overlap.basis.size * hamiltonian.spin.size_factor
    chunk = max(1, chunk_elements // (n * n))
    return torch.cat([factorise(overlap, part).levels(hamiltonian.at_k(part)) for part in k.split(chunk)], 1)

"""The density matrix as a differentiable function of the Hamiltonian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.electrons.solvers.contract import BoundSolver, Electrons


@dataclass(frozen=True, eq=False)
class DensityMatrix:
    """D = f(H) with the entropy term T S [Ha], both differentiable in H; the electrons they are of are not."""

    matrix: BlockMatrix
    entropy_term: Tensor
    electrons: Electrons

    __repr__ = one_line


class _DensityMatrix(torch.autograd.Function):
    """(D values, T S) from H values; the backward pass is chi0 in closed form, with no 1/(e_i - e_j)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, hamiltonian: BlockMatrix, solver: BoundSolver, made: list[Electrons]) -> Any:
        electrons = solver.solve(solver.kpoints.symmetric(hamiltonian.with_values(values)))
        ctx.electrons, ctx.kpoints = electrons, solver.kpoints
        made.append(electrons)
        return electrons.density_matrix.values.clone(), electrons.entropy_term.clone()

    @staticmethod
    def backward(ctx: Any, grad_density: Tensor, grad_entropy: Tensor) -> tuple[Tensor, None, None, None]:
        h = ctx.electrons.hamiltonian
        gradient = ctx.kpoints.symmetric(h.with_values(grad_density).hermitian())
        # d(T S) = Tr[H dD] at fixed number of electrons
        change = gradient.with_values(gradient.values + grad_entropy * h.values)
        return ctx.electrons.response()(change).values, None, None, None


def density_matrix(hamiltonian: BlockMatrix, solver: BoundSolver) -> DensityMatrix:
    """The density matrix of a Hamiltonian at fixed number of electrons, with the derivative of docs/conventions.md.

    For Omega = E[D] - T S, autograd through this gives dOmega/dH = C [K o (F~ - diag e) + dmu-term] C^dagger, which is exact
    for degenerate levels too (eigenvectors are never differentiated).
    Raises NearsightError as `BoundSolver.solve`; in the backward pass Unavailable for a solver without a response.
    """
    made: list[Electrons] = []
    d, ts = _DensityMatrix.apply(hamiltonian.values, hamiltonian, solver, made)
    return DensityMatrix(hamiltonian.with_values(d), ts, made[0])

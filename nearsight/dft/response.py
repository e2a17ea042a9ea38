"""The first step of self-consistency as a density: what the electrons of superposed atoms answer, at one diagonalisation.

H0 = F[n_atoms] is diagonalised once. n_out is the density of its levels, chi0 their response, and with f, the interaction of
the electrons that the dielectric operator bears (dielectric.py), the density at which answer and cause agree to first order is

    n_1 = n_atoms + (1 - chi0 f)^-1 (n_out - n_atoms) = n_out + chi0 (1 - f chi0)^-1 (F[n_out] - H0),

the step that a self-consistency cycle takes first. What is left is of second order, and what f leaves out. It is not local: all
atoms have a share in levels and Fermi level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearsight.core.errors import BadInput
from nearsight.core.spin import NONE
from nearsight.dft.dielectric import Dielectric, Screening
from nearsight.dft.problem import Problem
from nearsight.dft.scf import PRODUCTS_NEAR


def density_response(problem: Problem) -> Tensor:
    """n_1 - n_atoms and n_out - n_1 on the mesh [2, x, y, z], 1/Bohr^3, in double precision.

    The dielectric operator is solved by as many products as in the first iteration of a cycle that begins near its end: always
    the same number, so that the result has no jumps as atoms move.
    Raises BadInput for terms that need spin, NearsightError as the solver does.
    """
    functional = problem.functional
    if functional.least_spin is not NONE:
        raise BadInput("the first step of self-consistency is taken without spin: leave spin-orbit coupling out")
    with torch.no_grad():
        start = problem.kpoints.symmetric(functional.initial_hamiltonian())
        state = problem(start)
        screening = Screening.of(functional, Dielectric())
        change, _ = screening.solve(problem, state, state.difference, PRODUCTS_NEAR)
        answer = state.electrons.response()(start.with_values(change))
        bare = state.evaluation.density[0] - functional.system.atomic_density
        screened = bare + functional.grid.density(answer)[0]
        return torch.stack([screened, bare - screened])

"""Self-consistent field by mixing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nearsight.core.blocks import BlockMatrix
from nearsight.core.units import HARTREE_EV
from nearsight.dft.dielectric import Dielectric, Screening
from nearsight.dft.mixing import Pulay, PulayState
from nearsight.dft.problem import Problem, SCFState, Step

DIVERGED = 1e6  # residual [Ha] from which no iteration comes back; also what is no number is not below it


@dataclass(frozen=True)
class SCF:
    """Pulay mixing of the Hamiltonian, preconditioned by the dielectric operator, or of the density with Kerker's.

    tolerance: largest |F[D(H)] - H| of any element at the end [Ha]; the energy's error is of second order in it.
    """

    mixing: Pulay = Pulay(weight=1.0, dielectric=Dielectric())
    tolerance: float = 1e-5 / HARTREE_EV
    max_iterations: int = 100

    def solve(
        self, problem: Problem, start: BlockMatrix, on_step: Callable[[Step], None] | None
    ) -> tuple[SCFState, list[Step], bool]:
        """The last state, all steps, and whether it converged."""
        functional, kerker, dielectric = problem.functional, self.mixing.kerker, self.mixing.dielectric
        screening = Screening.of(functional, dielectric) if dielectric and not kerker else None
        mixer = PulayState(self.mixing)
        hamiltonian = start
        density = None
        steps: list[Step] = []
        while True:
            state = problem(hamiltonian)
            steps.append(problem.step(len(steps) + 1, state))
            if on_step:
                on_step(steps[-1])
            residual = state.residual
            if residual < self.tolerance or len(steps) >= self.max_iterations or not residual < DIVERGED:
                return state, steps, residual < self.tolerance
            if kerker:
                output = state.evaluation.density
                # what the start's Hamiltonian gives is the first density
                density = output if density is None else mixer.next(density, kerker(output - density, functional.mesh))
                hamiltonian = problem.hamiltonian_of_density(density, state.density_matrix)
            elif screening:
                if len(steps) == 2:  # a predicted start is no F[D] at all: what is wrong with it spoils combinations
                    mixer.forget()
                solve = partial(screening, problem, state)
                hamiltonian = hamiltonian.with_values(mixer.next(hamiltonian.values, state.difference, solve))
            else:
                hamiltonian = hamiltonian.with_values(mixer.next(hamiltonian.values, state.difference))

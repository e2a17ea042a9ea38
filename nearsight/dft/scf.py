"""Self-consistent field by mixing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NotConverged
from nearsight.core.units import HARTREE_EV
from nearsight.dft.dielectric import Dielectric, Screening
from nearsight.dft.mixing import Pulay, PulayState
from nearsight.dft.problem import Problem, SCFState, Step

DIVERGED = 1e6  # residual [Ha] from which no iteration comes back
FIRST_PRODUCTS = 2  # of the dielectric operator, in the first iteration of a cycle that begins with superposed atoms
PRODUCTS_NEAR = 4  # in that of one that begins near its end, where the first iteration is half of all
REMEDY = "lower the mixing weight (0.1), or take direct minimisation or a larger smearing"


@dataclass(frozen=True)
class SCF:
    """Pulay mixing of the Hamiltonian, preconditioned by the dielectric operator, or of the density with Kerker's.

    tolerance: largest |F[D(H)] - H| of any element at the end [Ha]; the energy's error is of second order in it.
    first_products: of the dielectric operator, in the first iteration.
    """

    mixing: Pulay = Pulay(weight=1.0, dielectric=Dielectric())
    tolerance: float = 1e-5 / HARTREE_EV
    max_iterations: int = 100
    first_products: int = FIRST_PRODUCTS

    def solve(
        self, problem: Problem, start: BlockMatrix, on_step: Callable[[Step], None] | None
    ) -> tuple[SCFState, list[Step], bool]:
        """The last state, all steps, and whether it converged.

        Raises NotConverged where numbers become none on the way.
        """
        kerker = self.mixing.kerker
        preconditioner = None if kerker else self._preconditioner(problem)
        mixer = PulayState(self.mixing)
        hamiltonian, density = start, None
        steps: list[Step] = []
        while True:
            state = problem(hamiltonian)
            if len(steps) == 1 and preconditioner:
                mixer.forget()  # a predicted start is no F[D] at all: what is wrong with it spoils combinations
            if not kerker:
                mixer.add(hamiltonian.values, state.difference)
            elif density is not None:
                mixer.add(density, kerker(state.evaluation.density - density, problem.functional.mesh))
            # all that the host has to know of this iteration, at once
            nothing = state.evaluation.total.new_zeros(0)
            told = mixer.products() if mixer.residuals else nothing
            [products, left] = state.look(told, preconditioner.left if preconditioner else nothing)
            steps.append(problem.step(len(steps) + 1, state))
            if on_step:
                on_step(steps[-1])
            residual = state.residual
            if not math.isfinite(residual + state.free):
                raise NotConverged(f"the cycle came to numbers that are none at iteration {len(steps)}: {REMEDY}")
            if residual < self.tolerance or len(steps) >= self.max_iterations or residual > DIVERGED:
                return state, steps, residual < self.tolerance
            if kerker:
                # what the start's Hamiltonian gives is the first density
                density = state.evaluation.density if density is None else mixer.combined(products)
                hamiltonian = problem.hamiltonian_of_density(density, state.density_matrix)
            elif preconditioner:
                preconditioner.learn(left)
                hamiltonian = hamiltonian.with_values(mixer.combined(products, partial(preconditioner, state)))
            else:
                hamiltonian = hamiltonian.with_values(mixer.combined(products))

    def _preconditioner(self, problem: Problem) -> CyclePreconditioner | None:
        dielectric = self.mixing.dielectric
        if dielectric is None:
            return None
        return CyclePreconditioner(Screening.of(problem.functional, dielectric), problem, self.first_products)


class CyclePreconditioner:
    """The dielectric operator along one cycle (mutable), which asks nothing of the device while it is applied.

    How many products a solution takes changes little from one iteration to the next: it takes as many as the last one, and
    one more where that fell short. left: |A x - b| / |b| after each product of the last one [products], on the device.
    """

    def __init__(self, screening: Screening, problem: Problem, products: int = FIRST_PRODUCTS) -> None:
        self.screening, self.problem = screening, problem
        self.products = products
        self.left = screening.core.new_zeros(0)

    def learn(self, left: Sequence[float]) -> None:
        """What was left over after each product of the last solution: none yet in the first iteration."""
        settings = self.screening.settings
        if left and not left[-1] < settings.tolerance:
            self.products = min(self.products + 1, settings.max_products)

    def __call__(self, state: SCFState, residual: Tensor) -> Tensor:
        """x of (1 - f chi0) x = residual [Ha], by as many products as `learn` has settled on."""
        solution, self.left = self.screening.solve(self.problem, state, residual, self.products)
        return solution

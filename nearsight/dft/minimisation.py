"""Direct minimisation of the free energy Omega[H], the variational route to the ground state.

F - H is the steepest descent direction of Omega preconditioned by the inverse of the occupation kernel K, since
dOmega/dH = C [K o (F~ - e)] C^dagger with K < 0: <dOmega/dH, F - H> <= 0 whatever H is, so that a line search always
finds a lower energy. Directions are conjugated by Polak and Ribiere's rule in that metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from nearsight.core.blocks import BlockMatrix, real_parts
from nearsight.core.errors import NotConverged
from nearsight.core.units import HARTREE_EV
from nearsight.dft.problem import Problem, SCFState, Step


@dataclass(frozen=True)
class DirectMinimisation:
    """Preconditioned conjugate gradients on H with a line search that never accepts a higher Omega.

    tolerance: largest |F - H| of any element [Ha] at the end.
    """

    tolerance: float = 1e-5 / HARTREE_EV
    max_iterations: int = 200
    first_step: float = 0.5

    def solve(
        self, problem: Problem, start: BlockMatrix, on_step: Callable[[Step], None] | None
    ) -> tuple[SCFState, list[Step], bool]:
        """The last state, all steps, and whether it converged.

        Raises NotConverged where the energy is no number.
        """
        state = problem(start)
        gradient = problem.gradient(state)
        direction, length = state.difference, self.first_step
        steps: list[Step] = []
        while True:
            steps.append(problem.step(len(steps) + 1, state, float(gradient.norm())))
            if on_step:
                on_step(steps[-1])
            if not math.isfinite(state.residual + state.free):
                raise NotConverged(
                    f"the energy came to no number at iteration {len(steps)}: look for atoms that almost coincide, or begin "
                    "without a start"
                )
            if state.residual < self.tolerance or len(steps) >= self.max_iterations:
                return state, steps, state.residual < self.tolerance
            slope = _along(gradient, direction)
            if slope >= 0:  # conjugation lost: the preconditioned gradient itself goes down
                direction = state.difference
                slope = _along(gradient, direction)
            found = self._line(problem, state, direction, slope, length)
            if found is None:
                if slope == _along(gradient, state.difference):
                    return state, steps, state.residual < self.tolerance  # at the limit of arithmetic
                direction, length = state.difference, self.first_step
                continue
            moved, moved_gradient, length = found
            old = _along(gradient, state.difference)
            beta = _along(moved_gradient - gradient, moved.difference) / old if old else 0.0
            direction = moved.difference + max(0.0, beta) * direction
            state, gradient = moved, moved_gradient

    def _line(
        self, problem: Problem, state: SCFState, direction: Tensor, slope: float, length: float
    ) -> tuple[SCFState, Tensor, float] | None:
        """A point along the direction with lower Omega and a small slope; None if rounding hides any descent."""
        noise = 1e-13 * abs(state.free)
        for _ in range(12):
            moved = problem(state.hamiltonian.with_values(state.hamiltonian.values + length * direction))
            gradient = problem.gradient(moved)
            there = _along(gradient, direction)
            if not math.isfinite(moved.free + there):  # far out
                length *= 0.1
                continue
            # the secant of the slope: exact for a quadratic
            best = length * slope / (slope - there) if there > slope else 2 * length
            if moved.free <= state.free + 0.1 * length * slope + noise and abs(there) <= 0.5 * abs(slope):
                return moved, gradient, min(max(best, 0.1 * length), 2 * length)
            if there < 0 and moved.free <= state.free + noise:
                length = min(best, 3 * length)
            else:
                length = min(max(best, 0.1 * length), 0.6 * length)
            if abs(length * slope) < noise * 1e-3:
                break
        return (moved, gradient, self.first_step) if moved.free <= state.free + noise else None


def _along(gradient: Tensor, direction: Tensor) -> float:
    """The slope of Omega along a direction; both are hermitian, so that it is real."""
    return float((real_parts(gradient) * real_parts(direction)).sum())

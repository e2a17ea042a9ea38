"""How a calculation converged: what happened at each step, and how far from the end it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.units import HARTREE_EV
from nearsight.dft.ground_state import GroundState
from nearsight.dft.problem import SCFState, Step
from nearsight.formats.files import whole_file


@dataclass(frozen=True)
class TraceStep:
    """One accepted step in the units of files.  free: Omega = E - T S.  residual: |F - H|.  gradient: norm of dOmega/dH, which
    has no unit, where the method computes it.  to_final: norm of D - D_final over all elements."""

    iteration: int
    total_eV: float
    free_eV: float
    gradient_norm: float | None
    residual_max_eV: float
    residual_norm_eV: float
    density_matrix_to_final_norm: float


@dataclass(eq=False)
class Trace:
    """Listens to a run: hand `observe` and `step` to it as its observe and progress, then ask `steps`.

    A line search tries more points than it accepts: a state is kept when a step reports its energy.
    """

    _last: SCFState | None = None
    _kept: list[tuple[Step, float, Tensor]] = field(default_factory=list)

    __repr__ = one_line

    def observe(self, state: SCFState) -> None:
        """Remember a state until a step says whether it was accepted."""
        self._last = state

    def step(self, step: Step) -> None:
        """Keep the state last seen as that of an accepted step; one that went nowhere keeps that of the step before."""
        assert self._last is not None
        if self._last.free == step.free or not self._kept:
            values = self._last.density_matrix.values
            self._kept.append((step, float(self._last.difference.norm()), values))
        else:  # the search found nothing lower and begins anew from the point before
            _, norm, values = self._kept[-1]
            self._kept.append((step, norm, values))

    def steps(self, final: GroundState) -> list[TraceStep]:
        """All accepted steps in the units of files, measured against the density matrix that was reached."""
        d = final.density_matrix.values
        return [
            TraceStep(
                step.iteration,
                step.total * HARTREE_EV,
                step.free * HARTREE_EV,
                step.gradient,
                step.residual * HARTREE_EV,
                norm * HARTREE_EV,
                float((values - d).norm()),
            )
            for step, norm, values in self._kept
        ]


def write_trace(path: Path, steps: list[TraceStep]) -> None:
    """One JSON object a line, whole or not at all. Raises NearsightError where it cannot be written."""
    with whole_file(path) as part:
        part.write_text("".join(json.dumps(asdict(s)) + "\n" for s in steps))


def iterations_to(state: GroundState, residual: float) -> int | None:
    """How many iterations it took until |F - H| stayed below `residual` in every element [Ha]; None: it never did."""
    above = [s.iteration for s in state.steps if not s.residual < residual]
    last = above[-1] if above else 0
    return last + 1 if last < len(state.steps) else None


def iterations_of(plain: GroundState) -> dict[str, Any]:
    """What a comparison of starts keeps of the run from superposed atoms, for result.json."""
    return {
        "iterations_from_atoms": len(plain.steps),
        "converged_from_atoms": plain.converged,
        "first_residual_from_atoms_eV": plain.steps[0].residual * HARTREE_EV,
        "total_from_atoms_eV": plain.total * HARTREE_EV,
    }


def saved_iterations(started: GroundState, plain: GroundState) -> str:
    """A line such as: 5 iterations, 12 without the model: 7 saved (58 %)."""
    n, without = len(started.steps), len(plain.steps)
    said = f"{n} iterations, {without} without the model"
    for state, name in ((started, "with"), (plain, "without")):
        if not state.converged:
            return f"{said}: not converged {name} it"
    return f"{said}: {without - n} saved ({100 * (without - n) / without:.0f} %)"

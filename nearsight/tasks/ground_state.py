"""One structure: its ground state, and the forces and stress of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.structure import Structure
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.ground_state import GroundState
from nearsight.dft.problem import Step
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings


def ground_state(
    structure: Structure,
    settings: Settings | None = None,
    *,
    out: Path | str | None = None,
    progress: Callable[[Step], None] | None = None,
    **keywords: Any,
) -> GroundState:
    """The Kohn-Sham ground state of a structure: D with F[D] C = S C e and D = C f(e) C^dagger [Ha, Bohr].

    settings: how; or its keywords alone, such as xc="pbe", basis="dzp", kmesh=(4, 4, 1), smearing_ev=0.05.
    out: calculation folder to write.  progress: told each step of the cycle.
    Raises BadInput for settings or a structure that cannot be computed; NotConverged where the cycle ends before its
    tolerance (`run_scf` returns such a state instead; with `out` it is in the folder, to go on from).
    """
    if settings is not None and keywords:
        raise BadInput(f"give settings or keywords, not both: {', '.join(keywords)} can be part of the settings")
    chosen = settings if settings is not None else validated(Settings, keywords, "ground_state")
    state = run_scf(structure, chosen, None if out is None else Path(out), progress)
    if not state.converged:
        kept = "" if out is None else f"; the last state is in {out}: go on from it with start={str(out)!r}"
        raise NotConverged(
            f"{structure.formula} is not converged in {len(state.steps)} iterations ({state.why_not()}): "
            "more max_iterations, a larger smearing_ev, "
            f"mixing={{'weight': 0.1}} or method='variational' may help{kept}"
        )
    return state


def forces(state: GroundState) -> Tensor:
    """-dOmega/dr of the free energy Omega = E - TS [atoms, 3], Ha/Bohr: the exact derivative of what is computed.

    Where both are wanted, `forces_and_stress` does the work once.
    """
    return forces_and_stress(state).forces


def stress(state: GroundState) -> Tensor:
    """dOmega/d(strain) / V [3, 3], Ha/Bohr^3, symmetric; positive along a direction in which the cell wants to shrink."""
    return forces_and_stress(state).stress

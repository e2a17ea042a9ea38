"""A run: from a structure and settings to a ground state and its calculation folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.species import Species
from nearsight.core.spin import NONE, Spin
from nearsight.core.structure import Structure
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import GroundState
from nearsight.dft.problem import SCFState, Step
from nearsight.dft.result import Result, write_result
from nearsight.dft.settings import Settings
from nearsight.dft.setup import MOMENTS_WITHOUT_SPIN, Setup
from nearsight.dft.unfinished import Unfinished
from nearsight.formats.outputs import claim_folder
from nearsight.formats.registry import read
from nearsight.formats.structures import check_structure


def run_scf(
    structure: Structure,
    settings: Settings,
    out: Path | None = None,
    progress: Callable[[Step], None] | None = None,
    species: Mapping[int, Species] | None = None,
    warn: Callable[[str], None] | None = None,
    observe: Callable[[SCFState], None] | None = None,
    start: BlockMatrix | None = None,
    begun_with: Mapping[str, Any] | None = None,
) -> GroundState:
    """Compute a ground state; write its calculation folder to `out`, converged or not (result.json says which).

    A run into `out` that was cut off goes on where it was (unfinished.py).

    start: Hamiltonian to begin with [Ha], in place of `settings.solver.start`; begun_with: what result.json says of it.
    species: in place of those that `settings.basis` describes.  progress: told each step; observe: each state.
    Raises BadInput or MissingData for what cannot be computed; NotConverged where numbers become none, but not for a run
    that ends before its tolerance: see GroundState.converged.
    """
    began = time.perf_counter()
    if out is not None:
        claim_folder(out, "calculation")
    setup = Setup.of(check_structure(structure), settings, species)
    functional, place = setup.functional, settings.solver.start
    if warn and setup.spin is NONE and round(functional.electrons) % 2 == 1:
        warn(
            f"{functional.electrons:g} electrons without spin: half-filled levels are spread over both spins; "
            "the energy is that of no magnetic moment"
        )
    if warn and setup.spin is NONE and structure.moments is not None:
        warn(MOMENTS_WITHOUT_SPIN)
    if start is None and place is not None:
        start = start_from(place, functional, setup.spin)
    if out is None:
        return setup.ground_state(start, progress, observe)
    unfinished = Unfinished(Path(out), structure, setup.settings)
    if (rest := unfinished.start(functional)) is not None:
        start, begun_with = rest, {**(begun_with or {}), "iterations_before": unfinished.iterations}

    def seen(state: SCFState) -> None:
        unfinished.observe(state)
        if observe is not None:
            observe(state)

    try:
        state = setup.ground_state(start, progress, seen)
        seconds = time.perf_counter() - began
        write_result(out, state, Result.of(state, setup.settings, seconds, begun_with, setup.why_kmesh))
    except Exception:  # not a signal: the same command would come to the same end
        raise
    except BaseException:  # a signal: the same command goes on
        unfinished.keep()
        raise
    unfinished.done()
    return state


def start_from(folder: Path, functional: EnergyFunctional, kind: Spin) -> BlockMatrix:
    """H of a folder [Ha]; of one that has a density matrix only, F[D].

    Raises MissingData where it has neither, BadInput where its atoms, orbitals or spin are not those of the functional.
    """
    previous = read(folder)
    if not previous.matrices:
        raise MissingData(f"cannot start from {folder}: it has neither a Hamiltonian nor a density matrix")
    if not previous.basis.same_as(functional.layout.basis):
        previous = previous.in_original_order()
    found = previous.hamiltonian or previous.density_matrix
    if found is None:
        raise MissingData(f"cannot start from {folder}: it has neither a Hamiltonian nor a density matrix")
    if not found.basis.same_as(functional.layout.basis):
        raise BadInput(f"cannot start from {folder}: its atoms or orbitals are not those of this calculation")
    if found.spin is not kind:
        raise BadInput(f"cannot start from {folder}: it has spin {found.spin}, this calculation spin {kind}")
    found = found.to(functional.structure.cell.device)
    if previous.hamiltonian is None:
        return functional.evaluate(found.on(functional.layout)).hamiltonian
    return found

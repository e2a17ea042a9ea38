"""What a prediction says beside an overlap that is ill-conditioned, where errors of H far below a meV make ghost levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.learn.reference import OrbitalReference

LOWEST = 1e-3  # eigenvalue of S below which an error of a meV an element moves a level by eV
LARGEST = 2000  # orbitals of a cell whose S is diagonalised


def ill_conditioned(overlap: BlockMatrix) -> float | None:
    """The lowest eigenvalue of S at Gamma and at the corner (1/2, 1/2, 1/2) of the zone; None where it is no less than LOWEST,
    and for cells too large to look."""
    if overlap.basis.size > LARGEST:
        return None
    k = overlap.values.new_tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    lowest = float(torch.linalg.eigvalsh(overlap.hermitian().at_k(k)).min())
    return lowest if lowest < LOWEST else None


def near_levels_record(lowest: float, reference: OrbitalReference, model: Path | None) -> dict[str, Any]:
    """For `near_levels` of the record: what properties/subspace.py makes H0 of. model: its folder, None: there is none."""
    settings = reference.settings.model_dump(mode="json", include={"functional", "mesh"})
    species = None if model is None else str(model.absolute() / "species")
    return {"lowest_overlap_eigenvalue": lowest, "settings": {**settings, "basis": {"species": species}}}


def warning(lowest: float) -> str:
    """What is said of it, of a target of matrix elements."""
    return (
        f"the overlap has eigenvalues down to {lowest:.0e}, where small errors of H make ghost levels: bands, dos and gap of "
        "this prediction are those within the span of the states of superposed atoms up to 15 eV above their Fermi level"
    )

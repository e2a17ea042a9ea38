"""Levels in a subspace where nothing can be a ghost: the occupied and near states of one Hamiltonian, in which others act.

Where S is ill-conditioned, an error of H far below a meV an element moves levels by tens of eV: combinations of orbitals that
nearly vanish have a norm of 1e-5. Between the states C of a known Hamiltonian of the same S, up to NEAR_EV above its Fermi
level,

    H'_mn(k) = C_m(k)^dagger H(k) C_n(k),

such combinations do not occur, and the levels of H' are those of H to first order in the difference of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.units import HARTREE_EV
from nearsight.properties.contract import SILENT, Progress
from nearsight.properties.eigenstates import eigenstates

NEAR_EV = 15.0  # above the Fermi level: states beyond have no share in levels of interest


@dataclass(frozen=True, eq=False)
class NearLevels:
    """Levels at one k: those of the known Hamiltonian within the span [s, n], and those of each other one [s, n]; Ha."""

    known: Tensor
    others: tuple[Tensor, ...]

    __repr__ = one_line


def near_levels(
    known: BlockMatrix,
    overlap: BlockMatrix,
    fermi_level: float,
    k: Tensor,
    others: Sequence[BlockMatrix],
    above_ev: float = NEAR_EV,
    progress: Progress = SILENT,
) -> Iterator[NearLevels]:
    """For each k [k, 3]: the known Hamiltonian's levels below fermi_level [Ha] + above_ev, and others' levels in their span.

    Where two spin components differ in the number of such levels, both have the larger one.
    Raises NearsightError where S(k) is not positive definite.
    """
    for part in eigenstates(known, overlap, k, progress):
        others_at = [h.at_k(part.k).to(part.coefficients.dtype) for h in others]
        for index in range(len(part.k)):
            energies = part.energies[:, index]
            count = max(1, int((energies < fermi_level + above_ev / HARTREE_EV).sum(1).max()))
            c = part.coefficients[:, index, :, :count]
            inside = [c.mH @ h[:, index] @ c for h in others_at]
            found = tuple(torch.linalg.eigvalsh(0.5 * (h + h.mH)) for h in inside)
            yield NearLevels(energies[:, :count], found)

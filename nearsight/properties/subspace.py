"""Predicted Hamiltonians where S is ill-conditioned: levels in the span of the occupied and near states of superposed atoms.

Where S(k) has eigenvalues of 1e-5, an error of H of a meV an element moves levels by tens of eV, some of them to below the
Fermi level: ghosts. A prediction that is beside such an S says so in its record (`near_levels`, `learn/model.py`), with the
settings of H0, the Kohn-Sham matrix of superposed atoms, which is no guess. With the states C_n(k) of H0 below its Fermi level
+ 15 eV, and those above,

    H'(k) = S C [ C^dagger H C  0 ; 0  e0 ] C^dagger S,

whose levels are those of H to first order in H - H0 (near_levels.py) below, and those of H0 above.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, NearsightError, Notice
from nearsight.core.units import HARTREE_EV
from nearsight.dft.settings import Settings
from nearsight.dft.setup import initial_hamiltonian
from nearsight.electrons.eigen import factorise
from nearsight.properties.brillouin import Thermal, fermi_energy, sampling
from nearsight.properties.eigenstates import levels
from nearsight.properties.near_levels import NEAR_EV

KEY = "near_levels"  # of the record of a prediction
SPACING = 0.5  # of the k-mesh that says where the ceiling is, to a tenth of an eV [1/angstrom]
WIDTH_EV = 0.1  # of the filling there


@dataclass(frozen=True, eq=False, repr=False)
class NearHamiltonian(BlockMatrix):
    """A Hamiltonian whose H(k) is H'(k) above; its elements are those of H.

    known: H0.  overlap: S.  ceiling: of H0's levels in whose span H acts [Ha].
    """

    known: BlockMatrix | None = None
    overlap: BlockMatrix | None = None
    ceiling: float = 0.0

    def at_k(self, k: Tensor) -> Tensor:
        """H'(k) [spin.matrices, k, n, n]. Raises NearsightError where S(k) is not positive definite."""
        assert self.known is not None and self.overlap is not None
        energies, c = factorise(self.overlap, k).solve(self.known.at_k(k))
        inside = energies < self.ceiling
        h = c.mH @ super().at_k(k).to(c) @ c
        kept = torch.where(inside[..., :, None] & inside[..., None, :], 0.5 * (h + h.mH), torch.zeros_like(h))
        above = torch.diag_embed(torch.where(inside, torch.zeros_like(energies), energies)).to(kept)
        back = self.overlap.embed(self.spin).at_k(k).to(c) @ c
        return back @ (kept + above) @ back.mH

    def with_values(self, values: Tensor) -> BlockMatrix:
        """A plain matrix of other elements."""
        return BlockMatrix(self.layout, values, self.spin)


def without_ghosts(calculation: Calculation) -> Calculation:
    """The calculation, of a prediction beside an ill-conditioned S with a NearHamiltonian: said as a notice.

    Where the orbitals of its model are no longer there the calculation itself, with a notice of ghosts.
    """
    told = calculation.result.get(KEY)
    if not isinstance(told, dict) or isinstance(calculation.hamiltonian, NearHamiltonian):
        return calculation
    lowest = told.get("lowest_overlap_eigenvalue")
    why = (
        f"{calculation.name}: S has eigenvalues down to {lowest:.0e}" if isinstance(lowest, float) else calculation.name
    )
    try:
        found = _within(calculation, told)
    except NearsightError as error:
        said = " ".join(str(error).split())
        _say(f"{why}: levels of the prediction may be ghosts, because its H0 cannot be made ({said})")
        return calculation
    _say(
        f"{why}: its levels are those within the span of the states of superposed atoms up to {NEAR_EV:g} eV above "
        "their Fermi level, where there are no ghosts; higher ones are those of superposed atoms"
    )
    return replace(calculation, hamiltonian=found)


def _within(calculation: Calculation, told: dict[str, Any]) -> NearHamiltonian:
    structure, h = calculation.structure, calculation.require_hamiltonian()
    s = calculation.require_overlap().hermitian()
    settings = Settings.stored(told.get("settings") or {}, calculation.name)
    folder = settings.basis.species
    if folder is None or not Path(folder).is_dir():
        raise BadInput(f"no such folder of orbitals: {folder}")
    known = initial_hamiltonian(structure, settings)[0]
    if not known.basis.same_as(h.basis):
        raise BadInput(f"{folder} holds other orbitals")
    known = known.embed(h.spin) if known.spin is not h.spin else known
    mesh = sampling(structure, known, None, SPACING)
    occupied = Thermal(mesh.weights, WIDTH_EV / HARTREE_EV)
    electrons = calculation.require_electrons()
    level = fermi_energy(levels(known, s, mesh.k), occupied, electrons, known.spin.electrons_per_level)
    return NearHamiltonian(h.layout, h.values, h.spin, known, s, level + NEAR_EV / HARTREE_EV)


def _say(words: str) -> None:
    warnings.warn(words, Notice, stacklevel=3)

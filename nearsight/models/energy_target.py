"""The target `energy`: of a state the free energy, forces and magnetic forces, as numbers one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.units import HARTREE_EV
from nearsight.models.targets import Inputs, Target

PER_ATOM = 6  # forces and magnetic forces
MAGNETIC = "magnetic_forces_eV_per_mu_B"  # of result.json


def in_parts(energies: Tensor) -> Tensor:
    """Whole Hartrees, and the rest [..., 2]: energies of thousands of Hartree keep a micro-Hartree in single precision."""
    whole = energies.round()
    return torch.stack([whole, energies - whole], -1)


def atoms_of(sizes: Sequence[int]) -> list[int]:
    """Atoms of structures by the numbers of their predictions."""
    return [(n - 2) // PER_ATOM for n in sizes]


class EnergyTarget(Target):
    """Numbers [1, 2 + 6 atoms]: the energy in whole Ha and the rest, forces [Ha/Bohr], magnetic forces -dE/dm [Ha/mu_B].

    Labels are those of a calculation folder: the free energy, of which both kinds of forces are derivatives; forces that it has
    not got are not a number, and teach nothing.
    """

    name, elements, gives_matrix, of_record = "energy", False, False, True
    unlearnt = "there its energy is that of atoms apart"

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        """Raises MissingData for a calculation without an energy."""
        energies = calculation.energies
        energy = energies.get("free", energies.get("total"))
        if energy is None:
            raise MissingData(
                f"{calculation.name} gives no energy (energy_eV of result.json), and target energy learns it: compute it, or "
                "take target total"
            )
        nothing = torch.full((len(calculation.structure), 3), torch.nan, dtype=torch.float64)
        found = calculation.result.get(MAGNETIC)
        magnetic = nothing if found is None else torch.tensor(found, dtype=torch.float64) / HARTREE_EV
        if magnetic.shape != nothing.shape:
            raise BadInput(f"{calculation.name}: {MAGNETIC} of result.json is not a vector for each atom")
        forces = nothing if calculation.forces is None else calculation.forces.double()
        parts = [in_parts(torch.tensor(float(energy), dtype=torch.float64)), forces.flatten(), magnetic.flatten()]
        return torch.cat(parts)[None]

    def matrix(self, values: Tensor, inputs: Inputs) -> NoReturn:
        """Raises BadInput: there is none."""
        raise BadInput(
            "a model of target energy gives energies, forces and magnetic forces, but no Hamiltonian: train one of target "
            "total or delta for that"
        )


ENERGY = EnergyTarget()

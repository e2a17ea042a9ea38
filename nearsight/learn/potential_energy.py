"""Learning an energy with its derivatives: the loss, errors of held-out structures, and what a prediction says."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.learn.config import PotentialEnergyLossConfig
from nearsight.learn.losses import LabelTerm, LossValue
from nearsight.learn.packing import in_order
from nearsight.learn.samples import Sample, SampleStore
from nearsight.models.contract import HamiltonianModel
from nearsight.models.energy_target import MAGNETIC, atoms_of
from nearsight.models.targets import Inputs, Prediction

MEV = 1000 * HARTREE_EV
UNITS = {"energy": MEV, "forces": MEV / BOHR_ANG, "magnetic_forces": MEV}  # meV per atom, meV/angstrom, meV/mu_B
FIGURES = ("energy_mae_meV_per_atom", "forces_mae_meV_per_Ang", "magnetic_forces_mae_meV_per_mu_B")


@dataclass(frozen=True, eq=False)
class Surface:
    """What a model says of one state: energy [Ha], forces [atoms, 3], Ha/Bohr, magnetic forces -dE/dm [atoms, 3], Ha/mu_B."""

    energy: float
    forces: Tensor
    magnetic_forces: Tensor

    __repr__ = one_line

    @staticmethod
    def of(values: Tensor) -> Surface:
        """From the numbers of one structure [1, size] (energy_target.py)."""
        v = values.detach().double().cpu()[0]
        [n] = atoms_of([len(v)])
        return Surface(float(v[0] + v[1]), v[2 : 2 + 3 * n].view(n, 3), v[2 + 3 * n :].view(n, 3))

    def record(self) -> dict[str, Any]:
        """As result.json has it, in eV, angstrom and mu_B."""
        return {
            "energy_eV": {"free": self.energy * HARTREE_EV},
            "forces_eV_per_Ang": (self.forces * HARTREE_EV / BOHR_ANG).tolist(),
            MAGNETIC: (self.magnetic_forces * HARTREE_EV).tolist(),
        }


def surface(network: HamiltonianModel, structure: Structure, moments: Tensor) -> Surface:
    """The prediction of a model of target energy. moments: of each atom [atoms, 3], mu_B. Raises BadInput for none sound."""
    with torch.no_grad():
        layout: Any = None  # which no energy depends on
        found = Surface.of(network(network.prepare(structure, layout, Inputs(moments=moments))).values)
    if not all(bool(torch.isfinite(x).all()) for x in (found.forces, found.magnetic_forces)):
        raise BadInput("the model predicts forces that are no numbers: its weights or the structure are not sound")
    return found


def errors(predicted: Tensor, sample: Sample) -> dict[str, Tensor]:
    """Absolute errors in the units of UNITS, flat, of what the labels have; differentiable in the prediction [1, size]."""
    assert sample.target is not None
    found: dict[str, list[Tensor]] = {name: [] for name in UNITS}
    sizes, label = list(sample.sizes), sample.target.to(predicted)
    for n, p, t in zip(atoms_of(sizes), predicted[0].split(sizes), label[0].split(sizes), strict=True):
        found["energy"].append((p[:2] - t[:2]).sum()[None] / n)
        found["forces"].append(p[2 : 2 + 3 * n] - t[2 : 2 + 3 * n])
        found["magnetic_forces"].append(p[2 + 3 * n :] - t[2 + 3 * n :])
    joined = {name: torch.cat(parts) * UNITS[name] for name, parts in found.items()}
    return {name: x[~torch.isnan(x.detach())].abs() for name, x in joined.items()}


class PotentialEnergyTerm(LabelTerm):
    """The weighted sum of the mean errors of energies per atom, forces and magnetic forces."""

    of, unit = "energies and forces, weighted", "meV"

    def __init__(self, config: PotentialEnergyLossConfig) -> None:
        self.weight = config.weight
        self.weights = {name: float(getattr(config, name)) for name in UNITS}
        self.of_training = f"weighted sum of the mean errors of {self.of} trained on", self.unit

    def size(self, sample: Sample) -> float:
        """Structures."""
        return float(len(sample.sizes))

    def _value(self, found: dict[str, Tensor]) -> Tensor:
        return sum((self.weights[k] * x.mean() for k, x in found.items() if len(x)), torch.zeros(()))

    def __call__(self, predicted: Prediction, sample: Sample) -> LossValue:
        """For a sample that has labels."""
        free = predicted.values.detach().requires_grad_()
        with torch.enable_grad():
            loss = self._value(errors(free, sample))
        [gradient] = torch.autograd.grad(loss, free)
        return LossValue(float(loss.detach()), torch.nan_to_num(gradient))

    def errors(self, network: HamiltonianModel, held_out: SampleStore, edges: int) -> tuple[float, float, float]:
        """The same sum of held-out structures; there are no on-site and off-site elements."""
        found: dict[str, list[Tensor]] = {name: [] for name in UNITS}
        for sample in in_order(held_out, edges):
            for name, x in errors(network(sample.prepared).values, sample).items():
                found[name].append(x.double().cpu())
        if not found["energy"]:
            return nan, nan, nan
        return float(self._value({k: torch.cat(x) for k, x in found.items()})), nan, nan


def compared(network: HamiltonianModel, calculation: Calculation, moments: Tensor) -> dict[str, float]:
    """Mean errors of a prediction against a calculation, by the names of FIGURES; of forces that it has not got none."""
    found = surface(network, calculation.structure, moments)
    wanted = Surface.of(network.labels(calculation, Inputs(moments=moments)))
    energy = abs(found.energy - wanted.energy) / len(calculation.structure)
    pairs = [(found.forces, wanted.forces), (found.magnetic_forces, wanted.magnetic_forces)]
    values = [energy, *(float((a - b).abs().mean()) for a, b in pairs)]
    scaled = zip(FIGURES, values, UNITS.values(), strict=True)
    return {name: v * unit for name, v, unit in scaled if v == v}

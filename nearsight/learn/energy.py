"""The energy functional as a loss: no labels, the network's Hamiltonian is put into the functional and its energy goes down.

For a Hamiltonian H_theta of a structure: D = f(H_theta), Omega = E[D] - T S, and F = dE/dD. The gradient that goes back is
    g = dOmega/dH + lambda (H_theta - F),
the derivative of Omega by the closed rule of docs/conventions.md (no graph through the functional is kept) plus that of
lambda/2 |H - F|^2 with F held fixed. Omega alone leaves H undetermined inside the occupied and inside the unoccupied space
(at T = 0 it costs nothing there); the second term determines it. Li et al., Phys. Rev. Lett. 133, 076401 (2024).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearsight.core.blocks import BlockLayout, BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.species import Species
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.dft.problem import Problem, Trial
from nearsight.dft.run import chosen_kpoints, functional_for, resolved
from nearsight.dft.settings import ScfSettings
from nearsight.solve.smearing import SMEARINGS


@dataclass(frozen=True, eq=False)
class EnergyOutcome:
    """What the functional says of one Hamiltonian.

    free: Omega [Ha].  gradient: g on the layout [components, size], to be given to `H.backward(g)`.
    residual: mean |H - F| [Ha], zero at self-consistency.  harris: E_Harris - E_KS [Ha], an error bound without a reference.
    """

    free: float
    gradient: Tensor
    residual: float
    harris: float


@dataclass
class ProblemCache:
    """Functionals of structures: all that does not depend on H, built once and kept up to a number of bytes."""

    settings: ScfSettings
    species: dict[int, Species]
    limit: float = 4e9
    _kept: OrderedDict[Hashable, tuple[Problem, int]] = field(default_factory=OrderedDict)

    def __call__(self, key: Hashable, structure: Structure) -> Problem:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        settings = resolved(structure, self.settings)
        species = {z: self.species[z] for z in sorted(set(structure.numbers.tolist()))}
        functional = functional_for(structure, settings, species)
        k = chosen_kpoints(functional, settings)
        smearing = SMEARINGS[settings.smearing]
        problem = Problem.of(functional, k, settings.smearing_ev / HARTREE_EV, None, smearing)
        size = sum(
            b.orbitals.numel() * 8 + b.elements.numel() * b.elements.element_size() for b in functional.grid.batches
        ) + sum(p.numel() * p.element_size() for p in functional.grid.places)
        self._kept[key] = problem, size
        while sum(s for _, s in self._kept.values()) > self.limit and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return problem


@dataclass(frozen=True, eq=False)
class EnergyLoss:
    """Omega of predicted Hamiltonians with the generalised gradient.

    residual_weight: lambda [1/Ha]; 0 is the bare energy.
    """

    problems: ProblemCache
    residual_weight: float = 1.0

    def layout(self, key: Hashable, structure: Structure) -> BlockLayout:
        """The pairs on which Hamiltonians of the structure must be given."""
        return self.problems(key, structure).functional.layout

    def __call__(self, key: Hashable, structure: Structure, values: Tensor) -> EnergyOutcome:
        """values: H on the layout [components, size], Ha.

        Raises NearsightError where the Hamiltonian is not finite.
        """
        if not bool(torch.isfinite(values).all()):
            raise NearsightError("the predicted Hamiltonian is not finite: lower the learning rate")
        problem = self.problems(key, structure)
        with torch.no_grad():
            layout = problem.functional.layout
            trial = problem(BlockMatrix(layout, values.detach().double()).hermitian())
            gradient = problem.gradient(trial) - self.residual_weight * trial.difference
            return EnergyOutcome(
                trial.free, gradient, float(trial.difference.abs().mean()), harris_excess(problem, trial)
            )


def harris_excess(problem: Problem, trial: Trial) -> float:
    """E_Harris - E_KS = Tr[F (D' - D)] with D' = D(F) [Ha]: of second order in the error, below zero near the ground state."""
    f = trial.evaluation.hamiltonian
    _, d_out = problem.fill(f)
    return float((d_out - trial.density_matrix).trace(f))


def descend(predicted: Callable[[], Tensor], loss: EnergyLoss, key: Hashable, structure: Structure) -> EnergyOutcome:
    """One backward pass: the network's elements [size] are computed, judged by the functional, and its gradient goes back."""
    values = predicted()
    outcome = loss(key, structure, values[None])
    values.backward(outcome.gradient[0].to(values))
    return outcome

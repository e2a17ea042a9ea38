"""The energy functional as a loss: no labels, the network's Hamiltonian is put into the functional and its energy goes down.

For a Hamiltonian H_theta of a structure: D = f(H_theta), Omega = E[D] - T S, and F = dE/dD. The gradient that goes back is
    g = dOmega/dH + lambda (H_theta - F),
the derivative of Omega by the closed rule of docs/conventions.md (no graph through the functional is kept) plus that of
lambda/2 |H - F|^2 with F held fixed. Omega alone leaves H undetermined inside the occupied and inside the unoccupied space
(at T = 0 it costs nothing there); the second term determines it. Li et al., Phys. Rev. Lett. 133, 076401 (2024).

With K the kernel of dD/dH, dOmega/dH = K (F - H): between two evaluations of the functional the same g with F and K kept is
the gradient of the quadratic model 1/2 <H - F, (lambda - K) (H - F)>, which costs next to nothing (`reuse`). It lacks how F
moves with H; so its centre is not F but H + (1 - f chi0)^-1 (F - H), by the dielectric operator that mixers have too
(dft/dielectric.py), where Omega has its minimum to first order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix, real_parts
from nearsight.core.display import one_line
from nearsight.core.errors import NotConverged
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import Spin, by_components
from nearsight.core.structure import Structure
from nearsight.dft.dielectric import Dielectric, Screening
from nearsight.dft.problem import Problem, SCFState
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.solvers.contract import Response


@dataclass(frozen=True, eq=False)
class EnergyOutcome:
    """What the functional says of one Hamiltonian.

    free: Omega [Ha], of the last evaluation.  gradient: g on the layout [components, size], to be given to `H.backward(g)`,
    also of complex H: dOmega = Re sum conj(g) dH.
    excess: -1/2 <dOmega/dH, F - H> [Ha], never negative: to leading order Omega less its minimum, but for how F moves with H.
    residual: mean |H - F| [Ha], zero at self-consistency.  evaluated: anew, or by the quadratic model of the last evaluation.
    """

    free: float
    gradient: Tensor
    excess: float
    residual: float
    evaluated: bool

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class _Held:
    """A functional with its dielectric operator, once that is asked for."""

    problem: Problem
    screening: list[Screening] = field(default_factory=list)
    size: int = 0


@dataclass
class ProblemCache:
    """Functionals of structures: all that does not depend on H, built once and kept up to a number of bytes."""

    settings: Settings
    species: dict[int, Species]
    limit: float = 8e9
    reserved: int = 0  # of the limit, by others
    _kept: OrderedDict[Hashable, _Held] = field(default_factory=OrderedDict)

    def __call__(self, key: Hashable, structure: Structure, settings: Settings | None = None) -> Problem:
        """settings: of this structure, where they are not those of all."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key].problem
        species = {z: self.species[z] for z in sorted(set(structure.numbers.tolist()))}
        problem = Setup.of(structure, settings or self.settings, species).problem()
        self._keep(key, _Held(problem, size=held_bytes(problem)))
        return problem

    def screening(self, key: Hashable, structure: Structure, settings: Settings | None = None) -> Screening:
        """The dielectric operator of a structure's functional."""
        functional = self(key, structure, settings).functional
        held = self._kept[key]
        if not held.screening:
            made = Screening.of(functional, Dielectric())
            self._keep(key, _Held(held.problem, [made], held.size + held_bytes(made)))
        return self._kept[key].screening[0]

    def _keep(self, key: Hashable, held: _Held) -> None:
        self._kept[key] = held
        self._kept.move_to_end(key)
        while sum(h.size for h in self._kept.values()) + self.reserved > self.limit and len(self._kept) > 1:
            self._kept.popitem(last=False)


def held_bytes(found: Any) -> int:
    """Bytes of all tensors that an object of dataclasses holds."""
    seen: set[int] = set()
    stack, total = [found], 0
    while stack:
        x = stack.pop()
        if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in seen:
            seen.add(x.untyped_storage().data_ptr())
            total += x.untyped_storage().nbytes()
        elif isinstance(x, list | tuple):
            stack += x
        elif isinstance(x, dict):
            stack += x.values()
        elif is_dataclass(x) and id(x) not in seen:
            seen.add(id(x))
            stack += [getattr(x, f.name) for f in fields(x)]
    return total


@dataclass
class _Model:
    """The quadratic model of Omega about one evaluation (mutable: it ages); it needs nothing of the functional.

    response: chi0 of that evaluation's H.  centre: where the model has its minimum.  free: Omega there.  life: times that it
    may be used.  at: H as it was given [components, size], from which the model can be made again.  size: bytes.  age: times
    used.
    """

    kpoints: KPoints
    response: Response
    centre: BlockMatrix
    free: float
    life: int
    at: Tensor
    size: int = 0
    age: int = 0

    def slope(self, away: BlockMatrix) -> Tensor:
        """dOmega/dH = chi0 (centre - H) on the layout [components, size], of the difference centre - H."""
        return self.response(away).values


@dataclass
class EnergyLoss:
    """Omega of predicted Hamiltonians with the generalised gradient.

    residual_weight: lambda [1/Ha]; 0 is the bare energy.  reuse: calls that share one evaluation of the functional; with 1 the
    gradient is the exact one always. A structure's first evaluation, far from the minimum, serves a tenth of them.
    Quadratic models take at most half of the memory of `problems`; the least recently used one gives way to a new evaluation.
    """

    problems: ProblemCache
    residual_weight: float = 1.0
    reuse: int = 1
    _models: OrderedDict[Hashable, _Model] = field(default_factory=OrderedDict)

    def layout(self, key: Hashable, structure: Structure) -> BlockLayout:
        """The pairs on which Hamiltonians of the structure must be given."""
        return self.problems(key, structure).functional.layout

    @torch.no_grad()
    def __call__(
        self, key: Hashable, structure: Structure, values: Tensor, settings: Settings | None = None
    ) -> EnergyOutcome:
        """values: H on the layout [components, size], Ha.

        Raises NearsightError where the Hamiltonian, or what the functional makes of it, is not finite.
        """
        if not bool(torch.isfinite(values).all()):
            raise NotConverged("the predicted Hamiltonian is not finite: lower the learning rate")
        model = self._models.get(key)
        fresh = model is None or model.age >= model.life
        if model is None or model.age >= model.life:
            model = self._evaluate(key, structure, values, settings)
        elif self.reuse > 1:
            self._models.move_to_end(key)
        model.age += 1
        layout = model.centre.layout
        h = model.kpoints.symmetric(_precise(values, layout, model.centre.spin))
        away = model.centre - h
        slope = model.slope(away)
        excess = -0.5 * float((real_parts(slope) * real_parts(away.values)).sum())
        gradient = slope - self.residual_weight * away.values
        return EnergyOutcome(model.free, gradient, excess, float(away.values.abs().mean()), fresh)

    def _evaluate(self, key: Hashable, structure: Structure, values: Tensor, settings: Settings | None) -> _Model:
        problem = self.problems(key, structure, settings)
        layout = problem.functional.layout
        h = problem.kpoints.symmetric(_precise(values, layout, by_components(len(values))))
        state = problem(h)
        if not bool(torch.isfinite(state.evaluation.hamiltonian.values).all()) or state.free != state.free:
            raise NotConverged("the functional gives no finite energy for the predicted Hamiltonian")
        centre = state.evaluation.hamiltonian
        if self.reuse > 1:
            screening = self.problems.screening(key, structure, settings)
            centre = h.with_values(h.values + screening(problem, state, state.difference))
        life = self.reuse if key in self._models else max(1, self.reuse // 10)
        model = _Model(
            problem.kpoints, state.electrons.response(), centre, state.free, life, values.detach().cpu().clone()
        )
        if self.reuse > 1:
            self._remember(key, model)
        return model

    def _remember(self, key: Hashable, model: _Model) -> None:
        model.size = held_bytes(model)
        self._models[key] = model
        self._models.move_to_end(key)
        while (held := sum(m.size for m in self._models.values())) > self.problems.limit / 2 and len(self._models) > 1:
            self._models.popitem(last=False)
        self.problems.reserved = held

    def models(self) -> list[tuple[Hashable, dict[str, Any]]]:
        """What each quadratic model can be made of again, the least recently used first."""
        return [(key, {"at": m.at, "life": m.life, "age": m.age}) for key, m in self._models.items()]

    @torch.no_grad()
    def remake(
        self, key: Hashable, structure: Structure, model: Mapping[str, Any], settings: Settings | None = None
    ) -> None:
        """Evaluate the functional where it was for one of `models`, and give the quadratic model its age.

        Raises NearsightError as a call does.
        """
        found = self._evaluate(key, structure, model["at"], settings)
        found.life, found.age = model["life"], model["age"]

    def forget(self) -> None:
        """Drop the models: what they were made of is no longer where the network is."""
        self._models.clear()
        self.problems.reserved = 0


def _precise(values: Tensor, layout: BlockLayout, kind: Spin) -> BlockMatrix:
    """The hermitian part of H [components, size] in double precision, on the device of its layout."""
    double = torch.complex128 if values.is_complex() else torch.float64
    return BlockMatrix(layout, values.detach().to(layout.device, double), kind).hermitian()


def harris_excess(problem: Problem, state: SCFState) -> float:
    """E_Harris - E_KS = Tr[F (D' - D)] with D' = D(F) [Ha]: of second order in the error, below zero near the ground state."""
    f = state.evaluation.hamiltonian
    d_out = problem.solver.solve(f).density_matrix
    return float((d_out - state.density_matrix).trace(f))


def descend(predicted: Callable[[], Tensor], loss: EnergyLoss, key: Hashable, structure: Structure) -> EnergyOutcome:
    """One backward pass: the network's elements [size], or with spin [components, size], are computed, judged by the
    functional, and its gradient goes back."""
    values = predicted()
    outcome = loss(key, structure, values[None] if values.ndim == 1 else values)
    values.backward(outcome.gradient.reshape(values.shape).to(values))
    return outcome

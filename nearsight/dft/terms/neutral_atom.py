"""The potential of the neutral atoms, acting on what the density is more than theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.species import RadialFunction
from nearsight.dft.terms.contract import ALL, BoundTerm, Gradient, Slopes, State, Symmetry, System, Term


@dataclass(frozen=True)
class NeutralAtom(Term):
    """DE_na = int V_NA (n - n_atom)"""

    def on(self, system: System) -> BoundTerm:
        """With V_NA of all atoms on the mesh, of its waves only where the system is `limited`."""
        functions = {z: s.neutral_atom_potential for z, s in system.species.items()}
        return BoundNeutralAtom(system.superpose_smooth(functions), functions)


@dataclass(frozen=True, eq=False)
class BoundNeutralAtom(BoundTerm):
    """potential: V_NA [x, y, z] in Ha.  functions: of each element, of which it is the sum."""

    potential: Tensor
    functions: Mapping[int, RadialFunction]
    name: str = "DEna"

    keeps: ClassVar[frozenset[Symmetry]] = ALL
    electrostatic: ClassVar[bool] = True

    __repr__ = one_line

    def energy(self, state: State) -> Tensor:
        """int V_NA (n - n_atom) [Ha]."""
        return state.integral(self.potential, state.excess)

    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """The energy, and the potential V_NA that acts on n."""
        return self.energy(state), Gradient(scalar=self.potential)

    @torch.no_grad()
    def by_structure(self, state: State) -> Slopes:
        """dE = V_NA d(n - n_atom) + (n - n_atom) dV_NA, times the volume of a point, and that volume's change."""
        element, cell = state.mesh.volume_element, state.mesh.cell
        by_position, by_cell = state.system.superposition_slopes(self.functions, state.excess * element)
        by_cell = by_cell + torch.linalg.inv(cell).T * self.energy(state)
        weighted = self.potential * element
        return Slopes(by_position, by_cell, state.spin.charge_potential(weighted), -weighted)

    def kernel(self, state: State, change: State) -> Gradient:
        """0: E is linear in n."""
        return Gradient()

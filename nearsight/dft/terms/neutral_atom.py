"""The potential of the neutral atoms, acting on what the density is more than theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nearsight.core.display import one_line
from nearsight.dft.terms.contract import ALL, BoundTerm, Gradient, State, Symmetry, System, Term


@dataclass(frozen=True)
class NeutralAtom(Term):
    """DE_na = int V_NA (n - n_atom)"""

    def on(self, system: System) -> BoundTerm:
        """With V_NA of all atoms on the mesh, of its waves only where the system is `limited`."""
        functions = {z: s.neutral_atom_potential for z, s in system.species.items()}
        return BoundNeutralAtom(system.superpose_smooth(functions))


@dataclass(frozen=True, eq=False)
class BoundNeutralAtom(BoundTerm):
    """potential: V_NA [x, y, z] in Ha."""

    potential: Tensor
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

    def kernel(self, state: State, change: State) -> Gradient:
        """0: E is linear in n."""
        return Gradient()

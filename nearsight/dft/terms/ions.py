"""The energy of the ions alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nearsight.core.display import one_line
from nearsight.dft.terms.contract import ALL, BoundTerm, Gradient, State, Symmetry, System, Term
from nearsight.integrals import ions


@dataclass(frozen=True)
class Ions(Term):
    """E_na - E_ions: pairs of neutral atoms, less the self energies that they count."""

    def on(self, system: System) -> BoundTerm:
        """With both energies, which depend on positions and cell alone."""
        return BoundIons(*ions.ion_energies(system.structure, system.species, system.quadrature))


@dataclass(frozen=True, eq=False)
class BoundIons(BoundTerm):
    """neutral_atoms: E_na, self_energies: E_ions [Ha]."""

    neutral_atoms: Tensor
    self_energies: Tensor
    name: str = "Ena - Eions"

    keeps: ClassVar[frozenset[Symmetry]] = ALL

    __repr__ = one_line

    def energy(self, state: State) -> Tensor:
        """E_na - E_ions [Ha], whatever the state."""
        return self.neutral_atoms - self.self_energies

    def named(self, energy: Tensor) -> dict[str, Tensor]:
        """Both parts, under SIESTA's names."""
        return {"Ena": self.neutral_atoms, "Eions": self.self_energies}

    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """The energy with a gradient of 0: it does not depend on D."""
        return self.energy(state), Gradient()

    def kernel(self, state: State, change: State) -> Gradient:
        """0: the energy does not depend on D."""
        return Gradient()

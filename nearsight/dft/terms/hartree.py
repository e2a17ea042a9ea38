"""The electrostatic energy of the density among itself, less that of the atoms'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nearsight.dft.terms.contract import ALL, DirectTerm, Gradient, State, Symmetry


@dataclass(frozen=True)
class Hartree(DirectTerm):
    """DU_scf = 1/2 int V_H[dn] dn, dn = n - n_atom."""

    name: str = "DUscf"

    keeps: ClassVar[frozenset[Symmetry]] = ALL
    electrostatic: ClassVar[bool] = True

    def energy(self, state: State) -> Tensor:
        """1/2 int V_H[dn] dn [Ha]."""
        return 0.5 * state.integral(state.mesh.hartree_potential(state.excess), state.excess)

    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """The energy, and the potential V_H[dn] [x, y, z] (Ha)."""
        potential = state.mesh.hartree_potential(state.excess)
        return 0.5 * state.integral(potential, state.excess), Gradient(scalar=potential)

    def kernel(self, state: State, change: State) -> Gradient:
        """V_H of the change of the density alone: E is quadratic in n."""
        return Gradient(scalar=state.mesh.hartree_potential(change.charge))

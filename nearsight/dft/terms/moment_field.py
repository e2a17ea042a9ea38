"""A magnetic field on each atom, which acts on its Mulliken moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nearsight.core.errors import BadInput
from nearsight.core.units import HARTREE_EV
from nearsight.dft.terms.contract import DirectTerm, Gradient, State, Symmetry
from nearsight.electrons.populations import field_matrix, moments


@dataclass(frozen=True)
class MomentField(DirectTerm):
    """E = sum_a b_a . M_a[D, S] [Ha], with Mulliken's moments M_a = Tr[sigma D S] of each atom [mu_B].

    fields_ev: b of each atom, vectors [atoms, 3] (eV/mu_B); along z alone for collinear spin, nothing without spin.
    The multipliers of constrained moments are such fields (electrons/solvers/constrained.py).
    """

    fields_ev: Sequence[Sequence[float]]
    name: str = "Efield"
    keeps: ClassVar[frozenset[Symmetry]] = frozenset({Symmetry.TRANSLATION})

    @staticmethod
    def of(fields: Tensor) -> MomentField:
        """fields: [atoms, 3] (Ha/mu_B)."""
        return MomentField(tuple(map(tuple, (fields * HARTREE_EV).tolist())))

    def _fields(self, state: State) -> Tensor:
        atoms = len(state.structure)
        if len(self.fields_ev) != atoms or any(len(b) != 3 for b in self.fields_ev):
            raise BadInput(f"moment-field: fields_ev must be a vector of three numbers for each of the {atoms} atoms")
        return state.structure.positions.detach().new_tensor(self.fields_ev) / HARTREE_EV

    def energy(self, state: State) -> Tensor:
        """E [Ha]. Raises BadInput for another number of fields than there are atoms."""
        found: Tensor = (self._fields(state) * moments(state.density_matrix, state.system.overlap)).sum()
        return found

    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """E, and dE/dD = S_ij (b_a(i) + b_a(j)).sigma / 2."""
        matrix = field_matrix(self._fields(state), state.system.overlap, state.spin)
        return self.energy(state), Gradient(matrix)

    def kernel(self, state: State, change: State) -> Gradient:
        """0: E is linear in D."""
        return Gradient()

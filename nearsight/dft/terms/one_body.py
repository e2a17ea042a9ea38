"""One-body matrices: terms that are linear in the density matrix."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.dft.terms.contract import ALL, BoundTerm, Gradient, State, Symmetry, System, Term
from nearsight.integrals import two_center
from nearsight.integrals.projections import nonlocal_potential


@dataclass(frozen=True, eq=False)
class OneBody(BoundTerm):
    """E = Tr[D M]"""

    name: str
    matrix: BlockMatrix
    keeps: frozenset[Symmetry] = ALL  # type: ignore[misc]

    __repr__ = one_line

    def energy(self, state: State) -> Tensor:
        """Tr[D M] [Ha]."""
        return state.density_matrix.trace(self.matrix)

    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """The energy, and dE/dD = M."""
        return self.energy(state), Gradient(self.matrix)

    def kernel(self, state: State, change: State) -> Gradient:
        """0: E is linear in D."""
        return Gradient()


@dataclass(frozen=True)
class Kinetic(Term):
    """E_kin = Tr[D T]"""

    def on(self, system: System) -> BoundTerm:
        """With T_ij(R) = <phi_i| -nabla^2 / 2 |phi_j>."""
        return OneBody("Ekin", system.one_body(two_center.kinetic))


@dataclass(frozen=True)
class NonLocal(Term):
    """E_nl = Tr[D V_KB], V_KB = sum |chi> e_chi <chi|"""

    def on(self, system: System) -> BoundTerm:
        """With V_KB of the orbitals. Raises BadInput for a species that has j-resolved projectors alone."""
        return OneBody("Enl", nonlocal_potential(system.structure, system.species, system.layout, system.quadrature))

"""One-body matrices: terms that are linear in the density matrix."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.spin import NONE, Spin
from nearsight.dft.terms.contract import ALL, BoundTerm, Gradient, State, Symmetry, System, Term
from nearsight.integrals import two_center
from nearsight.integrals.projections import nonlocal_potential, spin_orbit_potential


@dataclass(frozen=True, eq=False)
class OneBody(BoundTerm):
    """E = Tr[D M]"""

    name: str
    matrix: BlockMatrix
    keeps: frozenset[Symmetry] = ALL  # type: ignore[misc]

    __repr__ = one_line

    @property
    def least_spin(self) -> Spin:  # type: ignore[override]
        """That of M."""
        return self.matrix.spin

    def energy(self, state: State) -> Tensor:
        """Tr[D M] [Ha]. Raises BadInput for a D that lacks the spin of M."""
        if self.matrix.spin is not NONE and state.spin is not self.matrix.spin:
            raise BadInput(f"{self.name} is of spin {self.matrix.spin}, the density matrix of spin {state.spin}")
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
        """With V_KB of the orbitals."""
        return OneBody("Enl", nonlocal_potential(system.structure, system.species, system.layout, system.quadrature))


@dataclass(frozen=True)
class SpinOrbit(Term):
    """E_nl = Tr[D V], V = sum |beta_lj Y_ljm> e_lj <Y_ljm beta_lj|, in place of `NonLocal`: with spin-orbit coupling."""

    def on(self, system: System) -> BoundTerm:
        """With V of the projectors by j. The law: it commutes with time reversal, and turns with atoms and spins alike."""
        return OneBody("Enl", spin_orbit_potential(system.structure, system.species, system.layout, system.quadrature))

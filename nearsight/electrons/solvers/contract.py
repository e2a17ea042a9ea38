"""The contract of what turns a Hamiltonian into electrons: DensitySolver, BoundSolver and the Electrons they give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import Unavailable
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.levels import Filling, Levels


class Response(Protocol):
    """chi0, the first-order change of D with H at fixed overlap and number of electrons: linear, self-adjoint, never positive.

    dOmega/dH is chi0 of F - H, since Omega = E[D] - T S has dE/dD = F and d(T S)/dD = H (docs/conventions.md).
    """

    def __call__(self, change: BlockMatrix) -> BlockMatrix:
        """dD of a hermitian dH, on its layout and of its spin."""


class Electrons(ABC):
    """What a solver makes of one Hamiltonian H.

    It promises, with S the overlap and N the number of electrons:
    Tr[D S] = N; D hermitian; Tr[W S] = Tr[D H]; D idempotent as kT -> 0 (D S D = g D, g electrons in a full level);
    D and W - mu D unchanged for H + c S, but mu moved by c; D of a turned H is the turned D.

    hamiltonian: H.  density_matrix: D.  fermi_level: mu [Ha]; where each spin has one of its own, the higher.
    entropy_term: T S [Ha].  levels: energies and occupations, or None where the solver does not know them.
    """

    hamiltonian: BlockMatrix
    density_matrix: BlockMatrix
    fermi_level: Tensor
    entropy_term: Tensor
    levels: Levels | None

    @property
    @abstractmethod
    def energy_weighted(self) -> BlockMatrix:
        """W = sum g f e C C^dagger, whose Tr[W dS] the forces need [Ha]; made when it is asked for."""

    @property
    def coefficients(self) -> Tensor:
        """C [s, k, n, n], columns, C^dagger S C = 1. Raises Unavailable where the solver has none."""
        raise Unavailable("this solver does not make the states themselves: take solver.density: dense")

    def require_levels(self) -> Levels:
        """Energies and occupations. Raises Unavailable where the solver does not know them."""
        if self.levels is None:
            raise Unavailable("this solver does not know the levels: take solver.density: dense")
        return self.levels

    def response(self) -> Response:
        """chi0 at this H. Raises Unavailable where the solver has none."""
        raise Unavailable(
            "this solver does not know how the density responds: take solver.density: dense, or no dielectric mixing"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.density_matrix!r})"


class BoundSolver(ABC):
    """A solver for one overlap, its k-points and electrons. It alone knows k-points, chunks of them and processes."""

    overlap: BlockMatrix
    kpoints: KPoints
    filling: Filling

    @abstractmethod
    def solve(self, hamiltonian: BlockMatrix) -> Electrons:
        """The electrons of a hermitian H of any spin [Ha].

        Raises BadInput for a Hamiltonian that is not finite (on a GPU it may give numbers that are none instead), or that
        lacks the time reversal by which the k-points were chosen; NotConverged where its levels are not found.
        """


class DensitySolver(ABC):
    """A way to get the density matrix D = f(H): the choice, with its settings.

    A third party's one is registered under the entry points `nearsight.solvers` and inherits the law of
    tests/laws/solvers.py.
    """

    @abstractmethod
    def bind(self, overlap: BlockMatrix, kpoints: KPoints, filling: Filling) -> BoundSolver:
        """Everything that does not depend on H. Raises NearsightError for linearly dependent orbitals."""

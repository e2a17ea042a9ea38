"""The self-consistency problem: one map H -> (levels, D, E, F) that every method iterates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.dft.functional import EnergyFunctional, Evaluation
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.levels import Filling
from nearsight.electrons.smearing import FERMI_DIRAC, Smearing
from nearsight.electrons.solvers.contract import BoundSolver, DensitySolver, Electrons
from nearsight.electrons.solvers.dense import Dense


@dataclass(frozen=True, eq=False)
class SCFState:
    """A Hamiltonian with its electrons, among them D = f(H), the energy E[D] and the Kohn-Sham matrix F = dE/dD."""

    hamiltonian: BlockMatrix
    electrons: Electrons
    evaluation: Evaluation

    __repr__ = one_line

    @property
    def density_matrix(self) -> BlockMatrix:
        """D = f(H)"""
        return self.electrons.density_matrix

    @cached_property
    def _told(self) -> dict[str, float]:
        """What `look` fetched."""
        return {}

    def look(self, *further: Tensor) -> list[list[float]]:
        """Fetch the figures of this state, and other tensors' elements with them, in one transfer from the device."""
        levels = self.electrons.levels
        own = {
            "total": self.evaluation.total,
            "entropy_term": self.electrons.entropy_term,
            "residual": self.difference.abs().max(),
            "fermi_level": self.electrons.fermi_level,
        }
        figures = torch.stack([v.detach().to(self.evaluation.total) for v in own.values()])
        ends = figures.new_zeros(0) if levels is None else levels.ends.to(figures)
        values, found, *rest = fetch(figures, ends, *further)
        self._told.update(zip(own, values, strict=True))
        if levels is not None:
            levels.know(*(int(n) for n in found))
        return rest

    def _figure(self, name: str) -> float:
        if not self._told:
            self.look()
        return self._told[name]

    @property
    def total(self) -> float:
        """E [Ha]"""
        return self._figure("total")

    @property
    def free(self) -> float:
        """Omega = E - T S [Ha], the variational quantity."""
        return self.total - self._figure("entropy_term")

    @property
    def fermi_level(self) -> float:
        """mu [Ha]"""
        return self._figure("fermi_level")

    @cached_property
    def difference(self) -> Tensor:
        """F[D(H)] - H, zero at self-consistency [components, size]."""
        return self.evaluation.hamiltonian.values - self.hamiltonian.values

    @property
    def residual(self) -> float:
        """Largest element of F - H [Ha]."""
        return self._figure("residual")


@dataclass(frozen=True, eq=False)
class Step:
    """One iteration: total and free energy [Ha], largest element of F - H [Ha], Fermi level [Ha].

    gradient: norm of dOmega/dH, where the method computes it.
    """

    iteration: int
    total: float
    free: float
    residual: float
    fermi_level: float
    gradient: float | None = None

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Problem:
    """A functional, and the solver that gives the electrons of a Hamiltonian: the map H -> D -> F.

    observe: called with every state.

    Where the space group G reduced the k-points, E[D] is minimised among density matrices that have its symmetry. For them
    E[D] equals 1/|G| sum_g E[U_g D U_g^T], whose derivative is the symmetric part of dE/dD: this is F. The two energies differ
    for other D only because the mesh's finite differences and Fourier box do not have all symmetries of the crystal.
    """

    functional: EnergyFunctional
    solver: BoundSolver
    observe: Callable[[SCFState], None] | None = None

    __repr__ = one_line

    @staticmethod
    def of(
        functional: EnergyFunctional,
        kpoints: KPoints,
        kT: float,
        moment: float | None = None,
        smearing: Smearing = FERMI_DIRAC,
        solver: DensitySolver | None = None,
    ) -> Problem:
        """kT: width of the smearing [Ha].  moment: of collinear spin, to hold [mu_B]; None: free.  solver: None takes Dense().

        Raises NearsightError for linearly dependent orbitals.
        """
        filling = Filling(functional.electrons, kT, smearing, moment)
        return Problem(functional, (solver or Dense()).bind(functional.overlap, kpoints, filling))

    @property
    def kpoints(self) -> KPoints:
        """Where levels are computed."""
        return self.solver.kpoints

    @property
    def kT(self) -> float:
        """Width of the smearing [Ha]."""
        return self.solver.filling.kT

    def __call__(self, hamiltonian: BlockMatrix) -> SCFState:
        """H -> the electrons in it, E[D] and F[D] with the symmetry of the k-points; `observe` is told.

        Raises NearsightError as the solver does.
        """
        electrons = self.solver.solve(hamiltonian)
        evaluation = self.functional.evaluate(electrons.density_matrix)
        f = self.kpoints.symmetric(evaluation.hamiltonian)
        state = SCFState(hamiltonian, electrons, replace(evaluation, hamiltonian=f))
        if self.observe:
            self.observe(state)
        return state

    def hamiltonian_of_density(self, density: Tensor, density_matrix: BlockMatrix) -> BlockMatrix:
        """F[n] of a density [channels, x, y, z], with the symmetry of the k-points.

        density_matrix: for terms that depend on it beyond the density.
        """
        return self.kpoints.symmetric(self.functional.hamiltonian_of_density(density, density_matrix))

    def gradient(self, state: SCFState) -> Tensor:
        """dOmega/dH = chi0 (F - H) on the layout [components, size] (docs/conventions.md)."""
        return state.electrons.response()(state.hamiltonian.with_values(state.difference)).values

    def step(self, iteration: int, state: SCFState, gradient: float | None = None) -> Step:
        """What is told of an iteration."""
        return Step(iteration, state.total, state.free, state.residual, state.fermi_level, gradient)


def fetch(*tensors: Tensor) -> list[list[float]]:
    """The elements of several tensors of one device, in one transfer."""
    together = torch.cat([t.detach().flatten() for t in tensors]).tolist()
    ends = list(accumulate(t.numel() for t in tensors))
    return [together[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]

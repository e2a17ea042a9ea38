"""The self-consistency problem: one map H -> (levels, D, E, F) that every method iterates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.dft.functional import EnergyFunctional, Evaluation
from nearsight.electrons.eigen import InverseCholeskyFactor, factorise
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.occupations import Occupied, density_from, occupy, response
from nearsight.electrons.smearing import FERMI_DIRAC, Smearing


@dataclass(frozen=True, eq=False)
class Trial:
    """A Hamiltonian with its levels, density matrix D = f(H), energy E[D] and Kohn-Sham matrix F = dE/dD."""

    hamiltonian: BlockMatrix
    levels: Occupied
    density_matrix: BlockMatrix
    evaluation: Evaluation

    @property
    def total(self) -> float:
        """E [Ha]"""
        return float(self.evaluation.total)

    @property
    def free(self) -> float:
        """Omega = E - T S [Ha], the variational quantity."""
        return self.total - float(self.levels.entropy_term)

    @property
    def difference(self) -> Tensor:
        """F[D(H)] - H, zero at self-consistency [components, size]."""
        return self.evaluation.hamiltonian.values - self.hamiltonian.values

    @property
    def residual(self) -> float:
        """Largest element of F - H [Ha]."""
        return float(self.difference.abs().max())


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


@dataclass(frozen=True, eq=False)
class Problem:
    """A functional, k-points, smearing of width kT [Ha] and, for collinear spin, a total moment to hold [mu_B] (None: free).

    Where the space group G reduced the k-points, E[D] is minimised among density matrices that have its symmetry. For them
    E[D] equals 1/|G| sum_g E[U_g D U_g^T], whose derivative is the symmetric part of dE/dD: this is F. The two energies differ
    for other D only because the mesh's finite differences and Fourier box do not have all symmetries of the crystal.
    """

    functional: EnergyFunctional
    kpoints: KPoints
    kT: float
    factor: InverseCholeskyFactor
    moment: float | None = None
    smearing: Smearing = FERMI_DIRAC
    observe: Callable[[Trial], None] | None = None

    @staticmethod
    def of(
        functional: EnergyFunctional,
        kpoints: KPoints,
        kT: float,
        moment: float | None = None,
        smearing: Smearing = FERMI_DIRAC,
    ) -> Problem:
        """Raises NearsightError for linearly dependent orbitals."""
        return Problem(functional, kpoints, kT, factorise(functional.overlap, kpoints.k), moment, smearing)

    def fill(self, hamiltonian: BlockMatrix) -> tuple[Occupied, BlockMatrix]:
        """Levels and density matrix of a Hamiltonian."""
        h_k = hamiltonian.at_k(self.kpoints.k)
        electrons = self.functional.electrons
        levels = occupy(self.factor, h_k, self.kpoints.weights, electrons, self.kT, self.moment, self.smearing)
        return levels, density_from(levels, hamiltonian, self.kpoints)

    def __call__(self, hamiltonian: BlockMatrix) -> Trial:
        levels, d = self.fill(hamiltonian)
        evaluation = self.functional.evaluate(d)
        f = self.kpoints.symmetric(evaluation.hamiltonian)
        trial = Trial(hamiltonian, levels, d, replace(evaluation, hamiltonian=f))
        if self.observe:
            self.observe(trial)
        return trial

    def hamiltonian_of_density(self, density: Tensor, density_matrix: BlockMatrix) -> BlockMatrix:
        """F[n] of a density [channels, x, y, z], with the symmetry of the k-points.

        density_matrix: for terms that depend on it beyond the density.
        """
        return self.kpoints.symmetric(self.functional.hamiltonian_of_density(density, density_matrix))

    def gradient(self, trial: Trial) -> Tensor:
        """dOmega/dH = C [K o (F~ - diag e) + dmu-term] C^dagger on the layout [components, size] (docs/conventions.md)."""
        return self.kernel(trial.levels, trial.hamiltonian.with_values(trial.difference)).values

    def kernel(self, levels: Occupied, matrix: BlockMatrix) -> BlockMatrix:
        """C [K o (C^dagger M C) + dmu-term] C^dagger for a hermitian M, on its layout: of M = F - H it is dOmega/dH.

        The negative of a positive semidefinite map, zero inside the occupied and inside the empty space at T = 0.
        """
        c = levels.coefficients
        dense = c @ response(levels, c.mH @ matrix.at_k(self.kpoints.k) @ c) @ c.mH
        return self.kpoints.integrate(levels.degeneracy * dense, matrix)

    def step(self, iteration: int, trial: Trial, gradient: float | None = None) -> Step:
        mu = float(trial.levels.fermi_level.max())
        return Step(iteration, trial.total, trial.free, trial.residual, mu, gradient)

"""The ground state: a Hamiltonian whose density matrix gives that Hamiltonian back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.units import HARTREE_EV
from nearsight.dft.functional import EnergyFunctional, Evaluation
from nearsight.dft.mixing import Pulay, PulayState
from nearsight.solve.eigen import InverseSquareRootFactor, factorise
from nearsight.solve.kpoints import KPoints
from nearsight.solve.occupations import Occupied, density_from, occupy


@dataclass(frozen=True)
class SCF:
    """Self-consistent field by mixing.

    tolerance: largest |F[D(H)] - H| of any element at the end [Ha]; the energy's error is of second order in it.
    """

    mixing: Pulay = Pulay()
    tolerance: float = 1e-5 / HARTREE_EV
    max_iterations: int = 100


@dataclass(frozen=True, eq=False)
class Step:
    """One iteration: total and free energy [Ha], largest element of F - H [Ha], Fermi level [Ha]."""

    iteration: int
    total: float
    free: float
    residual: float
    fermi_level: float


@dataclass(frozen=True, eq=False)
class GroundState:
    """hamiltonian F[D] and density_matrix D, energies by term [Ha], levels, and how it was reached.

    energies: SIESTA's names, and Ebs = Tr[D H].  total = E[D]; free = E - T S; harris: see `harris_energy`.
    """

    functional: EnergyFunctional
    kpoints: KPoints
    hamiltonian: BlockMatrix
    density_matrix: BlockMatrix
    density: Tensor
    energies: dict[str, float]
    total: float
    free: float
    harris: float
    fermi_level: float
    levels: Occupied
    converged: bool
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def extrapolated(self) -> float:
        """E(T -> 0) = (E + Omega) / 2 [Ha], exact to third order in kT for Fermi-Dirac smearing."""
        return 0.5 * (self.total + self.free)


def harris_energy(functional: EnergyFunctional, evaluation: Evaluation, d: BlockMatrix, d_out: BlockMatrix) -> Tensor:
    """E[D] + Tr[F (D' - D)], D' = D(F[D]): the Harris functional of the density of D.

    Its error has the opposite sign to leading order, so |E_KS - E_Harris| estimates the error without a reference.
    """
    return evaluation.total + (d_out - d).trace(evaluation.hamiltonian)


def ground_state(
    functional: EnergyFunctional,
    kpoints: KPoints,
    kT: float,
    method: SCF = SCF(),
    start: BlockMatrix | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> GroundState:
    """Solve the Kohn-Sham equations of a functional.

    kT: Fermi-Dirac smearing [Ha].  start: Hamiltonian to begin with; None takes that of superposed atomic densities.
    A run that does not converge returns its last state with converged = False.
    Raises NearsightError for linearly dependent orbitals.
    """
    with torch.no_grad():
        return _scf(functional, kpoints, kT, method, start, on_step)


def _scf(
    functional: EnergyFunctional,
    kpoints: KPoints,
    kT: float,
    method: SCF,
    start: BlockMatrix | None,
    on_step: Callable[[Step], None] | None,
) -> GroundState:
    factor = factorise(functional.overlap, kpoints.k)
    hamiltonian = functional.initial_hamiltonian() if start is None else start.on(functional.layout)
    kerker = method.mixing.kerker
    x = functional.atomic_density[None] if kerker and start is None else hamiltonian.values
    mixer = PulayState(method.mixing)
    steps: list[Step] = []
    converged = False
    while True:
        levels = occupy(factor, hamiltonian.at_k(kpoints.k), kpoints.weights, functional.electrons, kT)
        d = density_from(levels, hamiltonian, kpoints)
        evaluation = functional.evaluate(d)
        difference = evaluation.hamiltonian.values - hamiltonian.values
        residual = float(difference.abs().max())
        total = float(evaluation.total)
        step = Step(len(steps) + 1, total, total - float(levels.entropy_term), residual, float(levels.fermi_level))
        steps.append(step)
        if on_step:
            on_step(step)
        converged = residual < method.tolerance
        if converged or len(steps) >= method.max_iterations or residual != residual:
            break
        if kerker:
            if x.ndim != evaluation.density.ndim:  # started from a Hamiltonian: its output is the first density
                x = evaluation.density
            else:
                x = mixer.next(x, kerker(evaluation.density - x, functional.mesh))
            hamiltonian = functional.hamiltonian_of_density(x)
        else:
            x = mixer.next(x, difference)
            hamiltonian = hamiltonian.with_values(x)
    return _finish(functional, kpoints, factor, kT, levels, d, evaluation, converged, steps)


def _finish(
    functional: EnergyFunctional,
    kpoints: KPoints,
    factor: InverseSquareRootFactor,
    kT: float,
    levels: Occupied,
    d: BlockMatrix,
    evaluation: Evaluation,
    converged: bool,
    steps: list[Step],
) -> GroundState:
    f = evaluation.hamiltonian
    final = occupy(factor, f.at_k(kpoints.k), kpoints.weights, functional.electrons, kT)
    d_out = density_from(final, f, kpoints)
    energies = {name: float(e) for name, e in evaluation.energies.items()}
    energies["Ebs"] = float(d.trace(f))
    return GroundState(
        functional=functional,
        kpoints=kpoints,
        hamiltonian=f,
        density_matrix=d,
        density=evaluation.density,
        energies=energies,
        total=float(evaluation.total),
        free=float(evaluation.total) - float(levels.entropy_term),
        harris=float(harris_energy(functional, evaluation, d, d_out)),
        fermi_level=float(final.fermi_level),
        levels=final,
        converged=converged,
        steps=tuple(steps),
    )

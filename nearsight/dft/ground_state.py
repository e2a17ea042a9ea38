"""The ground state: a Hamiltonian whose density matrix gives that Hamiltonian back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import drawn_by
from nearsight.core.errors import BadInput
from nearsight.core.spin import COLLINEAR, NONE, Spin
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.dft.functional import EnergyFunctional, Evaluation, Moments
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.problem import Problem, SCFState, Step
from nearsight.dft.scf import SCF
from nearsight.electrons.constraint import MomentConstraint
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.levels import Levels
from nearsight.electrons.populations import field_matrix, populations
from nearsight.electrons.smearing import FERMI_DIRAC, Smearing
from nearsight.electrons.solvers.constrained import Constrained, ConstrainedElectrons
from nearsight.electrons.solvers.contract import DensitySolver, Electrons
from nearsight.electrons.solvers.dense import Dense


@dataclass(frozen=True, eq=False)
class GroundState:
    """hamiltonian F[D] and density_matrix D, energies by term [Ha], electrons of F[D], and how it was reached.

    energies: SIESTA's names, and Ebs = Tr[D H].  total = E[D]; free = E - T S; harris: see `harris_energy`.
    constraint: on the moments of atoms.  fields: that hold them, b_a = -dOmega/dM_a [atoms, 3] (Ha/mu_B), of which neither the
    energies nor `hamiltonian` have a share; `electrons` are in them.
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
    electrons: Electrons
    smearing: Smearing
    converged: bool
    steps: tuple[Step, ...] = field(repr=False)
    constraint: MomentConstraint | None = None
    fields: Tensor | None = None

    _repr_html_ = drawn_by("nearsight.report.notebook:ground_state")

    def __repr__(self) -> str:
        how = "converged" if self.converged else "NOT converged"
        return (
            f"GroundState({self.structure.formula}, E = {self.total * HARTREE_EV:.6f} eV, "
            f"Fermi level {self.fermi_level * HARTREE_EV:.4f} eV, {how} in {len(self.steps)} iterations)"
        )

    @property
    def structure(self) -> Structure:
        """Of the functional."""
        return self.functional.structure

    def as_calculation(self) -> Calculation:
        """Structure, matrices, levels and energies as a Calculation, on the CPU."""
        spin = self.hamiltonian.spin
        moments = self.moments.cpu()
        energies = self.energies | {"total": self.total, "free": self.free, "harris": self.harris}
        return Calculation(
            self.structure.to("cpu"),
            self.functional.overlap.to("cpu"),
            self.hamiltonian.to("cpu"),
            self.density_matrix.to("cpu"),
            None if self.fields is None else self.constrained_hamiltonian.to("cpu"),
            fermi_level=self.fermi_level,
            electrons=self.functional.electrons,
            moments=None if spin is NONE else moments[:, 2] if spin is COLLINEAR else moments,
            energies=energies | {"zero_smearing": self.extrapolated},
            converged=self.converged,
            species=self.functional.species,
            mesh=self.functional.mesh.shape,
        )

    @property
    def levels(self) -> Levels:
        """Energies and occupations [Ha]. Raises Unavailable where the solver does not know them."""
        return self.electrons.require_levels()

    @property
    def magnetic_moment(self) -> float:
        """Total moment along z, N_up - N_down [mu_B]; 0 without spin."""
        return float(self.moments[:, 2].sum())

    @property
    def moments(self) -> Tensor:
        """Mulliken's moment of each atom (m_x, m_y, m_z) [atoms, 3], mu_B; 0 without spin."""
        return self.density_matrix.spin.channel_moment(self.populations).T

    @property
    def populations(self) -> Tensor:
        """Mulliken populations of each atom [channels, atoms]: sum over its orbitals i of sum_j D_ij S_ij.

        channels: those of the density, n; n_up, n_down; n, m_x, m_y, m_z.
        """
        return populations(self.density_matrix, self.functional.overlap)

    @property
    def constrained_hamiltonian(self) -> BlockMatrix:
        """`hamiltonian` with the fields that hold moments, whose electrons these are [Ha]; the same where none are held."""
        if self.fields is None:
            return self.hamiltonian
        own = field_matrix(self.fields, self.functional.overlap, self.hamiltonian.spin)
        return self.hamiltonian.with_values(self.hamiltonian.values + own.values)

    def why_not(self) -> str:
        """What is left of a run that did not converge, in words."""
        if self.constraint is not None and not self.constraint.keeps(self.moments):
            gone = self.constraint.vanished(self.moments)
            if gone is not None:
                return f"the moment of atom {gone}, whose {self.constraint.hold} is to be held, vanishes"
            size, angle = self.constraint.deviation(self.moments)
            return f"moments {size:.1e} mu_B and {angle:.2f} degrees from those to hold"
        return f"residual {self.steps[-1].residual * HARTREE_EV:.1e} eV"

    @property
    def extrapolated(self) -> float:
        """E(T -> 0) [Ha], from E and Omega by the rule of the smearing."""
        return self.smearing.zero_temperature(self.total, self.free)


def harris_energy(evaluation: Evaluation, d: BlockMatrix, d_out: BlockMatrix) -> Tensor:
    """E[D] + Tr[F (D' - D)], D' = D(F[D]): the Harris functional of the density of D.

    Its error has the opposite sign to leading order, so |E_KS - E_Harris| estimates the error without a reference.
    """
    return evaluation.total + (d_out - d).trace(evaluation.hamiltonian)


def ground_state(
    functional: EnergyFunctional,
    kpoints: KPoints,
    kT: float,
    method: SCF | DirectMinimisation | None = None,
    start: BlockMatrix | None = None,
    on_step: Callable[[Step], None] | None = None,
    moments: Moments | None = None,
    total_moment: float | None = None,
    observe: Callable[[SCFState], None] | None = None,
    smearing: Smearing = FERMI_DIRAC,
    solver: DensitySolver | None = None,
    kind: Spin | None = None,
    constraint: MomentConstraint | None = None,
) -> GroundState:
    """Solve the Kohn-Sham equations of a functional.

    kT: width of the smearing [Ha].  method: None means SCF().
    start: Hamiltonian to begin with; None takes that of superposed atomic densities.
    moments: initial moment of each atom [mu_B], numbers (collinear spin) or vectors (spinors); None: no moments.
    kind: spin of the matrices; None: that of the moments, or what the terms need at least.
    total_moment: held fixed if given [mu_B].  constraint: on the moments of atoms.  observe: called with every state.
    solver: None takes Dense().
    A run that does not converge returns its last state with converged = False.
    Raises NearsightError for linearly dependent orbitals, or a moment larger than the electrons allow; BadInput for a start
    that is not finite or of another spin; NotConverged where numbers become none on the way.
    """
    if total_moment is not None and abs(total_moment) > functional.electrons:
        raise BadInput(
            f"a total moment of {total_moment:g} needs more than the {functional.electrons:g} electrons there are"
        )
    if constraint is not None:
        solver = Constrained(solver or Dense(), constraint)
    with torch.no_grad():
        problem = replace(Problem.of(functional, kpoints, kT, total_moment, smearing, solver), observe=observe)
        if start is None:
            start = functional.initial_hamiltonian(moments, kind)
        else:
            start = start.on(functional.layout)
            if not bool(torch.isfinite(start.values).all()):
                raise BadInput("the Hamiltonian to begin with is not finite: begin without it, or with another")
            wanted = kind or functional.spin_for(moments)
            if start.spin is NONE:
                start = start.embed(wanted)
            elif start.spin is not wanted and (kind or moments is not None):
                raise BadInput(f"the Hamiltonian to begin with has spin {start.spin}, the calculation spin {wanted}")
        state, steps, converged = (method or SCF()).solve(problem, kpoints.symmetric(start), on_step)
        return _result(problem, state, steps, converged, constraint)


def _result(
    problem: Problem, state: SCFState, steps: list[Step], converged: bool, constraint: MomentConstraint | None
) -> GroundState:
    f, d = state.evaluation.hamiltonian, state.density_matrix
    final = problem.solver.solve(f)
    energies = {name: float(e) for name, e in state.evaluation.energies.items()}
    energies["Ebs"] = float(d.trace(f))
    found = GroundState(
        functional=problem.functional,
        kpoints=problem.kpoints,
        hamiltonian=f,
        density_matrix=d,
        density=state.evaluation.density,
        energies=energies,
        total=state.total,
        free=state.free,
        harris=float(harris_energy(state.evaluation, d, final.density_matrix)),
        fermi_level=float(final.fermi_level),
        electrons=final,
        smearing=problem.solver.filling.smearing,
        converged=converged,
        steps=tuple(steps),
        constraint=constraint,
        fields=final.fields if isinstance(final, ConstrainedElectrons) else None,
    )
    held = constraint is None or constraint.keeps(found.moments)
    return replace(found, converged=converged and held)

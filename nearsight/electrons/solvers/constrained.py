"""A solver under conditions on the moments of atoms: each H gets the fields in which its density matrix keeps them.

Of all D of N electrons that keep u_c . M_a(c)[D] = t_c, the one that minimises Tr[D H] - T S is that of H + sum_c lambda_c O_c,
O_c = d(u_c . M_a(c))/dD; no field enters the energy. The lambda maximise the concave function Omega(lambda) - lambda . t (the
dual problem), whose gradient is u . M - t and whose second derivative is chi_cc' = Tr[O_c chi0 O_c']: Newton's method.
Constraining fields: Dederichs et al., Phys. Rev. Lett. 53, 2512 (1984).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.electrons.constraint import MomentConstraint
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.levels import Filling, Levels
from nearsight.electrons.populations import field_matrix, moments
from nearsight.electrons.solvers.contract import BoundSolver, DensitySolver, Electrons, Response

TOLERANCE = 1e-7  # mu_B, to which conditions are kept at each H
MOST = 30  # steps for one H
HALVINGS = 8  # of one step
LONGEST = 0.05  # of one step of a multiplier [Ha/mu_B]
SOFT = 1e-8  # of the largest curvature: directions below have no response, and no field


@dataclass(frozen=True)
class Constrained(DensitySolver):
    """solver: for each H with fields.  constraint: on the moments."""

    solver: DensitySolver
    constraint: MomentConstraint

    def bind(self, overlap: BlockMatrix, kpoints: KPoints, filling: Filling) -> ConstrainedBound:
        """As the solver's. Raises NearsightError for linearly dependent orbitals."""
        constraint = self.constraint.to(overlap.layout.device)
        return ConstrainedBound(self.solver.bind(overlap, kpoints, filling), constraint)


class ConstrainedBound(BoundSolver):
    """Begins with the fields and the curvature of the last H, and so follows a cycle (mutable)."""

    def __init__(self, inner: BoundSolver, constraint: MomentConstraint) -> None:
        self.inner, self.constraint = inner, constraint
        self.overlap, self.kpoints, self.filling = inner.overlap, inner.kpoints, inner.filling
        self._multipliers = inner.overlap.values.new_zeros(len(constraint))
        self._curvature: Tensor | None = None

    __repr__ = one_line

    def solve(self, hamiltonian: BlockMatrix) -> ConstrainedElectrons:
        """The electrons of H in the fields that keep the conditions, or as near as MOST steps come.

        Raises as the inner solver does.
        """
        here, curvature = self._at(hamiltonian, self._multipliers), self._curvature
        for _ in range(MOST):
            if here.away < TOLERANCE:
                break
            exact = curvature is None
            curvature = here.curvature if curvature is None else curvature
            step = _newton(curvature, here.off)
            there = self._at(hamiltonian, here.multipliers + step)
            if there.away < 0.5 * here.away:
                here = there
                continue
            curvature = None
            if not exact:
                continue
            # along an ascent of a concave function the slope falls: not far beyond the top
            for _ in range(HALVINGS):
                if float(there.off @ step) >= -0.5 * float(here.off @ step):
                    break
                step = 0.5 * step
                there = self._at(hamiltonian, here.multipliers + step)
            here = there
        self._curvature = here.curvature
        self._multipliers = here.multipliers
        return here

    def _at(self, hamiltonian: BlockMatrix, multipliers: Tensor) -> ConstrainedElectrons:
        fields = self.constraint.fields(multipliers)
        own = field_matrix(fields, self.overlap, hamiltonian.spin)
        found = self.inner.solve(hamiltonian.with_values(hamiltonian.values + own.values))
        return ConstrainedElectrons(hamiltonian, found, self.constraint, self.overlap, multipliers)


def _newton(curvature: Tensor, off: Tensor) -> Tensor:
    """-chi^-1 g, along what responds, and none longer than LONGEST."""
    values, vectors = torch.linalg.eigh(curvature)
    there = values.abs() > SOFT * values.abs().max()
    step = vectors @ torch.where(there, -(vectors.T @ off) / torch.where(there, values, 1.0), 0.0)
    longest = step.abs().max()
    return step * torch.clamp(LONGEST / longest, max=1.0) if bool(longest > 0) else step


@dataclass(frozen=True, eq=False, repr=False)
class ConstrainedElectrons(Electrons):
    """The electrons of H in fields on the atoms.  hamiltonian: H, without the fields.  found: in them.

    multipliers: lambda_c [conditions] (Ha/mu_B).
    """

    hamiltonian: BlockMatrix
    found: Electrons
    constraint: MomentConstraint
    overlap: BlockMatrix
    multipliers: Tensor

    __repr__ = one_line

    @property
    def density_matrix(self) -> BlockMatrix:  # type: ignore[override]
        """D, which keeps the conditions."""
        return self.found.density_matrix

    @property
    def energy_weighted(self) -> BlockMatrix:
        """W of H with the fields, whose levels these are."""
        return self.found.energy_weighted

    @property
    def fermi_level(self) -> Tensor:  # type: ignore[override]
        """mu in the fields [Ha]."""
        return self.found.fermi_level

    @property
    def entropy_term(self) -> Tensor:  # type: ignore[override]
        """T S [Ha]."""
        return self.found.entropy_term

    @property
    def levels(self) -> Levels | None:  # type: ignore[override]
        """In the fields."""
        return self.found.levels

    @property
    def coefficients(self) -> Tensor:
        """C in the fields."""
        return self.found.coefficients

    @property
    def fields(self) -> Tensor:
        """b_a [atoms, 3] (Ha/mu_B): -dOmega/dM_a."""
        return self.constraint.fields(self.multipliers)

    @cached_property
    def off(self) -> Tensor:
        """u . M - t [conditions] (mu_B)."""
        return self.constraint.off(self.density_matrix, self.overlap)

    @cached_property
    def away(self) -> float:
        """The largest of them."""
        return float(self.off.abs().max())

    @cached_property
    def _answers(self) -> tuple[Response, Tensor]:
        """chi0 in the fields, and chi0 O_c of all conditions [conditions, components, size]."""
        chi0, found = self.found.response(), []
        for unit in torch.eye(len(self.constraint), dtype=self.multipliers.dtype, device=self.multipliers.device):
            own = field_matrix(self.constraint.fields(unit), self.overlap, self.hamiltonian.spin)
            change = self.hamiltonian.with_values(own.values.to(self.hamiltonian.values.dtype))
            found.append(chi0(change).values)
        return chi0, torch.stack(found)

    def _along(self, change: BlockMatrix) -> Tensor:
        return self.constraint.along(moments(change, self.overlap))

    @cached_property
    def curvature(self) -> Tensor:
        """chi_cc' = Tr[O_c chi0 O_c'] [conditions, conditions] (mu_B^2/Ha), symmetric, never positive."""
        found = torch.stack([self._along(self.hamiltonian.with_values(v)) for v in self._answers[1]])
        return 0.5 * (found + found.T)

    def response(self) -> Response:
        """chi0 under the conditions: chi0 - chi0 O chi^-1 O chi0, after which no condition moves."""
        chi0, answers = self._answers
        inverse = torch.linalg.pinv(self.curvature, rtol=SOFT, hermitian=True)

        def of(change: BlockMatrix) -> BlockMatrix:
            plain = chi0(change)
            back = inverse @ self._along(plain)
            return plain.with_values(plain.values - torch.tensordot(back.to(answers.dtype), answers, 1))

        return of

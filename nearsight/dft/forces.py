"""Forces and stress: derivatives of the one energy with respect to positions and strain, at self-consistency.

At a ground state the energy is stationary in the density matrix under C^dagger S C = 1, so that
    dOmega/dx = dE/dx at fixed D  -  Tr[W dS/dx],    W(k) = sum_n g f_n e_n C_n C_n^dagger  (energy-weighted density matrix).
Every term that has no closed form for it is bound to a system whose positions and cell carry derivatives, and its energy is
differentiated there. The result
is the exact derivative of the energy that is computed, mesh effects included: it agrees with finite differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.structure import Structure
from nearsight.dft.ground_state import GroundState
from nearsight.dft.terms import BoundTerm, Slopes, State, System, Term
from nearsight.dft.terms.moment_field import MomentField


@dataclass(frozen=True, eq=False)
class Derivatives:
    """forces [atoms, 3] (Ha/Bohr) and stress [3, 3] (Ha/Bohr^3; positive for a cell that wants to shrink), symmetric."""

    forces: Tensor
    stress: Tensor

    __repr__ = one_line


def energy_weighted_density(gs: GroundState) -> BlockMatrix:
    """W = sum_k w g C f e C^dagger on the layout of the Hamiltonian [Ha]."""
    return gs.electrons.energy_weighted


def forces_and_stress(gs: GroundState) -> Derivatives:
    """Forces and stress of a converged ground state (of its free energy Omega = E - TS, the variational quantity).

    Where moments are held they are those at fixed moments: with fields b, of Omega + sum_a b_a . M_a.
    Where the space group reduced the k-points, they are those of the energy averaged over its operations: see `Problem`.
    """
    f = gs.functional
    choices, bound = f.choices, f.terms
    if gs.fields is not None:  # at fixed moments, which are functions of the structure too
        holding = MomentField.of(gs.fields)
        choices, bound = (*choices, holding), (*bound, holding)
    found = derivatives_at_fixed_density_matrix(
        f.system, choices, gs.density_matrix, gs.density, energy_weighted_density(gs), bound
    )
    if gs.kpoints.symmetry is None:
        return found
    group = gs.kpoints.symmetry.group
    return Derivatives(group.symmetric_vectors(found.forces), group.symmetric_tensor(found.stress))


def derivatives_at_fixed_density_matrix(
    system: System,
    terms: Sequence[Term],
    density_matrix: BlockMatrix,
    density: Tensor | None = None,
    weighted: BlockMatrix | None = None,
    bound: Sequence[BoundTerm] | None = None,
) -> Derivatives:
    """-dE/dr and dE/d(strain) / V of the terms at fixed D, less those of Tr[W S] for a matrix W.

    density: of D, where it is known [channels, x, y, z].  bound: the terms bound to the system, where they are at hand.
    Terms are taken one after another, so that only one of them keeps what its derivative needs; what all of them share, the
    densities of D and of the atoms, comes last.
    """
    still = system.structure
    d = density_matrix.with_values(density_matrix.values.detach())
    n = (system.grid.density(d) if density is None else density).detach().requires_grad_()
    atomic = system.atomic_density.detach().requires_grad_()
    structure = Structure(
        still.cell.detach().requires_grad_(), still.positions.detach().requires_grad_(), still.numbers
    )
    inputs = (structure.positions, structure.cell, n, atomic)
    totals = [torch.zeros_like(x) for x in inputs]

    def add(energy: Tensor) -> None:
        if energy.requires_grad:
            found = torch.autograd.grad(energy, inputs, allow_unused=True)
            for total, part in zip(totals, found, strict=True):
                if part is not None:
                    total += part

    def add_to(closed: Slopes) -> None:
        parts = (closed.positions, closed.cell, closed.density, closed.atomic_density)
        for total, part in zip(totals, parts, strict=True):
            if part is not None:
                total += part

    with torch.enable_grad():
        for term, here in zip(terms, bound or [t.on(system) for t in terms], strict=True):
            closed = here.by_structure(State(system, d, n.detach()))
            if closed is not None:
                add_to(closed)
                continue
            moved = system.moved(structure, atomic)
            add(term.on(moved).energy(State(moved, d, n)))
        if weighted is not None:
            add(-weighted.trace(system.moved(structure, atomic).overlap))
    with torch.no_grad():
        of_densities = system.grid.by_structure(d.spin.densities(d.values), totals[2].flatten(1), totals[3].flatten())
        by_position, by_cell = (x + y for x, y in zip(totals[:2], of_densities, strict=True))
        stress = (still.cell.T @ by_cell + still.positions.T @ by_position) / still.volume
    return Derivatives(-by_position, 0.5 * (stress + stress.T))

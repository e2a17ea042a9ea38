"""Forces and stress: derivatives of the one energy with respect to positions and strain, at self-consistency.

At a ground state the energy is stationary in the density matrix under C^dagger S C = 1, so that
    dOmega/dx = dE/dx at fixed D  -  Tr[W dS/dx],    W(k) = sum_n g f_n e_n C_n C_n^dagger  (energy-weighted density matrix).
Two-centre integrals and ion energies are differentiated automatically. On the mesh the energy is a function of four fields
(density, atomic density, neutral-atom potential, core density) and of the cell; automatic differentiation gives its
derivative in each field, and each field is a sum over atoms of functions of r - R_a, differentiated atom by atom. The
result is the exact derivative of the energy that is computed, mesh effects included: it agrees with finite differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core import so3
from nearsight.core.blocks import BlockMatrix
from nearsight.core.structure import Structure
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import GroundState
from nearsight.dft.terms import sum_over_spin
from nearsight.integrals import band_limited, ions, two_center
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.splines import UniformSplines


@dataclass(frozen=True, eq=False)
class Derivatives:
    """forces [atoms, 3] (Ha/Bohr) and stress [3, 3] (Ha/Bohr^3; positive for a cell that wants to shrink), symmetric."""

    forces: Tensor
    stress: Tensor


def energy_weighted_density(gs: GroundState) -> BlockMatrix:
    """W = sum_k w g C f e C^dagger on the layout of the Hamiltonian [Ha]."""
    return gs.electrons.energy_weighted


def forces_and_stress(gs: GroundState) -> Derivatives:
    """Forces and stress of a converged ground state (of its free energy Omega = E - TS, the variational quantity).

    Where the space group reduced the k-points, they are those of the energy averaged over its operations: see `Problem`.
    """
    f = gs.functional
    structure = f.structure
    strain = torch.zeros(3, 3, dtype=structure.cell.dtype, device=structure.cell.device, requires_grad=True)
    shifts = torch.zeros_like(structure.positions).requires_grad_()
    deform = torch.eye(3, dtype=strain.dtype, device=strain.device) + 0.5 * (strain + strain.T)
    moved = Structure(structure.cell @ deform, (structure.positions + shifts) @ deform, structure.numbers)

    d, w = sum_over_spin(gs.density_matrix), sum_over_spin(energy_weighted_density(gs))
    kinetic = two_center.orbital_tables(f.species, two_center.kinetic, f.quadrature)
    t = two_center.assemble(f.layout, moved, kinetic)
    v = two_center.nonlocal_potential(moved, f.species, f.layout, f.quadrature)
    s = two_center.overlap(moved, f.species, f.layout, f.quadrature)
    energy = d.trace(t) + d.trace(v) - w.trace(s) + ions.ion_energies(moved, f.species, f.quadrature)[0]
    energy = energy + _mesh_energy(gs, Mesh(f.mesh.shape, moved.cell, f.mesh.sheet), moved)
    gradient, virial = torch.autograd.grad(energy, [shifts, strain])
    stress = virial / structure.volume
    forces, stress = -gradient, 0.5 * (stress + stress.T)
    if gs.kpoints.symmetry is None:
        return Derivatives(forces, stress)
    group = gs.kpoints.symmetry.group
    return Derivatives(group.symmetric_vectors(forces), group.symmetric_tensor(stress))


def _mesh_energy(gs: GroundState, mesh: Mesh, moved: Structure) -> Tensor:
    """A scalar whose derivative in the moved structure is that of the mesh energy at fixed D (its value is not the energy)."""
    f = gs.functional
    fields = [
        x.detach().clone().requires_grad_() for x in (gs.density, f.atomic_density, f.neutral_atom.potential, f.core)
    ]
    explicit = f.mesh_energy(fields[0], fields[1], fields[2], fields[3], mesh)
    adjoints = torch.autograd.grad(explicit, fields, retain_graph=True)
    total = explicit  # carries the dependence on the cell through the volume, the Coulomb kernel and the gradients
    with torch.no_grad():
        weights = f.grid.orbital_adjoint(gs.density_matrix, adjoints[0])
    flat = [a.detach().flatten() for a in adjoints[1:]]
    if f.band_limited:
        potentials = {z: s.neutral_atom_potential for z, s in f.species.items()}
        total = total + (adjoints[2].detach() * band_limited.superpose(mesh, moved, potentials)).sum()
    for atom, z in enumerate(moved.numbers.tolist()):
        total = total + _one_atom(f, moved, atom, z, weights[atom], flat)
    return total


def _one_atom(
    f: EnergyFunctional, moved: Structure, atom: int, z: int, weight: Tensor, adjoints: list[Tensor]
) -> Tensor:
    """sum over mesh points of (adjoint of each field) x (the atom's share of the field), differentiable in the structure."""
    species = f.species[z]
    radius = species.orbital_cutoff
    others = [(species.core_density, 2, f.exchange_correlation.mesh)]
    if not f.band_limited:
        others.append((species.neutral_atom_potential, 1, f.mesh))
    index, _ = f.mesh.sphere(f.structure.positions[atom], radius)
    vectors = _vectors(f.mesh.shape, moved, atom, index)
    r = _length(vectors)
    shells = [o.l for o in species.orbitals]
    harmonics = so3.solid_harmonics(max(shells), vectors)
    splines = [x.to(r) for x in UniformSplines.of([o.radial for o in species.orbitals])]
    orbitals = torch.cat([g(r) * harmonics[l] for g, l in zip(splines, shells, strict=True)], 1)
    filling = r.new_tensor(species.orbital_populations)
    atomic = orbitals.square() @ filling
    total = (weight * orbitals).sum() + (adjoints[0][f.mesh.fold(index)[0]] * atomic).sum()
    for function, field, mesh in others:
        if function is not None:
            index, _ = mesh.sphere(f.structure.positions[atom], function.cutoff)
            r = _length(_vectors(mesh.shape, moved, atom, index))
            spline = UniformSplines.through(function.values[None], function.spacing).to(r)
            total = total + (adjoints[field][mesh.fold(index)[0]] * spline(r)[:, 0]).sum()
    return total


def _vectors(shape: tuple[int, int, int], moved: Structure, atom: int, index: Tensor) -> Tensor:
    """From the atom to mesh points [n, 3], which move with the cell."""
    fractional = index.to(moved.cell) / moved.cell.new_tensor(shape)
    return fractional @ moved.cell - moved.positions[atom]


def _length(vectors: Tensor) -> Tensor:
    squared = vectors.square().sum(-1)
    at_atom = squared < 1e-24
    return torch.where(at_atom, 0.0, torch.where(at_atom, 1.0, squared).sqrt())

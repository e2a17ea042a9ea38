"""H0 of a part of a crystal: blocks of some atoms, from a tile of its mesh with all atoms that reach into them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.structure import Structure
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.settings import Settings
from nearsight.dft.setup import quadrature_for, refinement_near_nuclei
from nearsight.dft.terms import System, kohn_sham
from nearsight.dft.terms.ions import Ions
from nearsight.integrals.fine_spheres import NEIGHBOURS, RADIUS
from nearsight.integrals.grid import GridOrbitals
from nearsight.integrals.mesh import STENCIL, Mesh
from nearsight.integrals.two_center import EXACT
from nearsight.xc.functionals import functional as xc_functional


def reach(species: Mapping[int, Species], step: float) -> float:
    """How far an atom may be from one of the atoms whose blocks it changes [Bohr].  step: of the mesh.

    A block is an integral over what its atoms' orbitals reach; there the potential depends on densities and potentials of atoms
    that reach there, or to the points from which differences and finer spheres take the density.
    """
    orbitals = max(s.orbital_cutoff for s in species.values())
    other = max(
        max(s.orbital_cutoff, s.neutral_atom_potential.cutoff, s.projector_cutoff, _cutoff(s)) for s in species.values()
    )
    return orbitals + other + 2 * RADIUS + (NEIGHBOURS + 2 * len(STENCIL)) * step


def _cutoff(species: Species) -> float:
    return 0.0 if species.core_density is None else species.core_density.cutoff


def is_local(settings: Settings, species: Mapping[int, Species]) -> bool:
    """Whether H0 is a sum over what is near: no wave of the whole mesh enters, and no term but Kohn-Sham's."""
    limited = settings.mesh.band_limited
    if limited is None:
        limited = quadrature_for(species, settings.mesh.two_center) == EXACT
    refined = (settings.mesh.xc_refinement or 1) > 1
    return not (limited or refined or settings.functional.terms or settings.functional.electrostatics == "sheet")


@torch.no_grad()
def local_initial_hamiltonian(
    structure: Structure,
    species: Mapping[int, Species],
    settings: Settings,
    layout: BlockLayout,
    atoms: Tensor,
    mesh_shape: tuple[int, int, int],
) -> BlockMatrix:
    """H0 [Ha] of a tile on a layout: the blocks of some atoms [atoms] are right, others are not.

    layout: the pairs of those atoms, with their reverses.  mesh_shape: points of the tile's mesh.
    """
    quadrature = quadrature_for(species, settings.mesh.two_center)
    mesh = Mesh(mesh_shape, structure.cell)
    grid = GridOrbitals.near(structure, species, layout, mesh, atoms)
    system = System(structure, species, layout, mesh, grid, quadrature)
    near_nuclei = refinement_near_nuclei(settings.mesh, quadrature)
    functional = settings.functional
    every = kohn_sham(xc_functional(functional.xc), 1, near_nuclei, functional.spin_orbit != "none")
    chosen = [t for t in every if not isinstance(t, Ions)]  # which are of no block
    return EnergyFunctional.bind(system, chosen, 0.0).initial_hamiltonian()

"""Single Kohn-Sham orbitals on the mesh."""

from __future__ import annotations

import torch
from torch import Tensor

from nearsight.dft.functional import EnergyFunctional
from nearsight.integrals.atomic_functions import orbitals_of


def orbital_on_mesh(functional: EnergyFunctional, coefficients: Tensor, k: Tensor) -> Tensor:
    """psi_k(r) = sum_iR C_i exp(2 pi i k.R) phi_i(r - R) in the home cell, complex [x, y, z], 1/Bohr^(3/2).

    coefficients: C [orbitals] of one level.  k: fractional [3].  With C^dagger S(k) C = 1 it is normalised to one electron in
    a cell.  The overall phase makes the largest value real and positive.
    """
    mesh, structure = functional.mesh, functional.structure
    c = coefficients.to(torch.complex128)
    psi = torch.zeros(mesh.size, dtype=torch.complex128, device=structure.cell.device)
    offsets = functional.layout.basis.offsets.tolist()
    for atom, z in enumerate(structure.numbers.tolist()):
        species = functional.species[z]
        index, vectors = mesh.sphere(structure.positions[atom], species.orbital_cutoff)
        values = orbitals_of(species)(vectors)
        flat, cell = mesh.fold(index)
        # a point of cell T around the home atom is the home point around the atom in cell -T
        angle = -2 * torch.pi * (cell.to(values) @ k.to(values))
        phase = torch.complex(angle.cos(), angle.sin())
        psi.index_add_(0, flat, phase * (values.to(torch.complex128) @ c[offsets[atom] : offsets[atom + 1]]))
    largest = psi[psi.abs().argmax()]
    return (psi * (largest.conj() / largest.abs())).reshape(mesh.shape)

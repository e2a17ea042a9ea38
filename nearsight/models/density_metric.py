"""How wrong a density is for H: the potential that its error makes, where the electrons are.

To first order an error dn of the density moves H_ij by <i| dv |j>, dv = v_H[dn] + f_xc dn. All of H that matters stands where
orbitals are large, so that the norm

    |dn|^2 = int n_atoms dv^2 / int n_atoms,   f_xc = that of exchange, -(3 / pi)^(1/3) n_atoms^(-2/3) / 3,

the mean square of the potential over the electrons of superposed atoms, tells on-site elements and levels twice as well as a
Coulomb energy does, which weighs waves that orbitals hardly see. Quadratic in the coefficients: a matrix of the structure.
"""

from __future__ import annotations

from math import pi
from typing import Any

import torch
from torch import Tensor

from nearsight.core.memory import check_room
from nearsight.models.density_form import DensityForm

THIN = 1e-6  # density below which the slope of exchange is that of this one [1/Bohr^3]
SHARE = 1e-9  # of the electrons: points of the mesh with fewer are left out


def potential_metric(form: DensityForm, functional: Any) -> Tensor:
    """<f, g> of all functions of a functional's structure [n, n], n = atoms * count, Ha^2, float64, on the CPU."""
    structure, mesh = functional.structure, functional.mesh
    density = functional.system.atomic_density.clamp(min=0)
    slope = -((3 / pi) ** (1 / 3)) / 3 * density.clamp(min=THIN).pow(-2 / 3)
    share = (density / density.sum()).flatten()
    points = (share > SHARE / mesh.size).nonzero()[:, 0]
    n = len(structure) * form.count
    check_room(
        8.0 * n * len(points), f"the potentials of {len(structure)} atoms' densities", "take smaller cells to train on"
    )
    rows = []
    for atom in range(len(structure)):
        waves = form.of_atom(structure, mesh, atom) * mesh.size
        parts = [torch.fft.irfftn(x, s=mesh.shape, dim=(1, 2, 3)) for x in (waves * mesh.coulomb_kernel, waves)]
        rows.append((parts[0] + slope * parts[1]).flatten(1)[:, points])
    weighted = torch.cat(rows) * share[points].sqrt()
    return (weighted @ weighted.T).cpu()

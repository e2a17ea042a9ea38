"""The electrostatic energy of the density among itself, less that of the atoms'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nearsight.dft.terms.contract import ALL, DirectTerm, Gradient, Slopes, State, Symmetry
from nearsight.integrals.waves import by_inverse_cell, half_spectrum


@dataclass(frozen=True)
class Hartree(DirectTerm):
    """DU_scf = 1/2 int V_H[dn] dn, dn = n - n_atom."""

    name: str = "DUscf"

    keeps: ClassVar[frozenset[Symmetry]] = ALL
    electrostatic: ClassVar[bool] = True

    def energy(self, state: State) -> Tensor:
        """1/2 int V_H[dn] dn [Ha]."""
        return 0.5 * state.integral(state.mesh.hartree_potential(state.excess), state.excess)

    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """The energy, and the potential V_H[dn] [x, y, z] (Ha)."""
        potential = state.mesh.hartree_potential(state.excess)
        return 0.5 * state.integral(potential, state.excess), Gradient(scalar=potential)

    @torch.no_grad()
    def by_structure(self, state: State) -> Slopes | None:
        """E = V/2 sum_G 4 pi |dn(G)|^2 / G^2: the cell moves V and the waves G. For a sheet automatic."""
        mesh = state.mesh
        if mesh.sheet:
            return None
        waves = torch.fft.rfftn(state.excess)
        kernel = mesh.coulomb_kernel
        inverse, scale = torch.linalg.inv(mesh.cell), mesh.volume_element / mesh.size
        strength = half_spectrum(mesh.shape, waves.real.square() + waves.imag.square()) * kernel * scale
        energy = 0.5 * strength.sum()
        potential = torch.fft.irfftn(waves.mul_(kernel), s=mesh.shape).mul_(mesh.volume_element)
        # d(4 pi / G^2) = -(4 pi / G^2)^2 / 4 pi 2 G dG, dG = 2 pi m d(cell^-1)
        by_g2 = -0.5 * strength.mul_(kernel).div_(4 * torch.pi)
        by_cell = inverse.T * energy - inverse.T @ by_inverse_cell(by_g2, inverse) @ inverse.T
        return Slopes(None, by_cell, state.spin.charge_potential(potential), -potential)

    def kernel(self, state: State, change: State) -> Gradient:
        """V_H of the change of the density alone: E is quadratic in n."""
        return Gradient(scalar=state.mesh.hartree_potential(change.charge))

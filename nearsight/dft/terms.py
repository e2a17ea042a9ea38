"""The terms of the energy functional. Each knows its energy in a state and its share of the Kohn-Sham potential.

A state is a density matrix with the density it makes; the Kohn-Sham matrix is the derivative of the sum of energies:
F = dE/dD = (one-body matrices) + <phi| sum of potentials |phi>.  Names are SIESTA's, formulas in docs/conventions.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.spin import NONE
from nearsight.integrals.band_limited import Refinement
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.window import Window
from nearsight.xc import spin as xc_spin
from nearsight.xc.functionals import FLOOR, LDA, PBE


@dataclass(frozen=True, eq=False)
class State:
    """density_matrix, and on the mesh: density n [components, x, y, z] and excess = sum n - n_atom [x, y, z] (1/Bohr^3)."""

    density_matrix: BlockMatrix
    density: Tensor
    excess: Tensor


class Term(ABC):
    """One term of the energy: E[D], differentiable."""

    name: str

    @abstractmethod
    def energy(self, state: State) -> Tensor:
        """[Ha]"""


class MatrixTerm(Term):
    """A term that is linear in the density matrix: E = Tr[D M]."""

    matrix: BlockMatrix

    def energy(self, state: State) -> Tensor:
        return sum_over_spin(state.density_matrix).trace(self.matrix)


class PotentialTerm(Term):
    """A term that acts through a potential on the mesh."""

    @abstractmethod
    def energy_and_potential(self, state: State) -> tuple[Tensor, Tensor]:
        """E [Ha] and dE/dn(r) per volume element [1 or components, x, y, z] (Ha)."""

    def energy(self, state: State) -> Tensor:
        return self.energy_and_potential(state)[0]


def sum_over_spin(matrix: BlockMatrix) -> BlockMatrix:
    """D_up + D_down; the matrix itself without spin."""
    return matrix if matrix.spin is NONE else BlockMatrix(matrix.layout, matrix.spin.charge(matrix.values)[None])


@dataclass(frozen=True, eq=False)
class Kinetic(MatrixTerm):
    """E_kin = Tr[D T]"""

    matrix: BlockMatrix
    name: str = "Ekin"


@dataclass(frozen=True, eq=False)
class NonLocal(MatrixTerm):
    """E_nl = Tr[D V_KB]"""

    matrix: BlockMatrix
    name: str = "Enl"


@dataclass(frozen=True, eq=False)
class NeutralAtom(PotentialTerm):
    """DE_na = int V_NA (n - n_atom); V_NA [x, y, z] in Ha."""

    potential: Tensor
    mesh: Mesh
    name: str = "DEna"

    def energy_and_potential(self, state: State) -> tuple[Tensor, Tensor]:
        return _integral(self.potential, state.excess, self.mesh), self.potential[None]


def _integral(f: Tensor, g: Tensor, mesh: Mesh) -> Tensor:
    """int f g, without making the product."""
    return torch.dot(f.flatten(), g.flatten()) * mesh.volume_element


@dataclass(frozen=True, eq=False)
class Hartree(PotentialTerm):
    """DU_scf = 1/2 int V_H[dn] dn, dn = n - n_atom."""

    mesh: Mesh
    name: str = "DUscf"

    def energy_and_potential(self, state: State) -> tuple[Tensor, Tensor]:
        potential = self.mesh.hartree_potential(state.excess)
        return 0.5 * _integral(potential, state.excess, self.mesh), potential[None]


@dataclass(frozen=True, eq=False)
class ExchangeCorrelation(PotentialTerm):
    """E_xc = int e_xc(n + n_core, |grad (n + n_core)|^2), where there is density only.

    The potential is the exact derivative of the sum over mesh points: v = de/dn - div(2 de/dsigma grad n) with the adjoint
    of the same finite differences (White and Bird, Phys. Rev. B 50, 4954 (1994)).
    mesh: where it is evaluated; finer than the density's where `refinement` takes the density there.
    core: partial core density on that mesh [x, y, z].  window: the part of it that holds all density.
    """

    functional: LDA | PBE
    core: Tensor
    mesh: Mesh
    window: Window
    refinement: Refinement | None = None
    name: str = "Exc"

    @cached_property
    def _core(self) -> Tensor:
        return self.window.cut(self.core)

    def _in_window(self, density: Tensor) -> Tensor:
        return self.window.cut(density if self.refinement is None else self.refinement.up(density))

    def _on_mesh(self, potential: Tensor) -> Tensor:
        whole = self.window.paste(potential)
        return whole if self.refinement is None else self.refinement.down(whole)

    @property
    def _floor(self) -> float:
        """Below it interpolated densities are ripples around zero."""
        return FLOOR if self.refinement is None else 1e-10

    def energy(self, state: State) -> Tensor:
        """Differentiable in density and cell (for spin, through the energy density rather than its closed derivatives)."""
        if len(state.density) == 1:
            return self._plain(state)[0]
        n, gradient, active = self._spin_densities(state)
        sigma = None if gradient is None else _spin_products(gradient.flatten(2)[:, :, active])
        e = xc_spin.energy_density(self.functional, n.flatten(1)[:, active], sigma)
        return e.sum() * self.mesh.volume_element

    def energy_and_potential(self, state: State) -> tuple[Tensor, Tensor]:
        return self._plain(state) if len(state.density) == 1 else self._polarised(state)

    def _spin_densities(self, state: State) -> tuple[Tensor, Tensor | None, Tensor]:
        n = self._in_window(state.density) + 0.5 * self._core
        active = (n.sum(0) > self._floor).flatten().nonzero()[:, 0]
        gradient = None
        if self.functional.uses_gradient:
            gradient = torch.stack([self.window.gradient(x) for x in n])
        return n, gradient, active

    def _polarised(self, state: State) -> tuple[Tensor, Tensor]:
        n, gradient, active = self._spin_densities(state)
        sigma = None if gradient is None else _spin_products(gradient.flatten(2)[:, :, active])
        e, v, dsigma = xc_spin.with_derivatives(self.functional, n.flatten(1)[:, active], sigma)
        potential = torch.zeros_like(n).flatten(1).index_copy(1, active, v).reshape(n.shape)
        if gradient is not None and dsigma is not None:
            w = n.new_zeros(3, n[0].numel()).index_copy(1, active, dsigma).reshape(3, *n.shape[1:])
            up, down = gradient
            potential = torch.stack(
                [
                    potential[0] - self.window.divergence(2 * w[0] * up + w[1] * down),
                    potential[1] - self.window.divergence(2 * w[2] * down + w[1] * up),
                ]
            )
        return e.sum() * self.mesh.volume_element, torch.stack([self._on_mesh(x) for x in potential])

    def _plain(self, state: State) -> tuple[Tensor, Tensor]:
        n = self._in_window(state.density[0]) + self._core
        active = (n > self._floor).flatten().nonzero()[:, 0]
        gradient = self.window.gradient(n) if self.functional.uses_gradient else None
        local = n.flatten()[active]
        sigma = None if gradient is None else gradient.flatten(1)[:, active].square().sum(0)
        e, v, dsigma = self.functional(local, sigma)
        potential = n.new_zeros(n.numel()).index_copy(0, active, v).reshape(n.shape)
        if gradient is not None and dsigma is not None:
            weight = n.new_zeros(n.numel()).index_copy(0, active, 2 * dsigma).reshape(n.shape)
            potential = potential - self.window.divergence(weight * gradient)
        return e.sum() * self.mesh.volume_element, self._on_mesh(potential)[None]


def _spin_products(gradient: Tensor) -> Tensor:
    """up.up, up.down, down.down [3, points] of gradients [2, 3, points]."""
    up, down = gradient
    return torch.stack([(up * up).sum(0), (up * down).sum(0), (down * down).sum(0)])


@dataclass(frozen=True, eq=False)
class Ions:
    """Energies of the ions alone [Ha]: E_na (pairs of neutral atoms) and E_ions (self energies, subtracted)."""

    neutral_atoms: Tensor
    self_energies: Tensor
    names: tuple[str, str] = field(default=("Ena", "Eions"))

    @property
    def total(self) -> Tensor:
        return self.neutral_atoms - self.self_energies


def electron_count(matrix: BlockMatrix, overlap: BlockMatrix) -> Tensor:
    """Tr[D S]"""
    return sum_over_spin(matrix).trace(overlap)

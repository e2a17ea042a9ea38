"""The energy of exchange and correlation on the mesh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.dft.terms.contract import ALL, BoundTerm, Gradient, State, Symmetry, System, Term
from nearsight.integrals.band_limited import Refinement
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.window import Window
from nearsight.xc.functionals import PBE, Functional, by_parts, differentiable
from nearsight.xc.gas import FLOOR


@dataclass(frozen=True)
class ExchangeCorrelation(Term):
    """E_xc = int e_xc(n + n_core, |grad (n + n_core)|^2), where there is density only.

    refinement: how many times finer along each axis the mesh is on which it is evaluated (lessens the egg box).
    """

    functional: Functional = PBE
    refinement: int = 1

    def on(self, system: System) -> BoundTerm:
        """With the partial core density and the window of the mesh where there is any density.

        Raises BadInput for a functional of the kinetic energy density.
        """
        if self.functional.uses_kinetic:
            raise BadInput(f"{self.functional!r} needs the kinetic energy density, which the mesh does not have yet")
        cores = {z: s.core_density for z, s in system.species.items()}
        touched, mesh, refinement = system.grid.touched, system.mesh, None
        if self.refinement > 1:
            refinement = Refinement(mesh.shape, self.refinement)
            mesh = Mesh(refinement.fine, mesh.cell)
            for axis in range(3):
                touched = touched.repeat_interleave(self.refinement, axis)
        core = system.superpose(cores, mesh)
        occupied = touched | (core > 0)
        window = Window.around(mesh, occupied)
        # interpolated densities ripple outside of what orbitals touch
        inside = window.cut(occupied) if refinement is None else torch.ones(window.lengths, dtype=torch.bool)
        points = inside.flatten().nonzero()[:, 0].to(mesh.cell.device)
        return BoundExchangeCorrelation(self.functional, window.cut(core), window, points, refinement)


@dataclass(frozen=True, eq=False)
class BoundExchangeCorrelation(BoundTerm):
    """The potential is the exact derivative of the sum over mesh points: v = de/dn - div(2 de/dsigma grad n) with the adjoint
    of the same finite differences (White and Bird, Phys. Rev. B 50, 4954 (1994)).

    window: the part of its mesh that holds all density; the mesh is finer than the density's where `refinement` takes it there.
    core: partial core density in the window [x, y, z].  points: of the window, flat, that may hold density.
    """

    functional: Functional
    core: Tensor
    window: Window
    points: Tensor
    refinement: Refinement | None = None
    name: str = "Exc"

    keeps: ClassVar[frozenset[Symmetry]] = ALL

    __repr__ = one_line

    @property
    def _floor(self) -> float:
        """Below it interpolated densities are ripples around zero."""
        return FLOOR if self.refinement is None else 1e-10

    def _in_window(self, density: Tensor) -> Tensor:
        return self.window.cut(density if self.refinement is None else self.refinement.up(density))

    def _on_mesh(self, potential: Tensor) -> Tensor:
        whole = self.window.paste(potential)
        return whole if self.refinement is None else self.refinement.down(whole)

    def _inputs(self, state: State) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
        """On the window: densities [1 or 2, x, y, z] with the core, gradients [1 or 2, 3, ...]; on the points: whether there is
        density, n, sigma. Where there is none, n is 1 and sigma 0."""
        valence = state.spin.majority_minority(self._in_window(state.density))
        n = valence + self.core / len(valence)
        local = n.flatten(1).index_select(1, self.points)
        active = (local[0] if len(local) == 1 else local.sum(0)) > self._floor
        gradient = sigma = None
        if self.functional.uses_gradient:
            gradient = _stack([self.window.gradient(x) for x in n])
            sigma = torch.where(active, _products(gradient, self.points), 0.0)
        return n, gradient, active, torch.where(active, local, 1.0), sigma

    def energy(self, state: State) -> Tensor:
        """sum e(n, sigma) dV over the points that have density [Ha]."""
        _, _, active, n, sigma = self._inputs(state)
        e = torch.where(active, differentiable(self.functional, n, sigma), 0.0)
        return e.sum() * self.window.mesh.volume_element

    @torch.no_grad()
    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """The energy, and the potentials v of the class [channels, x, y, z] (Ha)."""
        n, gradient, active, local, sigma = self._inputs(state)
        found = by_parts(self.functional, local, sigma)
        energy = torch.where(active, found.e, 0.0).sum() * self.window.mesh.volume_element
        shape = n.shape[1:]
        del n, local, sigma  # fields are large, and there are many
        potential = self._spread(torch.where(active, found.by_density, 0.0), shape)
        if gradient is not None and found.by_sigma is not None:
            weight = self._spread(torch.where(active, found.by_sigma, 0.0), shape)
            del found
            for v, flux in zip(potential, _fluxes(weight, gradient), strict=True):
                v -= self.window.divergence(flux)
        potential = state.spin.along_moment(potential, lambda: self._in_window(state.density))
        return energy, Gradient(channels=_stack([self._on_mesh(x) for x in potential]))

    def _spread(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Values [m, points] in the window [m, x, y, z], zero elsewhere."""
        flat = values.new_zeros(len(values), prod(shape)).index_copy_(1, self.points, values)
        return flat.reshape(len(values), *shape)


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _products(gradient: Tensor, points: Tensor) -> Tensor:
    """|grad n|^2 [1, points], or up.up, up.down, down.down [3, points], of gradients [1 or 2, 3, x, y, z] at flat points."""
    total: Tensor | None = None
    for x in range(3):
        g = gradient[:, x].flatten(1).index_select(1, points)
        part = g * g if len(g) == 1 else torch.stack([g[0] * g[0], g[0] * g[1], g[1] * g[1]])
        total = part if total is None else total + part
    assert total is not None
    return total


def _fluxes(weight: Tensor, gradient: Tensor) -> Iterator[Tensor]:
    """de/d(grad n) [3, x, y, z] of each spin from de/dsigma; one density's takes the place of its gradient."""
    if len(gradient) == 1:
        yield gradient[0].mul_(weight[0].mul_(2))
    else:
        up, down = gradient
        yield 2 * weight[0] * up + weight[1] * down
        yield 2 * weight[2] * down + weight[1] * up

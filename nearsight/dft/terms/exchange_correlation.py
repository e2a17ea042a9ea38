"""The energy of exchange and correlation on the mesh."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.spin import Spin
from nearsight.core.structure import Structure
from nearsight.core.threads import share
from nearsight.dft.terms import local_axis
from nearsight.dft.terms.contract import ALL, BoundTerm, Gradient, Slopes, State, Symmetry, System, Term
from nearsight.dft.terms.local_axis import Axes
from nearsight.dft.terms.ripple import ripples
from nearsight.integrals.atomic_functions import (
    AtomicFunction,
    Image,
    Spherical,
    refuse_second_derivative,
    superpose,
    superposition_slopes,
    superposition_slopes_in,
)
from nearsight.integrals.band_limited import Refinement
from nearsight.integrals.fine_spheres import FineSphere, Share, fine_spheres, shares
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.window import Window
from nearsight.xc.functionals import PBE, Functional, by_parts, differentiable
from nearsight.xc.gas import FLOOR

Result = TypeVar("Result")
RIPPLE = 1e-10  # densities below it are ripples of interpolation around zero [1/Bohr^3]


@dataclass(frozen=True)
class ExchangeCorrelation(Term):
    """E_xc = int e_xc(n + n_core, |grad (n + n_core)|^2), where there is density only.

    Two remedies for the egg box.  refinement: how many times finer along each axis the mesh is on which it is evaluated.
    near_nuclei: the same in spheres (fine_spheres.py) around the nuclei alone, of those elements that ripple (ripple.py).
    axes: how gradients are taken of moments that turn from point to point (local_axis.py).
    """

    functional: Functional = PBE
    refinement: int = 1
    near_nuclei: int = 1
    axes: Axes = "variational"

    def on(self, system: System) -> BoundTerm:
        """With the partial core density and the window of the mesh where there is any density.

        Raises BadInput for a functional of the kinetic energy density, and for both remedies at once.
        """
        if self.functional.uses_kinetic:
            raise BadInput(f"{self.functional!r} needs the kinetic energy density, which the mesh does not have yet")
        if self.refinement > 1 and self.near_nuclei > 1:
            raise BadInput("xc_refinement refines the whole mesh, xc_near_nuclei spheres of it: take one of the two")
        steep = [z for z, s in system.species.items() if self.near_nuclei > 1 and ripples(s, self.functional)]
        regions = [_whole(system, self.refinement, steep)]
        if steep:
            regions += _around_atoms(system, steep, self.near_nuclei)
        regions = [replace(r, axes=self.axes) for r in regions]
        return BoundExchangeCorrelation(self.functional, tuple(regions))


def _whole(system: System, refinement: int, steep: Collection[int]) -> Region:
    """The mesh, or one that is finer everywhere; less what is summed in spheres around atoms of the elements `steep`."""
    touched, mesh, refined = system.grid.touched, system.mesh, None
    if refinement > 1:
        refined = Refinement(mesh.shape, refinement)
        mesh = Mesh(refined.fine, mesh.cell)
        for axis in range(3):
            touched = touched.repeat_interleave(refinement, axis)
    cores = Spherical.each({z: s.core_density for z, s in system.species.items()})
    core = superpose(mesh, system.structure, cores)
    occupied = touched | (core > 0)
    window = Window.around(mesh, occupied)
    # interpolated densities ripple outside of what orbitals touch
    inside = window.cut(occupied) if refined is None else torch.ones(window.lengths, dtype=torch.bool)
    points = inside.flatten().nonzero()[:, 0].to(mesh.cell.device)
    weights = None
    if steep:
        weights = 1 - window.cut(shares(mesh, system.structure, steep)).flatten().index_select(0, points)
    made = Sources(None, cores, {z: Share() for z in steep})
    floor = FLOOR if refined is None else RIPPLE
    return Region(WholeMesh(window, refined), window.cut(core), points, weights, floor, made)


def _around_atoms(system: System, steep: Collection[int], factor: int) -> Iterator[Region]:
    """A finer sphere around each atom of some elements."""
    structure = system.structure
    cores = Spherical.each({z: s.core_density for z, s in system.species.items()})
    share = {z: Share() for z in steep}
    reach = max((f.cutoff for f in cores.values()), default=0.0)
    for sphere, images in fine_spheres(system.mesh, structure, steep, factor, reach):
        weights = sphere.superpose(structure, images[:1], share).flatten().index_select(0, sphere.points)
        core = sphere.superpose(structure, images, cores) if cores else None
        yield Region(sphere, core, sphere.points, weights, RIPPLE, Sources(images, cores, share))


@dataclass(frozen=True, eq=False)
class Sources:
    """What a region's fields are sums of: partial cores and shares of elements' atoms.

    images: whose, the sphere's own first; None: all atoms, on a whole mesh.
    """

    images: list[Image] | None
    cores: Mapping[int, AtomicFunction]
    shares: Mapping[int, AtomicFunction]

    __repr__ = one_line

    def slopes(
        self, window: Window, structure: Structure, of_core: Tensor | None, of_weights: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """d(E) in positions and cell by way of core and weights, for dE/dcore and dE/dweights [x, y, z] in the window."""
        found = []
        for functions, adjoint, sign in ((self.cores, of_core, 1.0), (self.shares, of_weights, -1.0)):
            if adjoint is None or not functions:
                continue
            if self.images is None:
                found.append(superposition_slopes(window.mesh, structure, functions, sign * window.paste(adjoint)))
            else:  # a sphere's weight is its own share; of the whole mesh it is what shares leave
                images = self.images if functions is self.cores else self.images[:1]
                found.append(superposition_slopes_in(window, structure, images, functions, adjoint))
        return found


@dataclass(frozen=True, eq=False)
class WholeMesh:
    """The mesh of the density in a window of it, or of a finer mesh where there is a refinement."""

    window: Window
    refinement: Refinement | None = None

    __repr__ = one_line

    def up(self, f: Tensor) -> Tensor:
        """f [channels, x, y, z] of the density's mesh in the window."""
        return self.window.cut(f if self.refinement is None else self.refinement.up(f))

    def add_down(self, total: Tensor, f: Tensor) -> None:
        """Adds f [channels, window] to total [channels, x, y, z]: the adjoint of `up`, less the ratio of volume elements."""
        for whole, part in zip(total, f, strict=True):
            pasted = self.window.paste(part)
            whole += pasted if self.refinement is None else self.refinement.down(pasted)


@dataclass(frozen=True, eq=False)
class Region:
    """Points over which the energy is summed: where they are, their weights, and how a density gets there.

    core: partial core density in the window [x, y, z]; None: there is none.  points: of the window, flat, that may hold
    density.  weights: of the volume element at each of them; None: 1.  floor: density below which there is none.
    sources: what core and weights are made of.
    axes: of moments that turn, see `ExchangeCorrelation`.
    """

    place: WholeMesh | FineSphere
    core: Tensor | None
    points: Tensor
    weights: Tensor | None
    floor: float
    sources: Sources
    axes: Axes = "variational"

    __repr__ = one_line

    @property
    def window(self) -> Window:
        """The box of a mesh in which fields are held."""
        return self.place.window

    def inputs(
        self, functional: Functional, spin: Spin, density: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """Gradients [1 or 2, 3, ...] on the window; on the points: whether there is density, n [1 or 2], sigma. Where there is
        none, n is 1 and sigma 0."""
        n = spin.majority_minority(self.place.up(density))
        if self.core is not None:
            n = n + self.core / len(n)
        local = n.flatten(1).index_select(1, self.points)
        active = (local[0] if len(local) == 1 else local.sum(0)) > self.floor
        gradient = sigma = None
        if functional.uses_gradient:
            gradient = _stack([self.window.gradient(x) for x in n])
            sigma = torch.where(active, _products(gradient, self.points), 0.0)
        return gradient, active, torch.where(active, local, 1.0), sigma

    def energy(self, functional: Functional, spin: Spin, density: Tensor) -> Tensor:
        """sum w e(n, sigma) dV over the points that have density [Ha]."""
        if self.holds_axes(functional, spin):
            active, channels, gradients = self._held_inputs(density)
            e = local_axis.energy_of_held_axes(functional, channels, gradients)
            return self._sum(torch.where(active, e, 0.0))
        _, active, n, sigma = self.inputs(functional, spin, density)
        return self._sum(torch.where(active, differentiable(functional, n, sigma), 0.0))

    def evaluate(self, functional: Functional, spin: Spin, density: Tensor, potential: Tensor) -> Tensor:
        """The energy; adds the potential to that of the channels [channels, x, y, z] (Ha)."""
        if self.holds_axes(functional, spin):
            return self._evaluate_held(functional, density, potential)
        gradient, active, n, sigma = self.inputs(functional, spin, density)
        found = by_parts(functional, n, sigma)
        energy = self._sum(torch.where(active, found.e, 0.0))
        del n, sigma  # fields are large, and there are many
        own = self._spread(torch.where(active, found.by_density, 0.0))
        if gradient is not None and found.by_sigma is not None:
            weight = self._spread(torch.where(active, found.by_sigma, 0.0))
            del found
            for v, flux in zip(own, _fluxes(weight, gradient), strict=True):
                v -= self.window.divergence(flux)
        self.place.add_down(potential, spin.along_moment(own, lambda: self.place.up(density)))
        return energy

    def slopes(
        self, functional: Functional, spin: Spin, state: State, potential: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Derivatives in positions and cell, in parts; adds the potential to that of the channels, as `evaluate` does."""
        density, cell = state.density, state.mesh.cell
        gradient, active, n, sigma = self.inputs(functional, spin, density)
        found = by_parts(functional, n, sigma)
        e = torch.where(active, found.e, 0.0)
        still, inverse = torch.zeros_like(state.structure.positions), torch.linalg.inv(cell).T
        yield still, inverse * self._sum(e)
        element = self.window.mesh.volume_element
        own = self._spread(torch.where(active, found.by_density, 0.0))
        if gradient is not None and found.by_sigma is not None:
            weight = self._spread(torch.where(active, found.by_sigma, 0.0))
            for v, (flux, moment) in zip(own, _fluxes_with_moments(weight, gradient), strict=True):
                v -= self.window.divergence(flux)
                yield still, -(inverse @ moment) * element
        of_weights = None if self.weights is None else self._at_points(e[None])[0] * element
        of_core = None if self.core is None or not self.sources.cores else own.sum(0) * (element / len(own))
        yield from self.sources.slopes(self.window, state.structure, of_core, of_weights)
        self.place.add_down(potential, spin.along_moment(own, lambda: self.place.up(density)))

    def holds_axes(self, functional: Functional, spin: Spin) -> bool:
        """Whether gradients are taken along axes that are not differentiated."""
        return spin.turns and functional.uses_gradient and self.axes == "siesta"

    def _held_inputs(self, density: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """On the points, of a density whose moments turn: whether there is any, its channels [4], their gradients [4, 3].
        Where there is none, n is 1 and all else 0."""
        fields = self.place.up(density)
        if self.core is not None:
            fields = torch.cat([(fields[0] + self.core)[None], fields[1:]])
        channels = fields.flatten(1).index_select(1, self.points)
        active = channels[0] > self.floor
        none = torch.zeros_like(channels)
        none[0] = 1.0
        gradients = [self.window.gradient(f).flatten(1).index_select(1, self.points) for f in fields]
        return active, torch.where(active, channels, none), torch.where(active, torch.stack(gradients), 0.0)

    def _evaluate_held(self, functional: Functional, density: Tensor, potential: Tensor) -> Tensor:
        active, channels, gradients = self._held_inputs(density)
        e, by_channels, by_gradients = local_axis.derivatives_of_held_axes(functional, channels, gradients)
        own = self._spread(torch.where(active, by_channels, 0.0))
        for v, flux in zip(own, torch.where(active, by_gradients, 0.0), strict=True):
            v -= self.window.divergence(self._spread(flux))
        self.place.add_down(potential, own)
        return self._sum(torch.where(active, e, 0.0))

    def _sum(self, e: Tensor) -> Tensor:
        total = e.sum() if self.weights is None else torch.dot(e, self.weights)
        return total * self.window.mesh.volume_element

    def _spread(self, values: Tensor) -> Tensor:
        """Weighted values [m, points] in the window [m, x, y, z], zero elsewhere."""
        return self._at_points(values if self.weights is None else values * self.weights)

    def _at_points(self, values: Tensor) -> Tensor:
        """Values [m, points] in the window [m, x, y, z], zero elsewhere."""
        flat = values.new_zeros(len(values), prod(self.window.lengths)).index_copy_(1, self.points, values)
        return flat.reshape(len(values), *self.window.lengths)


@dataclass(frozen=True, eq=False)
class BoundExchangeCorrelation(BoundTerm):
    """regions: the whole mesh, then spheres.

    The potential is the exact derivative of the sum over mesh points: v = de/dn - div(2 de/dsigma grad n) with the adjoint
    of the same finite differences (White and Bird, Phys. Rev. B 50, 4954 (1994)).
    """

    functional: Functional
    regions: tuple[Region, ...]
    name: str = "Exc"

    keeps: ClassVar[frozenset[Symmetry]] = ALL

    __repr__ = one_line

    def energy(self, state: State) -> Tensor:
        """sum e(n, sigma) dV over the points that have density [Ha]."""
        total = state.density.new_zeros(())
        for region in self.regions:
            total = total + _of_region(region, self.functional, state)
        return total

    @torch.no_grad()
    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """The energy, and the potentials v of the class [channels, x, y, z] (Ha)."""
        whole, *spheres = self.regions
        potential = torch.zeros_like(state.density)
        energy = whole.evaluate(self.functional, state.spin, state.density, potential)

        def work(regions: Sequence[Region]) -> tuple[Tensor, Tensor]:
            energy, own = state.density.new_zeros(()), torch.zeros_like(potential)
            for region in regions:
                energy = energy + region.evaluate(self.functional, state.spin, state.density, own)
            return energy, own

        for part, own in _share(work, spheres):
            energy = energy + part
            potential += own
        return energy, Gradient(channels=potential)

    @torch.no_grad()
    def by_structure(self, state: State) -> Slopes | None:
        """By way of the potential, the cores, the shares of spheres, and the cell in the gradient of the density."""
        if any(r.holds_axes(self.functional, state.spin) for r in self.regions):
            return None

        def work(regions: Sequence[Region]) -> tuple[Tensor, Tensor, Tensor]:
            potential = torch.zeros_like(state.density)
            by_position, by_cell = torch.zeros_like(state.structure.positions), torch.zeros_like(state.mesh.cell)
            for region in regions:
                for positions, cell in region.slopes(self.functional, state.spin, state, potential):
                    by_position += positions
                    by_cell += cell
            return by_position, by_cell, potential

        total = work(self.regions[:1])
        for part in _share(work, self.regions[1:]):
            for own, further in zip(total, part, strict=True):
                own += further
        by_position, by_cell, potential = total
        return Slopes(by_position, by_cell, potential * state.mesh.volume_element)


def _share(work: Callable[[Sequence[Region]], Result], spheres: Sequence[Region]) -> list[Result]:
    """The work on small regions, shared among the threads of a CPU."""
    if not spheres:
        return []
    return share(work, spheres) if spheres[0].points.device.type == "cpu" else [work(spheres)]


def _products_of(flux: Tensor, gradient: Tensor) -> Tensor:
    """sum_r flux_a gradient_b [3, 3]"""
    return flux.flatten(1) @ gradient.flatten(1).T


def _fluxes_with_moments(weight: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """de/d(grad n) [3, x, y, z] of each spin from de/dsigma, and the sum over points of its products with grad n [3, 3]."""
    if len(gradient) == 1:
        flux = gradient[0] * weight[0].mul_(2)
        yield flux, _products_of(flux, gradient[0])
    else:
        for flux, own in zip(_fluxes(weight, gradient), gradient, strict=True):
            yield flux, _products_of(flux, own)


def _of_region(region: Region, functional: Functional, state: State) -> Tensor:
    """Its energy; while the structure is differentiated, its fields are made a second time rather than kept."""
    if region.weights is None or not (torch.is_grad_enabled() and region.weights.requires_grad):
        return region.energy(functional, state.spin, state.density)
    cell = region.window.mesh.cell
    found: Tensor = _MadeAgain.apply(region, functional, state.spin, state.density, region.weights, region.core, cell)
    return found


class _MadeAgain(torch.autograd.Function):
    """The energy of a region; its fields are made again for the derivatives (PyTorch's own checkpoint takes 1 s to load)."""

    @staticmethod
    def forward(ctx: Any, region: Region, functional: Functional, spin: Spin, *inputs: Any) -> Tensor:
        ctx.region, ctx.functional, ctx.spin = region, functional, spin
        ctx.save_for_backward(*inputs)
        density, weights, core, cell = inputs
        return _at(region, weights, core, cell).energy(functional, spin, density)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        free: list[Any] = [None if x is None else x.detach().requires_grad_() for x in ctx.saved_tensors]
        density, weights, core, cell = free
        with torch.enable_grad():
            energy = _at(ctx.region, weights, core, cell).energy(ctx.functional, ctx.spin, density)
            # weighted first: what `grad` does with outputs' weights takes PyTorch's symbolic shapes, half a second to load
            weighted = energy * grads[0]
            found = iter(torch.autograd.grad(weighted, [x for x in free if x is not None], allow_unused=True))
        return None, None, None, *(None if x is None else next(found) for x in free)


def _at(region: Region, weights: Tensor | None, core: Tensor | None, cell: Tensor) -> Region:
    """The region with what it is differentiated in: weights and core on its points, and the cell of its mesh."""
    window = region.window
    moved = Window(replace(window.mesh, cell=cell), window.starts, window.lengths)
    return replace(region, weights=weights, core=core, place=replace(region.place, window=moved))


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

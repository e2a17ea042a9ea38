"""Functions that atoms carry along - orbitals, densities, potentials - on the points of a mesh, and sums of them over atoms.

A sum over atoms is differentiable in positions and cell: the adjoint goes back atom by atom, in the memory of one atom.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Any

import torch
from torch import Tensor

from nearsight.core import so3
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.species import RadialFunction, Species
from nearsight.core.structure import Structure
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.splines import UniformSplines
from nearsight.integrals.window import Window


def length(vectors: Tensor) -> Tensor:
    """|v| [...] of vectors [..., 3], differentiable at 0 (with no slope there)."""
    x, y, z = vectors.unbind(-1)
    squared = x * x + y * y + z * z
    at_atom = squared < 1e-24
    return torch.where(at_atom, 0.0, torch.where(at_atom, 1.0, squared).sqrt())


class AtomicFunction(ABC):
    """A function f(r - R) of an atom at R, zero from `cutoff` on [Bohr]."""

    cutoff: float

    @abstractmethod
    def __call__(self, vectors: Tensor) -> Tensor:
        """Values [points] at vectors from the atom [points, 3]; differentiable."""

    def gradient(self, vectors: Tensor) -> Tensor:
        """grad f [points, 3] at vectors from the atom [points, 3]: of the values, or in closed form."""
        with torch.enable_grad():
            moving = vectors.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self(moving).sum(), [moving])
        found: Tensor = slope
        return found


@dataclass(frozen=True, eq=False)
class Spherical(AtomicFunction):
    """f(|r|) by the spline of its table."""

    splines: UniformSplines

    __repr__ = one_line

    @staticmethod
    def of(function: RadialFunction) -> Spherical:
        """Through the table of a function with l = 0."""
        return Spherical(UniformSplines.through(function.values[None], function.spacing))

    @staticmethod
    def each(functions: Mapping[int, RadialFunction | None]) -> dict[int, AtomicFunction]:
        """Of every element that has one."""
        return {z: Spherical.of(f) for z, f in functions.items() if f}

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Where the table ends [Bohr]."""
        return self.splines.cutoff

    def __call__(self, vectors: Tensor) -> Tensor:
        """f(|r|) [points]; differentiable in the vectors [points, 3], with no slope at the atom."""
        return self.splines.to(vectors)(length(vectors))[:, 0]

    def gradient(self, vectors: Tensor) -> Tensor:
        """(f'(r) / r) r [points, 3]."""
        r = length(vectors)
        return torch.where(r < self.cutoff, self.splines.to(vectors).slope_over_r(r), 0.0)[:, None] * vectors


@dataclass(frozen=True, eq=False)
class Orbitals:
    """All orbitals phi of a species as functions of the vector from its atom."""

    species: Species
    splines: tuple[UniformSplines, ...]

    __repr__ = one_line

    def __call__(self, vectors: Tensor) -> Tensor:
        """phi [..., orbitals] in 1/Bohr^(3/2) at vectors [..., 3]; differentiable."""
        r = length(vectors)
        shells = self.species.shells
        harmonics = so3.solid_harmonics(max(shells), vectors)
        return torch.cat([f.to(r)(r) * harmonics[l] for f, l in zip(self.splines, shells, strict=True)], -1)


@lru_cache(maxsize=256)
def orbitals_of(species: Species) -> Orbitals:
    """The orbitals of a species; their splines are made once."""
    return Orbitals(species, tuple(UniformSplines.of([o.radial for o in species.orbitals])))


@dataclass(frozen=True, eq=False)
class AtomicDensity(AtomicFunction):
    """n(|r|) = sum over shells of their population times R_l(r)^2 / 4 pi: the density of the free neutral atom."""

    species: Species

    __repr__ = one_line

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Radius of the longest orbital [Bohr]."""
        return self.species.orbital_cutoff

    def __call__(self, vectors: Tensor) -> Tensor:
        """n [points] at vectors from the atom [points, 3], 1/Bohr^3."""
        r = length(vectors)
        total = torch.zeros_like(r)
        for o, spline in zip(self.species.orbitals, orbitals_of(self.species).splines, strict=True):
            if o.population:
                value = torch.where(r < o.radial.cutoff, spline.to(r)(r)[:, 0], 0.0)
                total = total + o.population / (4 * pi) * (value * r**o.l) ** 2
        return total


Image = tuple[int, tuple[int, int, int]]  # an atom and the cell it stands in


def superpose(mesh: Mesh, structure: Structure, functions: Mapping[int, AtomicFunction]) -> Tensor:
    """sum over atoms and cells of the function of each element [x, y, z]; differentiable in positions and cell, once."""
    images = [(a, (0, 0, 0)) for a in range(len(structure))]
    total: Tensor = _Sum.apply(
        structure.positions, mesh.cell, _Everywhere(mesh.detached), _sources(structure, images, functions)
    )
    return total.reshape(mesh.shape)


def superpose_in(
    window: Window, structure: Structure, images: Sequence[Image], functions: Mapping[int, AtomicFunction]
) -> Tensor:
    """sum over some images of atoms in a window of a mesh [x, y, z]; differentiable in positions and cell, once.

    The window's first point is not folded: the images are those that stand where it is.
    """
    still = Window(window.mesh.detached, window.starts, window.lengths)
    total: Tensor = _Sum.apply(
        structure.positions, window.mesh.cell, _Inside(still), _sources(structure, images, functions)
    )
    return total.reshape(window.lengths)


def superposition_slopes(
    mesh: Mesh, structure: Structure, functions: Mapping[int, AtomicFunction], adjoint: Tensor
) -> tuple[Tensor, Tensor]:
    """d(sum_r a(r) f(r)) in positions [atoms, 3] and cell [3, 3] for what `superpose` gives, and a field a [x, y, z]."""
    images = [(a, (0, 0, 0)) for a in range(len(structure))]
    sources = _sources(structure, images, functions)
    return _slopes(structure.positions, mesh.cell, _Everywhere(mesh), sources, adjoint.flatten())


def superposition_slopes_in(
    window: Window,
    structure: Structure,
    images: Sequence[Image],
    functions: Mapping[int, AtomicFunction],
    adjoint: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same for what `superpose_in` gives, and a field on the window [x, y, z]."""
    sources = _sources(structure, images, functions)
    return _slopes(structure.positions, window.mesh.cell, _Inside(window), sources, adjoint.flatten())


def _sources(
    structure: Structure, images: Sequence[Image], functions: Mapping[int, AtomicFunction]
) -> list[tuple[int, tuple[int, int, int], AtomicFunction]]:
    numbers = structure.numbers.tolist()
    return [(a, R, functions[numbers[a]]) for a, R in images if numbers[a] in functions]


@dataclass(frozen=True, eq=False)
class _Everywhere:
    """The whole mesh, its points one after another."""

    mesh: Mesh

    @property
    def size(self) -> int:
        return self.mesh.size

    def points(self, center: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
        """Within a radius: index [n, 3], vectors from the center [n, 3], place [n]."""
        index, vectors = self.mesh.sphere(center, radius)
        return index, vectors, self.mesh.fold(index)[0]


@dataclass(frozen=True, eq=False)
class _Inside:
    """A window of a mesh, its points one after another."""

    window: Window

    @property
    def mesh(self) -> Mesh:
        return self.window.mesh

    @property
    def size(self) -> int:
        a, b, c = self.window.lengths
        return a * b * c

    def points(self, center: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
        index, vectors = self.mesh.sphere(center, radius)
        place = index - index.new_tensor(self.window.starts)
        lengths = index.new_tensor(self.window.lengths)
        inside = ((place >= 0) & (place < lengths)).all(1)
        index, vectors, place = index[inside], vectors[inside], place[inside]
        return index, vectors, (place[:, 0] * lengths[1] + place[:, 1]) * lengths[2] + place[:, 2]


def vectors_to(mesh: Mesh, position: Tensor, index: Tensor) -> Tensor:
    """From an atom to mesh points [n, 3], which move with the cell."""
    return (index.to(mesh.cell) / mesh.cell.new_tensor(mesh.shape)) @ mesh.cell - position


def pull_back(mesh: Mesh, position: Tensor, index: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """What d/d(vectors) [n, 3] means for the position [3] and the cell [3, 3] of `vectors_to`."""
    return -slope.sum(0), (index.to(mesh.cell) / mesh.cell.new_tensor(mesh.shape)).T @ slope


def refuse_second_derivative() -> None:
    """Raises BadInput where a graph of derivatives in positions or cell is asked for."""
    if torch.is_grad_enabled():
        raise BadInput("second derivatives in positions or cell are not available: take differences of forces")


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        cell: Tensor,
        where: _Everywhere | _Inside,
        sources: list[tuple[int, tuple[int, int, int], AtomicFunction]],
    ) -> Tensor:
        ctx.where, ctx.sources = where, sources
        ctx.save_for_backward(positions, cell)
        total = cell.new_zeros(where.size)
        for a, R, function in sources:
            _, vectors, place = where.points(_moved(positions[a], R, cell), function.cutoff)
            total.index_add_(0, place, function(vectors))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        positions, cell = ctx.saved_tensors
        return *_slopes(positions, cell, ctx.where, ctx.sources, grads[0]), None, None


def _slopes(
    positions: Tensor,
    cell: Tensor,
    where: _Everywhere | _Inside,
    sources: list[tuple[int, tuple[int, int, int], AtomicFunction]],
    adjoint: Tensor,
) -> tuple[Tensor, Tensor]:
    by_position, by_cell = torch.zeros_like(positions), torch.zeros_like(cell)
    for a, R, function in sources:
        position = _moved(positions[a], R, cell)
        index, vectors, place = where.points(position, function.cutoff)
        slope = adjoint.index_select(0, place)[:, None] * function.gradient(vectors)
        by_center, change = pull_back(where.mesh, position, index, slope)
        by_position[a] += by_center
        by_cell += change + torch.outer(cell.new_tensor(R), by_center)
    return by_position, by_cell


def _moved(position: Tensor, R: tuple[int, int, int], cell: Tensor) -> Tensor:
    return position + cell.new_tensor(R) @ cell

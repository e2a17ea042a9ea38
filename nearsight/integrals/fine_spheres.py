"""Spheres of a finer mesh around the atoms, on which an integrand that varies quickly near nuclei is summed.

The integral of e(r) over the mesh is corrected, atom by atom, by how far the finer sum of w e is from the coarser one:

    int e  =  sum_coarse (1 - sum_a w_a) e dV  +  sum_a sum_fine w_a e dV_fine,   w_a(r) = w(|r - R_a|)

w is 1 at the nucleus and goes to 0 at the radius of the sphere so smoothly that the mesh holds it; the w of neighbours may
overlap. Where fields on the finer mesh come from the coarser one (a density), they are interpolated along each axis.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.pairs import neighbours
from nearsight.core.structure import Structure
from nearsight.integrals.atomic_functions import AtomicFunction, Image, superpose, superpose_in
from nearsight.integrals.mesh import STENCIL, Mesh
from nearsight.integrals.window import Window

RADIUS = 1.4  # Bohr; densities of pseudo-atoms have their steep minima within 0.6 Bohr of the nucleus
NEIGHBOURS = 16  # points of the coarser mesh, along an axis, that a value of the finer one is interpolated from


@dataclass(frozen=True)
class Share(AtomicFunction):
    """w = (1 - x)^6 (1 + 6 x + 21 x^2), x = (r / cutoff)^2: 1 - O(r^6) at the nucleus, five times differentiable at the end.

    Of such polynomials the one whose own waves, of the length of a step of the mesh, are the least beside dense cores.
    """

    cutoff: float = RADIUS

    def __call__(self, vectors: Tensor) -> Tensor:
        """w [points] at vectors from the atom [points, 3]."""
        x = vectors.square().sum(-1) / self.cutoff**2
        return (1 - x).clamp(min=0).pow(6) * (1 + x * (6 + 21 * x))

    def gradient(self, vectors: Tensor) -> Tensor:
        """dw/dx = -168 x^2 (1 - x)^5, times grad x [points, 3]."""
        x = vectors.square().sum(-1) / self.cutoff**2
        slope = x.square() * (1 - x).clamp(min=0).pow(5) * (-336 / self.cutoff**2)
        return slope[:, None] * vectors


def shares(mesh: Mesh, structure: Structure, elements: Collection[int]) -> Tensor:
    """sum_a w_a [x, y, z] of the atoms of some elements on a mesh; differentiable in the structure."""
    return superpose(mesh, structure, {z: Share() for z in elements})


@lru_cache(maxsize=256)
def _interpolation(steps: int, factor: int) -> Tensor:
    """From steps + NEIGHBOURS - 1 points of a line to the steps * factor + 1 finer ones between its inner steps + 1."""
    half = NEIGHBOURS // 2
    matrix = np.zeros((steps * factor + 1, steps + NEIGHBOURS - 1))
    for fine in range(steps * factor + 1):
        base, phase = divmod(fine, factor)
        if phase == 0:
            matrix[fine, base + half - 1] = 1.0
            continue
        matrix[fine, base : base + NEIGHBOURS] = _between(phase / factor)
    return torch.as_tensor(matrix)


def _between(x: float) -> NDArray[np.float64]:
    """Shares of the points 1 - NEIGHBOURS / 2 ... NEIGHBOURS / 2 in a value at x, 0 < x < 1, of a line with steps of 1.

    Least squares over all waves up to half the highest that the line holds, constants exactly: their error is below 2e-6.
    """
    nodes = np.arange(1, NEIGHBOURS + 1) - NEIGHBOURS / 2
    one = np.ones((NEIGHBOURS, 1))
    matrix = np.block([[np.sinc(0.5 * (nodes[:, None] - nodes)), one], [one.T, np.zeros((1, 1))]])
    wanted = np.append(np.sinc(0.5 * (nodes - x)), 1.0)
    return np.asarray(np.linalg.lstsq(matrix, wanted, rcond=1e-14)[0][:NEIGHBOURS])


@dataclass(frozen=True, eq=False)
class FineSphere:
    """The finer mesh around one atom.

    mesh: the coarser one.  window: box of the finer mesh around the sphere, with room for finite differences.  points: of the
    window that are in the sphere, flat.  corner: first point of the box, of the finer mesh, not folded into the cell.
    start, steps: first coarse point and number of coarse steps of the box along each axis.  factor: how much finer it is.
    """

    mesh: Mesh
    window: Window
    points: Tensor
    corner: tuple[int, int, int]
    start: tuple[int, int, int]
    steps: tuple[int, int, int]
    factor: int

    __repr__ = one_line

    @staticmethod
    def around(mesh: Mesh, position: Tensor, factor: int) -> FineSphere:
        """The sphere around a position [3]; which points are in it is not differentiated."""
        coarse = mesh.detached
        fine = Mesh(tuple(factor * n for n in mesh.shape), coarse.cell)  # type: ignore[arg-type]
        position = position.detach()
        index, _ = fine.sphere(position, RADIUS)
        margin = len(STENCIL)
        low, high = (index.amin(0) - margin).tolist(), (index.amax(0) + margin).tolist()
        start = [floor(x / factor) for x in low]
        steps = [ceil(x / factor) - a for x, a in zip(high, start, strict=True)]
        corner = [factor * a for a in start]
        lengths = [factor * n + 1 for n in steps]
        a, b, c = (index - index.new_tensor(corner)).unbind(-1)
        points = (a * lengths[1] + b) * lengths[2] + c
        window = Window(Mesh(fine.shape, mesh.cell), _three(corner), _three(lengths))
        return FineSphere(mesh, window, points, _three(corner), _three(start), _three(steps), factor)

    def _places(self) -> Tensor:
        """Flat indices, on the coarser mesh, of the points that the box is interpolated from [x * y * z]."""
        half = NEIGHBOURS // 2
        device = self.points.device
        x, y, z = (
            (a - half + 1 + torch.arange(n + NEIGHBOURS - 1, device=device)) % size
            for a, n, size in zip(self.start, self.steps, self.mesh.shape, strict=True)
        )
        return ((x[:, None, None] * self.mesh.shape[1] + y[:, None]) * self.mesh.shape[2] + z).flatten()

    def up(self, f: Tensor) -> Tensor:
        """f [channels, x, y, z] of the coarser mesh on the window."""
        x, y, z = (_interpolation(n, self.factor).to(f) for n in self.steps)
        block = f.flatten(1).index_select(1, self._places()).reshape(len(f), x.shape[1], y.shape[1], z.shape[1])
        block = y @ (block @ z.T)
        return (x @ block.flatten(2)).reshape(len(f), *self.window.lengths)

    def add_down(self, total: Tensor, f: Tensor) -> None:
        """Adds f [channels, window] to total [channels, x, y, z]: the adjoint of `up`, less the ratio of volume elements."""
        x, y, z = (_interpolation(n, self.factor).to(f) for n in self.steps)
        block = (x.T @ f.flatten(2)).reshape(len(f), x.shape[1], *f.shape[2:])
        block = (y.T @ block) @ z
        places = self._places()
        for whole, part in zip(total, block, strict=True):  # one dimension: another way of `index_add_` is far slower
            whole.view(-1).index_add_(0, places, part.reshape(-1), alpha=1 / self.factor**3)

    def superpose(self, structure: Structure, images: list[Image], functions: Mapping[int, AtomicFunction]) -> Tensor:
        """sum of the functions of some images of atoms on the window [x, y, z]; differentiable in the structure."""
        return superpose_in(self.window, structure, images, functions)


def fine_spheres(
    mesh: Mesh, structure: Structure, elements: Collection[int], factor: int, reach: float
) -> Iterator[tuple[FineSphere, list[Image]]]:
    """The sphere of every atom of some elements, with the images of atoms (its own first) whose functions of radius `reach`
    come into it."""
    own = [(a, (0, 0, 0)) for a in range(len(structure))]
    near: dict[int, list[Image]] = {a: [image] for a, image in enumerate(own)}
    if reach > 0:
        step = float(mesh.detached.steps.norm(dim=1).max())
        i, j, R = neighbours(structure, RADIUS + reach + len(STENCIL) * step)
        for a, b, r in zip(i.tolist(), j.tolist(), R.tolist(), strict=True):
            near[a].append((b, _three(r)))
    for a, (z, position) in enumerate(zip(structure.numbers.tolist(), structure.positions, strict=True)):
        if z in elements:
            yield FineSphere.around(mesh, position, factor), near[a]


def _three(x: list[int]) -> tuple[int, int, int]:
    a, b, c = x
    return a, b, c

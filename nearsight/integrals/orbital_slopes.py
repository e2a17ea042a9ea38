"""How sums over the mesh of orbitals move with the atoms and the cell, box by box.

An orbital is phi(v) = f(r) S(v): f = R(r)/r^l of its shell, S = r^l Y_lm, v the vector from its atom to the point, so that

    grad phi = (f'(r) / r) S v + f grad S.

For weights w of orbitals at points, sum_p w grad phi is wanted for each atom and, for the cell, together with where the point
stands in its box. Nothing of it is made as vectors at points: v is linear in the place of a point in its box, and S is a
polynomial that its nodes tell (Polynomials), so that sums over points of w f and of w S f'/r with low powers of the place,
matrix products all of them, are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.species import Species
from nearsight.integrals.atomic_functions import orbitals_of
from nearsight.integrals.boxes import Batch, Boxes


@dataclass(frozen=True, eq=False)
class OrbitalSlopes:
    """Derivatives of weighted sums over orbitals on the mesh, whose boxes are given."""

    boxes: Boxes

    __repr__ = one_line

    @cached_property
    def _offsets(self) -> Tensor:
        """Places of points in their box, in steps of the mesh [points, 3]."""
        return self.boxes.offsets.to(self.boxes.mesh.steps)

    @cached_property
    def _moments(self) -> Tensor:
        """1, o and o o of those places [points, 1 + 3 + 9]."""
        o = self._offsets
        return torch.cat([torch.ones_like(o[:, :1]), o, (o[:, :, None] * o[:, None]).flatten(1)], 1)

    @cached_property
    def _nodes(self) -> Tensor:
        """Share of each node in every point, times 1 and the point's place [points, 4 * nodes]."""
        lagrange = self.boxes.polynomials.lagrange
        return torch.cat([lagrange, *(lagrange * o for o in self._offsets.T)]).T.contiguous()

    def add(self, batch: Batch, weights: Tensor, by_position: Tensor, by_cell: Tensor) -> None:
        """Adds d(sum of weights x orbitals) in positions [atoms, 3] and cell [3, 3]; weights [boxes, rows, points]."""
        images, shells = batch.images, max(len(s.orbitals) for s in self.boxes.species.values())
        weights = weights.flatten(0, 1)
        own = self._own_slopes(batch, weights, shells)
        radial = self._radial_slopes(batch, weights, shells)
        slopes = own + radial  # [images, (1, o), 3]
        by_position.index_add_(0, images.atom, -slopes[:, 0])
        shape = self.boxes.shape.to(slopes)
        first = batch.points[:, 0]  # the corner, which is never outside of the mesh
        n = self.boxes.mesh.shape
        corners = torch.stack([first // (n[1] * n[2]), first // n[2] % n[1], first % n[2]], -1)
        home = corners[images.box].to(slopes) - images.R.to(slopes) * shape
        by_cell += (home.T @ slopes[:, 0] + slopes[:, 1:].sum(0)) / shape[:, None]

    def _own_slopes(self, batch: Batch, weights: Tensor, shells: int) -> Tensor:
        """sum w f grad S [images, (1, o), 3]."""
        radial = batch.radial_functions()
        at_nodes = (weights * radial.index_select(0, batch.shell)) @ self._nodes
        at_nodes = at_nodes.reshape(len(at_nodes), 4, -1)
        harmonics = batch.harmonics.index_select(0, batch.harmonic)
        parts = [(at_nodes @ (harmonics @ d)[:, :, None])[..., 0] for d in batch.polynomials.gradients]
        by_row = torch.stack(parts, -1)  # [rows, (1, o), 3]
        image = (batch.shell // shells).clamp(max=len(batch.images.box) - 1)
        return by_row.new_zeros(len(batch.images.box), 4, 3).index_add_(0, image, by_row)

    def _radial_slopes(self, batch: Batch, weights: Tensor, shells: int) -> Tensor:
        """sum w S (f'/r) v [images, (1, o), 3]."""
        images = len(batch.images.box)
        harmonics = batch.harmonics.index_select(0, batch.harmonic) @ batch.polynomials.lagrange
        by_shell = weights.new_zeros(images * shells + 1, weights.shape[1]).index_add_(
            0, batch.shell, harmonics.mul_(weights)
        )
        by_shell = by_shell[:-1].reshape(images, shells, -1)
        slopes = _over_r(self.boxes.species, batch, self._radii(batch), by_shell)
        sums = slopes @ self._moments
        zeroth, first, second = sums[:, :1], sums[:, 1:4], sums[:, 4:].unflatten(1, (3, 3))
        steps = self.boxes.mesh.steps
        at_corner = torch.cat([zeroth, first], 1)[:, :, None] * batch.corner[:, None]
        along = torch.cat([first[:, None], second], 1) @ steps
        return at_corner + along

    def _radii(self, batch: Batch) -> Tensor:
        """From each image's atom to the points of its box [images, points]."""
        total: Tensor | None = None
        for corner, place in zip(batch.corner.T, (self._offsets @ self.boxes.mesh.steps).T, strict=True):
            x = corner[:, None] + place
            total = x * x if total is None else total.addcmul_(x, x)
        assert total is not None
        return total.sqrt_()


def _over_r(species: Mapping[int, Species], batch: Batch, r: Tensor, by_shell: Tensor) -> Tensor:
    """sum over shells of f'(r)/r times their share [images, points]; r [images, points], share [images, shells, points].

    Points that stick out of the mesh have no share.
    """
    total = torch.zeros_like(r)
    for z, s in species.items():
        image = (batch.numbers == z).nonzero()[:, 0]
        if not len(image):
            continue
        of_element, shares = r[image], by_shell[image]
        found = torch.zeros_like(of_element)
        for n, spline in enumerate(orbitals_of(s).splines):
            inside = (of_element < spline.cutoff).flatten().nonzero()[:, 0]
            slope = spline.to(r).slope_over_r(of_element.flatten()[inside])
            found.view(-1)[inside] += slope * shares[:, n].flatten()[inside]
        total[image] = found
    return total

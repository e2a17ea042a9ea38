"""Atomic orbitals on the mesh: density from a density matrix, matrix from a potential; each is the adjoint of the other.

The mesh is cut into small boxes. In each box stand, densely, the orbitals of every atom image that reaches it (rows x points)
and a map from pairs of rows to elements of the sparse matrix. Then n(r) = sum D_ij phi_i phi_j and V_ij = int phi_i v phi_j
are batched matrix products. Boxes without orbitals do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nearsight.core import so3
from nearsight.core.blocks import BlockMatrix
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import by_components
from nearsight.core.structure import Structure
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.splines import UniformSplines


@dataclass(frozen=True, eq=False)
class Batch:
    """Boxes padded to one number of rows.  orbitals [boxes, rows, points]; elements [boxes, rows * rows] (the layout's size
    where there is none); points [boxes, points] flat mesh indices (the mesh's size where a box sticks out)."""

    orbitals: Tensor
    elements: Tensor
    points: Tensor


def box_edge(n: int) -> int:
    """Points along an edge of a box: 5 to 8, whichever leaves the fewest empty points along an axis of n points."""
    return min((8, 7, 6, 5), key=lambda b: (-(-n // b) * b / n + 0.02 * abs(b - 6), b))


@dataclass(frozen=True, eq=False)
class GridOrbitals:
    """All orbitals of a structure on a mesh, in boxes. Build with `GridOrbitals.of`."""

    layout: BlockLayout
    mesh: Mesh
    batches: tuple[Batch, ...]
    atomic_density: Tensor  # of the free neutral atoms: each shell's population spread over its orbitals [x, y, z]
    places: tuple[
        Tensor, ...
    ]  # of each atom's values [points, orbitals] in the orbitals of all batches, one after another

    @staticmethod
    def of(
        structure: Structure,
        species: Mapping[int, Species],
        layout: BlockLayout,
        mesh: Mesh,
        batch_elements: int = 8_000_000,
    ) -> GridOrbitals:
        """batch_elements: how many numbers one batch of dense products may hold."""
        edges = torch.tensor([box_edge(n) for n in mesh.shape], device=layout.device)
        shape = torch.tensor(mesh.shape, device=layout.device)
        boxes = (shape + edges - 1) // edges
        atomic = mesh.cell.new_zeros(mesh.size)
        images, values, places = _orbitals_by_box(structure, species, mesh, edges, boxes, atomic)
        batches, positions = _pack(layout, mesh, edges, boxes, images, values, places, batch_elements)
        return GridOrbitals(layout, mesh, batches, atomic.reshape(mesh.shape), positions)

    @property
    def touched(self) -> Tensor:
        """Mesh points that some orbital reaches: boolean [x, y, z]."""
        flag = torch.zeros(self.mesh.size + 1, dtype=torch.bool, device=self.layout.device)
        for b in self.batches:
            flag[b.points[(b.orbitals != 0).any(1)]] = True
        return flag[:-1].reshape(self.mesh.shape)

    def density(self, matrix: BlockMatrix) -> Tensor:
        """n(r) = sum_ij,R D_ij(R) phi_i(r) phi_j(r - R) [components, x, y, z]; differentiable in the matrix."""
        n: Tensor = _Density.apply(matrix.values, self)
        return n.reshape(len(n), *self.mesh.shape)

    def matrix(self, potential: Tensor) -> BlockMatrix:
        """V_ij(R) = int phi_i(r) v(r) phi_j(r - R) dr for v [components, x, y, z]; differentiable in the potential."""
        values: Tensor = _Matrix.apply(potential.flatten(1) * self.mesh.volume_element, self)
        return BlockMatrix(self.layout, values, by_components(len(values)))

    def orbital_adjoint(self, matrix: BlockMatrix, adjoint: Tensor) -> list[Tensor]:
        """d(sum_r a(r) n(r)) / d phi_i(r) = 2 a(r) sum_j D_ij phi_j(r) for each atom [points of its sphere, orbitals].

        adjoint: a [components, x, y, z].
        """
        padded = torch.cat([matrix.values, matrix.values.new_zeros(len(matrix.values), 1)], 1)
        a = torch.cat([adjoint.flatten(1), adjoint.new_zeros(len(adjoint), 1)], 1)
        parts = []
        for b in self.batches:
            boxes, rows, _ = b.orbitals.shape
            total = torch.zeros_like(b.orbitals)
            for s in range(len(padded)):
                local = padded[s].index_select(0, b.elements.flatten()).reshape(boxes, rows, rows)
                total += 2 * torch.bmm(local, b.orbitals) * a[s][b.points][:, None]
            parts.append(total.flatten())
        flat = torch.cat([*parts, parts[0].new_zeros(1)])
        return [flat[place.long()] for place in self.places]

    def _density(self, values: Tensor) -> Tensor:
        padded = torch.cat([values, values.new_zeros(len(values), 1)], 1)
        n = values.new_zeros(len(values), self.mesh.size + 1)
        for b in self.batches:
            boxes, rows, _ = b.orbitals.shape
            for s in range(len(values)):
                local = padded[s].index_select(0, b.elements.flatten()).reshape(boxes, rows, rows)
                n[s, b.points] = (torch.bmm(local, b.orbitals) * b.orbitals).sum(1)
        return n[:, :-1]

    def _matrix(self, weighted: Tensor) -> Tensor:
        padded = torch.cat([weighted, weighted.new_zeros(len(weighted), 1)], 1)
        values = weighted.new_zeros(len(weighted), self.layout.size + 1)
        for b in self.batches:
            for s in range(len(weighted)):
                local = torch.bmm(b.orbitals * padded[s][b.points][:, None], b.orbitals.mT)
                values[s].index_add_(0, b.elements.flatten(), local.flatten())
        return values[:, :-1]


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: GridOrbitals) -> Tensor:
        ctx.grid = grid
        return grid._density(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Matrix.apply(grad.contiguous(), ctx.grid), None


class _Matrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weighted: Tensor, grid: GridOrbitals) -> Tensor:
        ctx.grid = grid
        return grid._matrix(weighted)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Density.apply(grad, ctx.grid), None


@dataclass(frozen=True, eq=False)
class _Images:
    """Atom images by the box they reach into: box [n], atom [n], cell R [n, 3].

    active: which orbitals of the atom are not zero all over the box [n, most orbitals]; only these have rows.
    """

    box: Tensor
    atom: Tensor
    R: Tensor
    active: Tensor

    @cached_property
    def rank(self) -> Tensor:
        """Row of each active orbital within its image [n, most orbitals]."""
        return self.active.cumsum(1) - 1


def _orbitals_by_box(
    structure: Structure, species: Mapping[int, Species], mesh: Mesh, edges: Tensor, boxes: Tensor, atomic: Tensor
) -> tuple[_Images, list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Orbital values of each atom [points, orbitals], with (image, point within its box) of each point; adds to `atomic`."""
    splines = {
        z: [sp.to(structure.cell) for sp in UniformSplines.of([o.radial for o in s.orbitals])]
        for z, s in species.items()
    }
    shape = torch.tensor(mesh.shape, device=edges.device)
    box, atom, cells, values, places, active = [], [], [], [], [], []
    most = max(s.orbital_count for s in species.values())
    count = 0
    for a, (position, z) in enumerate(zip(structure.positions, structure.numbers.tolist(), strict=True)):
        index, vectors = mesh.sphere(position, species[z].orbital_cutoff)
        r = vectors.norm(dim=-1)
        shells = [o.l for o in species[z].orbitals]
        harmonics = so3.solid_harmonics(max(shells), vectors)
        values.append(torch.cat([f(r) * harmonics[l] for f, l in zip(splines[z], shells, strict=True)], 1))
        flat, cell = mesh.fold(index)
        atomic.index_add_(0, flat, values[-1].square() @ values[-1].new_tensor(species[z].orbital_populations))
        inside = index - cell * shape
        which = inside // edges
        offset = inside - which * edges
        flat_box = (which[:, 0] * boxes[1] + which[:, 1]) * boxes[2] + which[:, 2]
        low = cell.amin(0)
        span = cell.amax(0) - low + 1
        shifted = cell - low
        key = ((flat_box * span[0] + shifted[:, 0]) * span[1] + shifted[:, 1]) * span[2] + shifted[:, 2]
        unique, slot = torch.unique(key, return_inverse=True)
        rest = unique
        parts = []
        for x in (2, 1, 0):
            parts.append(rest % span[x] + low[x])
            rest = rest // span[x]
        box.append(rest)
        cells.append(
            -torch.stack(parts[::-1], -1)
        )  # the point's own cell moved home: the atom stands in minus that cell
        atom.append(torch.full_like(rest, a))
        reached = values[-1].new_zeros(len(unique), most)
        reached[:, : values[-1].shape[1]] = reached.new_zeros(len(unique), values[-1].shape[1]).index_add_(
            0, slot, (values[-1] != 0).to(reached)
        )
        active.append(reached > 0)
        places.append((slot + count, (offset[:, 0] * edges[1] + offset[:, 1]) * edges[2] + offset[:, 2]))
        count += len(unique)
    return _Images(torch.cat(box), torch.cat(atom), torch.cat(cells), torch.cat(active)), values, places


def _pack(
    layout: BlockLayout,
    mesh: Mesh,
    edges: Tensor,
    boxes: Tensor,
    images: _Images,
    values: list[Tensor],
    places: list[tuple[Tensor, Tensor]],
    batch_elements: int,
) -> tuple[tuple[Batch, ...], tuple[Tensor, ...]]:
    device = layout.device
    points = int(edges.prod())
    orbitals = images.active.sum(1)
    used, box_of_image = torch.unique(images.box, return_inverse=True)
    rows = torch.zeros(len(used), dtype=torch.int64, device=device).index_add(0, box_of_image, orbitals)
    order = torch.argsort(rows, descending=True)  # boxes of like size share a batch
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=device)
    by_rank = torch.argsort(rank[box_of_image], stable=True)  # images, box after box in that order
    sorted_rank = rank[box_of_image][by_rank]
    sorted_orbitals = orbitals[by_rank]
    ends = sorted_orbitals.cumsum(0)
    box_start = torch.cat([rows.new_zeros(1), rows[order].cumsum(0)])
    first_row = ends - sorted_orbitals - box_start[sorted_rank]
    row_of_image = torch.empty_like(first_row)
    row_of_image[by_rank] = first_row

    sizes = rows[order].tolist()
    groups: list[tuple[int, int, int]] = []  # first box, last box + 1, padded rows
    start = 0
    while start < len(sizes):
        padded = sizes[start]
        stop = start
        limit = max(1, batch_elements // (padded * max(points, padded)))
        while stop < len(sizes) and stop - start < limit and sizes[stop] >= 0.85 * padded - 4:
            stop += 1
        groups.append((start, stop, padded))
        start = stop
    bases = torch.zeros(len(sizes), dtype=torch.int64, device=device)
    total = 0
    for first, last, padded in groups:
        bases[first:last] = total + torch.arange(last - first, device=device) * padded * points
        total += (last - first) * padded * points
    flat = values[0].new_zeros(total + 1)  # the last one takes what has no row
    starts = []
    for v, (image, point) in zip(values, places, strict=True):
        base = bases[rank[box_of_image[image]]] + row_of_image[image] * points + point
        index = base[:, None] + images.rank[image, : v.shape[1]] * points
        index = torch.where(images.active[image, : v.shape[1]], index, total)
        starts.append(index.to(torch.int32) if total < 2**31 else index)
        flat[index.flatten()] = v.flatten()
    flat = flat[:-1]

    point_maps = _box_points(mesh, edges, boxes, used[order])
    image_starts = torch.searchsorted(sorted_rank, torch.arange(len(sizes) + 1, device=device))
    batches = []
    position = 0
    for first, last, padded in groups:
        block = flat[position : position + (last - first) * padded * points].reshape(last - first, padded, points)
        position += block.numel()
        chosen = by_rank[image_starts[first] : image_starts[last]]
        elements = _element_map(
            layout, images, chosen, rank[box_of_image[chosen]] - first, row_of_image, last - first, padded
        )
        batches.append(Batch(block, elements, point_maps[first:last]))
    return tuple(batches), tuple(starts)


def _box_points(mesh: Mesh, edges: Tensor, boxes: Tensor, which: Tensor) -> Tensor:
    """Flat mesh index of each point of each box [boxes, points]; the mesh's size outside of the mesh."""
    corner = torch.stack([which // (boxes[1] * boxes[2]), which // boxes[2] % boxes[1], which % boxes[2]], -1) * edges
    axes = [torch.arange(int(e), device=which.device) for e in edges]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    index = corner[:, None] + offsets
    n = mesh.shape
    flat = (index[..., 0] * n[1] + index[..., 1]) * n[2] + index[..., 2]
    outside = (index >= torch.tensor(n, device=which.device)).any(-1)
    return torch.where(outside, mesh.size, flat)


def _element_map(
    layout: BlockLayout, images: _Images, chosen: Tensor, box: Tensor, row_of_image: Tensor, boxes: int, rows: int
) -> Tensor:
    """Element of the sparse matrix for each pair of rows [boxes, rows * rows], int32; the layout's size where there is none."""
    device = layout.device
    per_box = torch.bincount(box, minlength=boxes)
    slots = torch.arange(len(chosen), device=device) - (per_box.cumsum(0) - per_box)[box]
    widest = int(per_box.max())
    # pairs of images first (few); one slot more stands for rows without an orbital
    grid = torch.full((boxes, widest + 1), -1, dtype=torch.int64, device=device)
    grid[box, slots] = torch.arange(len(chosen), device=device)
    nobody = grid < 0
    atom = torch.where(nobody, 0, images.atom[chosen][grid.clamp(min=0)])
    R = images.R[chosen][grid.clamp(min=0)]
    shape = (boxes, widest + 1, widest + 1)
    pair = layout.pairs.find(atom[:, :, None].expand(shape), atom[:, None].expand(shape), R[:, None] - R[:, :, None])
    missing = (pair == len(layout.pairs)) | nobody[:, :, None] | nobody[:, None]
    start = torch.where(missing, layout.size, layout.boundaries[torch.where(missing, 0, pair)])
    # then their orbitals (many): passes over all pairs of rows, as narrow as the size allows
    narrow = torch.int32 if layout.size < 2**30 else torch.int64
    image, orbital = images.active[chosen].nonzero().unbind(1)
    place = (box[image], row_of_image[chosen][image] + images.rank[chosen][image, orbital])
    slot = torch.full((boxes, rows), widest, dtype=torch.int64, device=device)
    local = torch.zeros((boxes, rows), dtype=narrow, device=device)
    columns = torch.zeros_like(local)
    slot[place], local[place] = slots[image], orbital.to(narrow)
    columns[place] = layout.basis.counts.to(device)[images.atom[chosen][image]].to(narrow)
    by_row = start.to(narrow).gather(1, slot[:, :, None].expand(-1, -1, widest + 1))
    element = by_row.gather(2, slot[:, None].expand(-1, rows, -1))
    element += local[:, :, None] * columns[:, None]
    element += local[:, None]
    return element.clamp_(max=layout.size).to(torch.int32).flatten(1)

"""Orbitals of a structure in small boxes of mesh points: which reach where, their values, and where they stand in a matrix.

Boxes with about as many orbitals make a batch. Nothing here, nor in the kernels that read batches (grid.py), holds more than
one batch of dense numbers at a time; what is kept are the values where they are not zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import torch
from torch import Tensor

from nearsight.core import so3
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.structure import Structure
from nearsight.core.threads import each
from nearsight.integrals.atomic_functions import length, orbitals_of
from nearsight.integrals.mesh import Mesh


@dataclass(frozen=True, eq=False)
class Images:
    """Atom images by the box they reach into: box [n], atom [n], cell R [n, 3], and the row of its first orbital [n].

    active: which orbitals of the atom are not zero all over the box [n, most orbitals]; only these have rows.
    """

    box: Tensor
    atom: Tensor
    R: Tensor
    active: Tensor
    row: Tensor

    __repr__ = one_line

    @cached_property
    def rank(self) -> Tensor:
        """Row of each active orbital within its image [n, most orbitals]."""
        return self.active.cumsum(1) - 1

    def __getitem__(self, which: Tensor) -> Images:
        return Images(self.box[which], self.atom[which], self.R[which], self.active[which], self.row[which])


@dataclass(frozen=True, eq=False)
class Polynomials:
    """r^l Y_lm, l <= l_max, at the points of a box are polynomials: known from a few of its places, the nodes, exactly.

    nodes [nodes, 3]: from the first point of a box [Bohr].  lagrange [nodes, points]: each node's share in every point.
    gradients [3, nodes, nodes]: its share in the Cartesian gradient at every node [1/Bohr].
    """

    l_max: int
    nodes: Tensor
    lagrange: Tensor
    gradients: Tensor

    __repr__ = one_line

    @staticmethod
    def of(l_max: int, offsets: Tensor, steps: Tensor) -> Polynomials:
        """offsets: points of a box in steps of the mesh [points, 3].  steps: [3, 3]."""
        powers = [p for p in product(range(l_max + 1), repeat=3) if sum(p) <= l_max]
        exponents = torch.tensor(powers, device=steps.device)
        edges = offsets.amax(0).clamp(min=1).to(steps)
        nodes = exponents.to(steps) / max(l_max, 1)

        def monomials(x: Tensor) -> Tensor:
            return x[None].pow(exponents[:, None]).prod(-1)

        def slopes(x: Tensor, axis: int) -> Tensor:
            """d monomials / d x of one axis."""
            lower = exponents.clone()
            lower[:, axis] = (lower[:, axis] - 1).clamp(min=0)
            return exponents[:, axis, None] * x[None].pow(lower[:, None]).prod(-1)

        known = monomials(nodes)
        lagrange = torch.linalg.solve(known, monomials(offsets.to(steps) / edges))
        along = torch.linalg.solve(known, torch.stack([slopes(nodes, x) / edges[x] for x in range(3)]))
        gradients = torch.einsum("ax,xnm->anm", torch.linalg.inv(steps), along)
        return Polynomials(l_max, (nodes * edges) @ steps, lagrange, gradients)

    def harmonics(self, corner: Tensor) -> Tensor:
        """r^l Y_lm at the nodes [images * (l_max + 1)^2, nodes], for vectors to the first point of a box [images, 3]."""
        found = so3.solid_harmonics(self.l_max, corner[:, None] + self.nodes)
        return torch.cat(found, -1).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Boxes padded to one number of rows.

    points [boxes, points]: flat mesh indices (the mesh's size where a box sticks out).  images: whose the rows are, box
    of the batch.  numbers [images]: their elements.  corner [images, 3]: from each image's atom to the first point of its box.
    radial: R(r)/r^l of every shell of every image where it is not zero, one after another.  support [shells, points / 8]: where
    that is, eight points to a byte; the last shell is nowhere.
    harmonics [images * harmonics, nodes]: r^l Y_lm at the nodes of `polynomials`.
    shell, harmonic [boxes * rows]: of which of the two a row is made.
    elements [boxes, pairs]: of the sparse matrix, for the lower triangle of pairs of rows (the layout's size: none).
    dense: what `orbitals` gives, where there is room to keep it.
    """

    rows: int
    points: Tensor
    images: Images
    numbers: Tensor
    corner: Tensor
    radial: Tensor
    support: Tensor
    polynomials: Polynomials
    harmonics: Tensor
    shell: Tensor
    harmonic: Tensor
    elements: Tensor
    dense: Tensor | None = None

    __repr__ = one_line

    @property
    def boxes(self) -> int:
        """How many there are."""
        return len(self.points)

    def orbitals(self) -> Tensor:
        """Dense values [boxes, rows, points]."""
        if self.dense is not None:
            return self.dense
        dense = self.harmonics.index_select(0, self.harmonic) @ self.polynomials.lagrange
        dense *= self.radial_functions().index_select(0, self.shell)
        return dense.reshape(self.boxes, self.rows, -1)

    def radial_functions(self) -> Tensor:
        """R(r)/r^l of every shell at all points [shells, points]."""
        where = self.where
        return self.radial.new_zeros(where.shape).masked_scatter_(where, self.radial)

    @property
    def where(self) -> Tensor:
        """`support` as booleans [shells, points]."""
        flags = _flags(self.support.device).index_select(0, self.support.flatten().to(torch.int32))
        return flags.view(torch.bool).reshape(len(self.support), -1)[:, : self.points.shape[1]]


def _bits(flags: Tensor) -> Tensor:
    """Booleans [n, points], eight to a byte [n, bytes], the first one lowest."""
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -flags.shape[1] % 8)).unflatten(1, (-1, 8))
    return (padded << torch.arange(8, dtype=torch.uint8, device=flags.device)).sum(2, dtype=torch.uint8)


@lru_cache(maxsize=4)
def _flags(device: torch.device) -> Tensor:
    """The eight booleans of each byte, as one number of eight bytes [256]."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return bits.to(torch.uint8).view(torch.int64)[:, 0].to(device)


def _lower_triangle(n: int, device: torch.device) -> Tensor:
    """Flat places of the lower triangle of a matrix [n, n]."""
    i, j = torch.tril_indices(n, n, device=device)
    return i * n + j


def box_edge(n: int) -> int:
    """Points along an edge of a box: 5 to 8, whichever leaves the fewest empty points along an axis of n points."""
    return min((8, 7, 6, 5), key=lambda b: (-(-n // b) * b / n + 0.02 * abs(b - 6), b))


@dataclass(frozen=True, eq=False)
class Boxes:
    """How a structure's mesh is cut.  edges: points of a box [3].  counts: boxes along each axis [3].

    near: atoms whose boxes count alone [atoms]; None: all.
    """

    structure: Structure
    species: Mapping[int, Species]
    layout: BlockLayout
    mesh: Mesh
    edges: Tensor
    counts: Tensor
    near: Tensor | None = None

    __repr__ = one_line

    @staticmethod
    def of(
        structure: Structure,
        species: Mapping[int, Species],
        layout: BlockLayout,
        mesh: Mesh,
        near: Tensor | None = None,
    ) -> Boxes:
        """The mesh in boxes that leave the fewest empty points at its ends."""
        edges = torch.tensor([box_edge(n) for n in mesh.shape], device=layout.device)
        shape = torch.tensor(mesh.shape, device=layout.device)
        return Boxes(structure, species, layout, mesh, edges, (shape + edges - 1) // edges, near)

    @cached_property
    def shape(self) -> Tensor:
        """Points of the mesh along each axis [3]."""
        return torch.tensor(self.mesh.shape, device=self.edges.device)

    @cached_property
    def middle(self) -> Tensor:
        """Positions in steps of the mesh [atoms, 3]."""
        return torch.stack([p @ self.mesh.inverse_steps for p in self.structure.positions])

    @cached_property
    def offsets(self) -> Tensor:
        """Points of a box from its corner [points, 3]."""
        axes = [torch.arange(int(e), device=self.edges.device) for e in self.edges]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)

    @cached_property
    def polynomials(self) -> Polynomials:
        """Those of a box, up to the highest l of any element."""
        return Polynomials.of(max(max(s.shells) for s in self.species.values()), self.offsets, self.mesh.steps)

    def batches(self, elements: int) -> Iterator[Batch]:
        """All boxes that orbitals reach, one batch after another.  elements: how many dense numbers a batch may hold."""
        return (self._batch(*planned) for planned in self._plan(elements))

    def all_batches(self, elements: int) -> tuple[Batch, ...]:
        """The same at once; on a CPU threads share them."""
        if self.edges.device.type != "cpu":
            return tuple(self.batches(elements))
        return tuple(each(lambda planned: self._batch(*planned), tuple(self._plan(elements))))

    def _plan(self, elements: int) -> Iterator[tuple[Tensor, Images, int]]:
        """Which boxes, their images and their rows, of each batch."""
        images = self._images()
        count = images.active.sum(1)
        used, box_of_image = torch.unique(images.box, return_inverse=True)
        rows = torch.zeros(len(used), dtype=torch.int64, device=used.device).index_add(0, box_of_image, count)
        order = torch.argsort(rows, descending=True)  # boxes of like size share a batch
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=used.device)
        by_rank = torch.argsort(rank[box_of_image], stable=True)  # images, box after box in that order
        box, ends = rank[box_of_image][by_rank], count[by_rank].cumsum(0)
        starts = torch.cat([rows.new_zeros(1), rows[order].cumsum(0)])
        first_row = ends - count[by_rank] - starts[box]
        images = images[by_rank]
        images = Images(box, images.atom, images.R, images.active, first_row)
        bounds = torch.searchsorted(box, torch.arange(len(used) + 1, device=used.device)).tolist()
        for first, last, padded in _groups(rows[order].tolist(), len(self.offsets), elements):
            part = images[torch.arange(bounds[first], bounds[last], device=used.device)]
            part = Images(part.box - first, part.atom, part.R, part.active, part.row)
            yield used[order[first:last]], part, padded

    def _images(self) -> Images:
        """Of every atom, in every box that one of its orbitals reaches. Raises BadInput for a mesh that none reaches."""
        numbers = self.structure.numbers.tolist()
        most = max(s.orbital_count for s in self.species.values())
        box, atom, cells, active = [], [], [], []
        paired = set(range(len(numbers)))
        if self.near is not None:  # others have no block with one of those
            paired = set(self.layout.pairs.i[self.near[self.layout.pairs.j]].tolist())
        for a, (position, z) in enumerate(zip(self.structure.positions, numbers, strict=True)):
            if a not in paired:
                continue
            index, vectors = self.mesh.sphere(position, self.species[z].orbital_cutoff)
            if not len(index):
                shape = "x".join(str(n) for n in self.mesh.shape)
                raise BadInput(
                    f"a mesh of {shape} points has none within reach of atom {a}: take a finer one (--mesh-cutoff)"
                )
            _, cell = self.mesh.fold(index)
            which = (index - cell * self.shape) // self.edges
            flat = (which[:, 0] * self.counts[1] + which[:, 1]) * self.counts[2] + which[:, 2]
            low = cell.amin(0)
            span = cell.amax(0) - low + 1
            shifted = cell - low
            key = ((flat * span[0] + shifted[:, 0]) * span[1] + shifted[:, 1]) * span[2] + shifted[:, 2]
            rest, slot = torch.unique(key, return_inverse=True)
            parts = []
            for x in (2, 1, 0):
                parts.append(rest % span[x] + low[x])
                rest = rest // span[x]
            nearest = vectors.new_full((len(rest),), torch.inf).scatter_reduce(0, slot, length(vectors), "amin")
            box.append(rest)
            cells.append(-torch.stack(parts[::-1], -1))  # the point's own cell moved home: the atom stands in minus it
            atom.append(torch.full_like(rest, a))
            cutoffs = nearest.new_tensor(_cutoffs(self.species[z], most))
            active.append(nearest[:, None] < cutoffs)
        joined = torch.cat(box)
        images = Images(joined, torch.cat(atom), torch.cat(cells), torch.cat(active), torch.zeros_like(joined))
        if self.near is None:
            return images
        return images[torch.isin(images.box, torch.unique(images.box[self.near[images.atom]])).nonzero()[:, 0]]

    def vectors(self, images: Images, corners: Tensor) -> tuple[Tensor, Tensor]:
        """From atom images to all points of their boxes: mesh indices as the atoms at home see them, vectors [n, points, 3].

        corners: index of each box's first point [boxes, 3].
        """
        index = corners[images.box][:, None] + self.offsets - (images.R * self.shape)[:, None]
        away = index.to(self.middle) - self.middle[images.atom][:, None]
        parts = [away[..., x, None] * self.mesh.steps[x] for x in range(3)]
        return index, parts[0] + parts[1] + parts[2]

    def corners(self, which: Tensor) -> Tensor:
        """First point of boxes which [boxes], counted row-major, as mesh indices [boxes, 3]."""
        n = self.counts
        return torch.stack([which // (n[1] * n[2]), which // n[2] % n[1], which % n[2]], -1) * self.edges

    def _batch(self, which: Tensor, images: Images, rows: int) -> Batch:
        corners = self.corners(which)
        index = corners[:, None] + self.offsets
        inside = (index < self.shape).all(-1)
        flat = (index[..., 0] * self.mesh.shape[1] + index[..., 1]) * self.mesh.shape[2] + index[..., 2]
        points = torch.where(inside, flat, self.mesh.size)
        _, vectors = self.vectors(images, corners)
        r = torch.where(inside[images.box], length(vectors), torch.inf)
        place = (images.box * rows + images.row)[:, None] + images.rank  # row of each orbital
        shells = max(len(s.orbitals) for s in self.species.values())
        l_max = self.polynomials.l_max
        radial = r.new_zeros(len(r), shells, r.shape[1])
        support = torch.zeros(radial.shape, dtype=torch.bool, device=which.device)
        shell = torch.full((len(which) * rows,), len(r) * shells, dtype=torch.int32, device=which.device)
        harmonic = torch.zeros_like(shell)
        numbers = self.structure.numbers[images.atom]
        for z, s in self.species.items():
            of_element = numbers == z
            first = 0
            for n, (o, spline) in enumerate(zip(s.orbitals, orbitals_of(s).splines, strict=True)):
                image, point = ((r < o.radial.cutoff) & of_element[:, None]).nonzero().unbind(1)
                support[image, n, point] = True
                radial[image, n, point] = spline.to(r)(r[image, point])[:, 0]
                for m in range(2 * o.l + 1):
                    image = (of_element & images.active[:, first + m]).nonzero()[:, 0]
                    row = place[image, first + m]
                    shell[row] = (image * shells + n).to(torch.int32)
                    harmonic[row] = (image * (l_max + 1) ** 2 + o.l**2 + m).to(torch.int32)
                first += 2 * o.l + 1
        elements = _element_map(self.layout, images, len(which), rows)[:, _lower_triangle(rows, which.device)]
        return Batch(
            rows=rows,
            points=points,
            images=images,
            numbers=numbers,
            corner=vectors[:, 0].clone(),
            polynomials=self.polynomials,
            harmonics=self.polynomials.harmonics(vectors[:, 0]),
            radial=radial[support],
            support=_bits(torch.cat([support.flatten(0, 1), support.new_zeros(1, r.shape[1])])),
            shell=shell,
            harmonic=harmonic,
            elements=elements.contiguous(),
        )


def _groups(sizes: list[int], points: int, elements: int) -> Iterator[tuple[int, int, int]]:
    """First box, last box + 1 and padded rows of each batch, of boxes in descending order of their rows."""
    start = 0
    while start < len(sizes):
        padded = sizes[start]
        stop = start
        limit = max(1, elements // (padded * max(points, padded)))
        while stop < len(sizes) and stop - start < limit and sizes[stop] >= 0.85 * padded - 4:
            stop += 1
        yield start, stop, padded
        start = stop


def _cutoffs(species: Species, length: int) -> list[float]:
    """Radius of each orbital, filled up with zeros."""
    found = [o.radial.cutoff for o in species.orbitals for _ in range(2 * o.l + 1)]
    return found + [0.0] * (length - len(found))


def _element_map(layout: BlockLayout, images: Images, boxes: int, rows: int) -> Tensor:
    """Element of the sparse matrix for each pair of rows [boxes, rows * rows], int32; the layout's size where there is none."""
    device = layout.device
    per_box = torch.bincount(images.box, minlength=boxes)
    slots = torch.arange(len(images.box), device=device) - (per_box.cumsum(0) - per_box)[images.box]
    widest = int(per_box.max())
    # pairs of images first (few); one slot more stands for rows without an orbital
    grid = torch.full((boxes, widest + 1), -1, dtype=torch.int64, device=device)
    grid[images.box, slots] = torch.arange(len(images.box), device=device)
    nobody = grid < 0
    atom = torch.where(nobody, 0, images.atom[grid.clamp(min=0)])
    R = images.R[grid.clamp(min=0)]
    shape = (boxes, widest + 1, widest + 1)
    pair = layout.pairs.find(atom[:, :, None].expand(shape), atom[:, None].expand(shape), R[:, None] - R[:, :, None])
    missing = (pair == len(layout.pairs)) | nobody[:, :, None] | nobody[:, None]
    start = torch.where(missing, layout.size, layout.boundaries[torch.where(missing, 0, pair)])
    # then their orbitals (many): passes over all pairs of rows, as narrow as the size allows
    narrow = torch.int32 if layout.size < 2**30 else torch.int64
    image, orbital = images.active.nonzero().unbind(1)
    place = (images.box[image], images.row[image] + images.rank[image, orbital])
    slot = torch.full((boxes, rows), widest, dtype=torch.int64, device=device)
    local = torch.zeros((boxes, rows), dtype=narrow, device=device)
    columns = torch.zeros_like(local)
    slot[place], local[place] = slots[image], orbital.to(narrow)
    columns[place] = layout.basis.counts.to(device)[images.atom[image]].to(narrow)
    by_row = start.to(narrow).gather(1, slot[:, :, None].expand(-1, -1, widest + 1))
    element = by_row.gather(2, slot[:, None].expand(-1, rows, -1))
    element += local[:, :, None] * columns[:, None]
    element += local[:, None]
    return element.clamp_(max=layout.size).to(torch.int32).flatten(1)

"""Atomic orbitals on the mesh: density from a density matrix, matrix from a potential; each is the adjoint of the other.

The mesh is cut into small boxes (boxes.py). In each box the orbitals of every atom image that reaches it stand as rows of
values at its points, so that n(r) = sum D_ij phi_i phi_j and V_ij = int phi_i v phi_j are batched matrix products. Batches are
small enough for a processor's cache, and all that stands beside them; threads share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import Spin, by_channels
from nearsight.core.structure import Structure
from nearsight.core.threads import share
from nearsight.integrals.atomic_functions import AtomicDensity, refuse_second_derivative
from nearsight.integrals.boxes import Batch, Boxes
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.orbital_slopes import OrbitalSlopes
from nearsight.integrals.triangle import Stretch, triangle

KEPT_DENSE = (
    8_000_000  # dense numbers of a whole system that are kept as such: 64 MB save a tenth of the time of a step
)
Result = TypeVar("Result")
CPU_ELEMENTS, GPU_ELEMENTS = 300_000, 8_000_000  # dense numbers of a batch: a processor's cache, or a device kept busy


@dataclass(frozen=True, eq=False)
class GridOrbitals:
    """All orbitals of a structure on a mesh, in boxes. Build with `GridOrbitals.of`.

    touched: mesh points that some orbital reaches, boolean [x, y, z].
    atomic_density: of the free neutral atoms: each shell's population spread over its orbitals [x, y, z] (1/Bohr^3).
    """

    structure: Structure
    species: Mapping[int, Species]
    layout: BlockLayout
    mesh: Mesh
    batches: Iterable[Batch]
    touched: Tensor
    atomic_density: Tensor

    __repr__ = one_line

    @staticmethod
    def of(
        structure: Structure,
        species: Mapping[int, Species],
        layout: BlockLayout,
        mesh: Mesh,
        elements: int | None = None,
    ) -> GridOrbitals:
        """elements: how many dense numbers one batch may hold; None chooses by the device."""
        if elements is None:
            elements = CPU_ELEMENTS if mesh.cell.device.type == "cpu" else GPU_ELEMENTS
        boxes = Boxes.of(structure, species, layout, mesh)
        batches = boxes.all_batches(elements)
        if sum(b.rows * b.points.numel() for b in batches) <= KEPT_DENSE:
            batches = tuple(replace(b, dense=b.orbitals()) for b in batches)
        touched = torch.zeros(mesh.size + 1, dtype=torch.bool, device=layout.device)
        for b in batches:
            touched[b.points] = b.where.index_select(0, b.shell).reshape(b.boxes, b.rows, -1).any(1)
        on_mesh = touched[:-1].reshape(mesh.shape)
        bare = GridOrbitals(structure, species, layout, mesh, batches, on_mesh, mesh.cell)
        return replace(bare, atomic_density=bare._density(bare.atomic_values)[0].reshape(mesh.shape))

    @staticmethod
    def near(
        structure: Structure, species: Mapping[int, Species], layout: BlockLayout, mesh: Mesh, atoms: Tensor
    ) -> GridOrbitals:
        """For matrices between some atoms [atoms] and those that a layout pairs with them: nothing is kept, boxes of orbitals
        are made whenever they are asked for. The atomic density is that of all atoms; densities of matrices are not whole.
        """
        boxes = Boxes.of(structure, species, layout, mesh, atoms)
        touched = torch.zeros(mesh.size, dtype=torch.bool, device=layout.device)
        density = mesh.cell.new_zeros(mesh.size)
        shells = {z: AtomicDensity(s) for z, s in species.items()}
        for position, z in zip(structure.positions, structure.numbers.tolist(), strict=True):
            index, vectors = mesh.sphere(position, species[z].orbital_cutoff)
            place = mesh.fold(index)[0]
            touched[place] = True
            density.index_add_(0, place, shells[z](vectors))
        shape = mesh.shape
        return GridOrbitals(
            structure, species, layout, mesh, _Made(boxes), touched.reshape(shape), density.reshape(shape)
        )

    @property
    def atomic_values(self) -> Tensor:
        """The density matrix of the free neutral atoms, as values on the layout [1, size]."""
        values = self.mesh.cell.new_zeros(1, self.layout.size)
        starts = self.layout.boundaries[self.layout.pairs.on_site].tolist()
        for z, start in zip(self.structure.numbers.tolist(), starts, strict=True):
            populations = values.new_tensor(self.species[z].orbital_populations)
            values[0, start : start + len(populations) ** 2] = torch.diag(populations).flatten()
        return values

    def density(self, matrix: BlockMatrix) -> Tensor:
        """n(r) = sum_ij,R D_ij(R) phi_i(r) phi_j(r - R) for each channel of the spin [channels, x, y, z] (1/Bohr^3).

        Differentiable in the matrix, and, once, in the structure.
        """
        values = matrix.spin.densities(matrix.values)
        n: Tensor = _Density.apply(values, self.structure.positions, self.mesh.cell, self)
        return n.reshape(len(n), *self.mesh.shape)

    def matrix(self, potential: Tensor, kind: Spin | None = None) -> BlockMatrix:
        """V_ij(R) = int phi_i(r) v(r) phi_j(r - R) dr for potentials v conjugate to a spin's channels [channels, x, y, z].

        Differentiable in the potential.  kind: None for the spin of so many channels.
        """
        if self.structure.positions.requires_grad:
            raise BadInput("derivatives of a potential's matrix in the structure are not available: write the energy")
        values: Tensor = _Matrix.apply(potential.flatten(1) * self.mesh.volume_element, self)
        kind = kind or by_channels(len(values))
        return BlockMatrix(self.layout, kind.potentials(values), kind)

    def _once(self, values: Tensor) -> Tensor:
        """Of each element with its transpose, what stands at either of them in a lower triangle [channels, size + 1]."""
        transposed = self.layout.transposed
        both = values + values[:, transposed]
        own = transposed == torch.arange(len(transposed), device=transposed.device)
        return torch.cat([torch.where(own, values, both), values.new_zeros(len(values), 1)], 1)

    def _density(self, values: Tensor) -> Tensor:
        once = self._once(values)
        n = values.new_zeros(len(values), self.mesh.size + 1)

        def work(batches: Iterable[Batch]) -> None:  # no two batches have a point in common
            for b in batches:
                orbitals = b.orbitals()
                for s in range(len(values)):
                    n[s, b.points] = _products(once[s], b, orbitals)

        self._share(work)
        return n[:, :-1]

    def _matrix(self, weighted: Tensor) -> Tensor:
        padded = torch.cat([weighted, weighted.new_zeros(len(weighted), 1)], 1)

        def work(batches: Iterable[Batch]) -> Tensor:
            once = weighted.new_zeros(len(weighted), self.layout.size + 1)
            for b in batches:
                orbitals = b.orbitals()
                for s in range(len(weighted)):
                    _add_integrals(once[s], b, orbitals, padded[s][b.points])
            return once

        values, *others = self._share(work)
        for part in others:
            values += part
        values, transposed = values[:, :-1], self.layout.transposed
        own = transposed == torch.arange(len(transposed), device=transposed.device)
        return torch.where(own, values, values + values[:, transposed])

    def _share(self, work: Callable[[Iterable[Batch]], Result]) -> list[Result]:
        """The work on all batches, among threads where they are kept on a CPU."""
        if isinstance(self.batches, tuple) and self.layout.device.type == "cpu":
            return share(work, self.batches)
        return [work(self.batches)]

    def by_structure(self, values: Tensor, adjoint: Tensor, of_atoms: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """d(sum_r a(r) n(r)) in positions [atoms, 3] and cell [3, 3] for densities of values [m, size], adjoints a [m, points].

        of_atoms: adjoint of the density of free atoms [points], which has no part in them.
        d/dphi_i(r) = a(r) sum_j (D_ij + D_ji) phi_j(r), orbital by orbital, and phi_i(r) = phi(r - R) is differentiated.
        """
        at_rest = Structure(self.structure.cell.detach(), self.structure.positions.detach(), self.structure.numbers)
        slopes = OrbitalSlopes(Boxes.of(at_rest, self.species, self.layout, self.mesh.detached))
        once = self._once(values)
        a = torch.nn.functional.pad(adjoint, (0, 1))
        free = None if of_atoms is None else torch.nn.functional.pad(of_atoms, (0, 1))

        def work(batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
            by_position, by_cell = torch.zeros_like(at_rest.positions), torch.zeros_like(at_rest.cell)
            for b in batches:
                orbitals = b.orbitals()
                weights = orbitals.new_zeros(()) if free is None else self._of_free_atoms(b, free)
                for s in range(len(values)):
                    local = _local(once[s], b)
                    weights = torch.bmm(local + local.mT, orbitals).mul_(a[s][b.points][:, None]).add_(weights)
                slopes.add(b, weights, by_position, by_cell)
            return by_position, by_cell

        positions, cells = zip(*self._share(work), strict=True)
        return torch.stack(positions).sum(0), torch.stack(cells).sum(0)

    def _of_free_atoms(self, batch: Batch, adjoint: Tensor) -> Tensor:
        """d/dphi_i(r) = 2 a(r) p_i phi_i(r) with the populations p of free atoms [boxes, rows, points]."""
        populations = adjoint.new_zeros(len(batch.images.box), max(len(s.orbitals) for s in self.species.values()))
        for z, s in self.species.items():
            own = adjoint.new_tensor([o.population / (2 * o.l + 1) for o in s.orbitals])
            populations[batch.numbers == z, : len(own)] = own
        by_row = torch.nn.functional.pad(2 * populations.flatten(), (0, 1)).index_select(0, batch.shell)
        scaled = batch.orbitals() * by_row.reshape(batch.boxes, batch.rows, 1)
        return scaled.mul_(adjoint[batch.points][:, None])


@dataclass(frozen=True)
class _Made:
    """Batches that are made anew each time."""

    boxes: Boxes

    def __iter__(self) -> Iterator[Batch]:
        return self.boxes.batches(CPU_ELEMENTS)


def _products(once: Tensor, b: Batch, orbitals: Tensor) -> Tensor:
    """sum_ij D_ij phi_i phi_j at the points of each box [boxes, points], of the elements in the lower triangle."""
    total: Tensor | None = None
    for part in triangle(b.rows, orbitals.device):
        local = _local_rows(once, b, part)
        found = torch.bmm(local, orbitals[:, : part.stop]).mul_(orbitals[:, part.start : part.stop]).sum(1)
        total = found if total is None else total.add_(found)
    assert total is not None
    return total


def _add_integrals(once: Tensor, b: Batch, orbitals: Tensor, potential: Tensor) -> None:
    """Adds sum_p phi_i v phi_j over the points of each box to the elements in the lower triangle; v [boxes, points]."""
    weighted = orbitals * potential[:, None]
    for part in triangle(b.rows, orbitals.device):
        local = torch.bmm(weighted[:, part.start : part.stop], orbitals[:, : part.stop].mT)
        found = local.flatten(1).index_select(1, part.places)
        once.index_add_(0, b.elements[:, part.first : part.last].flatten(), found.flatten())


def _local_rows(once: Tensor, b: Batch, part: Stretch) -> Tensor:
    """Rows of the lower triangle of the matrix between the rows of each box [boxes, rows of the part, columns]."""
    rows, columns = part.stop - part.start, part.stop
    full = once.new_zeros(b.boxes, rows * columns)
    full.index_copy_(
        1, part.places, once.index_select(0, b.elements[:, part.first : part.last].flatten()).reshape(b.boxes, -1)
    )
    return full.reshape(b.boxes, rows, columns)


def _local(once: Tensor, b: Batch) -> Tensor:
    """The lower triangle of the matrix between the rows of each box [boxes, rows, rows]."""
    full = once.new_zeros(b.boxes, b.rows, b.rows)
    for part in triangle(b.rows, once.device):
        full[:, part.start : part.stop, : part.stop] = _local_rows(once, b, part)
    return full


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, positions: Tensor, cell: Tensor, grid: GridOrbitals) -> Tensor:
        ctx.grid = grid
        ctx.save_for_backward(values)
        return grid._density(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        adjoint, grid = grads[0].contiguous(), ctx.grid
        by_values = _Matrix.apply(adjoint, grid) if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return by_values, None, None, None
        refuse_second_derivative()
        return by_values, *grid.by_structure(ctx.saved_tensors[0], adjoint), None


class _Matrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weighted: Tensor, grid: GridOrbitals) -> Tensor:
        ctx.grid = grid
        return grid._matrix(weighted)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grid = ctx.grid
        positions, cell = grid.structure.positions.detach(), grid.mesh.cell.detach()
        return _Density.apply(grads[0], positions, cell, grid), None

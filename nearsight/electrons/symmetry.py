"""Space groups: the operations that leave a crystal unchanged, and what they say of k-points, matrices, forces and stress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import spglib
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.so3 import spin_half
from nearsight.core.spin import Spin
from nearsight.core.structure import Structure
from nearsight.electrons.kpoints import KPoints, mesh_points

TOLERANCE = 1e-5  # Bohr: far below a displacement of a finite difference, far above the rounding of a structure file


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """Operations g: x -> W x + t on fractional coordinates (columns) that map a structure onto itself.

    rotations: W [g, 3, 3], integers.  translations: t [g, 3].  cartesian: W as an element of O(3) [g, 3, 3].
    atoms: g(i) [g, atoms], and cells: s_i [g, atoms, 3], integers, with W x_i + t = x_g(i) + s_i.
    symbol: international symbol of the group that was found, before any operation was left out.
    All on the CPU; the identity is always among them, and with two operations their product.
    """

    rotations: Tensor
    translations: Tensor
    cartesian: Tensor
    atoms: Tensor
    cells: Tensor
    symbol: str

    __repr__ = one_line

    def __len__(self) -> int:
        return len(self.rotations)

    @staticmethod
    def of(
        structure: Structure,
        moments: Sequence[float] | Sequence[Sequence[float]] | None = None,
        tolerance: float = TOLERANCE,
    ) -> SpaceGroup:
        """The space group by spglib; with initial moments [mu_B] of the atoms, the part of it that keeps every moment.

        moments: one number an atom, along an axis that is no direction in space (collinear spin); or a vector an atom, which
        turns as an axial one (spinors).
        tolerance: how far an atom may be from the image of another [Bohr].
        Raises NearsightError where spglib finds no group (two atoms on top of each other).
        """
        cell = structure.cell.detach().cpu().double().numpy()
        positions = structure.positions.detach().cpu().double().numpy() @ np.linalg.inv(cell)
        kinds = [(z, 0.0) for z in structure.numbers.tolist()]
        given = None if moments is None else np.array(moments, dtype=float)
        if given is not None:
            kinds = [(z, round(m, 6)) for (z, _), m in zip(kinds, _lengths(given).tolist(), strict=True)]
        labels = np.unique(np.array(kinds), axis=0, return_inverse=True)[1].reshape(-1) + 1
        try:
            found = spglib.get_symmetry_dataset((cell.tolist(), positions.tolist(), labels.tolist()), symprec=tolerance)
        except spglib.SpglibError:
            found = None
        if found is None:
            raise BadInput("spglib finds no space group: look for atoms that coincide, or take symmetry: time-reversal")
        w, t = np.asarray(found.rotations, dtype=np.int64), np.array(found.translations)
        atoms, cells = np.empty((len(w), len(labels)), np.int64), np.empty((len(w), len(labels), 3), np.int64)
        for g in range(len(w)):
            moved = positions @ w[g].T + t[g]
            difference = moved[:, None] - positions
            rest = np.linalg.norm((difference - np.round(difference)) @ cell, axis=-1)
            atoms[g] = np.where(labels[:, None] == labels, rest, np.inf).argmin(1)
            nearest = difference[np.arange(len(labels)), atoms[g]]
            cells[g] = np.round(nearest)
            t[g] -= (nearest - cells[g]).mean(0)  # the best translation, free of spglib's rounding
        turned = cell.T @ w @ np.linalg.inv(cell.T)
        u, _, v = np.linalg.svd(turned)  # the nearest element of O(3): a cell is symmetric to the tolerance only
        group = SpaceGroup(
            rotations=torch.as_tensor(w),
            translations=torch.as_tensor(t),
            cartesian=torch.as_tensor(u @ v),
            atoms=torch.as_tensor(atoms),
            cells=torch.as_tensor(cells),
            symbol=str(found.international),
        )
        return group if given is None or given.ndim == 1 else group._keeping(torch.as_tensor(given))

    def _keeping(self, moments: Tensor) -> SpaceGroup:
        """The operations that map each moment [atoms, 3], an axial vector, onto that of the atom's image."""
        turned = torch.einsum("gab,ib->gia", self.cartesian * self.cartesian.det()[:, None, None], moments)
        return self.only(((turned - moments[self.atoms]).abs() < 1e-6).all(-1).all(-1))

    def only(self, which: Tensor) -> SpaceGroup:
        """The operations chosen by a boolean [g] or by indices; the caller sees to it that they are a group."""
        names = ("rotations", "translations", "cartesian", "atoms", "cells")
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    def on_mesh(self, shape: tuple[int, int, int]) -> SpaceGroup:
        """The operations that map points m / n of a real-space mesh onto each other: n_i W_ij / n_j and n_i t_i integers."""
        n = torch.tensor(shape, dtype=torch.float64)
        linear = n[:, None] * self.rotations / n
        shift = n * self.translations
        ok = ((linear - linear.round()).abs() < 1e-6).all(-1).all(-1) & ((shift - shift.round()).abs() < 1e-4).all(-1)
        return self.only(ok)

    def on_kpoints(
        self, size: tuple[int, int, int], shift: tuple[float, float, float], time_reversal: bool = True
    ) -> SpaceGroup:
        """The operations that map a k-mesh onto itself or onto its time-reversed."""
        return self.only((self._images(size, shift, time_reversal)[0] >= 0).all(1))

    def irreducible(
        self, size: tuple[int, int, int], shift: tuple[float, float, float], time_reversal: bool = True
    ) -> tuple[Tensor, Tensor]:
        """k [n, 3] and weights [n] of a mesh with one point of each star of the group and time reversal.

        The star of k: all W^T k and -W^T k.  The group's operations must map the mesh onto itself: see `on_kpoints`.
        """
        images, reverse = self._images(size, shift, time_reversal)
        first = images.amin(0) if reverse is None else torch.minimum(images, reverse[images]).amin(0)
        index, weights = torch.unique(first, return_counts=True)
        return mesh_points(size, shift)[index], weights.double() / len(first)

    def _images(
        self, size: tuple[int, int, int], shift: tuple[float, float, float], time_reversal: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Index of W^T k, or where the mesh lacks it of -W^T k, else -1: [g, n]; and of -k [n] where the mesh has them all."""
        points = mesh_points(size, shift)
        turned = points @ self.rotations.double()  # rows: (W^T k)^T = k^T W
        index = _mesh_index(turned, size, shift)
        if not time_reversal:
            return index, None
        index = torch.where(index < 0, _mesh_index(-turned, size, shift), index)
        reverse = _mesh_index(-points, size, shift)
        return index, None if bool((reverse < 0).any()) else reverse

    def symmetric_vectors(self, vectors: Tensor) -> Tensor:
        """1/|G| sum_g g v for one vector an atom [atoms, 3], e.g. forces: (g v)_g(i) = W v_i."""
        turned = torch.einsum("gab,ib->gia", self.cartesian.to(vectors), vectors)
        total = torch.zeros_like(vectors).index_add(0, self.atoms.flatten().to(vectors.device), turned.flatten(0, 1))
        return total / len(self)

    def symmetric_tensor(self, tensor: Tensor) -> Tensor:
        """1/|G| sum_g W s W^T for a Cartesian tensor [3, 3], e.g. the stress."""
        w = self.cartesian.to(tensor)
        return (w @ tensor @ w.mT).mean(0)

    def image(self, g: int, i: Tensor, j: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs that pairs (i, j, R) are mapped onto: (g(i), g(j), W R + s_j - s_i)."""
        return self.atoms[g][i], self.atoms[g][j], R @ self.rotations[g].T + self.cells[g][j] - self.cells[g][i]


def _lengths(moments: np.ndarray) -> np.ndarray:
    """What tells the atoms of an element apart: the moment itself, or a vector's length [atoms]."""
    return moments if moments.ndim == 1 else np.linalg.norm(moments, axis=1)


def _mesh_index(k: Tensor, size: tuple[int, int, int], shift: tuple[float, float, float]) -> Tensor:
    """Index in `mesh_points` of fractional k [..., 3] up to a reciprocal lattice vector; -1 where the mesh lacks it."""
    n = torch.tensor(size)
    x = k * n - torch.tensor(shift, dtype=torch.float64)
    whole = x.round()
    m = whole.long() % n
    index = (m[..., 0] * size[1] + m[..., 1]) * size[2] + m[..., 2]
    return torch.where(((x - whole).abs() < 1e-6).all(-1), index, -1)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The work on all pairs [p] of two elements, and on the images [t] of one representative of each orbit of such pairs."""

    rows: Tensor  # D_g of the first element's orbitals [g, a, a]
    columns: Tensor  # and of the second's [g, b, b]
    source: Tensor  # where each image stands in the layout [t, a b]
    orbit: Tensor  # whose image it is [t]
    by: Tensor  # under which operation [t]
    share: Tensor  # 1 / number of images of its orbit [t]
    pair_orbit: Tensor  # orbit of each pair [p]
    pair_by: Tensor  # an operation that maps the representative onto it [p]
    orbits: int

    def average(self, values: Tensor, spin: Spin, unitary: Tensor) -> Tensor:
        """[components, size] -> the averages of these pairs [components, p a b].  unitary: D(1/2) of each g [g, 2, 2]."""
        a, b = self.rows.to(values), self.columns.to(values)
        blocks = values[:, self.source].reshape(len(values), -1, a.shape[-1], b.shape[-1])
        back = a[self.by].mT @ blocks @ b[self.by] * self.share.to(values)[:, None, None]
        back = spin.turned(back, unitary.mH[self.by])
        mean = back.new_zeros(len(values), self.orbits, *back.shape[2:]).index_add(1, self.orbit, back)
        moved = a[self.pair_by].to(mean) @ mean[:, self.pair_orbit] @ b[self.pair_by].mT.to(mean)
        return spin.turned(moved, unitary[self.pair_by]).flatten(1)


@dataclass(frozen=True, eq=False)
class Symmetrisation:
    """The projection P M = 1/|G| sum_g U_g M U_g^T of matrices on one layout onto those that the group leaves unchanged.

    (U_g M U_g^T) of pair g(p) is D_g M_p D_g^T: blocks move from pair to pair, turned by the orbitals' Wigner matrices, and
    those of spinors by D(1/2) in spin space too.
    The average is taken once for each orbit of pairs and handed out to its members, so that the work grows with the number
    of pairs and not with the size of the group.  P is linear, idempotent, self-adjoint, and differentiable by autograd.
    """

    group: SpaceGroup
    layout: BlockLayout
    blocks: tuple[_Blocks, ...]
    places: Tensor  # of each element of the layout in the averages of all `blocks`, one after another [size]
    unitary: Tensor  # D(1/2) of each operation [g, 2, 2]

    __repr__ = one_line

    @staticmethod
    def of(group: SpaceGroup, layout: BlockLayout) -> Symmetrisation:
        """Index maps and orbital rotations, on the layout's device."""
        pairs, basis, device = layout.pairs.to("cpu"), layout.basis, layout.device
        home = layout.to("cpu")
        orbit, by, image, pair_orbit, pair_by = _orbits(group, pairs)
        share = 1 / torch.bincount(orbit).double()[orbit]
        turned = {z: _orbital_rotations(group, layout, z) for z in basis.shells}
        numbers = torch.tensor(basis.numbers)
        blocks, elements = [], []
        for za, rows in turned.items():
            for zb, columns in turned.items():
                here = (numbers[pairs.i] == za) & (numbers[pairs.j] == zb)
                if not bool(here.any()):
                    continue
                within = torch.arange(rows.shape[-1] * columns.shape[-1])
                mine, members = here[image], here.nonzero()[:, 0]
                own, local = torch.unique(orbit[mine], return_inverse=True)
                of_pair = torch.searchsorted(own, pair_orbit[members])
                blocks.append(
                    _Blocks(
                        rows=rows.to(device),
                        columns=columns.to(device),
                        source=(home.boundaries[image[mine]][:, None] + within).to(device),
                        orbit=local.to(device),
                        by=by[mine].to(device),
                        share=share[mine].to(device),
                        pair_orbit=of_pair.to(device),
                        pair_by=pair_by[members].to(device),
                        orbits=len(own),
                    )
                )
                elements.append((home.boundaries[members][:, None] + within).flatten())
        order = torch.cat(elements)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
        unitary = torch.stack([spin_half(r) for r in group.cartesian])
        return Symmetrisation(group, layout, tuple(blocks), places.to(device), unitary.to(device))

    def to(self, device: torch.device | str) -> Symmetrisation:
        """The same projection on a device; itself where it is there already."""
        layout = self.layout.to(device)
        return self if layout is self.layout else Symmetrisation.of(self.group, layout)

    def __call__(self, matrix: BlockMatrix) -> BlockMatrix:
        """P M for a matrix on this layout. Raises NearsightError for one on another layout."""
        if matrix.layout is not self.layout and len(matrix.pairs) != len(self.layout.pairs):
            raise BadInput("this symmetrisation is of other pairs: bring the matrix onto its layout with .on()")
        averages = [b.average(matrix.values, matrix.spin, self.unitary) for b in self.blocks]
        return matrix.with_values(torch.cat(averages, 1)[:, self.places])


def _orbital_rotations(group: SpaceGroup, layout: BlockLayout, number: int) -> Tensor:
    """D_g of the orbitals of an element [g, orbitals, orbitals]."""
    distinct, index = torch.unique(group.rotations.flatten(1), dim=0, return_inverse=True)
    first = torch.full((len(distinct),), len(group)).scatter_reduce(0, index, torch.arange(len(group)), "amin")
    turned = torch.stack([layout.basis.rotation(number, group.cartesian[g]) for g in first.tolist()])
    return turned[index]


def _orbits(group: SpaceGroup, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Orbits of pairs: (orbit, operation, image) for every image of its representative; (orbit, operation) of every pair.

    A pair whose distance is the cutoff to rounding may be in the list without some of its images: those are left out.
    """
    everything = torch.arange(len(pairs))
    lowest = everything.clone()
    for g in range(len(group)):
        image = pairs.find(*group.image(g, pairs.i, pairs.j, pairs.R))
        lowest = torch.minimum(lowest, image)
    representative, orbit_of_pair = torch.unique(lowest, return_inverse=True)
    i, j, R = pairs.i[representative], pairs.j[representative], pairs.R[representative]
    orbits, operations, images = [], [], []
    pair_by = torch.full_like(everything, -1)
    for g in range(len(group)):
        image = pairs.find(*group.image(g, i, j, R))
        there = (image < len(pairs)).nonzero()[:, 0]
        orbits.append(there)
        operations.append(torch.full_like(there, g))
        images.append(image[there])
        pair_by[image[there]] = g
    if bool((pair_by < 0).any()):
        raise BadInput("the symmetry operations are not a group: the structure is symmetric only roughly")
    return torch.cat(orbits), torch.cat(operations), torch.cat(images), orbit_of_pair, pair_by


def reduced_mesh(
    size: tuple[int, int, int],
    shift: tuple[float, float, float],
    group: SpaceGroup,
    layout: BlockLayout,
    time_reversal: bool = True,
) -> KPoints:
    """A mesh as `kpoints.mesh` has it, reduced by those operations of the group that map it onto itself and by time reversal.

    time_reversal: whether what is summed has it too; spinors with moments have not.
    What is summed over these k-points is symmetrised on `layout`, and then equals the sum over all points of the mesh.
    Raises NearsightError for a size below 1.
    """
    kept = group.on_kpoints(size, shift, time_reversal)
    k, weights = kept.irreducible(size, shift, time_reversal)
    device = layout.device
    return KPoints(k.to(device), weights.to(device), Symmetrisation.of(kept, layout), time_reversal)

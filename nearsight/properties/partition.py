"""Shares of atoms and bonds in the electrons: Mulliken's and Hirshfeld's rules, Mayer's bond orders, dipoles of molecules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.pairs import Pairs
from nearsight.core.spin import Spin
from nearsight.core.structure import Structure
from nearsight.properties.mesh_orbitals import MeshOrbitals
from nearsight.properties.occupied import Occupied

WEAKEST_BOND = 0.05


@dataclass(frozen=True, eq=False)
class Bond:
    """Mayer's order of the bond from atom i to atom j in cell R, and their distance [Bohr]."""

    i: int
    j: int
    R: tuple[int, int, int]
    order: float
    distance: float

    __repr__ = one_line


def mulliken(density_matrix: BlockMatrix, overlap: BlockMatrix) -> Tensor:
    """Channels of the density on each atom, sum_(i on a) sum_jR D_ij(R) S_ij(R) [channels, atoms]: the trace Tr[D S], shared.

    R. S. Mulliken, J. Chem. Phys. 23, 1833 (1955).
    """
    d = density_matrix.on(overlap.layout)
    products = d.spin.densities(d.values) * overlap.values[0]
    atom = overlap.layout.pairs.i[overlap.layout.pair]
    total = products.new_zeros(len(products), len(overlap.basis.numbers))
    return total.index_add(1, atom, products).cpu()


def hirshfeld(orbitals: MeshOrbitals, kind: Spin, field: Tensor) -> Tensor:
    """Channels of the density on each atom, int w_a(r) n(r) dr with w_a = n_a / sum_b n_b of free atoms [channels, atoms].

    F. L. Hirshfeld, Theor. Chim. Acta 44, 129 (1977). Done with the difference to the superposed atoms, whose part is known
    without a mesh; where no atom reaches, there is no share. field: the channels on the mesh [channels, x, y, z].
    """
    mesh, structure = orbitals.mesh, orbitals.structure
    promolecule = orbitals.grid.atomic_density.flatten()
    neutral = _without_spin(kind, promolecule)
    difference = field.flatten(1) - neutral
    shares = field.new_zeros(len(field), len(structure))
    for a, (position, z) in enumerate(zip(structure.positions, structure.numbers.tolist(), strict=True)):
        index, vectors = mesh.sphere(position, orbitals.species[z].orbital_cutoff)
        flat = mesh.fold(index)[0]
        own = orbitals.atomic_density(z, vectors.norm(dim=1))
        weight = torch.where(own > 0, own / promolecule[flat].clamp(min=torch.finfo(own.dtype).tiny), 0)
        population = sum(o.population for o in orbitals.species[z].orbitals)
        shares[:, a] = difference[:, flat] @ weight * mesh.volume_element
        shares[:, a] += _without_spin(kind, shares.new_tensor([population]))[:, 0]
    return shares


def dipole_moment(orbitals: MeshOrbitals, density: Tensor) -> tuple[Tensor, Tensor]:
    """p = sum_a Z_a (R_a - O) - int (r - O) n(r) dr [3], e Bohr, and its origin O [3], the centre of the nuclei, Bohr.

    With n = sum_a n_a + dn and neutral spherical atoms it is -int (r - O) dn(r) dr. r is taken in the box around O.
    density: n on the mesh [x, y, z].
    """
    mesh, structure = orbitals.mesh, orbitals.structure
    origin = _centre(structure)
    axes = [torch.arange(n, dtype=torch.float64) / n for n in mesh.shape]
    inverse = torch.linalg.inv(structure.cell)
    middle = origin @ inverse
    offsets = [x - m for x, m in zip(axes, middle, strict=True)]
    wrapped = [x - torch.floor(x + 0.5) for x in offsets]
    difference = density - orbitals.grid.atomic_density
    sums = torch.stack([
        (difference.sum((1, 2)) * wrapped[0]).sum(),
        (difference.sum((0, 2)) * wrapped[1]).sum(),
        (difference.sum((0, 1)) * wrapped[2]).sum(),
    ])  # fmt: skip
    moment = -(sums * mesh.volume_element) @ structure.cell
    for position, z in zip(
        structure.positions, structure.numbers.tolist(), strict=True
    ):  # species that are not neutral
        species = orbitals.species[z]
        rest = species.valence - sum(o.population for o in species.orbitals)
        away = (position - origin) @ inverse
        moment = moment + rest * ((away - away.round()) @ structure.cell)
    return moment, origin


def _without_spin(kind: Spin, density: Tensor) -> Tensor:
    """Channels [channels, points] of a density [points] without moment."""
    return kind.densities(kind.embed(density)) * (kind.electrons_per_level / 2)


def _centre(structure: Structure) -> Tensor:
    """Mean position of the atoms of a molecule [3], Bohr, which may stand across the faces of its box."""
    fractional = structure.positions @ torch.linalg.inv(structure.cell)
    whole = []
    for f in (fractional % 1.0).T:
        x = f.sort().values
        gaps = torch.cat([x[1:], x[:1] + 1]) - x
        cut = float(x[gaps.argmax()]) + 1e-9  # the molecule begins behind the largest gap
        whole.append((torch.where(f > cut, f, f + 1)).mean())
    return torch.stack(whole) @ structure.cell


def bond_orders(occupied: Occupied, structure: Structure) -> tuple[tuple[Bond, ...], Tensor]:
    """Bonds above 0.05, the strongest first, and the valence of each atom [atoms]: the sum of the orders of all its bonds.

    B_ab(R) = (2 / g) Re sum_st sum_(i on a, j on b) (D S)^st_ij(R) (D S)^ts_ji(-R), with g electrons a level: I. Mayer, Chem.
    Phys. Lett. 97, 270 (1983); J. Comput. Chem. 28, 204 (2007) for open shells. Where D S D = g D, an insulator or closed
    shells, sum_bR B_ab(R), b = a among them, is 2 N_a, twice Mulliken's electrons.
    """
    m = occupied.product
    kind, layout = m.spin, m.layout
    back = m.values[list(kind.dagger)][:, layout.transposed]
    products = (m.values * back).sum(0)
    factor = 2 / kind.electrons_per_level
    each = factor * (products.real if products.is_complex() else products)
    orders = each.new_zeros(len(layout.pairs)).index_add(0, layout.pair, each).cpu()
    pairs = layout.pairs.to("cpu")
    atom = layout.basis.atom_of_orbital
    total = torch.zeros(len(structure), dtype=torch.float64).index_add(0, atom, factor * occupied.square)
    own = orders[pairs.on_site]
    distance = pairs.vectors(structure.to("cpu")).norm(dim=1)
    near = _nearest_images(pairs, distance, occupied.kmesh)
    chosen = (pairs.half & near & (distance > 0) & (orders > WEAKEST_BOND)).nonzero()[:, 0].tolist()
    bonds = [
        Bond(int(pairs.i[p]), int(pairs.j[p]), _cell(pairs.R[p]), float(orders[p]), float(distance[p])) for p in chosen
    ]
    return tuple(sorted(bonds, key=lambda b: -b.order)), total - own


def _nearest_images(pairs: Pairs, distance: Tensor, kmesh: tuple[int, int, int]) -> Tensor:
    """Pairs that are the nearest of their images [pairs]: sums over a k-mesh have its N1 x N2 x N3 cells as their period."""
    folded = pairs.R % torch.tensor(kmesh)
    keys = torch.stack([pairs.i, pairs.j, *folded.T], 1)
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    nearest = torch.full((len(pairs),), torch.inf, dtype=distance.dtype).scatter_reduce(0, group, distance, "amin")
    return distance < nearest[group] + 1e-6


def _cell(R: Tensor) -> tuple[int, int, int]:
    a, b, c = R.tolist()
    return a, b, c

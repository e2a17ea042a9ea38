"""Mulliken's populations of atoms, and the fields that are conjugate to them."""

from __future__ import annotations

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.spin import Spin


def populations(density_matrix: BlockMatrix, overlap: BlockMatrix) -> Tensor:
    """Of each atom [channels, atoms], in the channels of the density: sum over its orbitals i of sum_j D_ij S_ij.

    Differentiable in both.  density_matrix: hermitian, on the layout of the overlap.
    """
    d, layout = density_matrix, density_matrix.layout
    each = d.spin.densities(d.values) * overlap.values[0]
    atoms = each.new_zeros(len(each), len(layout.basis.numbers))
    return atoms.index_add(1, layout.pairs.i[layout.pair], each)


def moments(density_matrix: BlockMatrix, overlap: BlockMatrix) -> Tensor:
    """Mulliken's moment (m_x, m_y, m_z) of each atom [atoms, 3], mu_B; zero without spin."""
    return density_matrix.spin.channel_moment(populations(density_matrix, overlap)).T


def field_matrix(fields: Tensor, overlap: BlockMatrix, kind: Spin) -> BlockMatrix:
    """d(sum_a b_a . M_a)/dD of Mulliken's moments M_a: S_ij (b_a(i) + b_a(j)).sigma / 2 for fields b [atoms, 3] (Ha/mu_B)."""
    layout = overlap.layout
    ends = (fields[layout.pairs.i] + fields[layout.pairs.j]).T.to(overlap.values)
    along = ends[:, layout.pair] * overlap.values[0]
    return BlockMatrix(layout, kind.of_moment(torch.zeros_like(along[0]), along), kind)

"""The order of atoms: grouping them by element, and putting matrices in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs


def grouped_order(numbers: Tensor) -> tuple[int, ...]:
    """Indices that bring atoms of one element together, elements in the order of their first atom."""
    first: dict[int, int] = {}
    listed = numbers.tolist()
    for index, z in enumerate(listed):
        first.setdefault(z, index)
    return tuple(sorted(range(len(listed)), key=lambda n: first[listed[n]]))


def reordered_layout(layout: BlockLayout, order: Sequence[int]) -> tuple[BlockLayout, Tensor]:
    """The layout whose atom n is atom order[n] of the given one, and where each of its elements stood before [size]."""
    index = torch.tensor(order, dtype=torch.int64, device=layout.device)
    rank = torch.argsort(index)
    old = layout.pairs
    i, j = rank[old.i], rank[old.j]
    pairs = Pairs.of(i, j, old.R, old.atoms)
    basis = Basis(tuple(layout.basis.numbers[n] for n in order), layout.basis.shells)
    new = BlockLayout(basis, pairs)
    place = pairs.find(i, j, old.R)
    source = torch.empty_like(place)
    source[place] = torch.arange(len(place), device=place.device)
    within = torch.arange(new.size, device=place.device) - new.boundaries[new.pair]
    return new, layout.boundaries[source][new.pair] + within


def reordered_matrix(matrix: BlockMatrix, order: Sequence[int]) -> BlockMatrix:
    """The matrix whose atom n is atom order[n] of the given one."""
    layout, index = reordered_layout(matrix.layout, order)
    return BlockMatrix(layout, matrix.values[:, index], matrix.spin)

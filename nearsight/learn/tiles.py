"""Large structures in tiles: a prediction is local, so that a part of the atoms with their surroundings gives its own blocks.

A tile is a box of the crystal, in fractions of its cell, with a margin on all sides; it is periodic in itself, and what the
wrong images at its rim do stays within the margin. Along directions in which it would be no smaller
than the cell, it is the cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, floor, prod

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.electrons.kpoints import vacuum_axes
from nearsight.integrals.mesh import fft_size

STEP = 0.5  # Bohr: of boxes where there is no mesh to keep to


@dataclass(frozen=True, eq=False)
class Tile:
    """structure: atoms of the tile.  atoms: which they are in the whole [n], cells: in which of its cells they stand [n, 3].
    core: those whose blocks are the tile's to give [n].  whole: along which axes the tile is the cell.  shape: mesh points.
    """

    structure: Structure
    atoms: Tensor
    cells: Tensor
    core: Tensor
    whole: tuple[bool, bool, bool]
    shape: tuple[int, int, int]

    __repr__ = one_line

    def pairs_of(self, layout: BlockLayout) -> Tensor:
        """Pairs of the whole whose first atom is in the core [m]."""
        mine = torch.zeros(layout.pairs.atoms, dtype=torch.bool)
        mine[self.atoms[self.core]] = True
        return mine[layout.pairs.i].nonzero()[:, 0]

    def layout(self, layout: BlockLayout, which: Tensor) -> tuple[BlockLayout, Tensor]:
        """The pairs `which` of the whole as pairs of the tile, with their reverses; and where each stands there [m].

        Raises BadInput for pairs that reach beyond the margin.
        """
        p = layout.pairs
        place = torch.full((p.atoms,), -1)
        place[self.atoms] = torch.arange(len(self.atoms))
        i, j = place[p.i[which]], place[p.j[which]]
        away = self.cells[i] + p.R[which] - self.cells[j.clamp(min=0)]
        cut = ~torch.tensor(self.whole)
        if bool((j < 0).any()) or bool((away[:, cut] != 0).any()):
            raise BadInput("a pair of atoms reaches beyond the margin of its tile: take a larger one")
        pairs = Pairs.of(i, j, away, len(self.atoms))
        basis = layout.basis.of(self.structure.numbers, layout.basis.shells)
        return BlockLayout(basis, pairs), pairs.find(i, j, away)


def elements(layout: BlockLayout, pairs: Tensor) -> Tensor:
    """Places of all elements of some pairs, pair after pair."""
    sizes = layout.shapes[pairs].prod(1)
    ends = sizes.cumsum(0)
    begin = layout.boundaries[pairs] - (ends - sizes)
    return torch.repeat_interleave(begin, sizes) + torch.arange(int(ends[-1]) if len(ends) else 0)


def tiles(structure: Structure, atoms: int, margin: float, mesh: tuple[int, int, int] | None = None) -> Iterator[Tile]:
    """The structure in tiles with about so many atoms in each core.

    margin: how far the surroundings of a core reach [Bohr].  mesh: points of the whole cell, with which those of tiles agree.
    """
    cell = structure.cell.detach().cpu().double()
    inverse = torch.linalg.inv(cell)
    heights = 1 / inverse.norm(dim=0)
    points = mesh or tuple(max(1, ceil(float(h) / STEP)) for h in heights)
    empty = vacuum_axes(structure)
    parts = [1, 1, 1]
    while len(structure) / prod(parts) > 1.3 * atoms:
        axis = max((x for x in range(3) if x not in empty), key=lambda x: float(heights[x]) / parts[x], default=None)
        if axis is None or float(heights[axis]) / parts[axis] < 2.0:
            break
        parts[axis] += 1
    fractional = structure.positions.detach().cpu().double() @ inverse
    home = torch.floor(fractional)
    inside = fractional - home
    rim = [margin / float(h) for h in heights]
    for index in product(*(range(n) for n in parts)):
        low = [a / n for a, n in zip(index, parts, strict=True)]
        core = torch.ones(len(structure), dtype=torch.bool)
        start, length, whole = [0, 0, 0], list(points), [True, True, True]
        for x in range(3):
            if parts[x] == 1:
                continue
            core &= (inside[:, x] * parts[x]).floor().clamp(max=parts[x] - 1) == index[x]
            first = floor((low[x] - rim[x]) * points[x])
            last = ceil((low[x] + 1 / parts[x] + rim[x]) * points[x])
            wide = fft_size(last - first + 1)
            if wide < points[x]:
                start[x], length[x], whole[x] = first, wide, False
        if bool(core.any()):
            yield _tile(structure, cell, inside, home.long(), core, points, start, length, whole)


def _tile(
    structure: Structure,
    cell: Tensor,
    inside: Tensor,
    home: Tensor,
    core: Tensor,
    points: tuple[int, ...],
    start: list[int],
    length: list[int],
    whole: list[bool],
) -> Tile:
    """home: cell that each position stands in as given; the whole's R count from there."""
    grid = torch.tensor(points, dtype=torch.float64)
    first = torch.tensor(start, dtype=torch.float64) / grid
    size = torch.tensor(length, dtype=torch.float64) / grid
    cut = ~torch.tensor(whole)
    shift = torch.where(cut, torch.ceil(first - inside - 1e-12), torch.zeros_like(inside))
    place = inside + shift
    chosen = ((place < first + size) | ~cut).all(1).nonzero()[:, 0]
    cells = shift[chosen].long() - home[chosen]  # of the atom as it was given
    cells[:, ~cut] = 0
    # along whole axes atoms stay where they were given, so that R means the same
    at = torch.where(cut, place[chosen] - first, (inside + home)[chosen])
    numbers = structure.numbers[chosen]
    moments = None if structure.moments is None else structure.moments[chosen]
    part = Structure(cell * size[:, None], at @ cell, numbers, moments)
    a, b, c = length
    return Tile(part, chosen, cells, core[chosen], (whole[0], whole[1], whole[2]), (a, b, c))

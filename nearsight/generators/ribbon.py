"""Ribbons: any sheet cut along a lattice vector, its edges trimmed and, if asked for, saturated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nearsight.core.errors import BadInput
from nearsight.core.structure import SYMBOLS
from nearsight.generators.contract import Generator
from nearsight.generators.sheets import Sheet, check_steps, perpendicular
from nearsight.generators.sites import atomic_number
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms

BONDED = 1.25  # atoms nearer than so many sums of their covalent radii have a bond


class Ribbon(Generator):
    """The ribbon along n a1 + m a2 (a1, a2 at 60 degrees in a hexagonal lattice: (1, 0) is zigzag, (1, 1) armchair).

    width counts cells of the shortest vector across; atoms that the cut leaves with less than half of their bonds go.
    The ribbon lies in the plane of x and z and is periodic along z; y is its normal.
    """

    kind: ClassVar[str] = "ribbon"

    indices: tuple[int, int] = option((1, 0), "(n, m) of the vector along the ribbon.", unit="n m")
    width: int = option(4, "Cells across.", ge=1)
    periods: int = option(1, "Periods along the ribbon.", ge=1)
    saturate: str | None = option(None, "Element that ends cut bonds, such as H.")
    tolerance: float = option(1e-4, "Largest cosine between the vectors along and across.", ge=0, le=0.1)
    vacuum_ang: float = option(7.5, "Empty space around the ribbon.", unit="Ang", gt=0)

    def _cut(self, parent: Atoms) -> tuple[Sheet, np.ndarray]:
        """The sheet, and the integer matrix of the vectors along and across."""
        sheet, along = Sheet.of(parent), check_steps(self.kind, self.indices)
        if self.saturate is not None:
            atomic_number(self.kind, self.saturate)
        across = perpendicular(sheet, along, self.tolerance)
        return sheet, np.array([along * self.periods, across * self.width])

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return 1

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`: what trims and saturates the edges is not counted."""
        sheet, matrix = self._cut(parents[0])
        return round(float(np.linalg.det(matrix))) * len(sheet)

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        from ase import Atoms as Made

        sheet, matrix = self._cut(parents[0])
        flat = sheet.supercell(matrix)
        along, across = np.linalg.norm(flat.vectors, axis=1)
        places = flat.positions @ np.linalg.inv(flat.vectors) * [along, across]
        positions = np.column_stack([places[:, 1], flat.heights, places[:, 0]])
        whole = Made(flat.numbers, positions=positions, cell=[across, flat.thickness + 50, along], pbc=True)
        vectors, ends = bonds(whole)
        crosses = np.abs(positions[ends[:, 1], 0] - positions[ends[:, 0], 0] - vectors[:, 0]) > 1e-6  # through the cut
        had = np.bincount(ends[:, 0], minlength=len(whole))
        kept = np.ones(len(whole), dtype=bool)
        while True:
            left = ~crosses & kept[ends[:, 1]]
            has = np.bincount(ends[left, 0], minlength=len(whole))
            poor = kept & (2 * has < had)
            if not poor.any():
                break
            kept &= ~poor
        if not kept.any():
            raise BadInput(f"ribbon: of width {self.width} nothing holds together: take a larger one")
        made = whole[kept]
        if self.saturate is not None:
            cut = kept[ends[:, 0]] & (crosses | ~kept[ends[:, 1]])
            made += _caps(whole, vectors[cut], ends[cut, 0], self.saturate)
        made.positions[:, :2] += self.vacuum_ang - made.positions[:, :2].min(0)
        made.cell[:2] = np.diag([*(made.positions[:, :2].max(0) + self.vacuum_ang), 0])[:2]
        yield made


def bonds(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Vectors from atom to atom of all bonds [n, 3], each seen from both ends, and the ends [n, 2]."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = covalent_radii[atoms.numbers] * BONDED
    i, j, vectors = neighbor_list("ijD", atoms, list(radii))
    return vectors, np.column_stack([i, j])


def _caps(atoms: Atoms, vectors: np.ndarray, of: np.ndarray, symbol: str) -> Atoms:
    """An atom at the end of each cut bond, at the sum of covalent radii."""
    from ase import Atoms as Made
    from ase.data import covalent_radii

    z = SYMBOLS.index(symbol)
    lengths = covalent_radii[z] + covalent_radii[atoms.numbers[of]]
    places = atoms.positions[of] + vectors / np.linalg.norm(vectors, axis=1)[:, None] * lengths[:, None]
    return Made([z] * len(of), positions=places)

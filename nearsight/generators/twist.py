"""Twisted bilayers: one sheet on another, turned to a commensurate angle, shifted, strained to fit, corrugated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import pi
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nearsight.core.errors import BadInput
from nearsight.generators.coincidence import Commensurate, by_angle, by_indices, commensurate_cells, equal_lattices
from nearsight.generators.contract import Generator
from nearsight.generators.sheets import Array, Sheet, in_box
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Twist(Generator):
    """Two layers in one cell: the first sheet given, and the second, or the first once more.

    Both are turned about the origin of their cells, the second by the angle and strained to fit; shift moves it before.
    indices (m, n), or m and r = m - n, name the cell of two equal lattices; angle_deg has it searched, for any two.
    """

    kind: ClassVar[str] = "twist"
    parents = "together"

    indices: tuple[int, int] | None = option(None, "(m, n) of the commensurate cell, m >= n >= 0.", unit="m n")
    m: int | None = option(None, "Of the cell, with r instead of indices.", ge=1)
    r: int | None = option(None, "Difference m - n, with m.", ge=0)
    angle_deg: float | None = option(None, "Angle: the smallest cell near it is taken.", unit="deg", ge=-180, le=180)
    within_deg: float = option(0.05, "How near.", unit="deg", gt=0, le=5)
    strain: float = option(0.01, "Largest strain of the second sheet, as a fraction.", ge=0, le=0.2)
    distance_ang: float = option(3.35, "Between the facing planes of atoms, in the mean.", unit="Ang", gt=0, le=100)
    shift: tuple[float, float] = option((0.0, 0.0), "Of the second sheet, in fractions of its cell.", unit="x y")
    corrugation_ang: float = option(
        0.0, "By how much layers are farther apart at AA stacking than at AB.", unit="Ang", ge=0, le=5
    )
    vacuum_ang: float = option(7.5, "Empty space above and below.", unit="Ang", gt=0)

    def sheets(self, parents: Sequence[Atoms]) -> tuple[Sheet, Sheet]:
        """Both layers. Raises BadInput for more than two parents, or what is no sheet."""
        if len(parents) > 2:
            raise BadInput(f"twist: {len(parents)} structures: give one sheet, or two")
        return Sheet.of(parents[0]), Sheet.of(parents[-1])

    def cell(self, parents: Sequence[Atoms]) -> Commensurate:
        """The shared cell that is asked for. Raises BadInput where there is none."""
        first, second = self.sheets(parents)
        ways = [self.indices is not None, (self.m, self.r) != (None, None), self.angle_deg is not None]
        if sum(ways) != 1:
            raise BadInput("twist: give one of indices (m, n), m with r, or angle_deg")
        if self.angle_deg is not None:
            return by_angle(first, second, self.angle_deg, self.within_deg, self.strain, self.most_atoms)
        if self.indices is not None:
            return by_indices(first, second, self.indices, self.strain)
        if self.m is None or self.r is None:
            raise BadInput("twist: m and r belong together: give both, or indices (m, n)")
        return by_indices(first, second, (self.m, self.m - self.r), self.strain)

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return 1

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return self.cell(parents).atoms

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        lower, upper = self.sheets(parents)
        cell = self.cell(parents)
        own, theirs = cell.matrices
        maps = np.linalg.inv(theirs @ upper.vectors) @ (own @ lower.vectors)
        moved = np.array(self.shift) @ upper.vectors
        top = upper.shifted(moved).mapped(maps)
        waves = _Moire(lower, upper, maps, moved @ maps)
        layers = [lower.supercell(own), top.supercell(theirs)]
        layers[1] = layers[1].raised(self.distance_ang + (lower.thickness + upper.thickness) / 2)
        if self.corrugation_ang:
            layers = [
                s.raised(sign * 0.5 * self.corrugation_ang * waves.swing(s.positions))
                for s, sign in zip(layers, (-1, 1), strict=True)
            ]
        made = in_box(layers, self.vacuum_ang)
        made.info = {
            "details": {
                "angle_deg": round(cell.angle_deg, 6),
                "largest_strain": round(cell.largest_strain, 8),
                "indices": cell.indices,
                "supercells": [own.tolist(), theirs.tolist()],
                "atoms_of_layers": [len(s) for s in layers],
            }
        }
        yield made


class _Moire:
    """The moire's first waves: cos of (g1 - g2) r + g2 shift, for g of the first star of the lower sheet."""

    def __init__(self, lower: Sheet, upper: Sheet, maps: Array, moved: Array) -> None:
        own = 2 * pi * np.linalg.inv(lower.vectors).T
        theirs = 2 * pi * np.linalg.inv(upper.vectors @ maps).T
        rows = [[1, 0], [0, 1]]
        if lower.lattice == "hexagonal":
            rows.append([1, 1] if own[0] @ own[1] < 0 else [1, -1])
        self.waves = np.array(rows) @ (own - theirs)
        self.phases = np.array(rows) @ theirs @ moved
        self.most, self.least = float(len(rows)), (-1.5 if len(rows) == 3 else -2.0)

    def swing(self, positions: Array) -> Array:
        """From 1 where the sheets lie on each other (AA) to 0 where they least do, less its mean [atoms]."""
        total = np.cos(positions @ self.waves.T + self.phases).sum(1)
        return (total - total.mean()) / (self.most - self.least)


def commensurate_angles(
    first: Atoms, second: Atoms | None = None, most_atoms: int = 1000, strain: float = 0.01
) -> list[Commensurate]:
    """All twists of two equal hexagonal or square lattices with at most so many atoms, by the number of atoms.

    Raises BadInput for what is no sheet, and for other lattices.
    """
    one = Sheet.of(first)
    other = one if second is None else Sheet.of(second)
    return commensurate_cells(one, other, most_atoms, strain)


__all__ = ["Commensurate", "Twist", "commensurate_angles", "equal_lattices"]

"""Nanotubes: any sheet rolled up along a lattice vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import pi
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nearsight.core.errors import BadInput
from nearsight.generators.contract import Generator
from nearsight.generators.sheets import Sheet, check_steps, perpendicular
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Nanotube(Generator):
    """The tube whose circumference is n a1 + m a2, a1 and a2 at 60 degrees in a hexagonal lattice: (n, n) is armchair.

    Radius |n a1 + m a2| / 2 pi at the sheet's middle height; its upper side is outside.  The axis is z.
    """

    kind: ClassVar[str] = "nanotube"

    indices: tuple[int, int] = option(..., "(n, m) of the vector that becomes the circumference.", unit="n m")
    periods: int = option(1, "Periods along the axis.", ge=1)
    tolerance: float = option(1e-4, "Largest cosine between circumference and axis; it is sheared away.", ge=0, le=0.1)
    vacuum_ang: float = option(7.5, "Empty space around the tube.", unit="Ang", gt=0)

    def _cut(self, parent: Atoms) -> tuple[Sheet, np.ndarray]:
        """The sheet, and the integer matrix of circumference and period."""
        sheet, around = Sheet.of(parent), check_steps(self.kind, self.indices)
        matrix = np.array([around, perpendicular(sheet, around, self.tolerance)])
        radius = float(np.linalg.norm(around @ sheet.vectors)) / (2 * pi)
        if radius <= sheet.thickness / 2 + 0.5:
            raise BadInput(
                f"nanotube: {self.indices[0]} {self.indices[1]} has a radius of {radius:.2f} angstrom, the sheet is "
                f"{sheet.thickness:.2f} thick: take larger indices"
            )
        return sheet, matrix

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return 1

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        sheet, matrix = self._cut(parents[0])
        return round(float(np.linalg.det(matrix))) * len(sheet) * self.periods

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        from ase import Atoms as Made

        sheet, matrix = self._cut(parents[0])
        flat = sheet.supercell(matrix)
        around, along = np.linalg.norm(flat.vectors, axis=1)
        turns = flat.positions @ np.linalg.inv(flat.vectors)
        radii, angles = around / (2 * pi) + flat.heights, 2 * pi * turns[:, 0]
        positions = np.column_stack([radii * np.cos(angles), radii * np.sin(angles), turns[:, 1] * along])
        side = 2 * (radii.max() + self.vacuum_ang)
        positions[:, :2] += side / 2
        made = Made(flat.numbers, positions=positions, cell=[side, side, along], pbc=True).repeat((1, 1, self.periods))
        made.info = {
            "details": {"radius_ang": round(float(around / (2 * pi)), 6), "period_ang": round(float(along), 6)}
        }
        yield made

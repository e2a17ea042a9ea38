"""Strained cells: random symmetric strains, or a scan of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from nearsight.core.errors import BadInput
from nearsight.generators.contract import RandomGenerator
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Strain(RandomGenerator):
    """Cell and atoms deformed by 1 + e, e symmetric; fractional coordinates stay.

    random: each component of e is uniform in [-largest, largest].  volume: (1 + e)^d = V/V0 in equal steps of V over `range`,
    d = 3, or 2 of a sheet, whose area it is then.
    """

    kind: ClassVar[str] = "strain"

    count: int = option(5, "Structures of each parent.", ge=1)
    mode: Literal["random", "volume"] = option("random", "random: six components at random; volume: a scan of it.")
    largest: float = option(0.03, "Largest component of a random strain.", gt=0, le=0.5)
    range: tuple[float, float] = option((0.94, 1.06), "Volumes of a scan, first and last, over the parent's.")
    sheet: bool = option(False, "Strain within the plane of the first two lattice vectors alone.")

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        low, high = self.range
        if self.mode == "volume" and not (0 < low <= high <= 8):
            raise BadInput(
                f"strain: range {low:g} {high:g}: give two positive volumes over the parent's, the smaller one first"
            )
        return self.count

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(parents[0])

    def draw(self, parents: Sequence[Atoms], index: int, random: np.random.Generator) -> Atoms:
        """See `RandomGenerator`."""
        atoms = parents[0].copy()
        if self.mode == "random":
            strain = np.triu(random.uniform(-self.largest, self.largest, (3, 3)))
            strain = strain + np.triu(strain, 1).T
        else:
            low, high = self.range
            ratio = low + (high - low) * index / max(1, self.count - 1)
            strain = np.eye(3) * (ratio ** (1 / (2 if self.sheet else 3)) - 1)
        if self.sheet:
            normal = np.cross(*atoms.cell.array[:2])
            normal /= np.linalg.norm(normal)
            plane = np.eye(3) - np.outer(normal, normal)
            strain = plane @ strain @ plane
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        if self.sheet:  # the third vector may lean: heights stay
            heights = parents[0].positions @ normal
            atoms.positions += np.outer(heights - atoms.positions @ normal, normal)
        atoms.info = {**parents[0].info, "details": {"strain": strain.tolist()}}
        return atoms

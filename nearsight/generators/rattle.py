"""Random displacements: every atom moves along x, y and z by Gaussian steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from nearsight.core.structure import Structure, supercell
from nearsight.core.units import BOHR_ANG
from nearsight.generators.contract import RandomGenerator
from nearsight.generators.rotations import check_room, random_rotation, turned
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Rattle(RandomGenerator):
    """Copies of a structure: repeated, turned (a molecule in its box), displaced, in this order."""

    kind: ClassVar[str] = "rattle"

    count: int = option(1, "Structures of each parent.", ge=1)
    sigma_ang: float = option(0.05, "Width of the steps along x, y and z.", unit="Ang", ge=0, le=2)
    clip_ang: float | None = option(None, "Longest step along x, y or z; else none is cut.", unit="Ang", gt=0, le=5)
    supercell: tuple[int, int, int] = option((1, 1, 1), "Repeats first.")
    rotate: bool = option(False, "Turn the atoms about their centre at random: a molecule in its box.")

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        if self.rotate:
            name = f"{self.kind}: {parents[0].get_chemical_formula()}"
            check_room(supercell(Structure.from_ase(parents[0]), self.supercell), name)
        return self.count

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(parents[0]) * prod(self.supercell)

    def draw(self, parents: Sequence[Atoms], index: int, random: np.random.Generator) -> Atoms:
        """See `RandomGenerator`."""
        s = supercell(Structure.from_ase(parents[0]), self.supercell)
        return displaced(s, random, self.sigma_ang, self.clip_ang, self.rotate).to_ase()


def displaced(
    structure: Structure, random: np.random.Generator, sigma_ang: float, clip_ang: float | None, rotate: bool
) -> Structure:
    """The atoms turned at random, if `rotate`, and moved by Gaussian steps, in this order."""
    s = turned(structure, random_rotation(random)) if rotate else structure
    steps = random.normal(0, sigma_ang, (len(s), 3))
    if clip_ang is not None:
        steps = np.clip(steps, -clip_ang, clip_ang)
    return replace(s, positions=s.positions + torch.from_numpy(steps / BOHR_ANG))

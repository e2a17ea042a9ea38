"""Where the atoms are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo "
    "Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl "
    "Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"
).split()


@dataclass(frozen=True, eq=False)
class Structure:
    """A crystal (or a molecule or sheet in a box), periodic in all three directions.

    cell: lattice vectors as rows [3, 3], Bohr.  positions: [atoms, 3], Bohr, Cartesian.  numbers: atomic numbers [atoms].
    """

    cell: Tensor
    positions: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def symbols(self) -> list[str]:
        return [SYMBOLS[z] for z in self.numbers.tolist()]

    @property
    def volume(self) -> Tensor:
        """[Bohr^3]"""
        return torch.linalg.det(self.cell).abs()

    @property
    def reciprocal(self) -> Tensor:
        """Reciprocal lattice vectors as rows, with 2 pi [1/Bohr]."""
        return 2 * torch.pi * torch.linalg.inv(self.cell).T

    def rotate(self, rotation: Tensor) -> Structure:
        """The structure with every vector turned by an element [3, 3] of O(3)."""
        r = rotation.to(self.cell)
        return replace(self, cell=self.cell @ r.T, positions=self.positions @ r.T)

    def to(self, *args: Any, **kwargs: Any) -> Structure:
        """Cell and positions moved to a dtype and device; atomic numbers follow the device."""
        cell = self.cell.to(*args, **kwargs)
        return Structure(cell, self.positions.to(*args, **kwargs), self.numbers.to(cell.device))


def supercell(structure: Structure, repeats: tuple[int, int, int]) -> Structure:
    """The structure repeated along its lattice vectors; atoms of one cell stay together."""
    cells = structure.cell.new_tensor(list(product(*(range(n) for n in repeats))))
    positions = (structure.positions[None] + (cells @ structure.cell)[:, None]).reshape(-1, 3)
    scale = structure.cell.new_tensor(repeats)[:, None]
    return Structure(structure.cell * scale, positions, structure.numbers.repeat(len(cells)))

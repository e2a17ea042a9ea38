"""Each program's order and signs of real harmonics, in one table: the border that every reader and writer crosses.

Ours are m = -l..l without the sign of Condon and Shortley (core/so3.py).  For each shell ours[m] = sign[m] * theirs[index[m]].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.errors import BadInput

LETTERS = "spdfghi"


@dataclass(frozen=True)
class OrbitalOrder:
    """How a program lists the 2l+1 orbitals of a shell.

    name: of the convention.  index: for each l that is not simply m = -l..l, where each of ours stands in the program's list.
    sign: `none`; `odd` for (-1)^m; `odd-positive` for -1 where m is odd and positive.  largest: the highest l that is known.
    """

    name: str
    index: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    sign: str = "none"
    largest: int = 16

    def shell(self, l: int) -> tuple[list[int], list[float]]:
        """(index, sign) of a shell, 2l+1 each. Raises BadInput for an l whose order is not known."""
        if l > self.largest:
            raise BadInput(f"the order of {self.name}'s orbitals is known to l = {self.largest}, not for l = {l}")
        m = range(-l, l + 1)
        negative = {
            "none": lambda m: False,
            "odd": lambda m: m % 2 == 1,
            "odd-positive": lambda m: m > 0 and m % 2 == 1,
        }
        index = list(self.index.get(l, range(2 * l + 1)))
        return index, [-1.0 if negative[self.sign](n) else 1.0 for n in m]

    def orbitals(self, shells: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(index, sign) of all orbitals of an atom with these shells, each [orbitals]."""
        index, sign, first = list[int](), list[float](), 0
        for l in shells:
            own, factors = self.shell(l)
            index += [first + n for n in own]
            sign += factors
            first += 2 * l + 1
        return torch.tensor(index, dtype=torch.int64), torch.tensor(sign, dtype=torch.float64)

    def rows(self, basis: Basis) -> tuple[Tensor, Tensor]:
        """For every row of ours the program's row, and the sign: (index, sign), each [basis.size]."""
        of_element = {z: self.orbitals(shells) for z, shells in basis.shells.items()}
        offsets = basis.offsets.tolist()
        index = [of_element[z][0] + offsets[n] for n, z in enumerate(basis.numbers)]
        return torch.cat(index), torch.cat([of_element[z][1] for z in basis.numbers])


def _alternating(l: int) -> tuple[int, ...]:
    """Where m = -l..l stand in the list m = 0, +1, -1, +2, -2, ..."""
    return tuple(0 if m == 0 else 2 * abs(m) - (m > 0) for m in range(-l, l + 1))


OURS = OrbitalOrder("nearsight")
#: p = x, y, z; d = z2, x2-y2, xy, xz, yz; f = z3, xz2, yz2, z(x2-y2), xyz, x(x2-3y2), y(3x2-y2)
OPENMX = OrbitalOrder("OpenMX", {1: (1, 2, 0), 2: (2, 4, 0, 3, 1), 3: (6, 4, 2, 0, 1, 3, 5)}, largest=3)
SIESTA = OrbitalOrder("SIESTA", sign="odd")
ABACUS = OrbitalOrder("ABACUS", {l: _alternating(l) for l in range(1, 7)}, sign="odd", largest=6)
AIMS = OrbitalOrder("FHI-aims", sign="odd-positive")
#: p = x, y, z; m = -l..l for all others
PYSCF = OrbitalOrder("PySCF", {1: (1, 2, 0)})
ORDERS = (OURS, OPENMX, SIESTA, ABACUS, AIMS, PYSCF)

"""Which orbital of which atom is which row: the one index authority."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nearsight.core import so3
from nearsight.core.display import shortened
from nearsight.core.errors import MissingData
from nearsight.core.structure import SYMBOLS


@dataclass(frozen=True, eq=False)
class Basis:
    """Atomic orbitals of a structure: for each atom its element's shells in order, for each shell m = -l..l.

    numbers: atomic number of each atom.  shells: angular momenta of each element's shells, e.g. {6: (0, 0, 1, 1, 2)}.
    """

    numbers: tuple[int, ...]
    shells: Mapping[int, tuple[int, ...]]

    def __repr__(self) -> str:
        shells = ", ".join(f"{SYMBOLS[z]} l = {' '.join(map(str, ls))}" for z, ls in self.shells.items())
        return shortened(f"Basis({len(self.numbers)} atoms, {self.size} orbitals: {shells}", ")")

    @staticmethod
    def of(numbers: Tensor, shells: Mapping[int, tuple[int, ...]]) -> Basis:
        """Raises NearsightError if an element has no shells."""
        present = tuple(numbers.tolist())
        missing = sorted({SYMBOLS[z] for z in present if z not in shells})
        if missing:
            raise MissingData(
                f"no orbitals for {', '.join(missing)}: the basis knows {', '.join(SYMBOLS[z] for z in shells)} only"
            )
        return Basis(present, {z: tuple(shells[z]) for z in sorted(set(present))})

    @cached_property
    def counts(self) -> Tensor:
        """Orbitals on each atom [atoms]."""
        return torch.tensor([sum(2 * l + 1 for l in self.shells[z]) for z in self.numbers], dtype=torch.int64)

    @cached_property
    def offsets(self) -> Tensor:
        """First row of each atom, and the total at the end [atoms + 1]."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.counts.cumsum(0)])

    @cached_property
    def size(self) -> int:
        """Number of orbitals."""
        return int(self.offsets[-1])

    @cached_property
    def atom_of_orbital(self) -> Tensor:
        """Atom of each row of a matrix [orbitals]."""
        return torch.repeat_interleave(torch.arange(len(self.numbers)), self.counts)

    def same_as(self, other: Basis) -> bool:
        """Whether atoms and shells are the same, so that matrices of both have the same rows."""
        return self.numbers == other.numbers and dict(self.shells) == dict(other.shells)

    def rotation(self, number: int, rotation: Tensor) -> Tensor:
        """Block-diagonal matrix [orbitals, orbitals] that turns the orbitals of an element by an element of O(3)."""
        return torch.block_diag(*(so3.wigner(l, rotation) for l in self.shells[number]))

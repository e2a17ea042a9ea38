"""Substitutions: atoms of another element in the place of some, at random or one of each kind that symmetry tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from nearsight.generators.sites import SiteGenerator, atomic_number
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Substitutions(SiteGenerator):
    """A structure with some of its atoms replaced; the cell and the others stay."""

    kind: ClassVar[str] = "substitutions"

    by: str = option(..., "Element that takes its place.")

    def candidates(self, parent: Atoms) -> tuple[list[int], int]:
        """See `SiteGenerator`."""
        atomic_number(self.kind, self.by)
        return super().candidates(parent)

    def changed(self, atoms: Atoms, chosen: Sequence[int]) -> Atoms:
        """See `SiteGenerator`."""
        numbers = atoms.numbers.copy()
        numbers[list(chosen)] = atomic_number(self.kind, self.by)
        atoms.numbers = numbers
        return atoms

"""Vacancies: atoms taken out, at random or one of each kind that symmetry tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from nearsight.core.errors import BadInput
from nearsight.generators.sites import SiteGenerator

if TYPE_CHECKING:
    from ase import Atoms


class Vacancies(SiteGenerator):
    """A structure without some of its atoms."""

    kind: ClassVar[str] = "vacancies"

    def candidates(self, parent: Atoms) -> tuple[list[int], int]:
        """See `SiteGenerator`."""
        places, many = super().candidates(parent)
        if many == len(parent):
            raise BadInput(f"vacancies: all {many} atoms of {parent.get_chemical_formula()}: leave one at least")
        return places, many

    def changed(self, atoms: Atoms, chosen: Sequence[int]) -> Atoms:
        """See `SiteGenerator`."""
        del atoms[list(chosen)]
        return atoms

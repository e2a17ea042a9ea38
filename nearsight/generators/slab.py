"""Slabs: a crystal cut along a plane, with empty space on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd, prod
from typing import TYPE_CHECKING, ClassVar

from nearsight.core.errors import BadInput
from nearsight.generators.contract import Generator
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Slab(Generator):
    """Layers of lattice planes (h k l), stacked along their normal, the third lattice vector along it."""

    kind: ClassVar[str] = "slab"

    miller: tuple[int, int, int] = option((1, 0, 0), "Indices of the plane, of the cell that is cut.", unit="h k l")
    layers: int = option(4, "Repeats of the cell along the normal.", ge=1)
    vacuum_ang: float = option(7.5, "Empty space on each side.", unit="Ang", gt=0)
    repeat: tuple[int, int] = option((1, 1), "Repeats within the plane.")
    conventional: bool = option(False, "Cut the crystal's conventional cell, which its Miller indices are usually of.")

    def _cell(self, parent: Atoms) -> Atoms:
        from nearsight.core.structure import Structure
        from nearsight.electrons.kpoints import vacuum_axes

        if self.miller == (0, 0, 0) or gcd(*self.miller) != 1:
            raise BadInput(
                f"slab: miller {' '.join(map(str, self.miller))}: give three integers without a common factor, not all zero"
            )
        if min(self.repeat) < 1:
            raise BadInput(f"slab: repeat {' '.join(map(str, self.repeat))}: every number must be at least 1")
        if empty := vacuum_axes(Structure.from_ase(parent)):
            along = " and ".join("abc"[axis] for axis in empty)
            raise BadInput(
                f"slab: {parent.get_chemical_formula()} has empty space along {along}, so it is a sheet, a wire or a molecule: "
                "give the crystal that is to be cut (`structures ribbon` and `nanotube` cut sheets)"
            )
        return conventional_cell(parent) if self.conventional else parent

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return 1

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(self._cell(parents[0])) * self.layers * prod(self.repeat)

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        from ase.build import surface

        made = surface(self._cell(parents[0]), self.miller, self.layers, self.vacuum_ang, periodic=True)
        yield made.repeat((*self.repeat, 1))


def conventional_cell(atoms: Atoms) -> Atoms:
    """The standard conventional cell by spglib, of the given orientation's elements. Raises BadInput where there is none."""
    import spglib
    from ase import Atoms as Made

    found = spglib.standardize_cell((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-4)
    if found is None:
        raise BadInput("slab: no symmetry was found in the parent: leave conventional out")
    cell, positions, numbers = found
    return Made(numbers, scaled_positions=positions, cell=cell, pbc=True)

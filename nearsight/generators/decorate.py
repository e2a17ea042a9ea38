"""Decorated prototypes: known crystals and sheets with given elements on their sites, at the volume of their covalent radii."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nearsight.core.configuration import near_miss
from nearsight.core.errors import BadInput
from nearsight.generators.contract import RandomGenerator, Words
from nearsight.generators.prototypes import PROTOTYPES, Prototype
from nearsight.generators.sites import atomic_number
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Decorate(RandomGenerator):
    """Every choice of different elements for the sites of every prototype.

    The lattice constant makes the shortest bond, of all pairs, the sum of its atoms' covalent radii; it is then scaled by a
    factor that is uniform in `scale`, and the atoms are displaced by Gaussian steps.
    """

    kind: ClassVar[str] = "decorate"
    parents = "none"

    prototypes: Words = option(..., f"Names, with commas between them: {', '.join(PROTOTYPES)}.")
    elements: Words = option(..., "Elements to choose from, such as Ga,As,In.")
    count: int = option(1, "Structures of each decoration.", ge=1)
    scale: tuple[float, float] = option((1.0, 1.0), "Least and largest factor on the lattice constant.")
    sigma_ang: float = option(0.0, "Width of the displacements along x, y and z.", unit="Ang", ge=0, le=2)
    vacuum_ang: float = option(7.5, "Empty space above and below a sheet.", unit="Ang", gt=0)

    @cached_property
    def decorations(self) -> list[tuple[str, tuple[str, ...]]]:
        """Prototypes with the elements of their letters. Raises BadInput for words that are none, or too few elements."""
        low, high = self.scale
        if not 0 < low <= high:
            raise BadInput(f"decorate: scale {low:g} {high:g}: give two positive factors, the smaller one first")
        elements = list(dict.fromkeys(self.elements))
        for symbol in elements:
            if not np.isfinite(_radii([atomic_number(self.kind, symbol)])).all():
                raise BadInput(f"decorate: the covalent radius of {symbol} is not known: leave it out")
        found: list[tuple[str, tuple[str, ...]]] = []
        for name in dict.fromkeys(word.lower() for word in self.prototypes):
            if name not in PROTOTYPES:
                raise BadInput(
                    f"decorate: no prototype {name!r}{near_miss(name, PROTOTYPES)} (known: {', '.join(PROTOTYPES)})"
                )
            prototype = PROTOTYPES[name]
            if len(prototype.letters) > len(elements):
                raise BadInput(f"decorate: {name} needs {len(prototype.letters)} elements, {len(elements)} are given")
            for choice in permutations(elements, len(prototype.letters)):
                if not (prototype.alike and elements.index(choice[0]) > elements.index(choice[1])):
                    found.append((name, choice))
        if not found:
            raise BadInput("decorate: give prototypes and elements")
        return found

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(self.decorations) * self.count

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return max(len(PROTOTYPES[name].sites) for name, _ in self.decorations)

    def draw(self, parents: Sequence[Atoms], index: int, random: np.random.Generator) -> Atoms:
        """See `RandomGenerator`."""
        name, elements = self.decorations[index // self.count]
        factor = float(random.uniform(*self.scale))
        made = decorated(PROTOTYPES[name], elements, factor, self.vacuum_ang)
        made.positions += random.normal(0, self.sigma_ang, (len(made), 3))
        made.info = {"details": {"prototype": name, "elements": list(elements), "scale": round(factor, 8)}}
        return made


def decorated(prototype: Prototype, elements: Sequence[str], factor: float = 1.0, vacuum_ang: float = 7.5) -> Atoms:
    """One decoration: elements of the prototype's letters, lattice constant times `factor`."""
    from ase import Atoms as Made

    on = dict(zip(prototype.letters, elements, strict=True))
    symbols, sites = [on[letter] for letter, _ in prototype.sites], np.array([place for _, place in prototype.sites])
    cell = np.array(prototype.cell, dtype=float)
    if prototype.sheet:
        heights, cell[2, 2] = sites[:, 2].copy(), 10.0
        sites[:, 2] = 0
    unit = Made(symbols, scaled_positions=sites, cell=cell, pbc=True)
    if prototype.sheet:
        unit.positions[:, 2] = heights
    a = _lattice_constant(unit) * factor
    if not prototype.sheet:
        return Made(symbols, scaled_positions=unit.get_scaled_positions(), cell=cell * a, pbc=True)
    positions = unit.positions * a
    positions[:, 2] += vacuum_ang - positions[:, 2].min()
    cell *= a
    cell[2, 2] = np.ptp(positions[:, 2]) + 2 * vacuum_ang
    return Made(symbols, positions=positions, cell=cell, pbc=True)


def _lattice_constant(unit: Atoms) -> float:
    """At which no two atoms of a cell of unit lattice constant are nearer than their covalent radii, and some are as near."""
    from ase.neighborlist import neighbor_list

    radii = _radii(unit.numbers)
    i, j, distances = neighbor_list("ijd", unit, 1.7)
    return float(((radii[i] + radii[j]) / distances).max())


def _radii(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Covalent radii [angstrom]; where none is known (ASE has 0.2 there) not a number."""
    from ase.data import covalent_radii, missing

    radii = covalent_radii[np.asarray(numbers)].copy()
    radii[radii == missing] = np.nan
    return radii

"""Choices of sites in a crystal: at random, or one of each kind that the crystal's symmetry tells apart."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from nearsight.core.errors import BadInput
from nearsight.core.structure import SYMBOLS
from nearsight.generators.contract import RandomGenerator
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms

MOST_CHOICES = 50_000  # of which those that symmetry tells apart are found
SYMPREC_ANG = 1e-3


class SiteGenerator(RandomGenerator):
    """A generator that changes some of a structure's sites; what it does with them is its `changed`."""

    count: int = option(1, "Structures of each parent, at random; with distinct as many as there are.", ge=1)
    sites: int | None = option(None, "How many sites; else a fraction.", ge=1)
    fraction: float | None = option(None, "Share of the element's sites, rounded to a number.", gt=0, le=1)
    distinct: bool = option(
        False, "One of each choice that the crystal's symmetry tells apart, instead of a random one."
    )

    of: str | None = option(None, "Element whose sites are changed; else any.")

    @abstractmethod
    def changed(self, atoms: Atoms, chosen: Sequence[int]) -> Atoms:
        """The structure with something done at the chosen sites."""

    def candidates(self, parent: Atoms) -> tuple[list[int], int]:
        """The sites to choose from, and how many. Raises BadInput where that cannot be done."""
        z = None if self.of is None else atomic_number(self.kind, self.of)
        places = [n for n, x in enumerate(parent.numbers) if z is None or x == z]
        name = parent.get_chemical_formula()
        if not places:
            raise BadInput(f"{self.kind}: {name} has no {self.of}")
        if (self.sites is None) == (self.fraction is None):
            raise BadInput(f"{self.kind}: give either sites, a number, or fraction")
        chosen = self.sites if self.sites is not None else round(float(self.fraction or 0) * len(places))
        if not 1 <= chosen <= len(places):
            raise BadInput(
                f"{self.kind}: {chosen} of {len(places)} sites of {name}: give at least 1 and at most {len(places)}"
                + (", or a supercell first" if chosen < 1 else "")
            )
        return places, chosen

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        places, chosen = self.candidates(parents[0])
        if not self.distinct:
            return self.count
        return len(distinct_choices(self.kind, parents[0], places, chosen))

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(parents[0])

    def draw(self, parents: Sequence[Atoms], index: int, random: np.random.Generator) -> Atoms:
        """See `RandomGenerator`."""
        places, many = self.candidates(parents[0])
        chosen = sorted(random.choice(places, many, replace=False).tolist())
        return self._told(self.changed(parents[0].copy(), chosen), chosen)

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        if not self.distinct:
            yield from super().structures(parents, first)
            return
        places, many = self.candidates(parents[0])
        for chosen, times in distinct_choices(self.kind, parents[0], places, many):
            yield self._told(self.changed(parents[0].copy(), chosen), chosen, multiplicity=times)

    @staticmethod
    def _told(atoms: Atoms, chosen: Sequence[int], **more: int) -> Atoms:
        atoms.info = {**atoms.info, "details": {"sites": [int(n) for n in chosen], **more}}
        return atoms


def atomic_number(kind: str, symbol: str) -> int:
    """Of an element. Raises BadInput for a word that is none."""
    from nearsight.core.configuration import near_miss

    if symbol not in SYMBOLS[1:]:
        raise BadInput(f"{kind}: {symbol!r} is no element{near_miss(symbol, SYMBOLS[1:])}")
    return SYMBOLS.index(symbol)


def distinct_choices(kind: str, atoms: Atoms, places: Sequence[int], many: int) -> list[tuple[tuple[int, ...], int]]:
    """Of all choices of so many places, the first of each class under the crystal's space group, and the size of the class.

    Raises BadInput where there are too many to look at.
    """
    if comb(len(places), many) > MOST_CHOICES:
        raise BadInput(
            f"{kind}: {comb(len(places), many):.3g} choices of {many} of {len(places)} sites are too many to tell apart by "
            "symmetry: take fewer sites, or leave distinct out"
        )
    moves = permutations(atoms)
    seen: dict[tuple[int, ...], int] = {}
    for choice in combinations(places, many):
        images = np.sort(moves[:, choice], axis=1)
        least = tuple(int(n) for n in images[np.lexsort(images.T[::-1])[0]])
        seen[least] = seen.get(least, 0) + 1
    return sorted(seen.items())


def permutations(atoms: Atoms) -> np.ndarray:
    """Where each operation of the space group takes each atom [operations, atoms], by spglib."""
    import spglib

    scaled = atoms.get_scaled_positions()
    found = spglib.get_symmetry((atoms.cell.array, scaled, atoms.numbers), symprec=SYMPREC_ANG)
    identity = np.arange(len(atoms))[None]
    if found is None:
        return identity
    rows = []
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        moved = scaled @ rotation.T + translation
        gaps = moved[:, None] - scaled[None]
        gaps -= np.round(gaps)
        distances = np.linalg.norm(gaps @ atoms.cell.array, axis=2)
        distances[atoms.numbers[:, None] != atoms.numbers[None]] = np.inf
        row = distances.argmin(1)
        if len(set(row.tolist())) == len(atoms):
            rows.append(row)
    return np.unique(np.array(rows), axis=0) if rows else identity

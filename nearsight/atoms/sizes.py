"""The names by which a basis is asked for, and what each says: apart from the rest, so that settings load without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Size = Literal["light", "standard", "tight", "sz", "szp", "dz", "dzp", "tz", "tzp"]
Rule = Literal[1, 2, 3, 4, 5]
RULE: Rule = 5  # by which orbitals are made today; raised with every change of the orbitals that a rule makes
RULES: tuple[Rule, ...] = (1, 2, 3, 4, 5)
PRESETS = ("light", "standard", "tight")  # which rule 1 does not know


@dataclass(frozen=True)
class Count:
    """What a size is made of.

    zetas: of a valence shell. polarization: of a shell that the atom leaves empty (0: there is none). further_d: of the d above
    a p shell where it does more than polarise (orbital_rule.py). energy_shift: [Ry].
    """

    zetas: int
    polarization: int
    further_d: int
    energy_shift: float


SIZES: dict[str, Count] = {
    "light": Count(2, 1, 1, 0.02),
    "standard": Count(2, 1, 2, 0.005),
    "tight": Count(3, 2, 2, 0.0025),
    "sz": Count(1, 0, 0, 0.005),
    "szp": Count(1, 1, 1, 0.005),
    "dz": Count(2, 0, 0, 0.005),
    "dzp": Count(2, 1, 1, 0.005),
    "tz": Count(3, 0, 0, 0.005),
    "tzp": Count(3, 1, 1, 0.005),
}

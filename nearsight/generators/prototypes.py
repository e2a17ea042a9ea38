"""Prototypes of crystals and sheets: cells and sites without a size, and what stands on each site."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_FCC = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
_BCC = ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5))
_CUBE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_IDEAL = sqrt(8 / 3)  # c/a of spheres


def _hexagonal(c: float) -> tuple[tuple[float, ...], ...]:
    return ((1.0, 0.0, 0.0), (-0.5, sqrt(3) / 2, 0.0), (0.0, 0.0, c))


@dataclass(frozen=True)
class Prototype:
    """cell: rows, of unit lattice constant.  sites: (letter, fractional coordinates); a letter is one element.

    sheet: the third vector leads through empty space, sites' third coordinate is a height in units of the lattice constant.
    alike: exchanging the first two letters gives the same crystal.
    """

    cell: tuple[tuple[float, ...], ...]
    sites: tuple[tuple[str, tuple[float, float, float]], ...]
    sheet: bool = False
    alike: bool = False

    @property
    def letters(self) -> tuple[str, ...]:
        """In the order of their first sites."""
        return tuple(dict.fromkeys(letter for letter, _ in self.sites))


_THIRD, _TWO = 1 / 3, 2 / 3
PROTOTYPES: dict[str, Prototype] = {
    "sc": Prototype(_CUBE, (("A", (0, 0, 0)),)),
    "bcc": Prototype(_BCC, (("A", (0, 0, 0)),)),
    "fcc": Prototype(_FCC, (("A", (0, 0, 0)),)),
    "hcp": Prototype(_hexagonal(_IDEAL), (("A", (_THIRD, _TWO, 0.25)), ("A", (_TWO, _THIRD, 0.75)))),
    "diamond": Prototype(_FCC, (("A", (0, 0, 0)), ("A", (0.25, 0.25, 0.25)))),
    "rocksalt": Prototype(_FCC, (("A", (0, 0, 0)), ("B", (0.5, 0.5, 0.5))), alike=True),
    "zincblende": Prototype(_FCC, (("A", (0, 0, 0)), ("B", (0.25, 0.25, 0.25))), alike=True),
    "cesiumchloride": Prototype(_CUBE, (("A", (0, 0, 0)), ("B", (0.5, 0.5, 0.5))), alike=True),
    "wurtzite": Prototype(
        _hexagonal(_IDEAL),
        (
            ("A", (_THIRD, _TWO, 0.0)),
            ("A", (_TWO, _THIRD, 0.5)),
            ("B", (_THIRD, _TWO, 0.375)),
            ("B", (_TWO, _THIRD, 0.875)),
        ),
        alike=True,
    ),
    "nickeline": Prototype(
        _hexagonal(1.39),
        (("A", (0, 0, 0)), ("A", (0, 0, 0.5)), ("B", (_THIRD, _TWO, 0.25)), ("B", (_TWO, _THIRD, 0.75))),
    ),
    "fluorite": Prototype(_FCC, (("A", (0, 0, 0)), ("B", (0.25, 0.25, 0.25)), ("B", (0.75, 0.75, 0.75)))),
    "rutile": Prototype(
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.644)),
        (
            ("A", (0, 0, 0)),
            ("A", (0.5, 0.5, 0.5)),
            ("B", (0.305, 0.305, 0)),
            ("B", (0.695, 0.695, 0)),
            ("B", (0.195, 0.805, 0.5)),
            ("B", (0.805, 0.195, 0.5)),
        ),
    ),
    "perovskite": Prototype(
        _CUBE,
        (
            ("A", (0, 0, 0)),
            ("B", (0.5, 0.5, 0.5)),
            ("X", (0.5, 0.5, 0)),
            ("X", (0.5, 0, 0.5)),
            ("X", (0, 0.5, 0.5)),
        ),
    ),
    "graphene": Prototype(_hexagonal(0), (("A", (_THIRD, _TWO, 0)), ("A", (_TWO, _THIRD, 0))), sheet=True),
    "silicene": Prototype(_hexagonal(0), (("A", (_THIRD, _TWO, 0.057)), ("A", (_TWO, _THIRD, -0.057))), sheet=True),
    "hbn": Prototype(_hexagonal(0), (("A", (_THIRD, _TWO, 0)), ("B", (_TWO, _THIRD, 0))), sheet=True, alike=True),
    "mx2-2h": Prototype(
        _hexagonal(0),
        (("M", (0, 0, 0)), ("X", (_THIRD, _TWO, 0.492)), ("X", (_THIRD, _TWO, -0.492))),
        sheet=True,
    ),
    "mx2-1t": Prototype(
        _hexagonal(0),
        (("M", (0, 0, 0)), ("X", (_THIRD, _TWO, 0.45)), ("X", (_TWO, _THIRD, -0.45))),
        sheet=True,
    ),
}

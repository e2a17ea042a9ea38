"""Patterns of magnetic moments: the same atoms with moments at random, in cones, or along spirals."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, nan, pi, radians, sin
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from nearsight.core.errors import BadInput
from nearsight.core.structure import SYMBOLS
from nearsight.generators.contract import Keys, RandomGenerator
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

LONGEST = 20.0  # mu_B, of an atom
STRAIGHT = 1e-9  # below this a vector has no direction


class Moments(RandomGenerator):
    """Copies of a structure with moments, which a calculation begins with, or holds (`scf.constrain`).

    random: each direction uniform on the sphere.  cone: within `angle_deg` of one axis, uniform on that cap; 0 makes them
    parallel.  spiral: at `angle_deg` from the axis, turned about it by 2 pi (turns . x) at fractional x, from any phase.
    """

    kind: ClassVar[str] = "moments"

    count: int = option(10, "Patterns for each parent.", ge=1)
    pattern: Literal["random", "cone", "spiral"] = option("random", "Directions: random, cone or spiral.")
    sizes: Keys = option(
        ..., "Size of each magnetic element's moments, or their range: {Fe: 2.2, Cr: [2.5, 3.5]} (mu_B)."
    )
    angle_deg: float = option(90.0, "Of a cone or a spiral with its axis.", unit="deg", ge=0, le=180)
    turns: tuple[int, int, int] = option((1, 0, 0), "Of a spiral, along each lattice vector.")
    axis: tuple[float, float, float] | None = option(None, "Of cones and spirals; else at random.")

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        if self.axis is not None and not np.linalg.norm(self.axis) > STRAIGHT:
            raise BadInput("moments: an axis of zero length has no direction: give another one")
        present = {SYMBOLS[z] for z in parents[0].numbers}
        if not present & set(self.sizes):
            raise BadInput(
                f"moments: {parents[0].get_chemical_formula()} has none of the elements in sizes ({', '.join(self.sizes)}): "
                f"give the size of {' or '.join(sorted(present))}"
            )
        return self.count

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(parents[0])

    def draw(self, parents: Sequence[Atoms], index: int, random: np.random.Generator) -> Atoms:
        """See `RandomGenerator`."""
        atoms = parents[0].copy()
        directions = self._directions(atoms, random)
        sizes = [random.uniform(*_range(self.sizes.get(SYMBOLS[z], 0.0))) for z in atoms.numbers]
        moments = np.array(sizes)[:, None] * directions
        atoms.set_initial_magnetic_moments(moments)
        atoms.info = {**parents[0].info, "details": {"moments_mu_B": moments.tolist()}}
        return atoms

    def _directions(self, atoms: Atoms, random: np.random.Generator) -> NDArray[np.float64]:
        """A unit vector for each atom [atoms, 3]."""
        axis = _unit(random.normal(size=3) if self.axis is None else np.array(self.axis))
        if self.pattern == "random":
            return np.stack([_unit(random.normal(size=3)) for _ in range(len(atoms))])
        first = _unit(np.cross(axis, np.eye(3)[np.abs(axis).argmin()]))
        second = np.cross(axis, first)
        angle = radians(self.angle_deg)
        if self.pattern == "cone":
            z = random.uniform(cos(angle), 1, len(atoms))
            phase = random.uniform(0, 2 * pi, len(atoms))
            across = np.sqrt(1 - z**2)
        else:
            phase = 2 * pi * (atoms.get_scaled_positions(wrap=False) @ self.turns) + random.uniform(0, 2 * pi)
            z, across = np.full(len(atoms), cos(angle)), np.full(len(atoms), sin(angle))
        turning = np.outer(np.cos(phase), first) + np.outer(np.sin(phase), second)
        made: NDArray[np.float64] = np.outer(z, axis) + across[:, None] * turning
        return made

    @field_validator("sizes")
    @classmethod
    def _of_elements(cls, given: dict[str, Any]) -> dict[str, Any]:
        for symbol, said in given.items():
            low, high = _range(said)
            if symbol not in SYMBOLS[1:] or not 0 < low <= high <= LONGEST:
                raise ValueError(
                    f"{symbol}: {said} is no size of an element's moments: give mu_B up to {LONGEST:g}, one number or two, the "
                    "smaller one first, such as {Fe: 2.2, Cr: [2.5, 3.5]}"
                )
        if not given:
            raise ValueError("no element is named: give those that are magnetic, such as {Fe: 2.2}")
        return given


def _range(said: Any) -> tuple[float, float]:
    """Least and largest size; numbers that are none where it is neither a number nor two."""
    pair = said if isinstance(said, list | tuple) else [said, said]
    sound = len(pair) == 2 and all(isinstance(x, int | float) and not isinstance(x, bool) for x in pair)
    return (float(pair[0]), float(pair[1])) if sound else (nan, nan)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit

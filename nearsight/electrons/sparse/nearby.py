"""The levels of one H(k) about a shift by their indices: counted by inertia, computed from one factor, proven to be whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearsight.core.display import one_line
from nearsight.core.errors import NotConverged
from nearsight.electrons.sparse.factor import Shift
from nearsight.electrons.sparse.krylov import Krylov, all_states

Array = NDArray[Any]
BLOCK = 8  # right-hand sides of a solve, and the largest multiplicity that is safe at once
MORE = 6  # states beyond the wanted ones, among which an end of the window is looked for
APART = 1e-6  # Ha: a gap between two levels in which an end of the window may lie
LARGEST_SPACE = 2500  # of a Krylov method
MOST_STATES = 800  # of one window
SMALL = 300  # rows that are diagonalised whole
DENSE = 4000  # rows that may be, where a window takes a third of all levels


@dataclass(frozen=True, eq=False)
class Levels:
    """Levels first, first + 1, ...: energies, ascending [Ha], and vectors with c^H S c = 1 [rows, n], if they are held."""

    first: int
    energies: Array
    vectors: Array | None = None

    __repr__ = one_line

    @property
    def last(self) -> int:
        """One more than the index of the highest."""
        return self.first + len(self.energies)

    def below(self, energy: float) -> int | None:
        """Levels of the whole system below an energy; None for one outside."""
        if not len(self.energies) or not self.energies[0] < energy < self.energies[-1]:
            return None
        return self.first + int(np.searchsorted(self.energies, energy))

    def part(self, first: int, last: int) -> Levels:
        """Some of them, by index."""
        own = slice(first - self.first, last - self.first)
        return Levels(first, self.energies[own], None if self.vectors is None else self.vectors[:, own])


class Nearby:
    """Levels about a shift. All that is asked for grows from one factor and one Krylov space.

    shift: factorised.  below: levels below it.  counter: another shift of the same matrix, which counts elsewhere.
    """

    def __init__(self, shift: Shift, below: int, counter: Shift) -> None:
        self.shift, self.below, self.counter = shift, below, counter
        self._block = BLOCK
        self._krylov: Krylov | None = None
        self._whole: Levels | None = None  # all levels of a small system
        self.known: Levels | None = None  # what is proven

    @property
    def rows(self) -> int:
        """Levels of the system."""
        return self.shift.pencil.size

    def extend(self, first: int, last: int, low: float = np.inf, high: float = -np.inf) -> Levels:
        """Levels first .. last - 1 and those from an energy `low` to another, `high`, not yet refined nor proven; a few beyond.

        At most MOST_STATES. Raises NotConverged where the Krylov space does not suffice.
        """
        if self._is_small(last - first):
            return self._all()
        krylov = self._space()

        def enough(below: Array, above: Array) -> bool:
            many = len(below) + len(above) >= max(MOST_STATES, last - first)
            under = len(below) >= self.below or (
                len(below) >= self.below - first and (many or (len(below) > 0 and below[-1] < low))
            )
            left = self.rows - self.below
            over = len(above) >= left or (
                len(above) >= last - self.below and (many or (len(above) > 0 and above[-1] > high))
            )
            return under and over

        most = min(LARGEST_SPACE, self.rows // 2) if self.rows <= DENSE else LARGEST_SPACE
        if not krylov.reach(enough, most):
            if self.rows <= DENSE:
                return self._all()
            raise NotConverged(
                f"{last - first} states near the shift did not converge in a Krylov space of {krylov.size}: ask for fewer"
            )
        below, above = krylov.energies()
        return Levels(self.below - len(below), np.concatenate([below[::-1], above]))

    def levels(self, first: int, last: int) -> Levels:
        """Levels first .. last - 1, some beyond them, refined; whole by the count of levels below both ends.

        Raises NotConverged where that cannot be shown.
        """
        for more in (MORE, 4 * MORE, 16 * MORE):
            low, high = max(0, min(first - more, self.below)), min(self.rows, max(last + more, self.below))
            self.extend(low, high)
            if self._whole is not None:
                self.known = self._whole
                return self._whole
            found = self._space().states(self.below - low, high - self.below)
            cuts = self._cuts(found.energies, low, first, last)
            if cuts is not None and all(self._agrees(found.energies, low, cut) for cut in cuts):
                self.known = Levels(low, found.energies, found.vectors).part(*cuts)
                return self.known
            if cuts is not None:  # states are missing: a level of higher multiplicity than the block sees
                self._block, self._krylov = 2 * self._block, None
        raise NotConverged(f"states {first} to {last - 1}: some are missing, by the number of levels below")

    def _is_small(self, states: int) -> bool:
        return self.rows <= SMALL or (self.rows <= DENSE and 3 * states + 8 * self._block >= self.rows)

    def _all(self) -> Levels:
        if self._whole is None:
            found = all_states(self.shift)
            self._whole = Levels(0, found.energies, found.vectors)
        return self._whole

    def _space(self) -> Krylov:
        if self._krylov is None:
            self._krylov = Krylov(self.shift, self._block)
        return self._krylov

    def _cuts(self, energies: Array, low: int, first: int, last: int) -> tuple[int, int] | None:
        """Indices between which the window lies, at the widest gaps beyond it; None where levels stand too close."""
        high = low + len(energies)
        gaps = np.concatenate(
            [[np.inf if low == 0 else 0.0], np.diff(energies), [np.inf if high == self.rows else 0.0]]
        )
        under, over = gaps[: first - low + 1], gaps[last - low :]
        a, b = int(np.argmax(under)), int(np.argmax(over))
        return (low + a, last + b) if min(under[a], over[b]) > APART else None

    def _agrees(self, energies: Array, low: int, cut: int) -> bool:
        """Whether as many levels lie below an end of the window as there should be."""
        if cut in (0, self.rows):
            return True
        between = 0.5 * (energies[cut - low - 1] + energies[cut - low])
        return self.counter.at(float(between)) == cut

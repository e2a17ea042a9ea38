"""Levels of a large system about its Fermi level: counted by inertia, computed by shift-invert, proven to be whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.memory import available, check_room
from nearsight.electrons.sparse.factor import Factor, PardisoFactor, Shift, factor_for
from nearsight.electrons.sparse.krylov import states_around
from nearsight.electrons.sparse.pencil import Pencil, SparseProblem

Array = NDArray[Any]
BLOCK = 8  # right-hand sides of a solve, and the largest multiplicity that is safe at once
MORE = 6  # states beyond the wanted ones, among which an end of the window is looked for
APART = 1e-7  # Ha: a gap between two levels in which an end of the window may lie
LARGEST_SPACE = 2500  # of a Krylov method
MOST_STATES = 800  # of one window
VECTORS = 200  # of a Krylov space for which room is left
SPARE = 0.5  # of the free memory that a factor in double precision may take

Told = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Window:
    """Levels first, first + 1, ... of each spin and k.

    energies: [s, k, n], ascending [Ha].  first: index of the lowest one, from 0, of each spin.  single: whether factors
    were in single precision.  vectors: of each spin and k [rows, n] with c^H S c = 1, spins of an atom
    together; empty where not asked for.
    """

    energies: Tensor
    first: tuple[int, ...]
    single: bool
    vectors: tuple[tuple[Array, ...], ...] = ()

    __repr__ = one_line


class SparseLevels:
    """The eigenproblem of one H and S, with factors that all shifts and k share."""

    def __init__(self, hamiltonian: BlockMatrix, overlap: BlockMatrix) -> None:
        if not bool(torch.isfinite(hamiltonian.values).all() and torch.isfinite(overlap.values).all()):
            raise BadInput("the Hamiltonian or the overlap has elements that are not finite: it cannot be diagonalised")
        self.problem = SparseProblem.of(hamiltonian, overlap)
        self._factors: dict[bool, tuple[Factor, bool]] = {}

    @property
    def spins(self) -> int:
        """Independent matrices."""
        return self.problem.spin.matrices

    @property
    def rows(self) -> int:
        """Of H(k)."""
        return self.problem.pattern.size

    def shift(self, k: Tensor, s: int) -> Shift:
        """H(k) - sigma S(k) of a spin, not yet factorised. Raises Unavailable where there is no room for factors."""
        pencil = self.problem.at(k, s)
        if pencil.complex not in self._factors:
            self._factors.clear()  # one kind at a time
            self._factors[pencil.complex] = self._choose(pencil)
        factor, single = self._factors[pencil.complex]
        return Shift(pencil, factor, single)

    def _choose(self, pencil: Pencil) -> tuple[Factor, bool]:
        """Factors in double precision where they take half of the memory at most, else in single."""
        number = 16 if pencil.complex else 8
        own = 2.0 * pencil.hamiltonian.data.nbytes  # H and S
        space = 2.0 * VECTORS * number * pencil.size  # a Krylov space and S times it
        for single in (False, True):
            factor = factor_for(pencil, single)
            if not isinstance(factor, PardisoFactor):
                return factor, False
            if not single and factor.memory + own + space > SPARE * available():
                continue
            kind = "a complex" if pencil.complex else "a real"
            check_room(
                factor.memory + own + space,
                f"{kind} sparse factor of {pencil.size} orbitals",
                "take a smaller basis or cell, or Gamma alone, where matrices are real and need half",
            )
            return factor, single
        raise AssertionError

    def count(self, energy: float, k: Tensor, s: int = 0) -> int:
        """Levels below an energy at k, exactly."""
        return self.shift(k, s).at(energy)

    def zero_temperature(self, electrons: float, k: Tensor, guess: float = -0.2, within: int = 4) -> float:
        """An energy below which the levels at one k hold so many electrons, to `within` levels; by counting.

        Raises BadInput where the levels cannot hold them.
        """
        per_level = self.problem.spin.electrons_per_level
        room = per_level * self.rows * self.spins
        if not 0 <= electrons <= room + 1e-9:
            raise BadInput(f"{electrons:g} electrons do not fit into {room:g} states: choose a larger basis")
        shifts = [self.shift(k, s) for s in range(self.spins)]
        wanted = electrons / per_level

        def missing(energy: float) -> float:
            return wanted - sum(x.at(energy) for x in shifts)

        e = guess
        now = missing(e)
        low: tuple[float, float] | None = None
        high: tuple[float, float] | None = None
        step = 0.05
        for _ in range(80):
            if abs(now) <= within:
                return e
            if now > 0:
                low = (e, now)
            else:
                high = (e, now)
            if low is None or high is None:
                e += step if now > 0 else -step
                step *= 2
            else:
                share = low[1] / (low[1] - high[1])
                e = low[0] + min(0.9, max(0.1, share)) * (high[0] - low[0])
                if high[0] - low[0] < 1e-9:
                    return e
            now = missing(e)
        return e

    def window(
        self,
        k: Tensor,
        first: tuple[int, ...],
        count: int,
        guess: float,
        told: Told = _silent,
        vectors: bool = False,
    ) -> Window:
        """Levels first .. first + count - 1 of each spin at k [k, 3].

        guess: an energy among them [Ha].  told: how many k are done.  Raises NotConverged where the window is not proven whole.
        """
        if not 0 < count <= MOST_STATES:
            raise BadInput(
                f"{count} states at once are more than the sparse solver takes ({MOST_STATES}): ask for fewer"
            )
        energies = torch.zeros(self.spins, len(k), count, dtype=torch.float64)
        kept: list[tuple[Array, ...]] = []
        done = 0
        for s in range(self.spins):
            own = []
            at = guess
            for n, point in enumerate(k):
                shift = self.shift(point, s)
                found, states = _levels(shift, first[s], first[s] + count, at)
                energies[s, n] = torch.from_numpy(found)
                if vectors:
                    own.append(states)
                done += 1
                told(done, self.spins * len(k))
            kept.append(tuple(own))
        single = any(single for _, single in self._factors.values())
        return Window(energies, first, single, tuple(kept) if vectors else ())


def _levels(shift: Shift, first: int, last: int, guess: float) -> tuple[Array, Array]:
    """Levels first .. last - 1 and their vectors; whole by the count of levels below both ends."""
    rows = shift.pencil.size
    if not 0 <= first < last <= rows:
        raise BadInput(f"states {first} to {last - 1} of {rows}: ask for fewer")
    count = shift.at(guess)
    step, e, guard = 0.02, guess, 0
    while not first - (last - first) <= count <= last + (last - first):  # far off: walk there
        e += step if count < first else -step
        count, guard = shift.at(e), guard + 1
        if guard > 400:
            raise NotConverged("no energy was found among the states that are wanted")
    for block in (BLOCK, 2 * BLOCK, 4 * BLOCK):
        more = MORE * block // BLOCK
        low, high = max(0, min(first, count) - more), min(rows, max(last, count) + more)
        found = states_around(shift, count - low, high - count, block, LARGEST_SPACE)
        energies = found.energies
        sigma = shift.sigma
        whole = _proven(shift, energies, low, first, last, rows)
        if whole:
            part = slice(first - low, last - low)
            return energies[part], found.vectors[:, part]
        count = shift.at(sigma)
    raise NotConverged(f"states {first} to {last - 1}: some are missing, by the number of levels below")


def _proven(shift: Shift, energies: Array, low: int, first: int, last: int, rows: int) -> bool:
    """Whether as many levels lie below both ends of the window as there should be.  low: index of energies[0]."""
    inside = range(first - low, last - low)
    for end, ways in ((inside.start, range(inside.start, 0, -1)), (inside.stop, range(inside.stop, len(energies)))):
        if low + end in (0, rows):
            continue
        gap = next((n for n in ways if energies[n] - energies[n - 1] > 10 * APART), None)
        if gap is None:  # a level of higher multiplicity than there are states beyond, unless there are no others
            if (end == inside.start and low == 0) or (end == inside.stop and low + len(energies) == rows):
                continue
            return False
        if shift.at(0.5 * (energies[gap - 1] + energies[gap])) != low + gap:
            return False
    return True

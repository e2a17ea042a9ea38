"""Levels of a large system about its Fermi level, of all spins and k: the factors, and what is known by now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.memory import available, check_room
from nearsight.electrons.sparse.factor import Factor, Shift, factor_for
from nearsight.electrons.sparse.nearby import MOST_STATES, Levels, Nearby
from nearsight.electrons.sparse.pencil import Pencil, SparseProblem

Array = NDArray[Any]
VECTORS = 300  # of a Krylov space, with S times it, for which room is left
SPARE = 0.7  # of the free memory that a second factor, which counts while the first solves, may take
REACH = 24  # levels from the one that is wanted at which a shift may stand
TOGETHER = 1e-9  # Ha: levels that are taken for one where a shift between them is looked for

Told = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


class Shape(Protocol):
    """About how many levels lie below an energy, monotonic."""

    def below(self, energy: float) -> float:
        """Levels below an energy [Ha]."""

    def energy(self, levels: float) -> float:
        """The energy [Ha] below which there are so many."""


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
    """The eigenproblem of one H and S, with factors that all shifts and k share, and the levels that were found by now.

    Factors are in single precision, half of the work and memory; where one is not sound, or the levels that it gives are not
    shown to be whole, in double.
    """

    def __init__(self, hamiltonian: BlockMatrix, overlap: BlockMatrix) -> None:
        if not bool(torch.isfinite(hamiltonian.values).all() and torch.isfinite(overlap.values).all()):
            raise BadInput("the Hamiltonian or the overlap has elements that are not finite: it cannot be diagonalised")
        self.problem = SparseProblem.of(hamiltonian, overlap)
        self._single = True
        self._factors: list[Factor] = []
        self._complex = False
        self._k: tuple[float, ...] | None = None
        self._pencils: dict[int, Pencil] = {}  # of the last k
        self._nearby: dict[int, Nearby] = {}
        self._known: dict[tuple[int, tuple[float, ...]], Levels] = {}

    @property
    def spins(self) -> int:
        """Independent matrices."""
        return self.problem.spin.matrices

    @property
    def rows(self) -> int:
        """Of H(k)."""
        return self.problem.pattern.size

    def pencil(self, k: Tensor, s: int) -> Pencil:
        """H(k) and S(k) of a spin; those of the last k are held."""
        at = tuple(k.tolist())
        if at != self._k:
            self._k = at
            self._pencils.clear()
            self._nearby.clear()
        if s not in self._pencils:
            self._pencils[s] = self.problem.at(k, s)
        return self._pencils[s]

    def shift(self, k: Tensor, s: int, counts: bool = False) -> Shift:
        """H(k) - sigma S(k) of a spin, not yet factorised.  counts: by the second factor, if there is room for one.

        Raises Unavailable where there is no room for factors.
        """
        pencil = self.pencil(k, s)
        if not self._factors or pencil.complex != self._complex:
            self._factors.clear()  # one kind at a time
            self._complex = pencil.complex
            self._factors.append(self._first(pencil))
        if counts and len(self._factors) == 1:
            second = factor_for(pencil, self._single)
            self._factors.append(second if second.memory < SPARE * available() else self._factors[0])
        return Shift(pencil, self._factors[int(counts)], self._single)

    def _first(self, pencil: Pencil) -> Factor:
        number = 16 if pencil.complex else 8
        own = 2.0 * pencil.hamiltonian.data.nbytes  # H and S
        space = 2.0 * VECTORS * number * pencil.size
        factor = factor_for(pencil, self._single)
        if factor.memory:
            kind = "a complex" if pencil.complex else "a real"
            check_room(
                factor.memory + own + space,
                f"{kind} sparse factor of {pencil.size} orbitals",
                "take a smaller basis or cell, or Gamma alone, where matrices are real and need half",
            )
        return factor

    def count(self, energy: float, k: Tensor, s: int = 0) -> int:
        """Levels below an energy at k, exactly; from levels that are known already, if they suffice."""
        known = self._known.get((s, tuple(k.tolist())))
        found = None if known is None else known.below(energy)
        if found is not None:
            return found
        self.pencil(k, s)
        if s in self._nearby:
            if self._nearby[s].shift.sigma == energy:
                return self._nearby[s].below
            return self._soundly(lambda: self.shift(k, s, counts=True).at(energy))
        return self._at(energy, k, s).below

    def _at(self, energy: float, k: Tensor, s: int) -> Nearby:
        """Levels about an energy."""

        def made() -> Nearby:
            shift = self.shift(k, s)
            return Nearby(shift, shift.at(energy), self.shift(k, s, counts=True))

        self.pencil(k, s)
        self._nearby[s] = self._soundly(made)
        return self._nearby[s]

    def _soundly(self, made: Callable[[], Any]) -> Any:
        """What is made with factors in single precision, else in double."""
        try:
            return made()
        except NotConverged:
            if not self._single:
                raise
            self._single = False
            self._factors.clear()
            self._nearby.clear()
            return made()

    def zero_temperature(
        self, electrons: float, k: Tensor, guess: float = -0.2, within: int = REACH, shape: Shape | None = None
    ) -> float:
        """An energy below which the levels at one k hold so many electrons, to `within` levels; by counting.

        shape: about how many levels there are below an energy, of all spins, if that is known.
        Raises BadInput where the levels cannot hold them.
        """
        per_level = self.problem.spin.electrons_per_level
        room = per_level * self.rows * self.spins
        if not 0 <= electrons <= room + 1e-9:
            raise BadInput(f"{electrons:g} electrons do not fit into {room:g} states: choose a larger basis")
        wanted = electrons / per_level

        def count(energy: float) -> int:
            return sum(self._at(energy, k, s).below for s in range(self.spins))

        return seek(count, wanted - within, wanted + within, guess if shape is None else shape.energy(wanted), shape)

    def about(self, energy: float, k: Tensor, s: int, low: float, high: float, states: int, missing: int) -> Levels:
        """Levels at k from an energy `low` to another, `high`, to some 1e-6 Ha and not proven, by a shift near `energy`.

        With them so many states about that level which is `missing` levels above the shift.
        """

        def found() -> Levels:
            near = self._nearby.get(s) or self._at(energy, k, s)
            middle = near.below + missing
            return near.extend(max(0, middle - states), min(self.rows, middle + states), low, high)

        self.pencil(k, s)
        levels: Levels = self._soundly(found)
        return levels

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
        kept: list[list[Array]] = [[] for _ in range(self.spins)]
        for n, point in enumerate(k):
            for s in range(self.spins):
                found = self._levels(point, s, first[s], first[s] + count, guess, vectors)
                energies[s, n] = torch.from_numpy(found.energies)
                if vectors:
                    assert found.vectors is not None
                    kept[s].append(found.vectors)
                told(n * self.spins + s + 1, self.spins * len(k))
        return Window(energies, first, self._single, tuple(map(tuple, kept)) if vectors else ())

    def _levels(self, k: Tensor, s: int, first: int, last: int, guess: float, vectors: bool) -> Levels:
        """Levels first .. last - 1, known already or found."""
        if not 0 <= first < last <= self.rows:
            raise BadInput(f"states {first} to {last - 1} of {self.rows}: ask for fewer")
        key = s, tuple(k.tolist())
        self.pencil(k, s)
        for known in (self._known.get(key), self._nearby[s].known if s in self._nearby else None):
            if known is None or (vectors and known.vectors is None):
                continue
            if known.first <= first and last <= known.last:
                return known.part(first, last)

        def found() -> Levels:
            near = self._nearby.get(s) or self._at(guess, k, s)
            span = last - first
            if not first - span <= near.below <= last + span:
                seek(lambda e: self._at(e, k, s).below, first - span, last + span, near.shift.sigma)
                near = self._nearby[s]
            return near.levels(first, last)

        levels: Levels = self._soundly(found)
        self._known[key] = Levels(levels.first, levels.energies)
        return levels.part(first, last)


def seek(count: Callable[[float], int], low: float, high: float, guess: float, shape: Shape | None = None) -> float:
    """An energy at which a count of levels is from `low` to `high`, the last one that was counted at.

    By brackets, between which one steps by the shape of the count, as far as that is known, else linearly. Where many levels
    stand together, the upper end of them. Raises NotConverged after 80 steps.
    """
    wanted, e, step = 0.5 * (low + high), guess, 0.05
    under: tuple[float, int] | None = None
    over: tuple[float, int] | None = None
    for _ in range(80):
        now = count(e)
        if low <= now <= high:
            return e
        if now < low:
            under = (e, now)
        else:
            over = (e, now)
        if under is not None and over is not None and over[0] - under[0] < TOGETHER:
            return e if e == over[0] else _counted(count, over[0])
        following = None if shape is None else shape.energy(shape.below(e) + wanted - now)
        if under is None or over is None:
            away = step if under is not None else -step
            step *= 2
            if following is None or not 0 < (following - e) / away <= 4:
                following = e + away
        else:
            width = over[0] - under[0]
            if following is None or not 0.02 < (following - under[0]) / width < 0.98:
                share = (wanted - under[1]) / (over[1] - under[1])
                following = under[0] + min(0.9, max(0.1, share)) * width
        e = following
    raise NotConverged("no energy was found among the states that are wanted")


def _counted(count: Callable[[float], int], energy: float) -> float:
    count(energy)
    return energy

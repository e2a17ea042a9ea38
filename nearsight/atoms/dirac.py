"""The all-electron Dirac atom: spherical, self-consistent, by B-splines with dual kinetic balance.

For each kappa the pair (G, F) of r times the large and the small radial component obeys

    V G + c (-d/dr + kappa/r) F = e G,    c (d/dr + kappa/r) G + (V - 2 c^2) F = e F.

Basis functions are (b, (b' + kappa b/r) / 2c) and ((b' - kappa b/r) / 2c, b) of B-splines b, which have no spurious states:
Shabaev et al., Phys. Rev. Lett. 93, 130405 (2004).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, CubicSpline
from scipy.linalg import eigh

from nearsight.atoms.radial import AndersonMixer
from nearsight.core.display import one_line
from nearsight.core.errors import NotConverged
from nearsight.core.units import LIGHT_AU as LIGHT
from nearsight.xc.radial import derivatives

RADIUS = 40.0  # Bohr, where all functions end
_FIRST = 1e-6  # Bohr, the first knot
_DEGREE, _INTERVALS, _POINTS = 7, 80, 10  # of the splines; between knots; Gauss-Legendre points in each
_FILL = "1s 2s 2p 3s 3p 4s 3d 4p 5s 4d 5p 6s 4f 5d 6p 7s 5f 6d 7p".split()  # Madelung's order
Shell = tuple[int, int]  # n, l


class _Splines:
    """B-splines that vanish at 0 and RADIUS with two derivatives on Gauss points r, and weights w."""

    def __init__(self) -> None:
        inner = np.geomspace(_FIRST, RADIUS, _INTERVALS)
        ends = np.concatenate([[0.0], inner])
        knots = np.concatenate([np.zeros(_DEGREE), ends, np.full(_DEGREE, RADIUS)])
        x, weight = np.polynomial.legendre.leggauss(_POINTS)
        half = 0.5 * np.diff(ends)[:, None]
        self.r = (ends[:-1, None] + half * (1 + x)).ravel()
        self.weight = (half * weight).ravel()
        count = len(knots) - _DEGREE - 1
        every = BSpline(knots, np.eye(count)[:, 1:-1], _DEGREE)
        self.b, self.b1, self.b2 = (every.derivative(k)(self.r).T if k else every(self.r).T for k in range(3))


@lru_cache(maxsize=1)
def _splines() -> _Splines:
    return _Splines()


class _Channel:
    """The basis of one kappa on the Gauss points: G, F and their slopes [functions, points], S and the kinetic part of H."""

    def __init__(self, kappa: int) -> None:
        s = _splines()
        b, b1, b2, r = s.b, s.b1, s.b2, s.r
        plus, minus = (b1 + kappa * b / r) / (2 * LIGHT), (b1 - kappa * b / r) / (2 * LIGHT)
        plus1 = (b2 + kappa * (b1 / r - b / r**2)) / (2 * LIGHT)
        minus1 = (b2 - kappa * (b1 / r - b / r**2)) / (2 * LIGHT)
        self.g, self.f = np.concatenate([b, minus]), np.concatenate([plus, b])
        self.g1, self.f1 = np.concatenate([b1, minus1]), np.concatenate([plus1, b1])
        w = s.weight
        raised = LIGHT * (self.g1 + kappa * self.g / r)
        cross = (self.f * w) @ raised.T
        self.overlap = (self.g * w) @ self.g.T + (self.f * w) @ self.f.T
        self.kinetic = cross + cross.T - 2 * LIGHT**2 * (self.f * w) @ self.f.T

    def levels(
        self, local: NDArray[np.float64], gradient: NDArray[np.float64], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The lowest energies above the negative continuum [Ha], and their coefficients in columns.

        local, gradient: d(e)/dn and d(e)/dn' of the potential's energy on the Gauss points, in weak form.
        """
        s = _splines()
        by_value = s.weight * (local - 2 * gradient / s.r)
        H = self.kinetic + (self.g * by_value) @ self.g.T + (self.f * by_value) @ self.f.T
        if gradient.any():
            by_slope = s.weight * gradient
            cross = (self.g * by_slope) @ self.g1.T + (self.f * by_slope) @ self.f1.T
            H = H + cross + cross.T
        first = len(H) // 2  # as many states are in the negative continuum
        energies, vectors = eigh(H, self.overlap, subset_by_index=[first, first + count - 1])
        return energies, vectors


@dataclass(frozen=True, eq=False)
class DiracAtom:
    """levels: (n, l, j) -> energy [Ha].  xc: functional.  iterations: that it took."""

    number: int
    xc: str
    levels: Mapping[tuple[int, int, float], float]
    iterations: int

    __repr__ = one_line

    @cached_property
    def splittings(self) -> dict[Shell, float]:
        """e(j = l + 1/2) - e(j = l - 1/2) of each shell with l > 0 [Ha]."""
        return {
            (n, l): e - self.levels[n, l, l - 0.5]
            for (n, l, j), e in self.levels.items()
            if j > l and (n, l, l - 0.5) in self.levels
        }


@lru_cache(maxsize=32)
def dirac_atom(number: int, valence: tuple[tuple[int, int, float], ...], xc: str) -> DiracAtom:
    """The atom with the valence shells (n, l, electrons) of a pseudopotential above closed ones.

    Spherical and without spin polarisation: both j of an open shell are filled evenly. Levels of empty shells are there too,
    one above the filled ones of each l up to the highest l.  Raises NotConverged; BadInput for an unknown functional.
    """
    occupied = configuration(number, valence)
    s = _splines()
    wanted: dict[int, int] = {}
    for n, l in occupied:
        wanted[l] = max(wanted.get(l, 0), n - l + 1)
    channels = {kappa: (_Channel(kappa), l) for l in wanted for kappa in ((-1 - l, l) if l else (-1,))}
    density, mixer = _first_density(number, s.r), AndersonMixer()
    weight, tolerance = s.weight * s.r**2, 1e-7 * number
    for iteration in range(1, 201):
        n, slope = density
        _, by_density, by_slope = derivatives(np.maximum(n, 0), slope, xc)
        local = -number / s.r + _hartree(s.r, n) + by_density
        result = np.zeros_like(density)
        levels: dict[tuple[int, int, float], float] = {}
        for kappa, (channel, l) in channels.items():
            energies, vectors = channel.levels(local, by_slope, wanted[l])
            j = abs(kappa) - 0.5
            for k, e in enumerate(energies):
                shell = (l + 1 + k, l)
                levels[(*shell, j)] = float(e)
                filled = occupied.get(shell, 0.0) * (2 * j + 1) / (4 * l + 2)
                if filled:
                    g, f, g1, f1 = (vectors[:, k] @ x for x in (channel.g, channel.f, channel.g1, channel.f1))
                    square, change = g**2 + f**2, 2 * (g * g1 + f * f1)
                    result += filled / (4 * np.pi * s.r**2) * np.stack([square, change - 2 * square / s.r])
        away = 4 * np.pi * weight @ np.abs(result[0] - n)
        if away < tolerance:
            return DiracAtom(number, xc, levels, iteration)
        density = mixer(density, result, weight)
    raise NotConverged(f"the Dirac atom of Z = {number} has not converged in {iteration} iterations: report it")


def configuration(number: int, valence: tuple[tuple[int, int, float], ...]) -> dict[Shell, float]:
    """Electrons of each shell: those of the valence, and closed shells in Madelung's order for what is left of Z."""
    found = {(n, l): electrons for n, l, electrons in valence}
    left = number - sum(found.values())
    for name in _FILL:
        shell = (int(name[0]), "spdf".index(name[1]))
        if left < 0.5:
            break
        if shell not in found:
            found[shell] = min(4.0 * shell[1] + 2, left)
            left -= found[shell]
    return found


def _first_density(number: int, r: NDArray[np.float64]) -> NDArray[np.float64]:
    """n and n' of Z electrons in two exponentials, as far out as those of Thomas and Fermi are."""
    found = np.zeros((2, len(r)))
    for share, length in ((0.5, 0.25 * number ** (-1 / 3)), (0.5, 0.9)):
        a = 1 / length
        n = share * number * a**3 / (8 * np.pi) * np.exp(-a * r)
        found += n, -a * n
    return found


def _hartree(r: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    """V_H on the Gauss points [Ha], by splines in the logarithm of r."""
    x = np.log(r)
    charge = CubicSpline(x, 4 * np.pi * r**3 * n).antiderivative()(x)
    moment = CubicSpline(x, 4 * np.pi * r**2 * n).antiderivative()(x)
    found: NDArray[np.float64] = charge / r + moment[-1] - moment
    return found

"""Further radial functions of a shell, split from its first one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from nearsight.atoms.neutral_atom import grid
from nearsight.core.errors import BadInput
from nearsight.core.species import RadialFunction


def matching_radius(first: RadialFunction, norm: float) -> tuple[float, bool]:
    """r_m [Bohr] at which to split a first zeta, and whether the rule of the whole norm found it.

    The rule: the parabola r^l (a - b r^2) that meets the orbital at r_m in value and slope, together with the orbital
    outside, has the norm `norm` (SIESTA's split norm; the largest such radius). A shell that is hollow or has a node
    (Li, Na, K, 5s of the transition metals) meets it only close to r_c, where the second zeta would be all but the
    first one again; beyond 0.85 r_c the remedy is used: the orbital outside r_m alone has a fifth of the norm, which
    is its usual share.
    """
    r, l = first.r, first.l
    f = CubicSpline(r, first.values)
    inside = CubicSpline(r, (first.values * r ** (l + 1)) ** 2).antiderivative()

    def tail(m: float) -> float:
        return 1.0 - float(inside(m))

    def whole(m: float) -> float:
        b = -float(f(m, 1)) / (2 * m)
        a = float(f(m)) + b * m**2
        # int_0^m r^(2l+2) (a - b r^2)^2 dr
        p = 2 * l + 3
        return tail(m) + m**p * (a * a / p - 2 * a * b * m**2 / (p + 2) + b * b * m**4 / (p + 4))

    trial = np.linspace(first.cutoff * 0.999, 0.1, 400)
    excess = np.array([whole(m) - norm for m in trial])
    crossing = np.nonzero((excess[:-1] < 0) & (excess[1:] >= 0))[0]
    if len(crossing):
        found = float(brentq(lambda m: whole(m) - norm, trial[crossing[0] + 1], trial[crossing[0]], xtol=1e-8))
        if found <= 0.85 * first.cutoff:
            return found, True
    return float(brentq(lambda m: tail(m) - norm / 5, r[1], r[-1], xtol=1e-8)), False


def split_radius(first: RadialFunction, share: float, norm: float | None = None) -> float:
    """r_m [Bohr] at which to split a first zeta of radius r_c: share * r_c.

    norm: in place of it, the radius outside of which the first zeta has this norm, held between 0.3 and 0.8 r_c, so that the
    next zeta is neither a spike at the nucleus nor the first one again.
    """
    if norm is None:
        return share * first.cutoff
    r = first.r
    inside = CubicSpline(r, (first.values * r ** (first.l + 1)) ** 2).antiderivative()
    found = brentq(lambda m: 1.0 - float(inside(m)) - norm, r[1], r[-1], xtol=1e-8)
    return float(np.clip(found, 0.3 * first.cutoff, 0.8 * first.cutoff))


def split_zeta(first: RadialFunction, radius: float) -> RadialFunction:
    """The next zeta: first(r) - r^l (a + b r^2 + c r^4) inside `radius`, zero outside, normalised.

    a, b, c match value, slope and curvature at the radius, so that the function ends there as smoothly as a first zeta
    does (the parabola of the usual recipe leaves a jump in the curvature, which a real-space grid resolves badly).
    Raises NearsightError where the difference vanishes.
    """
    l = first.l
    f = CubicSpline(first.r, first.values)
    powers = np.array([0, 2, 4])
    rows = np.array([radius**powers, [0, 2 * radius, 4 * radius**3], [0, 2, 12 * radius**2]])
    inner = np.linalg.solve(rows, np.array([f(radius), f(radius, 1), f(radius, 2)]))
    r, h = grid(radius)
    values = f(r) - (r[:, None] ** powers) @ inner
    values[-1] = 0.0
    if np.trapezoid((values * r ** (l + 1)) ** 2, r) < 1e-6:
        raise BadInput(
            f"splitting l = {l} at {radius:.2f} Bohr leaves nothing for the next zeta; take a larger split norm"
        )
    return normalised(l, values, h)


def normalised(l: int, values: NDArray[np.float64], spacing: float) -> RadialFunction:
    """A table with unit norm, positive in its outer part, and exactly zero at its end."""
    r = spacing * np.arange(len(values))
    values = values.copy()
    values[-1] = 0.0
    norm = float(CubicSpline(r, (values * r ** (l + 1)) ** 2).integrate(0, r[-1]))
    outer = np.sign(np.trapezoid(values * r ** (l + 2), r))
    return RadialFunction(l, values * (outer / np.sqrt(norm)), spacing)

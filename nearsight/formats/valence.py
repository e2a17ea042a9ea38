"""The valence shells of a pseudo-atom and a density to start from, for files that state neither."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.formats.pseudopotential import ReferenceShell

#: How many shells of s, p, d, f a core of so many electrons has.
_CORES = {
    0: (0, 0, 0, 0),
    2: (1, 0, 0, 0),
    10: (2, 1, 0, 0),
    18: (3, 2, 0, 0),
    28: (3, 2, 1, 0),
    36: (4, 3, 1, 0),
    46: (4, 3, 2, 0),
    54: (5, 4, 2, 0),
    60: (4, 3, 2, 1),
    68: (5, 4, 2, 1),
    78: (5, 4, 3, 1),
    86: (6, 5, 3, 1),
    92: (5, 4, 3, 2),
}

RADIUS = 20.0  # Bohr: how far potentials and densities are tabulated where a file's own grid ends earlier


def uniform_grid(spacing: float, least: int = 0) -> NDArray[np.float64]:
    """Radii i * spacing out to RADIUS, or of `least` points if that is more [Bohr]."""
    return np.asarray(spacing * np.arange(max(least, int(RADIUS / spacing) + 1)), dtype=np.float64)


def possible_cores(electrons: int) -> list[tuple[int, ...]]:
    """How many shells of s, p, d and f cores of so many electrons have; without f where the core holds some f electrons."""
    closed = [_CORES[electrons]] if electrons in _CORES else []
    part_f = [core[:3] for bare, core in ((46, (4, 3, 2)), (78, (5, 4, 3))) if bare < electrons < bare + 14]
    return [*closed, *part_f]


def shells_of(number: int, electrons: Sequence[float]) -> tuple[tuple[int, int, float], ...]:
    """(n, l, occupation) of the valence shells, from the valence electrons of s, p, d, ... in this order.

    Shells of one l are filled from the lowest n that the core leaves.  Raises NearsightError where Z minus the valence
    electrons is no core that is known.
    """
    core = round(number - sum(electrons))
    if core not in _CORES or any(f > 0 for f in electrons[4:]):
        raise BadInput(f"{sum(electrons):g} valence electrons of Z = {number} leave a core that is not known")
    found = []
    for l, count in enumerate(electrons[:4]):
        n, left = l + 1 + _CORES[core][l], float(count)
        while left > 0:
            filling = min(left, 2.0 * (2 * l + 1))
            found.append((n, l, filling))
            n, left = n + 1, left - filling
    return tuple(found)


def ground_configuration(number: int, valence: float) -> tuple[float, ...]:
    """Valence electrons of s, p, d, f in the order of filling by n + l, then n (without the exceptions such as Cr, Cu)."""
    core = _CORES.get(round(number - valence))
    if core is None:
        raise BadInput(f"{valence:g} valence electrons of Z = {number} leave a core that is not known")
    electrons, left = [0.0] * 4, valence
    order = sorted(((n, l) for n in range(1, 9) for l in range(min(n, 4))), key=lambda s: (sum(s), s[0]))
    for n, l in order:
        if n > l + core[l] and left > 0:
            filling = min(left, 2.0 * (2 * l + 1))
            electrons[l] += filling
            left -= filling
    return tuple(electrons)


def reference_shells(
    shells: Sequence[tuple[int, int, float]], r: NDArray[np.float64], by_j: bool
) -> tuple[ReferenceShell, ...]:
    """Shells whose energies and waves are not stated.  by_j: each split into l -+ 1/2, electrons as 2j + 1."""
    unknown, wave = float("nan"), np.zeros_like(r)
    if not by_j:
        return tuple(ReferenceShell(n, l, None, f, unknown, wave) for n, l, f in shells)
    return tuple(
        ReferenceShell(n, l, j, f * (2 * j + 1) / (4 * l + 2), unknown, wave)
        for n, l, f in shells
        for j in ((l - 0.5, l + 0.5) if l else (0.5,))
    )


def starting_density(shells: Sequence[tuple[int, int, float]], r: NDArray[np.float64]) -> NDArray[np.float64]:
    """4 pi r^2 n(r) [1/Bohr] of Slater functions r^(n-1) exp(-zeta r): where an atom's self-consistency may begin.

    zeta = Z_eff / n with the valence electrons of smaller n screening by 0.85, of the same n by 0.35 each.
    """
    total = sum(f for _, _, f in shells)
    density = np.zeros_like(r)
    for n, _, f in shells:
        inner = sum(g for m, _, g in shells if m < n)
        same = sum(g for m, _, g in shells if m == n)
        zeta = max(total - 0.85 * inner - 0.35 * max(same - 1, 0), 1.0) / n
        shape = r ** (2 * n) * np.exp(-2 * zeta * r)
        density += f * shape / np.trapezoid(shape, r)
    return density

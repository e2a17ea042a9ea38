"""The local part of a species: local charge, neutral-atom potential, core density and projectors on uniform grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, make_lsq_spline

from nearsight.atoms.radial import hartree, local_potential
from nearsight.atoms.switch import switch
from nearsight.core.errors import BadInput
from nearsight.core.species import Orbital, Projector, RadialFunction
from nearsight.formats.pseudopotential import Pseudopotential, SeparableChannel

SPACING = 0.01  # Bohr, of every table

_COULOMB_TAIL = 3e-5  # Ha Bohr: |r V_local + Z| below this is noise of the file, and V_local is taken as -Z/r
_CORE_TAIL = 1e-6  # 1/Bohr^3


def grid(cutoff: float) -> tuple[NDArray[np.float64], float]:
    """A uniform grid from 0 to exactly `cutoff`, as close to the standard spacing as fits, and its spacing [Bohr]."""
    intervals = max(8, int(np.ceil(cutoff / SPACING - 1e-9)))
    return np.linspace(0.0, cutoff, intervals + 1), cutoff / intervals


class LocalPart:
    """V_local(r), made exactly -Z/r beyond `cutoff` by switching off r V + Z where it is noise.

    The file's digits are smoothed by an even least-squares spline, because the local charge is a second derivative.
    """

    def __init__(self, pp: Pseudopotential) -> None:
        self.valence = pp.valence
        excess = np.abs(pp.r * pp.local + pp.valence)
        start = float(pp.r[np.nonzero(excess > _COULOMB_TAIL)[0][-1]]) if (excess > _COULOMB_TAIL).any() else 1.0
        # Files whose noise grows outwards would push the cutoff out for nothing: r V + Z has died by 5 Bohr in all.
        start = float(np.clip(start, 1.0, 5.0))
        self.cutoff = start + 1.0
        r = np.arange(0.005, self.cutoff + 0.5, SPACING)
        values = (local_potential(pp, r) + pp.valence / r) * switch(r, start, self.cutoff) - pp.valence / r
        values = _without_spike(r, values)
        x, y = np.concatenate([-r[::-1], r]), np.concatenate([values[::-1], values])
        knots = np.arange(0.02, self.cutoff + 0.4, 0.04)
        knots = np.concatenate([np.full(6, x[0]), -knots[::-1], knots, np.full(6, x[-1])])
        self._spline = make_lsq_spline(x, y, knots, k=5)

    def potential(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """V_local [Ha]."""
        inside = r < self.cutoff
        return np.where(inside, self._spline(np.minimum(r, self.cutoff)), -self.valence / np.maximum(r, 1e-9))

    def charge(self) -> RadialFunction:
        """n_local = -laplacian V_local / 4 pi [1/Bohr^3], scaled to integrate to -Z exactly."""
        r, h = grid(self.cutoff)
        first, second = self._spline(r, 1), self._spline(r, 2)
        laplacian = second + 2 * np.divide(first, r, out=second.copy(), where=r > 0)
        n = -laplacian / (4 * np.pi)
        n[-1] = 0.0
        total = float(CubicSpline(r, 4 * np.pi * r**2 * n).integrate(0, r[-1]))
        if abs(total + self.valence) > 1e-3 * self.valence:
            raise BadInput(
                f"the local potential does not go over into -Z/r: its charge is {total:.5f}, not {-self.valence:g}; "
                "take another pseudopotential"
            )
        return RadialFunction(0, n * (-self.valence / total), h)


def _without_spike(r: NDArray[np.float64], potential: NDArray[np.float64]) -> NDArray[np.float64]:
    """V_local without the spike that unscreening with a gradient-corrected functional leaves on many nuclei.

    It is up to several Ha high and a tenth of a Bohr wide, which no real-space grid can hold. The even polynomial
    through the potential around it takes its place, and a Gaussian of 0.2 Bohr carries the volume integral that is
    missing then, which is all that a smooth density sees of the spike.
    """
    start, end, around, width = 0.12, 0.25, 0.5, 0.2
    fitted = (r > start) & (r < around)
    powers = np.arange(0, 9, 2)
    coefficients = np.linalg.lstsq(r[fitted, None] ** powers, potential[fitted], rcond=None)[0]
    smooth = r[:, None] ** powers @ coefficients
    if np.abs(smooth - potential)[r < start].max() < 1e-3:
        return potential
    weight = switch(r, start, end)
    cleaned = weight * smooth + (1 - weight) * potential
    missing = 4 * np.pi * np.trapezoid((potential - cleaned) * r**2, r)
    return cleaned + missing * np.exp(-0.5 * (r / width) ** 2) / (width * np.sqrt(2 * np.pi)) ** 3


def neutral_atom_potential(local: LocalPart, orbitals: tuple[Orbital, ...]) -> RadialFunction:
    """V_NA = V_local + V_H[n_atom] [Ha], with n_atom from the orbitals' populations; zero beyond the longer of them."""
    occupied = [o for o in orbitals if o.population > 0]
    cutoff = max([local.cutoff] + [o.radial.cutoff for o in occupied])
    r, h = grid(cutoff)
    density = np.zeros_like(r)
    for o in occupied:
        inside = r <= o.radial.cutoff
        wave = np.zeros_like(r)
        wave[inside] = CubicSpline(o.radial.r, o.radial.values)(r[inside]) * r[inside] ** o.l
        density += o.population * wave**2 / (4 * np.pi)
    charge = float(CubicSpline(r, 4 * np.pi * r**2 * density).integrate(0, r[-1]))
    # The quadrature error of the charge (1e-9 or so) would leave a Coulomb tail, cut off with a step.
    values = local.potential(r) + hartree(r, density) * (local.valence / charge)
    values[-1] = 0.0
    return RadialFunction(0, values, h)


def core_density(pp: Pseudopotential) -> RadialFunction | None:
    """The partial core density [1/Bohr^3], brought to zero smoothly where it is negligible; None without one."""
    if pp.core_density is None or pp.core_density.max() <= _CORE_TAIL:
        return None
    start = float(pp.r[np.nonzero(pp.core_density > _CORE_TAIL)[0][-1]])
    cutoff = min(start + 0.5, float(pp.r[-1]))
    r, h = grid(cutoff)
    values = np.maximum(CubicSpline(pp.r, pp.core_density)(r), 0.0) * switch(r, cutoff - 0.5, cutoff)
    return RadialFunction(0, values, h)


def projectors(channels: tuple[SeparableChannel, ...], r: NDArray[np.float64]) -> tuple[Projector, ...]:
    """The separable channels as projectors, tabulated as chi(r) / r^l; strongest first within a channel."""
    found = []
    for channel in channels:
        for wave, energy in zip(channel.waves, channel.energies, strict=True):
            last = np.nonzero(np.abs(wave) > 1e-7 * np.abs(wave).max())[0][-1]
            cutoff = float(r[min(last + 1, len(r) - 1)])
            x, h = grid(cutoff)
            found.append(
                Projector(RadialFunction(channel.l, _reduced(channel.l, r, wave, x), h), float(energy), channel.j)
            )
    return tuple(found)


def _reduced(l: int, r: NDArray[np.float64], wave: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """wave / r^(l+1) on a grid x from 0. Near the nucleus the file's digits are lost in the division: there an even
    polynomial, fitted to the wave itself, takes over."""
    powers = np.arange(l + 1, l + 12, 2)
    for join in (0.25, 0.125, 0.0625):  # the narrow Gaussians of hard potentials are no polynomial further out
        near = (r > 0) & (r < 2 * join)
        basis = r[near, None] ** powers
        coefficients = np.linalg.lstsq(basis, wave[near], rcond=None)[0]
        if np.abs(basis @ coefficients - wave[near]).max() < 2e-4 * np.abs(wave).max():
            break
    inside = x < join
    values = np.empty_like(x)
    values[inside] = x[inside, None] ** (powers - l - 1) @ coefficients
    values[~inside] = CubicSpline(r, wave)(x[~inside]) / x[~inside] ** (l + 1)
    values[-1] = 0.0
    return values

"""Spin-orbit coupling for scalar-relativistic pseudopotentials: the Dirac atom's splittings, put on the projectors.

V_SO = sum_l |P_l> L.S <P_l|, one radial function for each l > 0 of the file's projectors. The coupling of two states of an
atom is a product of their amplitudes near the nucleus, so that one function serves all shells of an l: <P_l|R_nl> =
+-sqrt(xi_nl), with the sign of the all-electron function near the nucleus where its tail is positive, and xi_nl such that
the level of the free pseudo-atom splits as that of the Dirac atom does, by (2l + 1)/2 xi_nl to first order. The average over
j is the file's own V.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh

from nearsight.atoms.dirac import DiracAtom, dirac_atom
from nearsight.atoms.neutral_atom import projectors
from nearsight.atoms.radial import PseudoAtom, Sphere
from nearsight.core.species import Projector, Species
from nearsight.formats.pseudopotential import Pseudopotential, SeparableChannel

BOUND = -0.01  # Ha: levels above are states of the box
_ROUNDS, _CLOSE = 20, 1e-6  # until splittings are those of the Dirac atom, relatively
_TINY = 1e-7  # Ha: a strength of coupling below is none


def with_spin_orbit(species: Species, pp: Pseudopotential, atom: PseudoAtom) -> Species:
    """The species with projectors by j: its own, alike for both, and those of the coupling.

    pp: scalar-relativistic, of which the species was made.  atom: its free atom.
    Raises NotConverged where the Dirac atom does not converge.
    """
    alike = [replace(p, j=j) for p in species.projectors for j in ((p.l + 0.5, p.l - 0.5) if p.l else (0.5,))]
    split: list[Projector] = []
    for channel, strength in coupling_channels(pp, atom):
        [p] = projectors((replace(channel, energies=np.ones(1)),), pp.r)
        for j, factor in ((p.l + 0.5, 0.5 * p.l), (p.l - 0.5, -0.5 * (p.l + 1))):
            split.append(Projector(p.radial, p.energy * strength * factor, j))
    provenance = {**species.provenance, "spin_orbit": "splittings of the all-electron Dirac atom"}
    return replace(species, relativistic_projectors=(*alike, *split), provenance=provenance)


@lru_cache(maxsize=64)
def coupling_channels(pp: Pseudopotential, atom: PseudoAtom) -> tuple[tuple[SeparableChannel, float], ...]:
    """A normalised function p_l of each l and the strength s_l [Ha] of V_SO = s_l |p_l> L.S <p_l|."""
    merged: dict[tuple[int, int], float] = {}
    for s in pp.shells:
        merged[s.n, s.l] = merged.get((s.n, s.l), 0.0) + s.occupation
    valence = tuple((n, l, electrons) for (n, l), electrons in sorted(merged.items()))
    dirac = dirac_atom(pp.number, valence, pp.xc)
    found = []
    for channel in atom.potential.channels:
        if channel.l and (made := _coupling(channel, pp, atom, dirac)) is not None:
            found.append(made)
    return tuple(found)


def _coupling(
    channel: SeparableChannel, pp: Pseudopotential, atom: PseudoAtom, dirac: DiracAtom
) -> tuple[SeparableChannel, float] | None:
    """None for an l none of whose levels is bound in both atoms."""
    l = channel.l
    first = min((s.n for s in pp.shells if s.l == l), default=_first_free(dirac, l))
    sphere = atom.potential.sphere(l, atom.potential.radius)
    H = atom.potential.hamiltonian(sphere)
    energies, vectors = eigh(H, subset_by_index=[0, 3])
    wanted = [dirac.splittings.get((first + k, l)) for k in range(4)]
    bound = [e < BOUND and dirac.levels.get((first + k, l, l + 0.5), 0.0) < BOUND for k, e in enumerate(energies)]
    there = [k for k in range(4) if bound[k] and wanted[k] is not None][: len(channel.energies)]
    if not there:
        return None
    goals = np.array([wanted[k] for k in there], dtype=float)
    signs = np.array([(-1) ** (first + k - l - 1) * _tail(sphere, vectors[:, k]) for k in there], dtype=float)
    overlaps = _overlaps(sphere, channel, pp.r)  # <function i|chi_k>
    amplitudes = vectors[:, there].T @ overlaps  # <R_n|chi_k>
    xi = np.maximum(2 * goals / (2 * l + 1), 0.0)
    for _ in range(_ROUNDS):
        c = np.linalg.pinv(amplitudes, rcond=1e-6) @ (signs * np.sqrt(xi))
        p = overlaps @ c
        both = [
            eigh(H + factor * np.outer(p, p), eigvals_only=True, subset_by_index=[0, there[-1]])[there]
            for factor in (0.5 * l, -0.5 * (l + 1))
        ]
        ratio = goals / np.maximum(both[0] - both[1], 1e-12)
        if np.abs(ratio - 1).max() < _CLOSE:
            break
        xi = xi * np.clip(ratio, 0.3, 3.0)
    strength = float(c @ c)  # chi_k are orthonormal
    if strength < _TINY:
        return None
    return SeparableChannel(l, None, (c @ channel.waves)[None] / np.sqrt(strength), np.ones(1)), strength


def _first_free(dirac: DiracAtom, l: int) -> int:
    """n of the first level of an l that the valence does not have: the highest that the Dirac atom knows."""
    return max((n for n, m, _ in dirac.levels if m == l), default=l + 1)


def _overlaps(sphere: Sphere, channel: SeparableChannel, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """int r^2 phi_i chi_k [i, k], as `separable` has them."""
    waves = CubicSpline(grid, channel.waves, axis=1)(np.minimum(sphere.r, grid[-1]))
    waves[:, sphere.r > grid[-1]] = 0.0
    found: NDArray[np.float64] = (sphere.phi * (sphere.weight / np.maximum(sphere.r, 1e-12))) @ waves.T
    return found


def _tail(sphere: Sphere, coefficients: NDArray[np.float64]) -> float:
    """The sign of a function where it is far out."""
    wave = sphere.r * (coefficients @ sphere.phi)
    far = np.nonzero(np.abs(wave) > 1e-2 * np.abs(wave).max())[0][-1]
    return float(np.sign(wave[far]))

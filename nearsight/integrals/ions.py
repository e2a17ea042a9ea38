"""The energy of the ions among themselves in the neutral-atom form: short-ranged pair sums, no Ewald sum.

E_na = 1/2 sum_ab U_NA(R_ab) + sum_{a<b} dU_local(R_ab)  and  E_ions = sum_a U_local,a  (Soler et al. 2002, eq. 45-56):
    U_NA,ab(R)  = int V_NA,a(r) n_NA,b(r - R) dr,  n_NA = -laplacian V_NA / 4 pi        (a = b included)
    dU_local,ab = Z_a Z_b / R - int V_local,a n_local,b                                  (zero when the charges are apart)
    U_local,a   = 1/2 int V_local,a n_local,a                                            (self energy)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, make_interp_spline
from torch import Tensor

from nearsight.core.pairs import neighbours
from nearsight.core.species import RadialFunction, Species
from nearsight.core.structure import Structure
from nearsight.integrals.splines import UniformSplines, radial_values
from nearsight.integrals.two_center import EXACT, Quadrature, TwoCenterTable, kinetic

RADIAL_STEP = 0.0025  # Bohr


def _spherical(f: RadialFunction) -> RadialFunction:
    """f(r) = F(r) Y_00: the radial part that the two-centre tables expect of a plain function of r."""
    return RadialFunction(0, f.values * np.sqrt(4 * np.pi), f.spacing)


def _neutral_atom_operator(k: NDArray[np.float64]) -> NDArray[np.float64]:
    """k^2 / 4 pi: from V_NA to its charge."""
    return kinetic(k) / (2 * np.pi)


@lru_cache(maxsize=256)
def neutral_atom_table(a: Species, b: Species, quadrature: Quadrature = EXACT) -> TwoCenterTable:
    """U_NA,ab(R) [Ha]."""
    return TwoCenterTable(
        [_spherical(a.neutral_atom_potential)],
        [_spherical(b.neutral_atom_potential)],
        _neutral_atom_operator,
        quadrature,
    )


def _cumulative(f: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Running integral on a uniform grid from 0, fourth order."""
    result = np.zeros_like(f)
    inner = (-f[:-3] + 13 * f[1:-2] + 13 * f[2:-1] - f[3:]) / 24
    first = (9 * f[0] + 19 * f[1] - 5 * f[2] + f[3]) / 24
    last = (9 * f[-1] + 19 * f[-2] - 5 * f[-3] + f[-4]) / 24
    result[1:] = step * np.cumsum(np.concatenate([[first], inner, [last]]))
    return result


def local_potential(species: Species, r_max: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """V_local(r) [Ha] of the local charge on a fine uniform grid up to r_max: (r, V), exactly -Z/r outside of the charge."""
    r = RADIAL_STEP * np.arange(int(np.ceil(r_max / RADIAL_STEP)) + 2, dtype=np.float64)
    n = radial_values(species.local_charge, r)
    enclosed = 4 * np.pi * _cumulative(n * r * r, RADIAL_STEP)
    shell = 4 * np.pi * _cumulative(n * r, RADIAL_STEP)
    enclosed *= -species.valence / enclosed[-1]  # quadrature error of the tabulated charge
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(r > 0, enclosed / np.maximum(r, 1e-300), 0.0)
    return r, inner + shell[-1] - shell


@lru_cache(maxsize=256)
def self_energy(species: Species) -> float:
    """U_local = 1/2 int V_local n_local [Ha]; a constant of the species, taken from its file where that has one.

    SIESTA integrates it on a logarithmic grid: up to 0.06 eV an atom (Si, Na) from the integral of the charge that it writes.
    """
    if species.self_energy is not None:
        return species.self_energy
    r, v = local_potential(species, species.local_charge.cutoff)
    n = radial_values(species.local_charge, r)
    return float(0.5 * 4 * np.pi * _cumulative(v * n * r * r, RADIAL_STEP)[-1])


CORRECTION_STEP = 0.01  # Bohr, of the table of dU_local
SIESTA_MARGIN = 0.2  # Bohr, by which SIESTA's table of dU_local is longer than the charges reach
SIESTA_CHARGE_ERROR = 0.05  # electrons by which the plain sum of a local charge may miss the valence


@lru_cache(maxsize=256)
def local_correction(a: Species, b: Species, quadrature: Quadrature = EXACT) -> UniformSplines:
    """dU_local,ab(R) [Ha] for R > 0, zero beyond the sum of the radii of the two local charges (SIESTA's: 0.2 Bohr later)."""
    sampled = quadrature.radial_step is not None
    reach = a.local_charge.cutoff + b.local_charge.cutoff + (SIESTA_MARGIN if sampled else 0.0)
    R = CORRECTION_STEP * np.arange(1, int(np.ceil(reach / CORRECTION_STEP)) + 2, dtype=np.float64)
    attraction = _sampled_attraction(a, b, R) if sampled else _attraction(a, b, R)
    values = a.valence * b.valence / R - attraction
    values[R >= reach] = 0.0
    return UniformSplines.through(np.concatenate([[values[0]], values])[None], CORRECTION_STEP, even=False)


def _attraction(a: Species, b: Species, R: NDArray[np.float64]) -> NDArray[np.float64]:
    """int V_a(|r|) n_b(|r - R|) = 2 pi / R int r n_b(r) [W(R + r) - W(|R - r|)] dr with W(s) = int_0^s t V_a(t) dt."""
    r, v = local_potential(a, R[-1] + b.local_charge.cutoff + 0.1)
    w = CubicSpline(r, _cumulative(r * v, RADIAL_STEP))
    x, weight = np.polynomial.legendre.leggauss(200)
    s = 0.5 * b.local_charge.cutoff * (1 + x)
    n = radial_values(b.local_charge, s) * 0.5 * b.local_charge.cutoff * weight
    n *= -b.valence / (4 * np.pi * (n * s * s).sum())
    difference = w(R[:, None] + s) - w(np.abs(R[:, None] - s))
    return 2 * np.pi / R * (difference @ (s * n))


def _plain_charge(species: Species, step: float) -> float:
    """4 pi sum r^2 n_local(r) step [electrons], negative."""
    r = step * np.arange(int(species.local_charge.cutoff / step) + 1)
    return float(4 * np.pi * step * (radial_values(species.local_charge, r) * r * r).sum())


def _sampled_attraction(a: Species, b: Species, R: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same from the charges on SIESTA's samples, rescaled so that their plain sum is the valence.

    They stand every pi/50 Bohr; where that sum misses the valence by more than 0.05 electrons (Fe: 15.708 of 16), the cutoff
    50^2 Ry of the waves and their number are doubled until it does not.

    int V_a n_b = Z_a V_b(R) + (2/pi) int (n_a(q) - Z_a) n_b(q) j_0(qR) dq, averaged over a <-> b; V_b by Numerov's method.
    Differs from the exact integral by up to 2 meV an atom (Si), because that sampling is coarse for a hard local charge.
    """
    highest, count = 50.0, 512
    while (
        max(abs(_plain_charge(s, np.pi / highest) + s.valence) for s in (a, b)) > SIESTA_CHARGE_ERROR and count < 2**14
    ):
        highest, count = highest * np.sqrt(2), 2 * count
    step = np.pi / highest
    r = step * np.arange(count + 1)
    q = highest / count * np.arange(1, count + 1)
    waves = np.sinc(np.outer(q, r) / np.pi)
    charges, potentials = [], []
    for s in (a, b):
        n = -radial_values(s.local_charge, r)
        n *= s.valence / (4 * np.pi * step * (n * r * r).sum())
        charges.append(4 * np.pi * step * (waves @ (n * r * r)))
        g = -4 * np.pi * r * n
        second = step**2 / 12 * (g[2:] + 10 * g[1:-1] + g[:-2])
        u = np.concatenate([[0.0, 0.0], np.cumsum(np.cumsum(second))])
        u += r * (s.valence - u[-1]) / r[-1]  # u = r V goes to Z
        potentials.append(make_interp_spline(r, u, k=7)(R) / R)
    result = np.zeros_like(R)
    j0 = np.sinc(np.outer(R, q) / np.pi)
    for (n1, z1), (n2, v2) in (
        ((charges[0], a.valence), (charges[1], potentials[1])),
        ((charges[1], b.valence), (charges[0], potentials[0])),
    ):
        result += 0.5 * (z1 * v2 + 2 / np.pi * q[0] * (j0 @ ((n1 - z1) * n2)))
    return result


def ion_energies(
    structure: Structure, species: Mapping[int, Species], quadrature: Quadrature = EXACT
) -> tuple[Tensor, Tensor]:
    """(E_na, E_ions) [Ha]; E_na is differentiable in positions and cell."""
    e_na = structure.cell.new_zeros(())
    reach = 2 * max(max(s.neutral_atom_potential.cutoff, s.local_charge.cutoff) for s in species.values())
    i, j, R = (x.to(structure.cell.device) for x in neighbours(structure, reach))
    own = torch.arange(len(structure), device=i.device)
    i, j, R = torch.cat([i, own]), torch.cat([j, own]), torch.cat([R, R.new_zeros(len(own), 3)])
    vectors = structure.positions[j] + R.to(structure.cell) @ structure.cell - structure.positions[i]
    zi, zj = structure.numbers[i], structure.numbers[j]
    self_pair = torch.zeros(len(i), dtype=torch.bool, device=i.device)
    self_pair[-len(own) :] = True
    for za, a in species.items():
        for zb, b in species.items():
            which = (zi == za) & (zj == zb)
            e_na = e_na + 0.5 * neutral_atom_table(a, b, quadrature)(vectors[which]).sum()
            apart = vectors[which & ~self_pair]
            if len(apart):
                e_na = e_na + 0.5 * local_correction(a, b, quadrature).to(apart)(apart.norm(dim=-1)).sum()
    e_ions = sum(self_energy(species[z]) for z in structure.numbers.tolist())
    return e_na, structure.cell.new_tensor(e_ions)

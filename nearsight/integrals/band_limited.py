"""Band-limited fields: the remedy for the egg box, the ripple of the energy as atoms move against the mesh.

Two sources dominate. The neutral-atom potential has wavelengths that the mesh cannot hold: summed in Fourier space up to the
mesh's own limit, it is the same function wherever the atoms stand. The exchange-correlation energy is not linear in the
density: evaluated on a finer mesh, to which the (band-limited) density is interpolated exactly, its quadrature is that of
the finer mesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nearsight.core.species import RadialFunction
from nearsight.core.structure import Structure
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.splines import UniformSplines, radial_values
from nearsight.integrals.waves import by_inverse_cell, half_spectrum, squared_length, wave_numbers

WAVE_SPACING = 0.02  # 1/Bohr, of the tabulated transforms


@lru_cache(maxsize=64)
def _transform(function: RadialFunction, k_max: float) -> UniformSplines:
    """f(k) = 4 pi int r^2 f(r) sin(kr)/(kr) dr, as a spline in k."""
    panels = max(32, int(np.ceil(function.cutoff * k_max / 10)))
    x, w = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(0, function.cutoff, panels + 1)
    half = 0.5 * np.diff(edges)[:, None]
    r = (edges[:-1, None] + half * (1 + x)).ravel()
    weight = 4 * np.pi * (half * w).ravel() * r * r * radial_values(function, r)
    k = WAVE_SPACING * np.arange(int(np.ceil(k_max / WAVE_SPACING)) + 3, dtype=np.float64)
    return UniformSplines.through((np.sinc(np.outer(k, r) / np.pi) @ weight)[None], WAVE_SPACING)


def superpose(mesh: Mesh, structure: Structure, functions: Mapping[int, RadialFunction]) -> Tensor:
    """sum over atoms and cells of f(|r - R_a|) [x, y, z], with the waves of the mesh only; differentiable in the structure."""
    inverse = torch.linalg.inv(structure.cell)
    waves = wave_numbers(mesh.shape, structure.cell)
    fractional = structure.positions @ inverse
    total: Tensor | float = 0.0
    for z, function in functions.items():
        atoms = fractional[structure.numbers == z]
        ex, ey, ez = (torch.exp(-2j * torch.pi * atoms[:, x, None] * waves[x]) for x in range(3))
        factor = torch.einsum("ax,ay,az->xyz", ex, ey, ez)
        if inverse.requires_grad:
            spectrum = _spectrum(mesh.shape, inverse, function)
        else:  # structures of one cell, as a data set has them, share it
            spectrum = _kept_spectrum(mesh.shape, *_key(inverse), function)
        total = total + factor * spectrum
    scale = mesh.size / torch.linalg.det(structure.cell).abs()
    return torch.fft.irfftn(total * scale, s=mesh.shape)


@torch.no_grad()
def superposition_slopes(
    mesh: Mesh, structure: Structure, functions: Mapping[int, RadialFunction], adjoint: Tensor
) -> tuple[Tensor, Tensor]:
    """d(sum_r a(r) f(r)) in positions [atoms, 3] and cell [3, 3] for what `superpose` gives, and a field a [x, y, z].

    The sum is E = 1/V sum_G a(G)* f(|G|) exp(-i G R).  It moves with the places of atoms, with |G| and with V.
    """
    inverse, shape = torch.linalg.inv(structure.cell), mesh.shape
    waves = wave_numbers(shape, structure.cell)
    fractional = structure.positions @ inverse
    volume = torch.linalg.det(structure.cell).abs()
    conjugate = half_spectrum(shape, torch.fft.rfftn(adjoint).conj_physical_()) / volume
    g = squared_length(shape, inverse).clamp_(min=0).sqrt_()
    inside = _inside(shape, inverse)
    energy, by_g2 = volume.new_zeros(()), torch.zeros_like(g)
    by_fractional = torch.zeros_like(fractional)
    for z, function in functions.items():
        which = (structure.numbers == z).nonzero()[:, 0]
        phases = [torch.exp(-2j * torch.pi * fractional[which, x, None] * waves[x]) for x in range(3)]
        transform = _transform(function, float(g.max())).to(g)
        weighted = conjugate * (_kept_spectrum(shape, *_key(inverse), function))
        by_fractional[which] = _phase_slopes(weighted, phases, waves)
        factor = torch.einsum("ax,ay,az->xyz", *phases)
        energy = energy + _real_product(weighted, factor).sum()
        by_g2 += _real_product(conjugate, factor) * (transform.slope_over_r(g.flatten()).reshape(g.shape) * inside)
    by_inverse = structure.positions.T @ by_fractional + by_inverse_cell(0.5 * by_g2, inverse)
    return by_fractional @ inverse.T, -inverse.T @ (by_inverse @ inverse.T + energy * torch.eye(3).to(g))


def _phase_slopes(weighted: Tensor, phases: list[Tensor], waves: list[Tensor]) -> Tensor:
    """d/d(fractional) of Re sum_m w_m exp(-2 pi i m f) [atoms, 3], axis by axis, for w [x, y, z] and phases [atoms, m]."""
    x, y, z = phases
    slope = [-2j * torch.pi * m * e for m, e in zip(waves, phases, strict=True)]
    over_z = (weighted.flatten(0, 1) @ torch.cat([z, slope[2]]).T).reshape(*weighted.shape[:2], 2, len(z))
    plain, moved = over_z.unbind(2)  # [x, y, atoms]
    over_y = torch.einsum("xya,ay->xa", plain, y)
    return torch.stack(
        [
            torch.einsum("xa,ax->a", over_y, slope[0]).real,
            torch.einsum("xya,ay,ax->a", plain, slope[1], x).real,
            torch.einsum("xya,ay,ax->a", moved, y, x).real,
        ],
        1,
    )


def _real_product(a: Tensor, b: Tensor) -> Tensor:
    """Re a b"""
    return a.real * b.real - a.imag * b.imag


def _spectrum(shape: tuple[int, int, int], inverse: Tensor, function: RadialFunction) -> Tensor:
    """f(|G|) on the waves of a mesh, zero from its Nyquist waves on; inverse: of the cell."""
    g2 = squared_length(shape, inverse)
    zero = torch.zeros_like(g2, dtype=torch.bool)
    zero[0, 0, 0] = True
    g = torch.where(zero, 0.0, torch.where(zero, 1.0, g2).sqrt())
    return _transform(function, float(g.detach().max())).to(g)(g)[..., 0] * _inside(shape, inverse)


def _inside(shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Below the Nyquist waves along every axis [x, y, z]."""
    x, y, z = (m.abs() < 0.5 * n for m, n in zip(wave_numbers(shape, like), shape, strict=True))
    return x[:, None, None] & y[:, None] & z


def _key(inverse: Tensor) -> tuple[tuple[float, ...], str]:
    return tuple(inverse.flatten().tolist()), str(inverse.device)


@lru_cache(maxsize=8)
def _kept_spectrum(
    shape: tuple[int, int, int], inverse: tuple[float, ...], device: str, function: RadialFunction
) -> Tensor:
    return _spectrum(shape, torch.tensor(inverse, dtype=torch.float64, device=device).reshape(3, 3), function)


@dataclass(frozen=True)
class Refinement:
    """Exact interpolation between a mesh and one that is `factor` times finer along each axis, without Nyquist waves."""

    coarse: tuple[int, int, int]
    factor: int

    @property
    def fine(self) -> tuple[int, int, int]:
        """Points of the finer mesh along each axis."""
        a, b, c = (self.factor * n for n in self.coarse)
        return a, b, c

    def up(self, f: Tensor) -> Tensor:
        """f [..., x, y, z] of the coarse mesh on the fine one."""
        return self._through(f, self.coarse, self.fine)

    def down(self, f: Tensor) -> Tensor:
        """The waves of the coarse mesh in f of the fine one: the adjoint of `up`, up to the ratio of volume elements."""
        return self._through(f, self.fine, self.coarse)

    def _through(self, f: Tensor, source: tuple[int, int, int], target: tuple[int, int, int]) -> Tensor:
        waves = torch.fft.rfftn(f, dim=(-3, -2, -1), norm="forward")
        kept = [(n - 1) // 2 for n in self.coarse]  # highest wave along each axis
        for axis, (n, limit) in enumerate(zip(source, kept, strict=True)):
            dim = waves.ndim - 3 + axis
            low = waves.narrow(dim, 0, limit + 1)
            new = target[axis]
            if axis == 2:
                length = new // 2 + 1
                waves = _padded(low, None, dim, length)
            else:
                waves = _padded(low, waves.narrow(dim, n - limit, limit), dim, new)
        return torch.fft.irfftn(waves, s=target, dim=(-3, -2, -1), norm="forward")


def _padded(low: Tensor, high: Tensor | None, dim: int, length: int) -> Tensor:
    """Waves 0..limit, zeros, and -limit..-1 along an axis."""
    shape = list(low.shape)
    shape[dim] = length - low.shape[dim] - (high.shape[dim] if high is not None else 0)
    return torch.cat([low, low.new_zeros(shape), *([high] if high is not None else [])], dim)

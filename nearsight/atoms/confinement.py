"""Confined states of a frozen pseudo-atom: walls, the radius at which a wall costs what it may, responses to a field."""

from __future__ import annotations

from dataclasses import dataclass
from math import e

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, null_space
from scipy.optimize import brentq

from nearsight.atoms.neutral_atom import grid
from nearsight.atoms.radial import RadialPotential, Sphere
from nearsight.atoms.zetas import normalised
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.species import RadialFunction


@dataclass(frozen=True)
class HardWall:
    """The orbital is zero beyond r_c and its slope jumps there (SIESTA's default)."""

    def potential(self, r: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
        """V(r) = 0 [Ha]: the orbital's sphere is the wall."""
        return np.zeros_like(r)


@dataclass(frozen=True)
class SmoothWall:
    """V(r) = strength exp(-(r_c - r_i) / (r - r_i)) / (r_c - r)^2  [Ha] from r_i = inner * r_c on.

    strength: [Ha Bohr^2]; 3e makes r phi go as (r_c - r)^3: value, slope and curvature all vanish at r_c.
    """

    strength: float = 3 * e
    inner: float = 0.8

    def potential(self, r: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
        """V at r [points, Bohr] of the orbital of radius r_c [Ha]; 0 at and beyond r_c, where the sphere ends."""
        values = np.zeros_like(r)
        start = self.inner * radius
        inside = (r > start) & (r < radius)
        x = r[inside]
        values[inside] = self.strength * np.exp(-(radius - start) / (x - start)) / (radius - x) ** 2
        return values


@dataclass(frozen=True)
class SoftWall:
    """V(r) = strength exp(-(r_c - r_i) / (r - r_i)) / (r_c - r)  [Ha] from r_i = inner * r_c on.

    Junquera et al., Phys. Rev. B 64, 235111 (2001). strength: [Ha Bohr].
    """

    strength: float = 40.0
    inner: float = 0.9

    def potential(self, r: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
        """V at r [points, Bohr] of the orbital of radius r_c [Ha]; 0 at and beyond r_c, where the sphere ends."""
        return SmoothWall(self.strength, self.inner).potential(r, radius) * (radius - r)


Wall = HardWall | SoftWall | SmoothWall


@dataclass(frozen=True, eq=False)
class ConfinedState:
    """An orbital in a sphere: energy [Ha] and coefficients in the sphere's Bessel functions."""

    energy: float
    sphere: Sphere
    coefficients: NDArray[np.float64]

    __repr__ = one_line

    def tabulate(self) -> RadialFunction:
        """The orbital on the uniform grid: of unit norm, positive in its outer part, zero at the sphere."""
        r, h = grid(self.sphere.radius)
        return normalised(self.sphere.l, self.sphere.reduced(self.coefficients, r), h)


def confinement_radius(
    potential: RadialPotential, l: int, index: int, free_energy: float, shift: float, wall: Wall
) -> float:
    """r_c [Bohr] at which the wall raises the index-th level of l by `shift` above `free_energy` [Ha].

    Raises NearsightError where the level is not bound firmly enough to be confined.
    """

    def excess(radius: float) -> float:
        energy = confined_state(potential, l, index, radius, wall).energy
        return float(np.log(max(energy - free_energy, 1e-9) / shift))

    low, high = 1.0, potential.radius
    if excess(high) > 0 or excess(low) < 0:
        raise BadInput(
            f"no wall below {high:.0f} Bohr raises the level l = {l} at {free_energy:.4f} Ha by {shift:g} Ha; "
            "take a larger energy shift"
        )
    return float(brentq(excess, low, high, xtol=1e-4))


def confined_state(potential: RadialPotential, l: int, index: int, radius: float, wall: Wall) -> ConfinedState:
    """The index-th state of l inside `radius`, with the wall's potential added."""
    sphere, H, allowed = walled(potential, l, radius, wall)
    energies, vectors = eigh(allowed.T @ H @ allowed, subset_by_index=[0, index])
    return ConfinedState(float(energies[index]), sphere, allowed @ vectors[:, index])


def walled(
    potential: RadialPotential, l: int, radius: float, wall: Wall
) -> tuple[Sphere, NDArray[np.float64], NDArray[np.float64]]:
    """The sphere, its Hamiltonian with the wall, and the functions allowed: those without a slope at r_c, unless hard.

    No slope at r_c means no curvature either, because every Bessel function of the sphere has u'' = 0 where u = 0.
    """
    sphere = potential.sphere(l, radius)
    H = potential.hamiltonian(sphere) + (sphere.phi * (sphere.weight * wall.potential(sphere.r, radius))) @ sphere.phi.T
    if isinstance(wall, HardWall):
        return sphere, H, np.eye(len(sphere.k))
    return sphere, H, null_space(sphere.edge[None])


def response(potential: RadialPotential, state: ConfinedState, occupied: int, wall: Wall) -> ConfinedState:
    """First-order response of a shell to an electric field, its l+1 part: (H - e) phi' = -r phi.

    occupied: levels of l+1 that are in the basis already, and so are left out of the response.
    """
    l = state.sphere.l + 1
    sphere, H, allowed = walled(potential, l, state.sphere.radius, wall)
    phi = state.coefficients @ state.sphere.phi
    field = sphere.phi @ (sphere.weight * sphere.r * phi)
    energies, vectors = eigh(allowed.T @ H @ allowed)
    # A level of l+1 close to e would take over the response: hold the gap above 0.05 Ha.
    gap = np.maximum(energies[occupied:] - state.energy, 0.05)
    coefficients = vectors[:, occupied:] @ ((vectors[:, occupied:].T @ (allowed.T @ field)) / gap)
    return ConfinedState(state.energy, sphere, allowed @ coefficients)

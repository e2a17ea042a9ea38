"""Band edges: where a band ends, and how levels leave from there."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.units import ATOMIC_VELOCITY_M_S, HARTREE_EV
from nearsight.properties.corners import Corners
from nearsight.properties.kdotp import Expansion, Lattice

SPINS = ("up", "down")
STILL = 1e-3  # Ha Bohr: levels at an extremum move slower, those of a cone faster (graphene's 0.4)
FLAT = 1e-6  # Ha Bohr^2: a curvature below this is none, and its mass infinite


@dataclass(frozen=True, eq=False)
class Direction:
    """Along a unit vector [3] towards a corner of the zone: d e/dk [Ha Bohr] and effective masses [m_e] of each level.

    Masses of a valence edge are those of holes, so that they are positive at a maximum; empty where the levels leave linearly.
    """

    towards: str
    vector: Tensor
    velocities: tuple[float, ...]
    masses: tuple[float, ...]

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Edge:
    """The top of the valence or the bottom of the conduction bands.

    energy: [Ha].  k: fractional [3]; label: its name, or None.  spin: up or down of collinear spin, else None.
    band: index of the level, from 0.  degeneracy: levels within the tolerance there.
    masses: principal effective masses [m_e], heaviest last, and their axes [masses, 3] (rows); empty where no one tensor
    serves all levels: then `directions` have them.  cone: principal speeds of levels that leave linearly [Ha Bohr].
    """

    energy: float
    k: Tensor
    label: str | None
    spin: str | None
    band: int
    degeneracy: int
    masses: tuple[float, ...]
    axes: Tensor
    cone: tuple[float, ...]
    velocity: Tensor
    directions: tuple[Direction, ...]

    __repr__ = one_line

    @property
    def place(self) -> str:
        """`K (0.3333 0.3333 0.0000)`"""
        at = f"({' '.join(f'{x:.4f}' for x in (self.k + 0.0).tolist())})"
        return at if self.label is None else f"{self.label} {at}"

    def to_json(self) -> dict[str, Any]:
        """Energies [eV], k fractional, masses [m_e], velocities [m/s], axes Cartesian."""
        return {
            "energy_eV": self.energy * HARTREE_EV,
            "k_fractional": self.k.tolist(),
            "label": self.label,
            "spin": self.spin,
            "band": self.band,
            "degeneracy": self.degeneracy,
            "principal_masses_me": [_finite(m) for m in self.masses],
            "principal_axes_cartesian": self.axes.tolist(),
            "velocity_m_per_s": (self.velocity * ATOMIC_VELOCITY_M_S).tolist(),
            "cone_speeds_m_per_s": [v * ATOMIC_VELOCITY_M_S for v in self.cone],
            "directions": [
                {
                    "towards": d.towards,
                    "vector_cartesian": d.vector.tolist(),
                    "masses_me": [_finite(m) for m in d.masses],
                    "velocities_m_per_s": [v * ATOMIC_VELOCITY_M_S for v in d.velocities],
                }
                for d in self.directions
            ],
        }

    def summary(self, name: str) -> list[str]:
        """Place and energy; masses, or velocities."""
        level = f"band {self.band}" + (f", spin {self.spin}" if self.spin else "")
        level += f", {self.degeneracy}-fold" if self.degeneracy > 1 else ""
        lines = [f"{name} {self.energy * HARTREE_EV:.4f} eV at {self.place}: {level}"]
        if self.cone:
            speeds = ", ".join(f"{v * ATOMIC_VELOCITY_M_S:.3e}" for v in self.cone)
            lines.append(f"  leaves linearly: speeds {speeds} m/s")
        if self.masses:
            lines.append(f"  principal masses {', '.join(f'{m:.3f}' for m in self.masses)} m_e")
        alike: dict[str, list[str]] = {}
        for d in self.directions:
            alike.setdefault(", ".join(f"{m:.3f}" for m in d.masses), []).append(d.towards)
        lines += [f"  towards {', '.join(names)}: masses {masses} m_e" for masses, names in alike.items() if masses]
        return lines


def _finite(mass: float) -> float | None:
    return mass if isfinite(mass) else None


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What edges are described by: the matrices, names of k-points, an orthonormal basis [d, 3] of the directions that have k.

    degeneracy: levels nearer than this are one [Ha].
    """

    lattice: Lattice
    corners: Corners
    plane: Tensor
    degeneracy: float

    __repr__ = one_line

    def edge(self, k: Tensor, component: int, band: int, sign: int) -> Edge:
        """The edge that a level of the matrix `component` makes at k [3].  sign: 1 where it is a bottom, -1 for a top."""
        energies = self.lattice.states(k)[0][component]
        energy = float(energies[band])
        alike = ((energies - energy).abs() < self.degeneracy).nonzero()[:, 0].tolist()
        expansion = Expansion.of(self.lattice, k, component, alike)
        ways = self.corners.directions(k)
        linear = len(alike) > 1 and float(expansion.cone_speeds[0]) > STILL
        masses: tuple[float, ...] = ()
        axes = torch.zeros(0, 3, dtype=torch.float64)
        tensor = None if linear or not len(self.plane) else expansion.tensor()
        if tensor is not None:
            inside = self.plane @ (sign * tensor.cpu()) @ self.plane.T
            values, vectors = torch.linalg.eigh(inside)
            masses = tuple(_mass(v) for v in values.flip(0).tolist())
            axes = (self.plane.T @ vectors).T.flip(0)
        return Edge(
            energy=energy,
            k=k,
            label=self.corners.label(k),
            spin=SPINS[component] if len(self.lattice.hamiltonian.values) == 2 else None,
            band=band,
            degeneracy=len(alike),
            masses=masses,
            axes=axes,
            cone=tuple(expansion.cone_speeds[: len(self.plane)].tolist()) if linear else (),
            velocity=expansion.velocity.cpu(),
            directions=tuple(
                Direction(
                    name,
                    vector,
                    tuple(expansion.velocities(vector).tolist()),
                    () if linear else tuple(_mass(sign * c) for c in expansion.curvatures(vector).tolist()),
                )
                for name, vector in ways
            ),
        )


def _mass(curvature: float) -> float:
    """1 / curvature [m_e], infinite for a flat level."""
    return 1 / curvature if abs(curvature) > FLAT else float("inf")

"""Numerical atomic orbitals: confined states of the frozen pseudo-atom, split zetas and polarisation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh, null_space
from scipy.optimize import brentq

from nearsight.atoms.library import pseudopotential
from nearsight.atoms.neutral_atom import LocalPart, core_density, grid, neutral_atom_potential, projectors
from nearsight.atoms.radial import PseudoAtom, RadialPotential, Sphere, solve_atom
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.species import Orbital, RadialFunction, Species
from nearsight.formats.pseudopotential import Pseudopotential
from nearsight.formats.soundness import check_species

RYDBERG = 0.5  # 1 Ry in Ha, exact

_ZETAS = {"sz": 1, "szp": 1, "dz": 2, "dzp": 2, "tz": 3, "tzp": 3}
_SEMICORE_SHIFT = 0.1
_LOCALISED_SHIFT = 0.3  # with the full shift fcc Cu is 5 % too small
_BOUND = -0.02  # Ha
_NOBLE = (2, 10, 18, 36, 54, 86, 118)


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

    strength: float = 3 * float(np.e)
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


@dataclass(frozen=True)
class BasisSettings:
    """How a basis is made from a pseudo-atom.

    size: "sz", "szp", "dz", "dzp", "tz" or "tzp"; semicore shells always get one function.
    energy_shift: rise of each level that fixes r_c, in a hard wall [Ry]; a tenth of it for semicore shells,
        three tenths for d and f shells.
    split_norm, split_norm_hydrogen: norm that fixes the matching radius of the second zeta, see `matching_radius`; the
    third zeta has the square root of it.
    confinement: the wall inside which the orbitals of radius r_c are found.
    polarization: "response" of the outermost shell to an electric field, or the confined l+1 "state".
    """

    size: Literal["sz", "szp", "dz", "dzp", "tz", "tzp"] = "dzp"
    energy_shift: float = 0.01
    split_norm: float = 0.15
    split_norm_hydrogen: float = 0.5
    confinement: HardWall | SoftWall | SmoothWall = SmoothWall()
    polarization: Literal["response", "state"] = "response"

    def __post_init__(self) -> None:
        if self.size not in _ZETAS:
            raise BadInput(f"basis size {self.size!r} is unknown; take one of {', '.join(_ZETAS)}")
        if not 1e-5 <= self.energy_shift <= 0.2:
            raise BadInput(f"energy shift {self.energy_shift:g} Ry; take one between 1e-5 and 0.2 Ry")
        for norm in (self.split_norm, self.split_norm_hydrogen):
            if not 0 < norm < 1:
                raise BadInput(f"split norm {norm:g}; take one between 0 and 1")
        if self.polarization not in ("response", "state"):
            raise BadInput(f"polarization {self.polarization!r} is unknown; take 'response' or 'state'")


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
        return _normalised(self.sphere.l, self.sphere.reduced(self.coefficients, r), h)


def generate_species(
    symbol: str,
    xc: str = "pbe",
    basis: BasisSettings = BasisSettings(),
    folder: str | os.PathLike[str] | None = None,
) -> Species:
    """A species with numerical atomic orbitals, from the pseudopotential of the element for a functional.

    folder: a user's folder of UPF files; None takes the installed package.
    Raises NearsightError: no such pseudopotential, no convergence of the pseudo-atom, a shell that cannot be confined.
    """
    return species_from(pseudopotential(symbol, xc, folder), basis)


@lru_cache(maxsize=64)
def species_from(pp: Pseudopotential, basis: BasisSettings) -> Species:
    """The species of a pseudopotential: orbitals from its self-consistent atom, and its local and separable part."""
    atom = solve_atom(pp)
    orbitals, notes = _orbitals(pp, atom, basis)
    local = LocalPart(pp)
    species = Species(
        symbol=pp.symbol,
        number=pp.number,
        valence=pp.valence,
        mass=float(atomic_masses[pp.number]),
        orbitals=orbitals,
        projectors=projectors(pp.scalar_channels(), pp.r),
        neutral_atom_potential=neutral_atom_potential(local, orbitals),
        local_charge=local.charge(),
        core_density=core_density(pp),
        relativistic_projectors=projectors(pp.relativistic_channels(), pp.r),
        provenance={
            "pseudopotential": pp.path.name,
            "pseudopotential_sha256": pp.sha256,
            "xc": pp.xc,
            "basis": repr(basis),
        }
        | ({"notes": notes} if notes else {}),
    )
    check_species(species, str(pp.path))
    return species


@dataclass(frozen=True)
class _Shell:
    """A shell to make orbitals of: the index-th level of its l; energy of the free atom [Ha]."""

    n: int
    l: int
    index: int
    occupation: float
    energy: float
    semicore: bool


def _shells(pp: Pseudopotential, atom: PseudoAtom) -> list[_Shell]:
    """The reference atom's shells, told apart into semicore and valence, and the outermost s shell even if empty."""
    period = 1 + sum(pp.number > z for z in _NOBLE)
    main_p = any(s.l == 1 and s.n == period and s.occupation > 0 for s in atom.shells)
    has_d = any(s.l == 2 and s.n == period - 1 for s in atom.shells)
    shells, count = [], dict.fromkeys(range(5), 0)
    for s in atom.shells:
        if s.occupation == 0 and s.energy > _BOUND:
            continue  # an empty level of the free atom's box, which no energy shift can confine
        semicore = (
            (s.l <= 1 and s.n < period)
            or (s.l == 2 and main_p)  # a full d shell below an open p shell
            or (s.l == 3 and has_d and s.occupation > 13.99)
        )
        shells.append(_Shell(s.n, s.l, count[s.l], s.occupation, s.energy, semicore))
        count[s.l] += 1
    if not any(s.l == 0 and s.n == period for s in atom.shells):  # Pd: 4d10 5s0
        sphere = atom.potential.sphere(0, atom.potential.radius)
        energy = float(eigh(atom.potential.hamiltonian(sphere), eigvals_only=True)[count[0]])
        if energy <= _BOUND:
            shells.append(_Shell(period, 0, count[0], 0.0, energy, False))
    return shells


def _orbitals(pp: Pseudopotential, atom: PseudoAtom, basis: BasisSettings) -> tuple[tuple[Orbital, ...], str]:
    """The shells in the project's order, and what was done otherwise than asked."""
    shells = _shells(pp, atom)
    total = sum(s.occupation for s in shells)
    if abs(total - pp.valence) > 1e-2:
        raise BadInput(
            f"{pp.path}: its shells hold {total:g} electrons, not the valence charge {pp.valence:g}; take another file"
        )
    split = basis.split_norm_hydrogen if pp.number == 1 else basis.split_norm
    orbitals: list[Orbital] = []
    states: dict[tuple[int, int], ConfinedState] = {}
    notes: list[str] = []
    for s in shells:
        # Each of many semicore electrons pays the shift in the total energy; their orbitals stay short all the same.
        # So do open d and f shells, which the wall would squeeze most.
        shift = basis.energy_shift * RYDBERG
        if s.semicore:
            shift *= _SEMICORE_SHIFT
        elif s.l >= 2:
            shift *= _LOCALISED_SHIFT
        radius = confinement_radius(atom.potential, s.l, s.index, s.energy, shift)
        state = confined_state(atom.potential, s.l, s.index, radius, basis.confinement)
        states[s.n, s.l] = state
        first = state.tabulate()
        population = s.occupation * pp.valence / total
        orbitals.append(Orbital(first, s.n, 1, population))
        for zeta in range(2, 1 + (1 if s.semicore else _ZETAS[basis.size])):
            match, regular = matching_radius(first, split ** (1 / (zeta - 1)))
            if not regular:
                notes.append(f"{s.n}{'spdf'[s.l]} zeta {zeta} split where its tail alone has a fifth of the split norm")
            orbitals.append(Orbital(split_zeta(first, match), s.n, zeta, 0.0))
    if basis.size.endswith("p"):
        made = _polarization(shells, states, atom.potential, basis)
        orbitals.append(made)
        if pp.number > 2 and all(s.l == 0 for s in shells if not s.semicore):
            orbitals.extend(_empty_valence(pp.number, made, shells, states, atom.potential, basis))
    return tuple(sorted(orbitals, key=lambda o: (o.polarization, o.l, o.n, o.zeta))), "; ".join(notes)


def confinement_radius(potential: RadialPotential, l: int, index: int, free_energy: float, shift: float) -> float:
    """r_c [Bohr] at which a hard wall raises the index-th level of l by `shift` above `free_energy` [Ha].

    Raises NearsightError where the level is not bound firmly enough to be confined.
    """

    def excess(radius: float) -> float:
        sphere = potential.sphere(l, radius)
        energy = eigh(potential.hamiltonian(sphere), eigvals_only=True, subset_by_index=[0, index])[index]
        return float(np.log(max(energy - free_energy, 1e-9) / shift))

    low, high = 1.0, potential.radius
    if excess(high) > 0 or excess(low) < 0:
        raise BadInput(
            f"no hard wall below {high:.0f} Bohr raises the level l = {l} at {free_energy:.4f} Ha by {shift:g} Ha; "
            "take a larger energy shift"
        )
    return float(brentq(excess, low, high, xtol=1e-4))


def confined_state(
    potential: RadialPotential, l: int, index: int, radius: float, wall: HardWall | SoftWall | SmoothWall
) -> ConfinedState:
    """The index-th state of l inside `radius`, with the wall's potential added."""
    sphere, H, allowed = _walled(potential, l, radius, wall)
    energies, vectors = eigh(allowed.T @ H @ allowed, subset_by_index=[0, index])
    return ConfinedState(float(energies[index]), sphere, allowed @ vectors[:, index])


def _walled(
    potential: RadialPotential, l: int, radius: float, wall: HardWall | SoftWall | SmoothWall
) -> tuple[Sphere, NDArray[np.float64], NDArray[np.float64]]:
    """The sphere, its Hamiltonian with the wall, and the functions allowed: those without a slope at r_c, unless hard.

    No slope at r_c means no curvature either, because every Bessel function of the sphere has u'' = 0 where u = 0.
    """
    sphere = potential.sphere(l, radius)
    H = potential.hamiltonian(sphere) + (sphere.phi * (sphere.weight * wall.potential(sphere.r, radius))) @ sphere.phi.T
    if isinstance(wall, HardWall):
        return sphere, H, np.eye(len(sphere.k))
    return sphere, H, null_space(sphere.edge[None])


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
    return _normalised(l, values, h)


def _polarization(
    shells: list[_Shell],
    states: dict[tuple[int, int], ConfinedState],
    potential: RadialPotential,
    basis: BasisSettings,
) -> Orbital:
    """A shell with the lowest l that has no valence shell, made from the valence shell one below it in l."""
    valence = [s for s in shells if not s.semicore]
    n_main = max(s.n for s in valence)
    l = next(l for l in range(1, 5) if not any(s.l == l and (s.n == n_main or l == 3) for s in valence))
    source = max((s for s in valence if s.l == l - 1), key=lambda s: s.n)
    below = sum(s.l == l for s in shells)  # occupied levels of the same l: semicore, or the d of a transition metal
    state = states[source.n, source.l]
    radius = state.sphere.radius
    if basis.polarization == "state":
        made = confined_state(potential, l, below, radius, basis.confinement)
    else:
        made = response(potential, state, below, basis.confinement)
    return Orbital(made.tabulate(), max(l + 1, n_main), 1, 0.0, polarization=True)


def _empty_valence(
    number: int,
    polarization: Orbital,
    shells: list[_Shell],
    states: dict[tuple[int, int], ConfinedState],
    potential: RadialPotential,
    basis: BasisSettings,
) -> list[Orbital]:
    """What atoms with s electrons alone need besides one p shell: in their solids the empty p (and, from K and Ca on, the
    d below it) take part in the bonds, so that the p shell gets as many zetas as the s, and d a shell of its own.

    Without them bcc Li is 7 % and CaO 11 % too large, however small the energy shift.
    """
    found = []
    split = basis.split_norm
    for zeta in range(2, 1 + _ZETAS[basis.size]):
        match, _ = matching_radius(polarization.radial, split ** (1 / (zeta - 1)))
        found.append(Orbital(split_zeta(polarization.radial, match), polarization.n, zeta, 0.0, polarization=True))
    if number > 18 and not any(s.l == 2 and not s.semicore for s in shells):
        below = sum(s.l == 2 for s in shells)
        outer = max((s for s in shells if not s.semicore), key=lambda s: s.n)
        radius = states[outer.n, 0].sphere.radius
        sphere = Sphere(2, potential.radius)
        free = float(eigh(potential.hamiltonian(sphere), eigvals_only=True, subset_by_index=[0, below])[below])
        if free < -0.02:  # bound in the atom: a radius of its own
            radius = min(radius, confinement_radius(potential, 2, below, free, basis.energy_shift * RYDBERG))
        state = confined_state(potential, 2, below, radius, basis.confinement)
        found.append(Orbital(state.tabulate(), outer.n - 1, 1, 0.0, polarization=True))
    return found


def response(
    potential: RadialPotential, state: ConfinedState, occupied: int, wall: HardWall | SoftWall | SmoothWall
) -> ConfinedState:
    """First-order response of a shell to an electric field, its l+1 part: (H - e) phi' = -r phi.

    occupied: levels of l+1 that are in the basis already, and so are left out of the response.
    """
    l = state.sphere.l + 1
    sphere, H, allowed = _walled(potential, l, state.sphere.radius, wall)
    phi = state.coefficients @ state.sphere.phi
    field = sphere.phi @ (sphere.weight * sphere.r * phi)
    energies, vectors = eigh(allowed.T @ H @ allowed)
    # A level of l+1 close to e would take over the response: hold the gap above 0.05 Ha.
    gap = np.maximum(energies[occupied:] - state.energy, 0.05)
    coefficients = vectors[:, occupied:] @ ((vectors[:, occupied:].T @ (allowed.T @ field)) / gap)
    return ConfinedState(state.energy, sphere, allowed @ coefficients)


def _normalised(l: int, values: NDArray[np.float64], spacing: float) -> RadialFunction:
    """A table with unit norm, positive in its outer part, and exactly zero at its end."""
    r = spacing * np.arange(len(values))
    values = values.copy()
    values[-1] = 0.0
    norm = float(CubicSpline(r, (values * r ** (l + 1)) ** 2).integrate(0, r[-1]))
    outer = np.sign(np.trapezoid(values * r ** (l + 2), r))
    return RadialFunction(l, values * (outer / np.sqrt(norm)), spacing)

"""Whether a species can be: the laws that its tables obey among each other, tested where it enters.

A table of numbers that was cut, stretched, scaled or has lost a digit computes as willingly as a sound one, and is wrong by
up to any number of eV. What is known without another program: norms are 1, tables end in zero and are smooth, the populations
make the valence, V_NA is the potential of the charges beside it, and the occupied orbitals solve the Kohn-Sham equation of the
pseudopotential that they were made with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.core.species import Orbital, Projector, RadialFunction, Species
from nearsight.core.structure import SYMBOLS
from nearsight.formats.valence import possible_cores

if TYPE_CHECKING:
    from nearsight.formats.pseudopotential import Pseudopotential

Array = NDArray[np.float64]

HIGHEST_L = 3  # of orbitals and projectors: rotations, Gaunt tables and networks are tested up to f
LONGEST = 40.0  # Bohr: of any table; the orbitals of Cs and Ba end before 15
MOST_POINTS = 20_000

_NORM = 2e-3  # sound files: 1e-7, and 1e-4 where a table is written in few digits
_END = 1e-4  # |f| at the last point over its largest value; sound files: 0, and 7e-6 for core densities
_NEUTRAL = 0.01  # Ha, root mean square over the density, between V_NA and the potential of its charges; sound: 2e-3
_RESIDUAL = (
    0.15  # Ha, of the Kohn-Sham equation well inside an orbital, with exchange and correlation roughly; sound: 0.12
)
#: largest fourth difference over the largest value: several times that of the worst sound file
_ROUGH = {"orbital": 3e-3, "projector": 0.2, "V_NA": 5e-2, "local charge": 0.2, "core density": 1e-2}


def check_species(species: Species, name: str) -> None:
    """Raises BadInput, in one line that says which law is broken, for a species that cannot be.  name: of its file."""
    _Check(species, name)


def check_pseudopotential(pp: Pseudopotential) -> Pseudopotential:
    """The pseudopotential itself, if it can be; else BadInput, in one line that says which law is broken.

    What its reference atom says of it is asked where that is solved: see `atoms.radial`.
    """

    def fail(what: str) -> NoReturn:
        raise BadInput(f"{pp.path}: {what}; the file is damaged, take another pseudopotential")

    if not 0 < pp.number < len(SYMBOLS) or SYMBOLS[pp.number] != pp.symbol:
        fail(f"Z = {pp.number} is not {pp.symbol}")
    if not 0 < pp.valence <= pp.number:
        fail(f"a valence of {pp.valence:g} for Z = {pp.number}")
    r = pp.r
    if not (20 <= len(r) <= MOST_POINTS and 0 <= r[0] < 0.1 and 2 < r[-1] < 1000 and (np.diff(r) > 0).all()):
        fail(
            f"its radial grid, {len(r)} points from {r[0]:g} to {r[-1]:g} Bohr, does not rise from the nucleus outwards"
        )
    for what, values in (
        ("local potential", pp.local),
        ("core density", pp.core_density),
        ("density", pp.radial_density),
    ):
        if values is not None and not np.abs(values).max() < 1e6:
            fail(f"its {what} holds numbers that are not finite, or beyond all bounds")
    tail = abs(r[-1] * pp.local[-1] + pp.valence)
    if not tail < 0.05 * max(1.0, pp.valence):
        fail(f"its local potential does not end as -Z/r with Z = {pp.valence:g}, but {tail:.2g} Ha Bohr beside it")
    for b in pp.betas:
        if not 0 <= b.l <= HIGHEST_L or (b.j is not None and (b.j not in (b.l - 0.5, b.l + 0.5) or b.j < 0)):
            fail(f"a projector of l = {b.l}" + ("" if b.j is None else f", j = {b.j}"))
        if not 0 < np.abs(b.r_beta).max() < 1e6:
            fail(f"a projector of l = {b.l} is zero, or beyond all bounds")
        if abs(b.r_beta[-1]) > 0.01 * np.abs(b.r_beta).max():
            fail(f"a projector of l = {b.l} is not zero at the end of the grid")
    if not (np.abs(pp.coupling) < 1e4).all():
        fail("the energies of its projectors are beyond all bounds")
    _check_reference_atom(pp, fail)
    return pp


def _check_reference_atom(pp: Pseudopotential, fail: Callable[[str], NoReturn]) -> None:
    """The core density, the shells and the density of the valence."""
    if pp.core_density is not None:
        largest = float(pp.core_density.max())
        charge = float(np.trapezoid(4 * np.pi * pp.r**2 * pp.core_density, pp.r))
        if pp.core_density.min() < -1e-3 * largest or charge > 1.05 * (pp.number - pp.valence):
            fail(
                f"its core density is negative, or holds more than a core's {pp.number - pp.valence:g} electrons ({charge:.2f})"
            )
    for s in pp.shells:
        room = 2 * (2 * s.l + 1) if s.j is None else 2 * s.j + 1
        if not 0 <= s.l < s.n <= 9 or s.l > HIGHEST_L or not 0 <= s.occupation <= room + 1e-6:
            fail(f"{s.occupation:g} electrons in a shell n = {s.n}, l = {s.l}")
    if pp.shells and len({(s.n, s.l, s.j) for s in pp.shells}) < len(pp.shells):
        fail("a shell of its reference atom stands twice")
    cores = possible_cores(round(pp.number - pp.valence))
    lowest = {s.l: min(t.n for t in pp.shells if t.l == s.l) for s in pp.shells}
    if cores and not any(all(n == l + 1 + core[l] for l, n in lowest.items() if l < len(core)) for core in cores):
        shells = ", ".join(f"{n}{'spdf'[l]}" for l, n in sorted(lowest.items()))
        fail(f"{pp.number - pp.valence:g} electrons of the core do not fill what is below the shells {shells}")
    total = float(np.trapezoid(pp.radial_density, pp.r))
    if pp.radial_density.min() < -1e-3 * pp.radial_density.max() or (
        pp.states_density and abs(total - pp.valence) > 0.05 * pp.valence
    ):
        fail(f"its valence density is negative, or holds {total:.3f} electrons, not {pp.valence:g}")


@dataclass(frozen=True)
class _Check:
    species: Species
    name: str

    def __post_init__(self) -> None:
        self.atom()
        self.shells()
        for o in self.species.orbitals:
            self.orbital(o)
        for p in (*self.species.projectors, *self.species.relativistic_projectors):
            self.projector(p)
        self.charges()
        self.neutral_atom()
        self.equation()

    def fail(self, what: str, remedy: str = "the file is damaged, copy or make it again") -> NoReturn:
        raise BadInput(f"{self.name}: {what}; {remedy}")

    def atom(self) -> None:
        s = self.species
        if not 0 < s.number < len(SYMBOLS) or SYMBOLS[s.number] != s.symbol:
            self.fail(f"Z = {s.number} is not {s.symbol}")
        if not 0 < s.valence <= s.number:
            self.fail(f"a valence of {s.valence:g} for Z = {s.number}")
        usual = float(atomic_masses[s.number])
        if not 0.3 * usual < s.mass < 4 * usual:
            self.fail(f"a mass of {s.mass:g} u for {s.symbol}, whose atoms have {usual:.3f}")

    def shells(self) -> None:
        """Populations that the shells can hold and that make the valence; zetas counted from 1; no shell twice."""
        orbitals = self.species.orbitals
        for o in orbitals:
            what = _shell(o)
            if not 0 <= o.l <= HIGHEST_L:
                self.fail(f"an orbital of l = {o.l}", "l = 0 to 3 (s, p, d, f) is what can be computed")
            if not o.l < o.n <= 9:
                self.fail(f"the orbital {what} has n = {o.n}, l = {o.l}")
            if not 0 <= o.population <= 2 * (2 * o.l + 1) + 1e-6:
                self.fail(f"{o.population:g} electrons in the shell {what}, which holds 0 to {2 * (2 * o.l + 1)}")
        total = sum(o.population for o in orbitals)
        if abs(total - self.species.valence) > 1e-3 * max(1.0, self.species.valence):
            self.fail(f"the populations of its shells sum to {total:g}, not to the valence {self.species.valence:g}")
        zetas: dict[tuple[int, int, bool], list[int]] = {}
        for o in orbitals:
            zetas.setdefault((o.n, o.l, o.polarization), []).append(o.zeta)
        for (n, l, _), found in zetas.items():
            if sorted(found) != list(range(1, len(found) + 1)):
                self.fail(f"the zetas of {n}{'spdf'[l]} are {sorted(found)}, not 1 to {len(found)}")

    def table(self, f: RadialFunction, kind: str, what: str) -> Array:
        """r^l f(r), after the laws of every table: finite, not too long, not zero, ending in zero, smooth."""
        if not (f.spacing > 0 and 4 <= len(f.values) <= MOST_POINTS and f.cutoff <= LONGEST):
            self.fail(f"the table of {what} has {len(f.values)} points out to {f.cutoff:g} Bohr")
        values = f.values * f.r**f.l if f.l else f.values
        largest = float(np.abs(values).max())
        if not 0 < largest < 1e6:
            self.fail(f"the table of {what} holds nothing, or numbers that are not finite or beyond all bounds")
        if abs(values[-1]) > _END * largest:
            self.fail(
                f"{what} is not zero at its end, {f.cutoff:.3f} Bohr, but {values[-1] / largest:.1e} of its maximum"
            )
        # The local charge is a second derivative, whose noise at the nucleus weighs nothing: there r^2 n is looked at.
        smooth = values * f.r**2 if kind == "local charge" else values
        rough = np.abs(np.diff(smooth, 4))
        if rough.max() > _ROUGH[kind] * np.abs(smooth).max():
            at = f.spacing * (int(rough.argmax()) + 2)
            self.fail(f"the table of {what} has a jump or spike at {at:.3f} Bohr")
        return values

    def orbital(self, o: Orbital) -> None:
        what = f"the orbital {_shell(o)}"
        norm = _norm(o.radial, self.table(o.radial, "orbital", what))
        if abs(norm - 1) > _NORM:
            self.fail(f"{what} has the norm {norm:.4f}, not 1: its table was cut, stretched or scaled")

    def projector(self, p: Projector) -> None:
        what = f"a projector of l = {p.l}"
        if not 0 <= p.l <= HIGHEST_L:
            self.fail(what, "l = 0 to 3 (s, p, d, f) is what can be computed")
        if (p.j is not None and p.j not in (p.l - 0.5, p.l + 0.5)) or p.j == -0.5:
            self.fail(f"{what} with j = {p.j}")
        if not 1e-8 < abs(p.energy) < 1e4:
            self.fail(f"{what} has the energy {p.energy:g} Ha", "take another pseudopotential")
        norm = _norm(p.radial, self.table(p.radial, "projector", what))
        if abs(norm - 1) > _NORM:
            self.fail(f"{what} has the norm {norm:.4f}, not 1: its table was cut, stretched or scaled")

    def charges(self) -> None:
        s = self.species
        self.table(s.neutral_atom_potential, "V_NA", "V_NA")
        charge = s.local_charge
        total = _integral(charge.spacing, charge.r**2 * self.table(charge, "local charge", "the local charge"))
        if abs(total + s.valence) > 2e-3 * max(1.0, s.valence):
            self.fail(f"its local charge integrates to {total:.4f}, not to -valence = {-s.valence:g}")
        core = s.core_density
        if core is not None:
            values = self.table(core, "core density", "the core density")
            if values.min() < -1e-6 * values.max():
                self.fail("its core density is negative")
            total = _integral(core.spacing, core.r**2 * values)
            if total > 1.05 * (s.number - s.valence):
                self.fail(f"its core density holds {total:.2f} electrons, the core has {s.number - s.valence:g}")

    def neutral_atom(self) -> None:
        """V_NA = V_local + V_H[n], with V_local from the local charge and n from the populations."""
        s, v = self.species, self.species.neutral_atom_potential
        end = max(v.cutoff, s.local_charge.cutoff, *(o.radial.cutoff for o in s.orbitals if o.population))
        r = np.linspace(0.0, end, 1200)
        n = self.density(r) + _at(s.local_charge, r)
        h = r[1]
        charge, moment = (4 * np.pi * h * _running(f) for f in (r**2 * n, r * n))
        potential = moment[-1] - moment
        potential[1:] += charge[1:] / r[1:]
        weight = r**2 * self.density(r)
        apart = float(np.sqrt(weight @ (potential - _at(v, r)) ** 2 / weight.sum()))
        if not apart < _NEUTRAL * (1 + 0.2 * s.valence):
            self.fail(
                f"V_NA is not the potential of its local charge and its populations, but {apart:.3f} Ha beside it"
            )
        local = _at(s.local_charge, r)
        inside = 4 * np.pi * h * _running(r**2 * local)
        field = np.zeros_like(r)
        field[1:] = (inside[1:] / r[1:]) ** 2
        energy = 0.5 * (h * _running(field)[-1] + inside[-1] ** 2 / end)
        if s.self_energy is not None and abs(energy - s.self_energy) > 0.01 * energy:
            self.fail(f"its self-energy is {s.self_energy:.4f} Ha, the local charge makes it {energy:.4f}")

    def density(self, r: Array) -> Array:
        """n of the populations [1/Bohr^3]."""
        return sum((o.population * _at(o.radial, r) ** 2 for o in self.species.orbitals if o.population), 0 * r) / (
            4 * np.pi
        )

    def equation(self) -> None:
        """H u = e u well inside each occupied first zeta; else the projectors' energies are others than it was made with.

        Exchange and correlation are Slater's and Wigner's: what they miss is 0.12 Ha at most. A residual is a fault where
        other energies of the projectors would take it away.
        """
        for o in self.species.orbitals:
            if o.zeta != 1 or o.population <= 0 or o.polarization:
                continue
            f = o.radial
            inside = slice(3, max(8, int(0.7 * len(f.values))))
            r = f.r
            u = f.values * r ** (f.l + 1)
            rest = _kinetic(f, u) + (_at(self.species.neutral_atom_potential, r) + self.exchange(r)) * u
            pulls = [w * _coupled(p, r, u) for p, w in self.separable(o.l)]
            own = _residual(rest + sum(pulls, 0 * r), u, inside, [])
            if own > _RESIDUAL and pulls and own > 3 * _residual(rest + sum(pulls, 0 * r), u, inside, pulls):
                self.fail(
                    f"the orbital {_shell(o)} is no state of its pseudopotential ({own:.2f} Ha off): energies of the "
                    "projectors are wrong",
                    "take another pseudopotential",
                )

    def separable(self, l: int) -> list[tuple[Projector, float]]:
        """The projectors of l with their weights: those by j count as the scalar average."""
        return [(p, 1.0 if p.j is None else (2 * p.j + 1) / (4 * l + 2)) for p in self.species.projectors if p.l == l]

    def exchange(self, r: Array) -> Array:
        """v_xc(n + n_core) [Ha] of Slater (exchange) and Wigner (correlation)."""
        n = self.density(r)
        if self.species.core_density is not None:
            n = n + _at(self.species.core_density, r)
        n = np.maximum(n, 1e-12)
        rs = (3 / (4 * np.pi * n)) ** (1 / 3)
        return np.asarray(-((3 * n / np.pi) ** (1 / 3)) - 0.44 * (4 / 3 * rs + 7.8) / (rs + 7.8) ** 2)


def _shell(o: Orbital) -> str:
    return f"{o.n}{'spdf'[o.l] if 0 <= o.l < 4 else f' l = {o.l}'} zeta {o.zeta}"


def _norm(f: RadialFunction, values: Array) -> float:
    """int r^2 R^2 dr by the trapezoidal rule, which is of fourth order where both ends have no slope."""
    return f.spacing * float(((values * f.r) ** 2).sum())


def _integral(spacing: float, f: Array) -> float:
    """4 pi int f dr by Simpson's rule."""
    even = f if len(f) % 2 else np.append(f, 0.0)
    return 4 * np.pi * spacing / 3 * float(even[0] + even[-1] + 4 * even[1:-1:2].sum() + 2 * even[2:-1:2].sum())


def _running(f: Array) -> Array:
    """int_0^r f / spacing by the trapezoidal rule with its first correction."""
    total = np.cumsum(f)
    return np.asarray(total - 0.5 * (f + f[0]))


def _at(f: RadialFunction, r: Array) -> Array:
    """R(r), linear between the points of r^l f."""
    return np.interp(r, f.r, f.values * f.r**f.l if f.l else f.values, right=0.0)


def _kinetic(f: RadialFunction, u: Array) -> Array:
    """-u''/2 + l (l + 1) u / 2 r^2 by five points; the first two and last two are not used."""
    second = np.zeros_like(u)
    second[2:-2] = (16 * (u[1:-3] + u[3:-1]) - u[:-4] - u[4:] - 30 * u[2:-2]) / (12 * f.spacing**2)
    r = np.maximum(f.r, f.spacing)
    return -0.5 * second + 0.5 * f.l * (f.l + 1) / r**2 * u


def _coupled(p: Projector, r: Array, u: Array) -> Array:
    """r chi energy <chi|u>"""
    wave = _at(p.radial, r) * r
    return p.energy * float(wave @ u) * r[1] * wave


def _residual(h: Array, u: Array, inside: slice, free: list[Array]) -> float:
    """min |h + sum_k a_k free_k - e u| / |u| over e and a, inside."""
    columns = np.stack([u, *free], 1)[inside]
    left = h[inside] - columns @ np.linalg.lstsq(columns, h[inside], rcond=None)[0]
    return float(np.linalg.norm(left) / np.linalg.norm(u[inside]))

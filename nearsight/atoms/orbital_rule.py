"""The rule by which the orbitals of an atom are made: one for all elements, measured by what a wall costs.

1. A shell ends where the wall that its orbital is made in raises the energy of *all its electrons* by the energy shift: each of
   N electrons by 1/N of it. So the full p shell of a halogen, whose tails hold its crystals together, is as long as it must be,
   and semicore shells need no factors of their own. The tails of a valence d shell hold nothing together, and longer ones make
   the volumes of Cu and Zn and of their oxides too large (by 1.2 to 1.6 %): its electrons are raised by 1/sqrt(N) of it.
2. The second zeta ends 3.6 Bohr from the nucleus (d that the atom leaves empty: 4), where the neighbours' bonds are, but
   between 0.4 and 0.5 (that d: 0.6) of that radius, that of a d shell with electrons at 0.5 of it; the third at half of the
   second's: further zetas cannot fall together with the first one, nor shrink onto the nucleus, whatever the shell looks like
   (hollow, with nodes, compact).
3. Empty shells that the neighbours of the atom ask for. With an open p shell the d above it, which has a further zeta where it
   does more than polarise: above a p shell with another one beneath it (from Al on d is near in energy), and above one more
   than half full (O, F: the anion that it becomes is polarised both close by and far out). Without an open p shell the p of
   the main quantum number, and where no d shell is open or near (s electrons alone) it has as many zetas as s, and a d joins
   it, which ends at 0.7 of the radius of s: there the energy is lower than at the full one in the metals (Na, where the full
   one makes the volume 3 % too large) and in the oxide (MgO) alike. Where the atom binds that d (Ca, Sr, Ba) it is a shell
   like others, with a radius of its own and as many zetas as the d above p.

Rules 2 to 4 were of development versions. Of rule 4 all second zetas end at 4 Bohr within their bounds, and electrons of a d
shell are raised by 1/N. The second zeta of rules 2 and 3 ends at 0.5 (d, f: 0.6) of the radius of the first, the third at the
square of that; a d that the atom binds ends at 0.7 of its radius too. Of rule 2 d above p has one zeta, and the empty d is as
long as s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh

from nearsight.atoms.basis_settings import RULE, RYDBERG, BasisSettings
from nearsight.atoms.confinement import ConfinedState, confined_state, confinement_radius, response
from nearsight.atoms.radial import RadialPotential
from nearsight.atoms.shells import BOUND, Shell
from nearsight.atoms.zetas import split_radius, split_zeta
from nearsight.core.species import Orbital, RadialFunction
from nearsight.formats.pseudopotential import Pseudopotential


@dataclass(frozen=True)
class _Version:
    """What differs between versions of the rule.

    empty_d: where an empty d ends [share of s]. further_d: whether d above p has zetas of its own. shares: of r_c, where a
    further zeta ends. bound_d: whether an empty d that the atom binds is a shell like others. power_d: an electron of a
    valence d shell of N is raised by N^-power_d of the shift.
    """

    empty_d: float
    further_d: bool
    shares: Callable[[RadialFunction, int, bool], float]
    bound_d: bool
    power_d: float = 1.0


def _fixed(first: RadialFunction, zeta: int, empty: bool) -> float:
    """A share of r_c by l alone, and its powers."""
    return (0.5 if first.l < 2 else 0.6) ** (zeta - 1)


def _at_the_bonds(bond: float) -> Callable[[RadialFunction, int, bool], float]:
    """`bond` [Bohr] (an empty d: 4) for the second zeta, within bounds; the next at half of the one before."""

    def share(first: RadialFunction, zeta: int, empty: bool) -> float:
        if first.l < 2:
            second = float(np.clip(bond / first.cutoff, 0.4, 0.5))
        else:
            second = float(np.clip(4.0 / first.cutoff, 0.4, 0.6)) if empty else 0.5
        return second * 0.5 ** (zeta - 2)

    return share


_VERSIONS = {
    2: _Version(1.0, False, _fixed, False),
    3: _Version(0.7, True, _fixed, False),
    4: _Version(0.7, True, _at_the_bonds(4.0), True),
    5: _Version(0.7, True, _at_the_bonds(3.6), True, power_d=0.5),
}


@dataclass
class _Making:
    """The orbitals of one atom in the making (mutable: `orbitals` and `states` grow)."""

    potential: RadialPotential
    shells: list[Shell]
    basis: BasisSettings
    orbitals: list[Orbital] = field(default_factory=list)
    states: dict[tuple[int, int], ConfinedState] = field(default_factory=dict)

    @property
    def version(self) -> _Version:
        """That of the rule which the basis asks for."""
        return _VERSIONS[self.basis.rule or RULE]

    def occupied(self, shell: Shell, population: float) -> None:
        """A shell of the atom; semicore has one zeta."""
        power = self.version.power_d if shell.l == 2 and not shell.semicore else 1.0
        shift = self.basis.shift * RYDBERG / max(1.0, shell.occupation) ** power
        radius = self.radius(shell.l, shell.index, shell.energy, shift)
        state = confined_state(self.potential, shell.l, shell.index, radius, self.basis.confinement)
        self.states[shell.n, shell.l] = state
        self.add(state.tabulate(), shell.n, 1 if shell.semicore else self.basis.count.zetas, population, False)

    def radius(self, l: int, index: int, energy: float, shift: float) -> float:
        """Where the basis's own wall raises a level by `shift` [Ha]."""
        return confinement_radius(self.potential, l, index, energy, shift, self.basis.confinement)

    def add(self, first: RadialFunction, n: int, zetas: int, population: float, polarization: bool) -> None:
        """The zetas of a shell."""
        self.orbitals.append(Orbital(first, n, 1, population, polarization=polarization))
        for zeta in range(2, zetas + 1):
            norm = self.basis.split_norm
            share = self.version.shares(first, zeta, polarization)
            match = split_radius(first, share, norm and norm ** (1 / (zeta - 1)))
            self.orbitals.append(Orbital(split_zeta(first, match), n, zeta, 0.0, polarization=polarization))

    def below(self, l: int) -> int:
        """Shells of the atom with this l: the polarisation shell is the next level."""
        return sum(s.l == l for s in self.shells)

    def polarize(self, source: Shell, n: int, zetas: int) -> None:
        """The l+1 shell that a field, or a neighbour, makes of a shell of the atom."""
        state, l = self.states[source.n, source.l], source.l + 1
        if self.basis.polarization == "state":
            made = confined_state(self.potential, l, self.below(l), state.sphere.radius, self.basis.confinement)
        else:
            made = response(self.potential, state, self.below(l), self.basis.confinement)
        self.add(made.tabulate(), max(l + 1, n), zetas, 0.0, True)

    def empty_d(self, source: Shell) -> None:
        """The d shell of an atom with s electrons alone: a share of s, or what it would have where the atom binds it."""
        radius, index, zetas = self.states[source.n, 0].sphere.radius, self.below(2), self.basis.count.polarization
        sphere = self.potential.sphere(2, self.potential.radius)
        free = float(eigh(self.potential.hamiltonian(sphere), eigvals_only=True, subset_by_index=[0, index])[index])
        if bound := free < BOUND:
            radius = min(radius, self.radius(2, index, free, self.basis.shift * RYDBERG))
        if bound and self.version.bound_d:
            zetas = self.basis.count.further_d
        else:
            radius *= self.version.empty_d
        state = confined_state(self.potential, 2, index, radius, self.basis.confinement)
        self.add(state.tabulate(), max(3, source.n - 1), zetas, 0.0, True)


def orbitals_by_rule(
    pp: Pseudopotential, potential: RadialPotential, shells: list[Shell], basis: BasisSettings
) -> list[Orbital]:
    """The orbitals of an atom.  Raises BadInput for a shell that cannot be confined."""
    making = _Making(potential, shells, basis)
    total = sum(s.occupation for s in shells)
    for s in shells:
        making.occupied(s, s.occupation * pp.valence / total)
    count = basis.count
    if not count.polarization:
        return making.orbitals
    valence = [s for s in shells if not s.semicore]
    main = max(s.n for s in valence)
    outer = max((s for s in valence if s.n == main), key=lambda s: s.l)
    if pp.number <= 2 or outer.l == 1:  # p for 1s; d for a p shell
        further = outer.l == 1 and (main > 2 or outer.occupation > 3.5) and making.version.further_d
        making.polarize(outer, main, count.further_d if further else count.polarization)
        return making.orbitals
    s_shell = next(s for s in valence if s.n == main and s.l == 0)
    inner = [s for s in valence if s.l >= 2]
    full = all(s.occupation > 4 * s.l + 1.99 for s in inner)
    making.polarize(s_shell, main, count.zetas if full else count.polarization)
    if not inner:
        making.empty_d(s_shell)
    return making.orbitals

"""The orbitals that Nearsight made by its first rule, so that what was computed with them can be computed again.

The radius is where a *hard* wall raises the level by the energy shift (a tenth of it for semicore shells, three tenths for d
and f); the orbital is then made in the wall of the settings. Superseded by orbital_rule.py.
"""

from __future__ import annotations

from scipy.linalg import eigh

from nearsight.atoms.basis_settings import RYDBERG, BasisSettings
from nearsight.atoms.confinement import ConfinedState, HardWall, confined_state, confinement_radius, response
from nearsight.atoms.radial import RadialPotential, Sphere
from nearsight.atoms.shells import BOUND, Shell
from nearsight.atoms.zetas import matching_radius, split_zeta
from nearsight.core.species import Orbital
from nearsight.formats.pseudopotential import Pseudopotential

_SEMICORE_SHIFT = 0.1
_LOCALISED_SHIFT = 0.3  # with the full shift fcc Cu is 5 % too small


def orbitals_by_rule_1(
    pp: Pseudopotential, potential: RadialPotential, shells: list[Shell], basis: BasisSettings
) -> tuple[list[Orbital], list[str]]:
    """The orbitals, and what was done otherwise than asked.  Raises BadInput for a shell that cannot be confined."""
    total = sum(s.occupation for s in shells)
    split = basis.first_split_norm(pp.number)
    orbitals: list[Orbital] = []
    states: dict[tuple[int, int], ConfinedState] = {}
    notes: list[str] = []
    for s in shells:
        # Each of many semicore electrons pays the shift in the total energy; their orbitals stay short all the same.
        # So do open d and f shells, which the wall would squeeze most.
        shift = basis.shift * RYDBERG
        if s.semicore:
            shift *= _SEMICORE_SHIFT
        elif s.l >= 2:
            shift *= _LOCALISED_SHIFT
        radius = confinement_radius(potential, s.l, s.index, s.energy, shift, HardWall())
        state = confined_state(potential, s.l, s.index, radius, basis.confinement)
        states[s.n, s.l] = state
        first = state.tabulate()
        population = s.occupation * pp.valence / total
        orbitals.append(Orbital(first, s.n, 1, population))
        for zeta in range(2, 1 + (1 if s.semicore else basis.count.zetas)):
            match, regular = matching_radius(first, split ** (1 / (zeta - 1)))
            if not regular:
                notes.append(f"{s.n}{'spdf'[s.l]} zeta {zeta} split where its tail alone has a fifth of the split norm")
            orbitals.append(Orbital(split_zeta(first, match), s.n, zeta, 0.0))
    if basis.count.polarization:
        made = _polarization(shells, states, potential, basis)
        orbitals.append(made)
        if pp.number > 2 and all(s.l == 0 for s in shells if not s.semicore):
            orbitals.extend(_empty_valence(pp.number, made, shells, states, potential, basis))
    return orbitals, notes


def _polarization(
    shells: list[Shell],
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
    shells: list[Shell],
    states: dict[tuple[int, int], ConfinedState],
    potential: RadialPotential,
    basis: BasisSettings,
) -> list[Orbital]:
    """What atoms with s electrons alone need besides one p shell: in their solids the empty p (and, from K and Ca on, the
    d below it) take part in the bonds, so that the p shell gets as many zetas as the s, and d a shell of its own.

    Without them bcc Li is 7 % and CaO 11 % too large, however small the energy shift.
    """
    found = []
    split = basis.first_split_norm(0)
    for zeta in range(2, 1 + basis.count.zetas):
        match, _ = matching_radius(polarization.radial, split ** (1 / (zeta - 1)))
        found.append(Orbital(split_zeta(polarization.radial, match), polarization.n, zeta, 0.0, polarization=True))
    if number > 18 and not any(s.l == 2 and not s.semicore for s in shells):
        below = sum(s.l == 2 for s in shells)
        outer = max((s for s in shells if not s.semicore), key=lambda s: s.n)
        radius = states[outer.n, 0].sphere.radius
        sphere = Sphere(2, potential.radius)
        free = float(eigh(potential.hamiltonian(sphere), eigvals_only=True, subset_by_index=[0, below])[below])
        if free < BOUND:  # bound in the atom: a radius of its own
            radius = min(radius, confinement_radius(potential, 2, below, free, basis.shift * RYDBERG, HardWall()))
        state = confined_state(potential, 2, below, radius, basis.confinement)
        found.append(Orbital(state.tabulate(), outer.n - 1, 1, 0.0, polarization=True))
    return found

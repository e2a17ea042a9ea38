"""Species with numerical atomic orbitals: confined states of the frozen pseudo-atom, further zetas and polarisation."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache

from ase.data import atomic_masses

from nearsight.atoms.basis_settings import RULE, SIZES, STANDARD, BasisSettings
from nearsight.atoms.confinement import HardWall, SmoothWall, SoftWall, confined_state, confinement_radius
from nearsight.atoms.library import pseudopotential
from nearsight.atoms.neutral_atom import LocalPart, core_density, neutral_atom_potential, projectors
from nearsight.atoms.orbital_rule import orbitals_by_rule
from nearsight.atoms.orbital_rule_1 import orbitals_by_rule_1
from nearsight.atoms.radial import PseudoAtom, solve_atom, sound_channels
from nearsight.atoms.shells import shells_of
from nearsight.atoms.spin_orbit import with_spin_orbit
from nearsight.atoms.zetas import matching_radius, split_zeta
from nearsight.core.errors import BadInput
from nearsight.core.species import Orbital, Species
from nearsight.formats.pseudopotential import Pseudopotential
from nearsight.formats.soundness import check_species

__all__ = [
    "RULE",
    "SIZES",
    "BasisSettings",
    "HardWall",
    "SmoothWall",
    "SoftWall",
    "confined_state",
    "confinement_radius",
    "generate_species",
    "matching_radius",
    "species_from",
    "split_zeta",
]


def generate_species(
    symbol: str,
    xc: str = "pbe",
    basis: BasisSettings = STANDARD,
    folder: str | os.PathLike[str] | None = None,
    spin_orbit: bool = False,
) -> Species:
    """A species with numerical atomic orbitals, from the pseudopotential of the element for a functional.

    folder: a user's folder of UPF files; None takes the installed package.  spin_orbit: with projectors by j, of our own
    (spin_orbit.py) where the file has none.
    Raises NearsightError: no such pseudopotential, no convergence of the pseudo-atom, a shell that cannot be confined.
    """
    pp = pseudopotential(symbol, xc, folder)
    species = species_from(pp, basis)
    if spin_orbit and not species.relativistic_projectors:
        return with_spin_orbit(species, pp, _solved(pp))
    return species


@lru_cache(maxsize=64)
def species_from(pp: Pseudopotential, basis: BasisSettings) -> Species:
    """The species of a pseudopotential: orbitals from its self-consistent atom, and its local and separable part."""
    atom = _solved(pp)
    orbitals, notes = _orbitals(pp, atom, basis)
    local = LocalPart(pp)
    species = Species(
        symbol=pp.symbol,
        number=pp.number,
        valence=pp.valence,
        mass=float(atomic_masses[pp.number]),
        orbitals=orbitals,
        projectors=projectors(atom.potential.channels, pp.r),
        neutral_atom_potential=neutral_atom_potential(local, orbitals),
        local_charge=local.charge(),
        core_density=core_density(pp),
        relativistic_projectors=projectors(sound_channels(pp, True), pp.r) if pp.fully_relativistic else (),
        provenance={
            "pseudopotential": pp.path.name,
            "pseudopotential_sha256": pp.sha256,
            "xc": pp.xc,
            "basis": repr(replace(basis, energy_shift=basis.shift)),
            "orbital_rule": str(basis.rule),
        }
        | ({"notes": notes} if notes else {}),
    )
    check_species(species, str(pp.path))
    return species


@lru_cache(maxsize=4)
def _solved(pp: Pseudopotential) -> PseudoAtom:
    """The self-consistent atom, the same for all bases."""
    return solve_atom(pp)


def _orbitals(pp: Pseudopotential, atom: PseudoAtom, basis: BasisSettings) -> tuple[tuple[Orbital, ...], str]:
    """The shells in the project's order, and what was done otherwise than asked."""
    shells = shells_of(pp, atom)
    total = sum(s.occupation for s in shells)
    if abs(total - pp.valence) > 1e-2:
        raise BadInput(
            f"{pp.path}: its shells hold {total:g} electrons, not the valence charge {pp.valence:g}; take another file"
        )
    notes: list[str] = []
    if basis.rule == 1:
        found, notes = orbitals_by_rule_1(pp, atom.potential, shells, basis)
    else:
        found = orbitals_by_rule(pp, atom.potential, shells, basis)
    return tuple(sorted(found, key=lambda o: (o.polarization, o.l, o.n, o.zeta))), "; ".join(notes)

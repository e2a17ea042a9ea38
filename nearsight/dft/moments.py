"""Spin and moments of a calculation: what its matrices are, what its atoms begin with, and what of it is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nearsight.core.errors import BadInput
from nearsight.core.spin import NONE, SPINOR, Spin, spin
from nearsight.core.spin_parts import as_vectors
from nearsight.core.structure import Structure
from nearsight.dft.functional import EnergyFunctional, Moments
from nearsight.dft.settings import Settings
from nearsight.electrons.constraint import MomentConstraint


def spin_of(settings: Settings) -> Spin:
    """The spin of matrices. Raises BadInput for spin-orbit coupling without spinors, and for moments without spin."""
    electrons, kind = settings.electrons, spin(settings.electrons.spin)
    if settings.functional.spin_orbit != "none" and not kind.turns:
        raise BadInput(
            f"spin-orbit coupling is not known to spin {electrons.spin}: add --spin spinor, or non-collinear"
        )
    if kind is NONE and (electrons.moments_mu_b is not None or electrons.total_moment_mu_b is not None):
        raise BadInput("moments are given but spin is none: add --spin collinear")
    if kind.turns and electrons.total_moment_mu_b is not None:
        raise BadInput(f"a total moment can be held along one axis only, not with spin {electrons.spin}: leave it out")
    return kind


def initial_moments(functional: EnergyFunctional, settings: Settings) -> Moments | None:
    """The moment of each atom to begin with [mu_B], numbers of collinear spin and vectors of spinors; None: no moments.

    As the settings say, else as the structure states, else by Hund's rule, all parallel (along z); `spinor` alone begins
    without, in which time reversal holds.
    Raises BadInput for moments without spin, and for vectors with collinear spin.
    """
    electrons, kind = settings.electrons, spin_of(settings)
    stated = functional.structure.moments
    if kind is NONE:
        return None
    given: Sequence[Any] | None = electrons.moments_mu_b
    if given is None and stated is not None:
        given = stated.tolist()
    if given is None and electrons.spin == SPINOR.name:
        return None
    if given is None:
        hund = {
            z: sum(min(o.population, 2 * (2 * o.l + 1) - o.population) for o in s.orbitals)
            for z, s in functional.species.items()
        }
        given = [hund[z] for z in functional.structure.numbers.tolist()]
    vectors = any(isinstance(m, Sequence) for m in given)
    if kind.turns and not vectors and len(given) == 3 and len(functional.structure) == 1:
        given = [given]
    if kind.turns:
        made = [list(m) if isinstance(m, Sequence) else [0.0, 0.0, float(m)] for m in given]
        return made if electrons.spin != SPINOR.name or any(any(m) for m in made) else None
    if vectors and electrons.moments_mu_b is None:
        raise BadInput(
            "the structure states moments as vectors, collinear spin has one number an atom: give --moments, or take "
            "--spin non-collinear"
        )
    if vectors:
        raise BadInput("moments are vectors, collinear spin has one number an atom: take --spin non-collinear")
    return [float(m) for m in given]


def held_atoms(structure: Structure, settings: Settings) -> tuple[bool, ...]:
    """Which atoms' moments `electrons.constrain` holds. Raises BadInput for atoms or elements that are not there."""
    said, symbols = settings.electrons.constrain.atoms, structure.symbols
    if said is None:
        return (True,) * len(symbols)
    if all(isinstance(x, bool) for x in said):
        if len(said) != len(symbols):
            raise BadInput(f"constrain.atoms says true or false of {len(said)} atoms, the structure has {len(symbols)}")
        return tuple(map(bool, said))
    for x in said:
        if not (x in symbols if isinstance(x, str) else 0 <= x < len(symbols)):
            here = f"atoms 0 to {len(symbols) - 1} of {', '.join(sorted(set(symbols)))}"
            raise BadInput(f"constrain: {x!r} is no atom of {structure.formula}: name some of {here}")
    return tuple(n in said or symbol in said for n, symbol in enumerate(symbols))


def constraint_for(
    functional: EnergyFunctional, settings: Settings, moments: Moments | None
) -> MomentConstraint | None:
    """What is held of the moments that a calculation begins with; None: nothing.

    Raises BadInput for spin that has no such moments, atoms whose moment is zero or longer than their valence, and a total
    moment besides.
    """
    constrain, structure = settings.electrons.constrain, functional.structure
    if constrain.hold == "none":
        if constrain.atoms is not None:
            raise BadInput(
                "constrain names atoms, but not what to hold of their moments: add hold: direction, or moment"
            )
        return None
    if settings.electrons.total_moment_mu_b is not None:
        raise BadInput("a total moment and those of atoms are both to be held: leave one of them out")
    atoms = len(structure)
    if moments is not None and len(moments) != atoms:
        raise BadInput(f"{len(moments)} moments for {atoms} atoms: give one for each atom")
    wanted = torch.zeros(atoms, 3, dtype=torch.float64)
    if moments is not None:
        wanted = as_vectors(torch.tensor(moments, dtype=torch.float64))
    for a, (z, m) in enumerate(zip(structure.numbers.tolist(), wanted.tolist(), strict=True)):
        size, s = sum(x * x for x in m) ** 0.5, functional.species[z]
        if size > s.valence + 1e-9:
            raise BadInput(f"atom {a} ({s.symbol}): a moment of {size:g} needs more than its {s.valence:g} electrons")
    return MomentConstraint.of(
        constrain.hold, wanted, held_atoms(structure, settings), structure.symbols, spin_of(settings)
    )

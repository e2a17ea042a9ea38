"""The shells of a free pseudo-atom that orbitals are made of: semicore and valence."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.linalg import eigh

from nearsight.atoms.radial import PseudoAtom
from nearsight.core.structure import period_of
from nearsight.formats.pseudopotential import Pseudopotential

BOUND = -0.02  # Ha; an empty level above it is one of the free atom's box, which no energy shift can confine


@dataclass(frozen=True)
class Shell:
    """A shell to make orbitals of: the index-th level of its l; energy of the free atom [Ha]."""

    n: int
    l: int
    index: int
    occupation: float
    energy: float
    semicore: bool


def shells_of(pp: Pseudopotential, atom: PseudoAtom) -> list[Shell]:
    """The reference atom's shells, told apart into semicore and valence, and the outermost s shell even if empty."""
    period = period_of(pp.number)
    main_p = any(s.l == 1 and s.n == period and s.occupation > 0 for s in atom.shells)
    has_d = any(s.l == 2 and s.n == period - 1 for s in atom.shells)
    shells: list[Shell] = []
    count = dict.fromkeys(range(5), 0)
    for s in atom.shells:
        if s.occupation == 0 and s.energy > BOUND:
            continue
        semicore = (
            (s.l <= 1 and s.n < period)
            or (s.l == 2 and main_p)  # a full d shell below an open p shell
            or (s.l == 3 and has_d and s.occupation > 13.99)
        )
        shells.append(Shell(s.n, s.l, count[s.l], s.occupation, s.energy, semicore))
        count[s.l] += 1
    if not any(s.l == 0 and s.n == period for s in atom.shells):  # Pd: 4d10 5s0
        sphere = atom.potential.sphere(0, atom.potential.radius)
        energy = float(eigh(atom.potential.hamiltonian(sphere), eigvals_only=True)[count[0]])
        if energy <= BOUND:
            shells.append(Shell(period, 0, count[0], 0.0, energy, False))
    return shells

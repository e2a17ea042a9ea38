"""What kind of structure is this? Fingerprints that a supercell, a strain and small displacements leave as they are."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from itertools import permutations

import torch

from nearsight.core.pairs import neighbours
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG

BOND = 1.25  # longest bond in sums of covalent radii
ROUNDS = 3  # shells of neighbours that count
SYMPREC_ANG = 0.02
MANY = 4  # elements, beyond which their order is by number and not tried out
LARGEST = 400  # atoms, beyond which symmetry is not looked for


def bonding(structure: Structure, anonymous: bool = False) -> str:
    """Digest of who is bonded to whom: atoms coloured by element, then ROUNDS times by the colours of those bonded to them.

    Colours are counted relative to each other, so that supercells agree; bonds shorter than BOND sums of covalent radii
    [B. Cordero et al., Dalton Trans. 2832 (2008)], so that displacements of a tenth of a bond do. anonymous: the same for every
    naming of the elements, as of NaCl and MgO.
    """
    numbers = structure.numbers.tolist()
    bonded = _bonds(structure)
    if not anonymous:
        return _colours([str(z) for z in numbers], bonded)
    counts = Counter(numbers)
    if len(counts) > MANY:
        ranks = {z: str(n) for n, z in enumerate(sorted(counts, key=lambda z: (counts[z], z)))}
        return _colours([ranks[z] for z in numbers], bonded)
    named = ({z: str(n) for n, z in enumerate(order)} for order in permutations(sorted(counts)))
    return min(_colours([names[z] for z in numbers], bonded) for names in named)


def prototype(structure: Structure) -> str | None:
    """The kind of crystal, whatever its elements: space group, counts and Wyckoff letters of its sites.

    None for a structure without symmetry (a distorted copy), or too large to look for it: `bonding` tells of its kind.
    """
    found = None
    if len(structure) <= LARGEST:
        import spglib

        atoms = structure.to_ase()
        cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC_ANG)
    if found is None or found.number <= 2:
        return None
    types = found.std_types.tolist()
    sites: dict[int, list[str]] = {}
    letters = dict(zip(found.mapping_to_primitive.tolist(), found.wyckoffs, strict=True))
    for to, z in zip(found.std_mapping_to_primitive.tolist(), types, strict=True):
        sites.setdefault(z, []).append(letters.get(to, "?"))
    divisor = math.gcd(*(len(s) for s in sites.values()))
    parts = sorted(f"{len(s) // divisor}{''.join(sorted(set(s)))}" for s in sites.values())
    return f"{found.number}-{'_'.join(parts)}"


def _bonds(structure: Structure) -> list[list[int]]:
    """For each atom the atoms that it is bonded to, each as often as it has bonds to its images."""
    from ase.data import covalent_radii

    radii = torch.tensor(covalent_radii[structure.numbers.numpy()] / BOHR_ANG, dtype=torch.float64)
    i, j, cells = neighbours(structure, BOND * 2 * float(radii.max()))
    vectors = structure.positions[j] + cells.to(structure.cell) @ structure.cell - structure.positions[i]
    distance = vectors.norm(dim=1)
    keep = (distance < BOND * (radii[i] + radii[j])) & (distance > 1e-6)
    found: list[list[int]] = [[] for _ in range(len(structure))]
    for a, b in zip(i[keep].tolist(), j[keep].tolist(), strict=True):
        found[a].append(b)
    return found


def _colours(colours: list[str], bonded: list[list[int]]) -> str:
    for _ in range(ROUNDS):
        around = [",".join(sorted(colours[b] for b in others)) for others in bonded]
        colours = [hashlib.sha256(f"{c}|{a}".encode()).hexdigest()[:16] for c, a in zip(colours, around, strict=True)]
    counts = Counter(colours)
    divisor = math.gcd(*counts.values())
    told = sorted((c, n // divisor) for c, n in counts.items())
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

"""The few structures that every test uses. Bohr."""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
import torch

from nearsight.atoms.orbitals import BasisSettings, generate_species
from nearsight.core.species import Species
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG

ANGSTROM = 1 / BOHR_ANG


def structure(cell: list, positions: list, numbers: list) -> Structure:
    return Structure(
        torch.tensor(cell, dtype=torch.float64), torch.tensor(positions, dtype=torch.float64), torch.tensor(numbers)
    )


def graphene(c: float = 20.0) -> Structure:
    a = 4.6487
    return structure(
        [[a, 0, 0], [-a / 2, a * sqrt(3) / 2, 0], [0, 0, c]],
        [[0, a / sqrt(3), c / 2], [a / 2, a / sqrt(3) / 2, c / 2]],
        [6, 6],
    )


def diamond() -> Structure:
    a = 6.7408
    return structure([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], [[0, 0, 0], [a / 4] * 3], [6, 6])


def water(box: float = 14.0) -> Structure:
    x, y, z = 0.757 * ANGSTROM, box / 2, 0.587 * ANGSTROM
    return structure(
        [[box, 0, 0], [0, box, 0], [0, 0, box]], [[y, y, y], [y + x, y, y + z], [y - x, y, y + z]], [8, 1, 1]
    )


def skew() -> Structure:
    """A small cell without any symmetry: one oxygen, one carbon, one hydrogen."""
    return structure(
        [[6.1, 0.3, -0.2], [0.9, 6.7, 0.4], [-0.5, 1.1, 7.2]],
        [[0.1, 0.2, 0.3], [1.4, 1.7, 0.8], [3.4, 3.1, 2.9]],
        [8, 6, 1],
    )


@cache
def species(symbol: str, size: str = "dzp", xc: str = "pbe") -> Species:
    return generate_species(symbol, xc, BasisSettings(size=size, energy_shift=0.02))  # type: ignore[arg-type]


def species_of(s: Structure, size: str = "dzp", xc: str = "pbe") -> dict[int, Species]:
    return {z: species(name, size, xc) for z, name in zip(s.numbers.tolist(), s.symbols, strict=True)}


def random_rotation(seed: int, improper: bool = False) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    return torch.as_tensor(-q if improper else q)

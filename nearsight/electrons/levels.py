"""Filling levels: the Fermi level, occupations, the entropy term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.spin import COLLINEAR, NONE, Spin
from nearsight.electrons.smearing import FERMI_DIRAC, Smearing

NEGLIGIBLE = 1e-12  # occupations below have no share in a density matrix
BISECTIONS = 64  # from a range of 100 Ha to the last bit


@dataclass(frozen=True)
class Filling:
    """What fills the levels of a cell: its electrons, spread by a smearing of width kT [Ha].

    moment: N_up - N_down to hold fixed [mu_B], of collinear spin; None lets it go where the energy leads.
    Raises BadInput for a width that is not positive.
    """

    electrons: float
    kT: float
    smearing: Smearing = FERMI_DIRAC
    moment: float | None = None

    def __post_init__(self) -> None:
        if not self.kT > 0:
            raise BadInput(
                f"smearing kT must be positive, not {self.kT:g}; an insulator may take a very small one (0.001 eV)"
            )


@dataclass(frozen=True, eq=False)
class Levels:
    """Energies e [s, k, n] (Ha, ascending) with their occupations f in 0..1, of k-points with weights [k] that sum to 1.

    s: independent matrices (spin.matrices); n: as many as orbitals, twice as many for spinors.
    fermi_level: mu [Ha], a number, or [s, 1, 1] where each spin has one of its own.  entropy_term: T S [Ha].
    """

    energies: Tensor
    occupations: Tensor
    weights: Tensor
    fermi_level: Tensor
    entropy_term: Tensor
    spin: Spin
    filling: Filling

    __repr__ = one_line

    @staticmethod
    def of(energies: Tensor, weights: Tensor, spin: Spin, filling: Filling) -> Levels:
        """Energies [s, k, n] filled with a cell's electrons. Raises BadInput where they do not fit."""
        electrons, moment, kT, smearing = filling.electrons, filling.moment, filling.kT, filling.smearing
        if moment is None or spin is not COLLINEAR:
            mu = fermi_level(energies, weights, electrons, kT, smearing, spin)
        else:
            each = (0.5 * (electrons + moment), 0.5 * (electrons - moment))
            own = [_one_spin(e[None], weights, n, kT, smearing) for e, n in zip(energies, each, strict=True)]
            mu = torch.stack(own)[:, None, None]
        x = (energies - mu) / kT
        entropy = kT * spin.electrons_per_level * torch.einsum("skn,k->", smearing.entropy(x), weights)
        return Levels(energies, smearing.occupation(x), weights, mu, entropy, spin, filling)

    @property
    def kT(self) -> float:
        """Width of the smearing [Ha]."""
        return self.filling.kT

    @property
    def smearing(self) -> Smearing:
        """How levels are smeared."""
        return self.filling.smearing

    @property
    def reduced(self) -> Tensor:
        """(e - mu) / kT [s, k, n]."""
        return (self.energies - self.fermi_level) / self.kT

    @property
    def electrons(self) -> Tensor:
        """What each level holds, f times that of a full one [s, k, n]."""
        return self.spin.electrons_per_level * self.occupations

    @property
    def slopes(self) -> Tensor:
        """What each level gains with mu, -df/de times the electrons of a full one [s, k, n], 1/Ha."""
        return -self.spin.electrons_per_level * self.smearing.slopes(self.reduced)[0] / self.kT

    @property
    def ends(self) -> Tensor:
        """What `full` and `filled` are, as two numbers on the device."""
        there = torch.stack([self.slopes * self.kT, self.occupations]).abs().flatten(1, 2)
        some = (there > NEGLIGIBLE).any(1)  # [2, n]: levels at mu; levels that are occupied
        n = torch.arange(1, some.shape[1] + 1, device=some.device)
        first = torch.where(some[0], n - 1, some.shape[1]).min()
        return torch.stack([first, (n * some[1]).max()])

    @cached_property
    def _ends(self) -> tuple[int, int]:
        first, last = self.ends.tolist()
        return first, last

    @property
    def full(self) -> int:
        """How many of the lowest levels are full at every k, so that they give nothing when mu moves."""
        return self._ends[0]

    @property
    def filled(self) -> int:
        """How many of the lowest levels there are above which none is occupied at any k."""
        return self._ends[1]

    def know(self, full: int, filled: int) -> None:
        """Take `full` and `filled` from one who fetched `ends` together with other numbers."""
        self.__dict__["_ends"] = (full, filled)


def fermi_level(
    energies: Tensor,
    weights: Tensor,
    electrons: float,
    kT: float,
    smearing: Smearing = FERMI_DIRAC,
    spin: Spin = NONE,
) -> Tensor:
    """mu with sum_k w_k g f((e - mu) / kT) = electrons, by bisection; g electrons fill a level; in a gap its middle.

    energies: [spin.matrices, k, n].  weights: [k], of sum 1.  Nothing is asked of the device meanwhile.
    Raises BadInput where the bands cannot hold the electrons.
    """
    if len(energies) != spin.matrices:
        raise BadInput(f"levels of {len(energies)} matrices are not those of spin {spin}, which has {spin.matrices}")
    return _bisect(energies, weights, electrons, kT, smearing, spin.electrons_per_level)


def _bisect(e: Tensor, weights: Tensor, electrons: float, kT: float, smearing: Smearing, degeneracy: float) -> Tensor:
    capacity = degeneracy * e.shape[0] * e.shape[2]
    if not 0 < electrons <= capacity + 1e-9:
        raise BadInput(f"{electrons:g} electrons do not fit into {capacity:g} states: choose a larger basis")
    if electrons > capacity - 1e-9:
        return e.max() + 40 * kT
    w = degeneracy * weights[None, :, None]

    def count(mu: Tensor) -> Tensor:
        return (w * smearing.occupation((e - mu) / kT)).sum()

    low, high = e.min() - 40 * kT, e.max() + 40 * kT
    for _ in range(BISECTIONS):
        mu = 0.5 * (low + high)
        few = count(mu) < electrons
        low, high = torch.where(few, mu, low), torch.where(few, high, mu)
    mu = 0.5 * (low + high)
    # in a gap every mu counts the same to rounding: take its middle
    below = torch.where(e <= mu, e, -torch.inf).max()
    above = torch.where(e > mu, e, torch.inf).min()
    middle = 0.5 * (below + above)
    return torch.where((count(middle) - electrons).abs() < 1e-11 * electrons, middle, mu)


def _one_spin(e: Tensor, weights: Tensor, electrons: float, kT: float, smearing: Smearing) -> Tensor:
    """Fermi level of one spin [1, k, n] that holds `electrons`; far below its levels when it holds none."""
    if electrons < 1e-12:
        return e.min() - 60 * kT
    return _bisect(e, weights, electrons, kT, smearing, 1.0)

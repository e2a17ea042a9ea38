"""A norm-conserving pseudopotential in Hartree atomic units, whatever file it was read from, and what its formats promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nearsight.core.display import one_line


@dataclass(frozen=True, eq=False)
class Beta:
    """One radial projector as the file has it: r beta(r) on the file's grid [Bohr^(-1/2)]; j is None if scalar."""

    l: int
    j: float | None
    r_beta: NDArray[np.float64]

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class ReferenceShell:
    """A shell of the reference atom: occupation in electrons, energy [Ha; NaN if not stated],
    and r R(r) on the file's grid (zeros if not stated)."""

    n: int
    l: int
    j: float | None
    occupation: float
    energy: float
    wave: NDArray[np.float64]

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class SeparableChannel:
    """V_l = sum_k |chi_k> energy_k <chi_k| with orthonormal chi: r chi_k(r) in rows (k, r) and energies (k,) [Ha]."""

    l: int
    j: float | None
    waves: NDArray[np.float64]
    energies: NDArray[np.float64]

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Pseudopotential:
    """V = V_local(r) + sum_ij |beta_i> D_ij <beta_j|, the reference atom, and where it all came from.

    r: radial grid [Bohr].  local: V_local [Ha].  betas, coupling: projectors and D_ij [Ha].
    core_density: partial core density n_core(r) [1/Bohr^3] or None.
    radial_density: 4 pi r^2 n(r) of the valence [1/Bohr]; states_density: the file's own, of its reference atom, not a guess.
    xc: "lda", "pbe", "pbesol", or the file's own words for another functional.
    wave_number: [1/Bohr] up to which its atom's functions reach: 16 (256 Ry) makes ONCV levels exact to 1e-5 Ry.
    """

    symbol: str
    number: int
    valence: float
    r: NDArray[np.float64]
    local: NDArray[np.float64]
    betas: tuple[Beta, ...]
    coupling: NDArray[np.float64]
    core_density: NDArray[np.float64] | None
    radial_density: NDArray[np.float64]
    shells: tuple[ReferenceShell, ...]
    xc: str
    fully_relativistic: bool
    sha256: str
    path: Path = field(default_factory=Path)
    wave_number: float = 16.0
    states_density: bool = True

    __repr__ = one_line

    def relativistic_channels(self) -> tuple[SeparableChannel, ...]:
        """One channel per (l, j), diagonalised; empty unless the pseudopotential is fully relativistic."""
        if not self.fully_relativistic:
            return ()
        keys = sorted({(b.l, b.j or 0.0) for b in self.betas})
        return tuple(self._channel(l, j, [(1.0, j)]) for l, j in keys)

    def scalar_channels(self) -> tuple[SeparableChannel, ...]:
        """One channel per l. Of a fully relativistic pseudopotential: the average over the spin-orbit pair,

        V_l = (l V_{l-1/2} + (l+1) V_{l+1/2}) / (2l+1),

        exact as an operator: the projectors of both j together, orthogonalised.
        """
        channels = []
        for l in sorted({b.l for b in self.betas}):
            parts: list[tuple[float, float | None]] = [(1.0, None)]
            if self.fully_relativistic:
                parts = [(l / (2 * l + 1), l - 0.5), ((l + 1) / (2 * l + 1), l + 0.5)]
            channels.append(self._channel(l, None, parts))
        return tuple(channels)

    def _channel(self, l: int, j: float | None, parts: list[tuple[float, float | None]]) -> SeparableChannel:
        """Orthonormal chi and their energies of sum over (weight, j) of weight * V_lj."""
        rows = [(i, w) for w, part in parts for i, b in enumerate(self.betas) if b.l == l and b.j == part]
        index = [i for i, _ in rows]
        weight = np.array([w for _, w in rows])
        beta = np.array([self.betas[i].r_beta for i in index])
        D = self.coupling[np.ix_(index, index)] * np.sqrt(weight[:, None] * weight[None, :])
        # Scaled to unit norm first, so that "nearly dependent" means the same for large and small projectors.
        norm = np.sqrt(np.trapezoid(beta**2, self.r, axis=1))
        beta, D = beta / norm[:, None], D * norm[:, None] * norm[None, :]
        overlap = np.trapezoid(beta[:, None] * beta[None], self.r, axis=2)
        s, U = np.linalg.eigh(overlap)
        keep = s > 1e-12
        root, U = np.sqrt(s[keep]), U[:, keep]
        energies, mix = np.linalg.eigh(root[:, None] * (U.T @ D @ U) * root[None, :])
        waves = mix.T @ ((U / root).T @ beta)
        strong = np.abs(energies) > 1e-5  # Ha; <chi|psi>^2 <= 1, so dropping these changes no level by more
        order = np.argsort(-np.abs(energies[strong]))
        return SeparableChannel(l, j, waves[strong][order], energies[strong][order])


class PseudopotentialFormat(ABC):
    """One form of pseudopotential file. A third party's is an entry point of the group `nearsight.pseudopotentials`.

    name: for messages.  endings: of file names of one element, in lower case.
    """

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file is of this form, by its name and its first 4096 bytes."""

    @abstractmethod
    def read(self, path: Path, symbol: str | None = None, xc: str | None = None) -> Pseudopotential:
        """The pseudopotential; of a file with many, that of an element and a functional ("lda", "pbe", "pbesol").

        Raises BadInput for a file that is damaged, or lacks what is asked for.
        """

    def holds_many(self, path: Path) -> bool:
        """Whether a file of this name may hold the pseudopotentials of many elements."""
        return False


def oncvpsp_shells(text: str) -> tuple[tuple[int, int, float], ...]:
    """(n, l, occupation) of the valence shells in an input of ONCVPSP; none where it is not one.

    The input: symbol, Z, core shells, valence shells, ...; then one line n, l, occupation for each shell.
    """
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        core, valence = int(rows[0][2]), int(rows[0][3])
        return tuple((int(row[0]), int(row[1]), float(row[2])) for row in rows[1 + core : 1 + core + valence])
    except (IndexError, ValueError):
        return ()


def j_resolved(
    scalar: list[tuple[Beta, float]], spin_orbit: list[tuple[Beta, float]]
) -> tuple[tuple[Beta, ...], NDArray[np.float64]]:
    """Projectors by j and their diagonal coupling [Ha] from V_SR and V_SO, V = V_SR + V_SO L.S:

    V_{l+1/2} = V_SR + l/2 V_SO,    V_{l-1/2} = V_SR - (l+1)/2 V_SO.

    scalar, spin_orbit: (projector, energy in Ha). The projectors of one (l, j) overlap; `Pseudopotential` diagonalises.
    """
    betas, energies = [], []
    for l in sorted({b.l for b, _ in (*scalar, *spin_orbit)}):
        for j, factor in ((l - 0.5, -(l + 1) / 2), (l + 0.5, l / 2)):
            if j < 0:
                continue
            parts = [(b, e) for b, e in scalar if b.l == l]
            parts += [(b, e * factor) for b, e in spin_orbit if b.l == l and factor]
            betas += [Beta(l, j, b.r_beta) for b, _ in parts]
            energies += [e for _, e in parts]
    return tuple(betas), diagonal(energies)


def diagonal(energies: list[float]) -> NDArray[np.float64]:
    """The coupling of projectors that each have an energy of their own (n, n); (0, 0) without projectors."""
    return np.diag(np.array(energies, dtype=np.float64)) if energies else np.zeros((0, 0))

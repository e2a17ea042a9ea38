"""A species: all that the Kohn-Sham Hamiltonian needs to know of one kind of atom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nearsight.core.display import one_line


@dataclass(frozen=True, eq=False)
class RadialFunction:
    """The radial part of f(r) = R(r) Y_lm(r/|r|), tabulated as R(r)/r^l on a uniform grid from r = 0.

    values: R(r_i) / r_i^l at r_i = i * spacing, i = 0..n-1  [Bohr^(-3/2-l) for an orbital, Ha/Bohr^l for a potential].
    spacing: [Bohr].  R vanishes beyond `cutoff` = (n - 1) * spacing.
    """

    l: int
    values: NDArray[np.float64]
    spacing: float

    __repr__ = one_line

    @property
    def cutoff(self) -> float:
        """Radius beyond which the function is zero [Bohr]."""
        return (len(self.values) - 1) * self.spacing

    @property
    def r(self) -> NDArray[np.float64]:
        """The grid [Bohr]."""
        return self.spacing * np.arange(len(self.values), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Orbital:
    """One shell of 2l+1 atomic orbitals with the same radial function, normalised to one electron each.

    population: electrons in the whole shell in the neutral free atom (0 for second zetas and polarisation shells).
    n: principal quantum number; zeta: 1 for the first function of its (n, l); polarization: an l+1 response shell.
    """

    radial: RadialFunction
    n: int
    zeta: int
    population: float
    polarization: bool = False

    __repr__ = one_line

    @property
    def l(self) -> int:  # noqa: E743
        """Angular momentum."""
        return self.radial.l


@dataclass(frozen=True, eq=False)
class Projector:
    """One shell of Kleinman-Bylander projectors: V_NL += sum_m |chi_m> energy <chi_m|  (energy in Ha, chi normalised or not).

    j: total angular momentum of a fully relativistic projector; None for a scalar-relativistic one.
    """

    radial: RadialFunction
    energy: float
    j: float | None = None

    __repr__ = one_line

    @property
    def l(self) -> int:  # noqa: E743
        """Orbital angular momentum."""
        return self.radial.l


class HasOrbitals(Protocol):
    """What two-centre integrals need to know of one kind of atom: a Species, or an AtomicBasis without a pseudopotential."""

    def __hash__(self) -> int:
        """By identity: tables of a pair are made once and kept."""

    @property
    def symbol(self) -> str:
        """Of the element."""

    @property
    def orbitals(self) -> tuple[Orbital, ...]:
        """Shells in order."""

    @property
    def provenance(self) -> dict[str, str]:
        """Where they came from."""

    @property
    def shells(self) -> tuple[int, ...]:
        """Angular momentum of each shell, in order."""

    @property
    def orbital_cutoff(self) -> float:
        """Longest orbital radius [Bohr]."""

    @property
    def projector_cutoff(self) -> float:
        """Longest projector radius [Bohr]; 0 without projectors."""


@dataclass(frozen=True, eq=False)
class AtomicBasis:
    """The orbitals of one kind of atom, of which nothing else is known: enough for overlaps, not for a Hamiltonian.

    orbitals: shells in the order of the program that they are of; not all of unit norm where the program keeps others.
    electrons: of the neutral atom in the program's pseudopotential; None where it is not told.
    """

    symbol: str
    number: int
    orbitals: tuple[Orbital, ...]
    electrons: float | None = None
    provenance: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        shells = " ".join(str(l) for l in self.shells)
        return f"AtomicBasis({self.symbol}, l = {shells}, radius {self.orbital_cutoff:.2f} Bohr)"

    @property
    def shells(self) -> tuple[int, ...]:
        """Angular momentum of each shell, in order."""
        return tuple(o.l for o in self.orbitals)

    @property
    def orbital_cutoff(self) -> float:
        """Longest orbital radius [Bohr]."""
        return max(o.radial.cutoff for o in self.orbitals)

    @property
    def projector_cutoff(self) -> float:
        """0: no projectors are known."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Species:
    """Orbitals, pseudopotential and atomic density of one kind of atom (Hartree atomic units).

    orbitals: shells in the project's one order: by l, then n (semicore first), then zeta; polarisation
        shells after all others (Mo: s s s p d d p).
    projectors: separable non-local part. Scalar-relativistic projectors only, unless `relativistic_projectors` is given too.
    neutral_atom_potential: V_NA(r) = V_local(r) + V_H[n_atom](r)  [Ha], zero beyond its cutoff.
    local_charge: n_local(r), the charge whose electrostatic potential is V_local, electron's sign: integrates to
        -valence  [1/Bohr^3]; laplacian V_local = -4 pi n_local.
    core_density: partial core density for non-linear core corrections [electrons/Bohr^3], or None.
    """

    symbol: str
    number: int
    valence: float
    mass: float
    orbitals: tuple[Orbital, ...]
    projectors: tuple[Projector, ...]
    neutral_atom_potential: RadialFunction
    local_charge: RadialFunction
    core_density: RadialFunction | None = None
    relativistic_projectors: tuple[Projector, ...] = ()
    self_energy: float | None = (
        None  # 1/2 int V_local n_local [Ha] as the generating program has it; None: from the charge
    )
    provenance: dict[str, str] = field(default_factory=dict)  # where it came from: file, sha256, basis settings, xc

    def __repr__(self) -> str:
        shells = " ".join(str(l) for l in self.shells)
        return (
            f"Species({self.symbol}, {self.valence:g} electrons, l = {shells}, radius {self.orbital_cutoff:.2f} Bohr)"
        )

    @property
    def shells(self) -> tuple[int, ...]:
        """Angular momentum of each shell, in order."""
        return tuple(o.l for o in self.orbitals)

    @property
    def orbital_count(self) -> int:
        """Orbitals of one atom, 2l+1 a shell."""
        return sum(2 * o.l + 1 for o in self.orbitals)

    @property
    def orbital_populations(self) -> list[float]:
        """Electrons in each orbital of the free neutral atom: a shell's population spread evenly."""
        return [o.population / (2 * o.l + 1) for o in self.orbitals for _ in range(2 * o.l + 1)]

    @property
    def orbital_cutoff(self) -> float:
        """Longest orbital radius [Bohr]."""
        return max(o.radial.cutoff for o in self.orbitals)

    @property
    def projector_cutoff(self) -> float:
        """Longest projector radius [Bohr]; 0 without projectors."""
        return max((p.radial.cutoff for p in (*self.projectors, *self.relativistic_projectors)), default=0.0)

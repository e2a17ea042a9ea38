"""What a basis of orbitals is asked for by: its size, or a preset's name, and how its radii and further zetas are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nearsight.atoms.confinement import SmoothWall, Wall
from nearsight.atoms.sizes import PRESETS, RULE, RULES, SIZES, Count, Rule, Size
from nearsight.core.errors import BadInput

RYDBERG = 0.5  # 1 Ry in Ha, exact

_FIRST = {"energy_shift": 0.01, "split_norm": 0.15}  # of rule 1


@dataclass(frozen=True)
class BasisSettings:
    """How a basis is made from a pseudo-atom.

    size: a preset, "light", "standard" (the default) or "tight"; or "sz", "szp", "dz", "dzp", "tz" or "tzp". Semicore
        shells always get one function.
    energy_shift: by how much the wall may raise the energy of all electrons of a shell [Ry], which fixes r_c; None: the size's.
        (Rule 1: rise of each level in a hard wall; a tenth of it for semicore shells, three tenths for d and f shells.)
    split_norm: norm of a first zeta outside the radius where the second ends, see `zetas.split_radius`; None: it ends at a
        share of r_c. (Rule 1: see `zetas.matching_radius`; None: 0.15; H always 0.5.)
    confinement: the wall inside which the orbitals of radius r_c are found.
    polarization: "response" of the outermost shell to an electric field, or the confined l+1 "state".
    rule: today's, or 1 to 4 for the orbitals of earlier versions; None: today's for the presets, 1 for the others.
    """

    size: Size = "standard"
    energy_shift: float | None = None
    split_norm: float | None = None
    confinement: Wall = SmoothWall()
    polarization: Literal["response", "state"] = "response"
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise BadInput(f"basis size {self.size!r} is unknown; take one of {', '.join(SIZES)}")
        if self.rule is None:
            object.__setattr__(self, "rule", RULE if self.size in PRESETS else 1)
        if self.rule not in RULES:
            raise BadInput(
                f"rule {self.rule!r} of orbitals is unknown; take {RULE}, or 1 to 4 for those of earlier versions"
            )
        if self.rule == 1 and self.size in PRESETS:
            raise BadInput(
                f"rule 1 of orbitals has no size {self.size!r}; take sz, szp, dz, dzp, tz or tzp, or rule {RULE}"
            )
        if not 1e-5 <= self.shift <= 0.2:
            raise BadInput(f"energy shift {self.energy_shift:g} Ry; take one between 1e-5 and 0.2 Ry")
        if self.split_norm is not None and not 0 < self.split_norm < 1:
            raise BadInput(f"split norm {self.split_norm:g}; take one between 0 and 1")
        if self.polarization not in ("response", "state"):
            raise BadInput(f"polarization {self.polarization!r} is unknown; take 'response' or 'state'")

    @property
    def count(self) -> Count:
        """Zetas and energy shift of the size."""
        return SIZES[self.size]

    @property
    def shift(self) -> float:
        """The energy shift that is taken [Ry]."""
        if self.energy_shift is not None:
            return self.energy_shift
        return _FIRST["energy_shift"] if self.rule == 1 else self.count.energy_shift

    def first_split_norm(self, number: int) -> float:
        """The split norm of rule 1, of the element with this atomic number."""
        return 0.5 if number == 1 else self.split_norm or _FIRST["split_norm"]


STANDARD = BasisSettings()

"""Contracted Gaussian orbitals of an element."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nearsight.core.display import one_line


@dataclass(frozen=True, eq=False)
class GaussianShell:
    """R(r) = sum_p c_p r^l exp(-a_p r^2), without a norm of its own for each term.

    exponents: a_p [1/Bohr^2].  coefficients: c_p, such that int r^2 R^2 dr = 1.
    """

    l: int
    exponents: NDArray[np.float64]
    coefficients: NDArray[np.float64]

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class GaussianBasis:
    """shells: in the order of the program.  electrons: of the neutral atom, without those of an effective core potential."""

    symbol: str
    number: int
    gaussians: tuple[GaussianShell, ...]
    electrons: float
    provenance: dict[str, str] = field(default_factory=dict)

    __repr__ = one_line

    @property
    def shells(self) -> tuple[int, ...]:
        """Angular momentum of each shell, in order."""
        return tuple(g.l for g in self.gaussians)

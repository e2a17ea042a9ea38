"""Smearing: occupations f(x), x = (e - mu) / kT, and the entropy term that makes Omega = E - T S variational.

Every kind obeys ds/dx = x f'(x) for T S = kT sum s(x), so that d(TS) = sum (e - mu) df and one derivative rule serves all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import pi, sqrt
from typing import Literal

import torch
from torch import Tensor


class Smearing(ABC):
    """f, s and the divided difference of f."""

    @abstractmethod
    def occupation(self, x: Tensor) -> Tensor:
        """f(x), 1 far below 0 and 0 far above."""

    @abstractmethod
    def entropy(self, x: Tensor) -> Tensor:
        """s(x)"""

    @abstractmethod
    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f'(x) and f'''(x)"""

    def zero_temperature(self, total: float, free: float) -> float:
        """Energy extrapolated to kT = 0 from E and Omega: their mean, exact to third order in kT."""
        return 0.5 * (total + free)

    def divided_difference(self, x: Tensor, f: Tensor, rows: int | None = None) -> Tensor:
        """(f_i - f_j) / (x_i - x_j), f'(x_i) on the diagonal [..., rows, n]; by Taylor's series where levels are close.

        rows: of the first so many i; None: of all.
        """
        d = x[..., :rows, None] - x[..., None, :]
        close = d.abs() < 2e-3
        middle = 0.5 * (x[..., :rows, None] + x[..., None, :])
        first, third = self.slopes(middle)
        far = (f[..., :rows, None] - f[..., None, :]) / torch.where(close, torch.ones_like(d), d)
        return torch.where(close, first + third * d * d / 24, far)


@dataclass(frozen=True)
class FermiDirac(Smearing):
    """f = 1 / (1 + exp x)"""

    def occupation(self, x: Tensor) -> Tensor:
        """1 / (1 + exp x)"""
        return torch.sigmoid(-x)

    def entropy(self, x: Tensor) -> Tensor:
        """-f ln f - (1-f) ln(1-f), without cancellation in either tail."""
        return torch.nn.functional.softplus(-x.abs()) + x.abs() * torch.sigmoid(-x.abs())

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f' = -p, f''' = -p (1 - 6 p), p = f (1 - f)"""
        f = torch.sigmoid(-x)
        p = f * torch.sigmoid(x)
        return -p, -p * (1 - 6 * p)

    def divided_difference(self, x: Tensor, f: Tensor, rows: int | None = None) -> Tensor:
        """f(a) - f(b) = -sinh((a-b)/2) / (2 cosh(a/2) cosh(b/2)), with exponentials of -|.| only, so nothing overflows."""
        t = 0.5 * (x[..., :rows, None] - x[..., None, :])
        close = t.abs() < 0.5
        small = torch.where(close, t, torch.zeros_like(t))
        t2 = small * small
        sinhc = 1 + t2 / 6 * (1 + t2 / 20 * (1 + t2 / 42 * (1 + t2 / 72 * (1 + t2 / 110 * (1 + t2 / 156)))))
        half = 0.5 * x
        inverse_cosh = 2 * torch.exp(-half.abs()) / (1 + torch.exp(-2 * half.abs()))
        near = -0.25 * sinhc * inverse_cosh[..., :rows, None] * inverse_cosh[..., None, :]
        far = (f[..., :rows, None] - f[..., None, :]) / torch.where(close, torch.ones_like(t), 2 * t)
        return torch.where(close, near, far)


@dataclass(frozen=True)
class Gaussian(Smearing):
    """f = erfc(x) / 2"""

    def occupation(self, x: Tensor) -> Tensor:
        """erfc(x) / 2"""
        return 0.5 * torch.erfc(x)

    def entropy(self, x: Tensor) -> Tensor:
        """exp(-x^2) / (2 sqrt pi)"""
        return torch.exp(-x * x) / (2 * sqrt(pi))

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f' = -g, f''' = g (2 - 4 x^2), g = exp(-x^2) / sqrt pi"""
        g = torch.exp(-x * x) / sqrt(pi)
        return -g, g * (2 - 4 * x * x)


@dataclass(frozen=True)
class MethfesselPaxton(Smearing):
    """First order: Phys. Rev. B 40, 3616 (1989).  f = erfc(x)/2 - x exp(-x^2) / (2 sqrt pi); not monotonic, may leave 0..1."""

    def occupation(self, x: Tensor) -> Tensor:
        """erfc(x) / 2 - x exp(-x^2) / (2 sqrt pi)"""
        return 0.5 * torch.erfc(x) - x * torch.exp(-x * x) / (2 * sqrt(pi))

    def entropy(self, x: Tensor) -> Tensor:
        """(1 - 2 x^2) exp(-x^2) / (4 sqrt pi); negative for |x| > 1/sqrt 2."""
        return (1 - 2 * x * x) * torch.exp(-x * x) / (4 * sqrt(pi))

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f' = -g (3/2 - x^2), f''' = g (5 - 16 x^2 + 4 x^4), g = exp(-x^2) / sqrt pi"""
        g = torch.exp(-x * x) / sqrt(pi)
        x2 = x * x
        return -g * (1.5 - x2), g * (5 - 16 * x2 + 4 * x2 * x2)

    def zero_temperature(self, total: float, free: float) -> float:
        """(E + (N + 1) Omega) / (N + 2) of order N = 1."""
        return (total + 2 * free) / 3


@dataclass(frozen=True)
class Cold(Smearing):
    """Marzari, Vanderbilt, De Vita and Payne, Phys. Rev. Lett. 82, 3296 (1999): f = erfc(u)/2 + exp(-u^2) / sqrt(2 pi),
    u = x + 1/sqrt 2; never negative."""

    def occupation(self, x: Tensor) -> Tensor:
        """erfc(u) / 2 + exp(-u^2) / sqrt(2 pi)"""
        u = x + sqrt(0.5)
        return 0.5 * torch.erfc(u) + torch.exp(-u * u) / sqrt(2 * pi)

    def entropy(self, x: Tensor) -> Tensor:
        """u exp(-u^2) / sqrt(2 pi); negative for u < 0."""
        u = x + sqrt(0.5)
        return u * torch.exp(-u * u) / sqrt(2 * pi)

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f' = -g (1 + sqrt2 u), f''' = g (2 - 4 u^2 + sqrt2 u (6 - 4 u^2)), g = exp(-u^2) / sqrt pi"""
        u = x + sqrt(0.5)
        g = torch.exp(-u * u) / sqrt(pi)
        # f' = -g (1 + sqrt2 u);  f''' from the derivatives of the product
        r = sqrt(2)
        return -g * (1 + r * u), g * (2 - 4 * u * u + r * u * (6 - 4 * u * u))

    def zero_temperature(self, total: float, free: float) -> float:
        """Omega itself, which has no term of second order in kT."""
        return free


FERMI_DIRAC = FermiDirac()
SmearingName = Literal["fermi-dirac", "gaussian", "methfessel-paxton", "cold"]
SMEARINGS: dict[str, Smearing] = {
    "fermi-dirac": FERMI_DIRAC,
    "gaussian": Gaussian(),
    "methfessel-paxton": MethfesselPaxton(),
    "cold": Cold(),
}

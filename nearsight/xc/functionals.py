"""Exchange and correlation: energy density e(n, sigma) per volume, with its derivatives, spin-unpolarised.

n: density [1/Bohr^3].  sigma = |grad n|^2.  Energies in Ha.  The closed-form derivatives are tested equal to automatic ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi
from typing import Literal

import torch
from torch import Tensor

FLOOR = 1e-14  # densities below this have no exchange and correlation


def lda_exchange(n: Tensor) -> tuple[Tensor, Tensor]:
    """e_x = -(3/4) (3/pi)^(1/3) n^(4/3) and de_x/dn."""
    third = n.pow(1 / 3)
    c = -0.75 * (3 / pi) ** (1 / 3)
    return c * third * n, 4 / 3 * c * third


def pw92(n: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation energy per electron of the unpolarised gas and its derivative in n.

    Perdew and Wang, Phys. Rev. B 45, 13244 (1992), eq. 10, p = 1, with the constants as printed there (SIESTA's too).
    """
    a, a1, b1, b2, b3, b4 = 0.031091, 0.21370, 7.5957, 3.5876, 1.6382, 0.49294
    rs = (3 / (4 * pi)) ** (1 / 3) * n.pow(-1 / 3)
    s = rs.sqrt()
    q = 2 * a * s * (b1 + s * (b2 + s * (b3 + s * b4)))
    dq = a * (b1 / s + 2 * b2 + 3 * b3 * s + 4 * b4 * rs)
    logarithm = torch.log1p(1 / q)
    e = -2 * a * (1 + a1 * rs) * logarithm
    de_drs = -2 * a * a1 * logarithm + 2 * a * (1 + a1 * rs) * dq / (q * (q + 1))
    return e, de_drs * (-rs / (3 * n))


@dataclass(frozen=True)
class LDA:
    """Slater exchange with PW92 correlation."""

    uses_gradient = False

    def __call__(self, n: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(e, de/dn, None)"""
        ex, vx = lda_exchange(n)
        ec, dec = pw92(n)
        return ex + n * ec, vx + ec + n * dec, None


@dataclass(frozen=True)
class PBE:
    """Perdew, Burke and Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996), spin-unpolarised; beta = 0.066725 as printed there."""

    beta: float = 0.066725
    mu: float = 0.066725 * pi**2 / 3
    kappa: float = 0.804
    gamma: float = (1 - log(2)) / pi**2

    uses_gradient = True

    def __call__(self, n: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(e, de/dn, de/dsigma)"""
        assert sigma is not None
        third = n.pow(1 / 3)
        # exchange: e_x^LDA F(s^2), s^2 = sigma / (4 kF^2 n^2)
        inverse_n2 = 1 / (n * n)
        s2_over_sigma = inverse_n2 / (4 * (3 * pi**2) ** (2 / 3)) / (third * third)
        s2 = s2_over_sigma * sigma
        damp = 1 / (1 + (self.mu / self.kappa) * s2)
        f = 1 + self.kappa - self.kappa * damp
        df = self.mu * damp * damp
        c = -0.75 * (3 / pi) ** (1 / 3)
        ex_lda = c * third * n
        e = ex_lda * f
        dn = c * third * (4 / 3 * f - 8 / 3 * s2 * df)
        dsigma = ex_lda * df * s2_over_sigma
        # correlation: n (ec + H(t^2, A)), t^2 = sigma / (4 ks^2 n^2), ks^2 = 4 kF / pi
        ec, dec = pw92(n)
        t2_over_sigma = inverse_n2 * (pi / (16 * (3 * pi**2) ** (1 / 3))) / third
        y = t2_over_sigma * sigma
        growth = torch.exp(-ec / self.gamma)
        a = (self.beta / self.gamma) / (growth - 1)
        ay = a * y
        numerator = y * (1 + ay)
        denominator = 1 / (1 + ay * (1 + ay))
        q = numerator * denominator
        h = self.gamma * torch.log1p(self.beta / self.gamma * q)
        dh_dq = self.beta / (1 + self.beta / self.gamma * q)
        d2 = denominator * denominator
        dh_dy = dh_dq * (1 + 2 * ay) * d2
        dh_da = -dh_dq * a * y * y * y * (2 + ay) * d2
        da_dec = a * a * growth / self.beta
        e = e + n * (ec + h)
        dn = dn + ec + h + n * (dec * (1 + dh_da * da_dec) - 7 / 3 * dh_dy * y / n)
        dsigma = dsigma + n * dh_dy * t2_over_sigma
        return e, dn, dsigma


XCName = Literal["lda", "pbe", "pbesol"]
# PBEsol: Perdew et al., Phys. Rev. Lett. 100, 136406 (2008)
FUNCTIONALS: dict[str, LDA | PBE] = {"lda": LDA(), "pbe": PBE(), "pbesol": PBE(beta=0.046, mu=10 / 81)}

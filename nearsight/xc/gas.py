"""The homogeneous electron gas: exchange (Slater) and correlation (Perdew and Wang). The one set of constants.

Constants are as printed in the papers, which are SIESTA's too.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

FLOOR = 1e-14  # densities below this have no exchange and correlation [1/Bohr^3]
SLATER = -0.75 * (3 / pi) ** (1 / 3)
#: Perdew and Wang, Phys. Rev. B 45, 13244 (1992), table I: A, alpha1, beta1..beta4 of the unpolarised gas, the fully polarised
#: one, and minus the spin stiffness
PW92 = (
    (0.031091, 0.21370, 7.5957, 3.5876, 1.6382, 0.49294),
    (0.015545, 0.20548, 14.1189, 6.1977, 3.3662, 0.62517),
    (0.016887, 0.11125, 10.357, 3.6231, 0.88026, 0.49671),
)
_CURVATURE = 8 / 9 / (2 ** (4 / 3) - 2)  # f''(0) of the spin interpolation


def wigner_seitz(n: Tensor) -> Tensor:
    """r_s = (3 / 4 pi n)^(1/3)  [Bohr]"""
    return (3 / (4 * pi)) ** (1 / 3) * n.pow(-1 / 3)


def exchange(n: Tensor) -> Tensor:
    """e_x = -(3/4) (3/pi)^(1/3) n^(4/3) of the unpolarised gas [Ha/Bohr^3]."""
    return SLATER * n.pow(4 / 3)


def _gas(rs: Tensor, constants: tuple[float, ...]) -> Tensor:
    """G(r_s) of PW92, eq. 10."""
    a, a1, b1, b2, b3, b4 = constants
    s = rs.sqrt()
    return -2 * a * (1 + a1 * rs) * torch.log1p(1 / (2 * a * s * (b1 + s * (b2 + s * (b3 + s * b4)))))


def correlation(n: Tensor, zeta: Tensor | None = None) -> Tensor:
    """Correlation energy per electron [Ha] at total density n and polarisation zeta (None: 0). PW92, eq. 8."""
    rs = wigner_seitz(n)
    if zeta is None:
        return _gas(rs, PW92[0])
    plain, full, stiffness = (_gas(rs, c) for c in PW92)
    f = ((1 + zeta).pow(4 / 3) + (1 - zeta).pow(4 / 3) - 2) / (2 ** (4 / 3) - 2)
    z4 = zeta.pow(4)
    return plain - stiffness * f / _CURVATURE * (1 - z4) + (full - plain) * f * z4


def correlation_with_derivative(n: Tensor) -> tuple[Tensor, Tensor]:
    """`correlation` of the unpolarised gas, and its derivative in n."""
    a, a1, b1, b2, b3, b4 = PW92[0]
    rs = wigner_seitz(n)
    s = rs.sqrt()
    q = 2 * a * s * (b1 + s * (b2 + s * (b3 + s * b4)))
    dq = a * (b1 / s + 2 * b2 + 3 * b3 * s + 4 * b4 * rs)
    logarithm = torch.log1p(1 / q)
    e = -2 * a * (1 + a1 * rs) * logarithm
    slope = -2 * a * a1 * logarithm + 2 * a * (1 + a1 * rs) * dq / (q * (q + 1))
    return e, slope * (-rs / (3 * n))

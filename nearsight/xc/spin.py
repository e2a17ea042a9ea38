"""Exchange and correlation with collinear spin: e(n_up, n_down, gradients) per volume; automatic derivatives.

n [2, points]: densities of the two spins [1/Bohr^3].  sigma [3, points]: grad n_up . grad n_up, grad n_up . grad n_down,
grad n_down . grad n_down.  Both reduce to xc.py for equal spins, which a test checks.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from nearsight.xc.functionals import FLOOR, LDA, PBE

# Perdew and Wang, Phys. Rev. B 45, 13244 (1992), table I: unpolarised, fully polarised, minus the spin stiffness
_PW92 = (
    (0.031091, 0.21370, 7.5957, 3.5876, 1.6382, 0.49294),
    (0.015545, 0.20548, 14.1189, 6.1977, 3.3662, 0.62517),
    (0.016887, 0.11125, 10.357, 3.6231, 0.88026, 0.49671),
)
_CURVATURE = 8 / 9 / (2 ** (4 / 3) - 2)  # f''(0) of the spin interpolation


def _gas(rs: Tensor, constants: tuple[float, ...]) -> Tensor:
    """G(rs) of PW92, eq. 10."""
    a, a1, b1, b2, b3, b4 = constants
    s = rs.sqrt()
    return -2 * a * (1 + a1 * rs) * torch.log1p(1 / (2 * a * s * (b1 + s * (b2 + s * (b3 + s * b4)))))


def pw92_spin(n: Tensor, zeta: Tensor) -> Tensor:
    """Correlation energy per electron at total density n and polarisation zeta."""
    rs = (3 / (4 * pi)) ** (1 / 3) * n.pow(-1 / 3)
    plain, full, stiffness = (_gas(rs, c) for c in _PW92)
    f = ((1 + zeta).pow(4 / 3) + (1 - zeta).pow(4 / 3) - 2) / (2 ** (4 / 3) - 2)
    z4 = zeta.pow(4)
    return plain - stiffness * f / _CURVATURE * (1 - z4) + (full - plain) * f * z4


def energy_density(functional: LDA | PBE, n: Tensor, sigma: Tensor | None) -> Tensor:
    """e_xc [points] in Ha/Bohr^3."""
    n = n.clamp(min=FLOOR)
    total = n.sum(0)
    zeta = ((n[0] - n[1]) / total).clamp(-1 + 1e-12, 1 - 1e-12)
    exchange_lda = -0.75 * (3 / pi) ** (1 / 3) * (2 * n).pow(4 / 3)  # of a gas with both spins like this one
    if isinstance(functional, LDA) or sigma is None:
        return 0.5 * exchange_lda.sum(0) + total * pw92_spin(total, zeta)
    s2 = 4 * sigma[[0, 2]] / (4 * (3 * pi**2) ** (2 / 3) * (2 * n).pow(8 / 3))
    enhancement = 1 + functional.kappa - functional.kappa / (1 + functional.mu * s2 / functional.kappa)
    ec = pw92_spin(total, zeta)
    phi = 0.5 * ((1 + zeta).pow(2 / 3) + (1 - zeta).pow(2 / 3))
    phi3 = phi.pow(3)
    gradient = sigma[0] + 2 * sigma[1] + sigma[2]
    y = gradient * (pi / (16 * (3 * pi**2) ** (1 / 3))) / (phi.square() * total.pow(7 / 3))
    ratio = functional.beta / functional.gamma
    a = ratio / torch.expm1(-ec / (functional.gamma * phi3))
    h = functional.gamma * phi3 * torch.log1p(ratio * y * (1 + a * y) / (1 + a * y * (1 + a * y)))
    return 0.5 * (exchange_lda * enhancement).sum(0) + total * (ec + h)


def with_derivatives(functional: LDA | PBE, n: Tensor, sigma: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """(e [points], de/dn [2, points], de/dsigma [3, points] or None)."""
    with torch.enable_grad():
        n = n.detach().requires_grad_()
        sigma = None if sigma is None else sigma.detach().requires_grad_()
        e = energy_density(functional, n, sigma)
        if sigma is None:
            (dn,) = torch.autograd.grad(e.sum(), [n])
            return e.detach(), dn, None
        dn, dsigma = torch.autograd.grad(e.sum(), [n, sigma])
    return e.detach(), dn, dsigma

"""Exchange and correlation of a spherical, spin-unpolarised density, in numpy.

The atoms layer stands below the DFT engine and so has its own. Only the energy density is written down; its
derivatives are taken by complex steps, exact to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput

#: kappa-form gradient corrections: name -> (mu of exchange, beta of correlation).
#: PBE: Phys. Rev. Lett. 77, 3865 (1996). PBEsol: Phys. Rev. Lett. 100, 136406 (2008).
_GRADIENT = {"pbe": (0.06672455060314922 * np.pi**2 / 3, 0.06672455060314922), "pbesol": (10 / 81, 0.046)}
FUNCTIONALS = ("lda", *_GRADIENT)

_FLOOR = 1e-14  # 1/Bohr^3: below it the density contributes nothing


def _pw92(rs: NDArray[Any]) -> NDArray[Any]:
    """Correlation energy per electron of the unpolarised gas [Ha]. Perdew and Wang, Phys. Rev. B 45, 13244 (1992)."""
    a, alpha, beta = 0.0310907, 0.21370, (7.5957, 3.5876, 1.6382, 0.49294)
    x = np.sqrt(rs)
    denominator = 2 * a * x * (beta[0] + x * (beta[1] + x * (beta[2] + x * beta[3])))
    return -2 * a * (1 + alpha * rs) * np.log(1 + 1 / denominator)


def energy_density(n: NDArray[Any], sigma: NDArray[Any], xc: str) -> NDArray[Any]:
    """e_xc(n, sigma) [Ha/Bohr^3] with n [1/Bohr^3] > 0 and sigma = |grad n|^2; both may be complex."""
    rs = (3 / (4 * np.pi * n)) ** (1 / 3)
    exchange = -0.75 * (3 / np.pi) ** (1 / 3) * n ** (4 / 3)
    correlation = _pw92(rs)
    if xc == "lda":
        return exchange + n * correlation
    mu, beta = _GRADIENT[xc]
    kappa, gamma = 0.804, (1 - np.log(2)) / np.pi**2
    k_fermi = (3 * np.pi**2 * n) ** (1 / 3)
    s2 = sigma / (2 * k_fermi * n) ** 2
    t2 = np.pi * sigma / (16 * k_fermi * n**2)
    enhancement = 1 + kappa - kappa / (1 + mu * s2 / kappa)
    ratio = beta / gamma / (np.exp(-correlation / gamma) - 1)
    h = gamma * np.log(1 + beta / gamma * t2 * (1 + ratio * t2) / (1 + ratio * t2 + (ratio * t2) ** 2))
    return exchange * enhancement + n * (correlation + h)


def derivatives(
    n: NDArray[np.float64], slope: NDArray[np.float64], xc: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """e_xc, de_xc/dn and de_xc/dn' for n(r) and n'(r) of a spherical density, so that for any change of the density

    dE_xc = 4 pi int r^2 (de/dn dn + de/dn' dn') dr.

    Raises NearsightError for an unknown functional.
    """
    if xc not in FUNCTIONALS:
        raise BadInput(f"functional {xc!r} is not available for atoms; take one of {', '.join(FUNCTIONALS)}")
    inside = n > _FLOOR
    density, gradient = n[inside], slope[inside]
    step = 1e-30
    e, by_density, by_slope = np.zeros_like(n), np.zeros_like(n), np.zeros_like(n)
    sigma = gradient**2
    e[inside] = energy_density(density, sigma, xc)
    by_density[inside] = energy_density(density + 1j * step, sigma + 0j, xc).imag / step
    if xc != "lda":
        by_slope[inside] = 2 * gradient * energy_density(density + 0j, sigma + 1j * step, xc).imag / step
    return e, by_density, by_slope

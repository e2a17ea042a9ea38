"""Exchange and correlation: energy density e(n, sigma, tau) per volume, for one density or for two spins.

n [1 or 2, points]: the density, or n_up and n_down [1/Bohr^3], above `gas.FLOOR`.  sigma: |grad n|^2 [1, points], or
grad n_up . grad n_up, grad n_up . grad n_down, grad n_down . grad n_down [3, points].  tau [1 or 2, points]: kinetic energy
density 1/2 sum |grad psi|^2 [Ha/Bohr^3], for functionals that use it.

Crystals and atoms take their functional from here, by name: our own (lda, pbe, pbesol), and those that other distributions
register as entry points of the group `nearsight.functionals` (core/registry.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log, pi
from typing import Any, ClassVar

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.registry import load
from nearsight.xc import gas

CACHED_POINTS = 16384


@dataclass(frozen=True, eq=False)
class EnergyDensity:
    """e [points] in Ha/Bohr^3 and its derivatives by n, sigma and tau, in their shapes (None: not used)."""

    e: Tensor
    by_density: Tensor
    by_sigma: Tensor | None = None
    by_tau: Tensor | None = None

    __repr__ = one_line


class Functional(ABC):
    """An approximation of exchange and correlation. One that is added from outside writes `energy_density`; nothing else.

    uses_gradient, uses_kinetic: whether e depends on sigma, on tau.
    pseudopotentials: the functional whose pseudopotentials serve this one; None: they are made with this one itself.
    """

    uses_gradient: ClassVar[bool] = False
    uses_kinetic: ClassVar[bool] = False
    pseudopotentials: str | None = None

    @abstractmethod
    def energy_density(self, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None) -> Tensor:
        """e [points] in Ha/Bohr^3 of two spins, n [2, points]; differentiable."""

    def energy(self, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None) -> Tensor:
        """e [points] of two spins, or of one density as two equal spins; differentiable."""
        if len(n) == 2:
            return self.energy_density(n, sigma, tau)
        halves = (0.5 * n).expand(2, -1)
        products = None if sigma is None else (0.25 * sigma).expand(3, -1)
        return self.energy_density(halves, products, None if tau is None else (0.5 * tau).expand(2, -1))

    def derivatives(self, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None) -> EnergyDensity:
        """e and its derivatives, automatic; a functional may write them in closed form (a law holds the two equal)."""
        return automatic(self, n, sigma, tau)


def automatic(
    functional: Functional, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None
) -> EnergyDensity:
    """e and its derivatives by automatic differentiation of `energy`, without a graph."""
    with torch.enable_grad():
        inputs = [None if x is None else x.detach().requires_grad_() for x in (n, sigma, tau)]
        e = functional.energy(inputs[0], *inputs[1:])  # type: ignore[arg-type]
        used = [x for x in inputs if x is not None]
        found = iter(torch.autograd.grad(e.sum(), used, allow_unused=True, materialize_grads=True))
    by = [None if x is None else next(found) for x in inputs]
    assert by[0] is not None
    return EnergyDensity(e.detach(), by[0], by[1], by[2])


def by_parts(functional: Functional, n: Tensor, sigma: Tensor | None = None) -> EnergyDensity:
    """e and its derivatives, on a processor for as many points at a time as its cache holds."""
    size = n.shape[1] if n.device.type != "cpu" else CACHED_POINTS
    parts = zip(n.split(size, 1), [None] * n.shape[1] if sigma is None else sigma.split(size, 1), strict=False)
    found = [functional.derivatives(x, y) for x, y in parts]
    if len(found) == 1:
        return found[0]
    by_sigma = [x.by_sigma for x in found if x.by_sigma is not None]
    return EnergyDensity(
        torch.cat([x.e for x in found]) if found else n.new_zeros(0),
        torch.cat([x.by_density for x in found], 1) if found else n,
        torch.cat(by_sigma, 1) if by_sigma else sigma,
    )


def differentiable(functional: Functional, n: Tensor, sigma: Tensor | None = None) -> Tensor:
    """e [points] as a function that autograd differentiates by `derivatives`, in the memory of those, and further by itself."""
    e: Tensor = _Differentiable.apply(functional, n, sigma)
    return e


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, functional: Functional, n: Tensor, sigma: Tensor | None) -> Tensor:
        found = by_parts(functional, n, sigma)
        ctx.functional = functional
        ctx.save_for_backward(n, sigma, found.by_density, found.by_sigma)
        return found.e

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n, sigma, by_density, by_sigma = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the derivatives is asked for
            weighted = (grads[0] * ctx.functional.energy(n, sigma)).sum()
            if sigma is None:
                return None, *torch.autograd.grad(weighted, [n], create_graph=True), None
            return None, *torch.autograd.grad(weighted, [n, sigma], create_graph=True)
        return None, grads[0] * by_density, None if sigma is None else grads[0] * by_sigma


def functional(name: str) -> Functional:
    """The functional of a name. Raises BadInput for one that is not known, Unavailable for one that cannot be loaded."""
    found = load("functionals", name)
    return found() if isinstance(found, type) else found


def _polarisation(n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n kept away from 0, the total density, and zeta = (n_up - n_down) / n."""
    n = n.clamp(min=gas.FLOOR)
    total = n.sum(0)
    return n, total, ((n[0] - n[1]) / total).clamp(-1 + 1e-12, 1 - 1e-12)


@dataclass(frozen=True)
class LocalDensity(Functional):
    """e = e_x(n) + n e_c(n): Slater's exchange with PW92's correlation."""

    def energy_density(self, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None) -> Tensor:
        """1/2 sum_s e_x(2 n_s) + n e_c(n, zeta) [points]; sigma and tau are not looked at."""
        n, total, zeta = _polarisation(n)
        return 0.5 * gas.exchange(2 * n).sum(0) + total * gas.correlation(total, zeta)

    def derivatives(self, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None) -> EnergyDensity:
        """Closed forms for one density."""
        if len(n) == 2:
            return automatic(self, n)
        ex = gas.SLATER * n.pow(1 / 3)
        ec, dec = gas.correlation_with_derivative(n)
        return EnergyDensity((n * (ex + ec))[0], 4 / 3 * ex + ec + n * dec)


@dataclass(frozen=True)
class GradientCorrected(Functional):
    """Perdew, Burke and Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996); beta = 0.066725 as printed there.

    e = e_x F(s^2) + n (e_c + H(t^2)),  F = 1 + kappa - kappa / (1 + mu s^2 / kappa).
    """

    beta: float = 0.066725
    mu: float = 0.066725 * pi**2 / 3
    kappa: float = 0.804
    gamma: float = (1 - log(2)) / pi**2

    uses_gradient: ClassVar[bool] = True

    def energy_density(self, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None) -> Tensor:
        """1/2 sum_s e_x(2 n_s) F(s_s^2) + n (e_c + H) [points]; n [2, points], sigma [3, points]."""
        assert sigma is not None
        n, total, zeta = _polarisation(n)
        s2 = 4 * sigma[[0, 2]] / (4 * (3 * pi**2) ** (2 / 3) * (2 * n).pow(8 / 3))
        enhancement = 1 + self.kappa - self.kappa / (1 + self.mu * s2 / self.kappa)
        ec = gas.correlation(total, zeta)
        phi = 0.5 * ((1 + zeta).pow(2 / 3) + (1 - zeta).pow(2 / 3))
        phi3 = phi.pow(3)
        gradient = sigma[0] + 2 * sigma[1] + sigma[2]
        y = gradient * (pi / (16 * (3 * pi**2) ** (1 / 3))) / (phi.square() * total.pow(7 / 3))
        ratio = self.beta / self.gamma
        a = ratio / torch.expm1(-ec / (self.gamma * phi3))
        h = self.gamma * phi3 * torch.log1p(ratio * y * (1 + a * y) / (1 + a * y * (1 + a * y)))
        return 0.5 * (gas.exchange(2 * n) * enhancement).sum(0) + total * (ec + h)

    def derivatives(self, n: Tensor, sigma: Tensor | None = None, tau: Tensor | None = None) -> EnergyDensity:
        """Closed forms for one density: a third of the time of automatic differentiation."""
        if len(n) == 2:
            return automatic(self, n, sigma)
        assert sigma is not None
        e, by_density, by_sigma = self._closed(n[0], sigma[0])
        return EnergyDensity(e, by_density[None], by_sigma[None])

    def _closed(self, n: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        third = n.pow(1 / 3)
        # exchange: e_x^LDA F(s^2), s^2 = sigma / (4 kF^2 n^2)
        inverse_n2 = 1 / (n * n)
        s2_over_sigma = inverse_n2 / (4 * (3 * pi**2) ** (2 / 3)) / (third * third)
        s2 = s2_over_sigma * sigma
        damp = 1 / (1 + (self.mu / self.kappa) * s2)
        f = 1 + self.kappa - self.kappa * damp
        df = self.mu * damp * damp
        c = gas.SLATER
        ex_lda = c * third * n
        e = ex_lda * f
        dn = c * third * (4 / 3 * f - 8 / 3 * s2 * df)
        dsigma = ex_lda * df * s2_over_sigma
        # correlation: n (ec + H(t^2, A)), t^2 = sigma / (4 ks^2 n^2), ks^2 = 4 kF / pi
        ec, dec = gas.correlation_with_derivative(n)
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


LDA = LocalDensity()
PBE = GradientCorrected()
#: Perdew et al., Phys. Rev. Lett. 100, 136406 (2008)
PBESOL = GradientCorrected(beta=0.046, mu=10 / 81)

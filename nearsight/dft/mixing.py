"""Mixing: the next input of a self-consistency cycle from those before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nearsight.dft.mesh import Mesh


@dataclass(frozen=True)
class Kerker:
    """Damps long waves of a density residual by G^2 / (G^2 + q0^2): metals in large cells slosh without it. q0 [1/Bohr].

    Kerker, Phys. Rev. B 23, 3082 (1981).  Choosing it makes the density, not the Hamiltonian, the mixed quantity.
    """

    q0: float = 0.8

    def __call__(self, residual: Tensor, mesh: Mesh) -> Tensor:
        """residual [components, x, y, z]"""
        inverse_g2 = replace(mesh, sheet=False).coulomb_kernel / (
            4 * torch.pi
        )  # 0 at G = 0: the charge is kept as it is
        factor = 1 / (1 + self.q0**2 * inverse_g2)
        return torch.stack([torch.fft.irfftn(torch.fft.rfftn(r) * factor, s=mesh.shape) for r in residual])


@dataclass(frozen=True)
class Pulay:
    """Direct inversion in the iterative subspace: Pulay, Chem. Phys. Lett. 73, 393 (1980).

    weight: share of the (preconditioned) residual that is added.  history: residuals kept.
    kerker: mix the density with that preconditioner; None mixes the Hamiltonian.
    """

    weight: float = 0.4
    history: int = 8
    kerker: Kerker | None = None


@dataclass
class PulayState:
    """The inputs and residuals so far (mutable: one self-consistency cycle's own)."""

    settings: Pulay
    inputs: list[Tensor] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)

    def next(self, x: Tensor, residual: Tensor) -> Tensor:
        """x + ...: the combination of inputs whose residual is least, moved along that residual."""
        self.inputs.append(x)
        self.residuals.append(residual)
        if len(self.inputs) > self.settings.history:
            del self.inputs[0], self.residuals[0]
        flat = torch.stack([r.flatten() for r in self.residuals])
        size = len(flat)
        if size == 1:
            return x + self.settings.weight * residual
        scale = flat[-1].norm()
        gram = (flat / scale) @ (flat / scale).T
        border = torch.cat(
            [
                torch.cat([gram, gram.new_ones(size, 1)], 1),
                torch.cat([gram.new_ones(1, size), gram.new_zeros(1, 1)], 1),
            ]
        )
        right = gram.new_zeros(size + 1)
        right[-1] = 1.0
        c = torch.linalg.lstsq(border.cpu(), right.cpu()[:, None], driver="gelsd").solution[:size, 0].to(x)
        mixed = sum(ci * xi for ci, xi in zip(c, self.inputs, strict=True))
        step = sum(ci * ri for ci, ri in zip(c, self.residuals, strict=True))
        return mixed + self.settings.weight * step

"""Mixing: the next input of a self-consistency cycle from those before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import real_parts
from nearsight.dft.dielectric import Dielectric
from nearsight.integrals.mesh import Mesh


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

    weight: share of the (preconditioned) residual that is added: 1 suits the dielectric operator, 0.4 none.
    history: residuals kept.  kerker: mix the density with that preconditioner; None mixes the Hamiltonian.
    dielectric: preconditioner of the Hamiltonian's residual; without effect on the density's.
    """

    weight: float = 0.4
    history: int = 8
    kerker: Kerker | None = None
    dielectric: Dielectric | None = None


@dataclass
class PulayState:
    """The inputs and residuals so far (mutable: one self-consistency cycle's own)."""

    settings: Pulay
    inputs: list[Tensor] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)

    def forget(self) -> None:
        """Leave what came before out of what comes."""
        self.inputs.clear()
        self.residuals.clear()

    def next(self, x: Tensor, residual: Tensor, precondition: Callable[[Tensor], Tensor] = lambda r: r) -> Tensor:
        """x + ...: the combination of inputs whose residual is least, moved along that residual, preconditioned."""
        self.add(x, residual)
        return self.combined(self.products().tolist(), precondition)

    def add(self, x: Tensor, residual: Tensor) -> None:
        """An input and the residual that it has."""
        self.inputs.append(x)
        self.residuals.append(residual)
        if len(self.inputs) > self.settings.history:
            del self.inputs[0], self.residuals[0]

    def products(self) -> Tensor:
        """What `combined` has to know of the residuals, as one vector on their device, that it may be fetched with others.

        Of the m residuals r_j before the newest r: lengths |r_j - r| [m], then products of those differences, each in units
        of its length, among themselves [m, m], and with -r [m].
        """
        newest = real_parts(self.residuals[-1])
        if len(self.residuals) == 1:
            return newest.new_zeros(0)
        before = torch.stack([(real_parts(r) - newest).flatten() for r in self.residuals[:-1]])
        lengths = before.norm(dim=1)
        # in unit columns a residual that fell by many orders leaves the others harmless
        columns = before / torch.where(lengths > 0, lengths, torch.ones_like(lengths))[:, None]
        return torch.cat([lengths, (columns @ columns.T).flatten(), -(columns @ newest.flatten())])

    def combined(self, products: Sequence[float], precondition: Callable[[Tensor], Tensor] = lambda r: r) -> Tensor:
        """The next input, from what `products` gave: min |r + sum_j g_j (r_j - r)|."""
        x, residual, m = self.inputs[-1], self.residuals[-1], len(self.residuals) - 1
        known = np.array(products)
        lengths, gram, right = known[:m], known[m : m + m * m].reshape(m, m), known[m + m * m :]
        moves = np.flatnonzero(lengths > 0)
        if not len(moves):
            return x + self.settings.weight * precondition(residual)
        weights = np.linalg.lstsq(gram[np.ix_(moves, moves)], right[moves], rcond=1e-12)[0] / lengths[moves]
        mixed, step = x, residual
        for weight, n in zip(weights.tolist(), moves.tolist(), strict=True):
            mixed = mixed + weight * (self.inputs[n] - x)
            step = step + weight * (self.residuals[n] - residual)
        return mixed + self.settings.weight * precondition(step)

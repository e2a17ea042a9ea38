"""The uniform real-space mesh: its points, the Poisson equation, and spheres of its points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, pi, prod, sqrt

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.memory import check_room
from nearsight.integrals.waves import squared_length, wave_numbers


def fft_size(n: float, multiple: int = 2) -> int:
    """The smallest multiple of `multiple` that is >= n and a product of 2, 3 and 5."""
    size = multiple * max(1, ceil(n / multiple - 1e-9))
    while True:
        rest = size
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return size
        size += multiple


def mesh_shape(cell: Tensor, cutoff_ry: float) -> tuple[int, int, int]:
    """Points along each lattice vector so that planes are at most pi / sqrt(E_cut) Bohr apart (E_cut in Ry)."""
    if not cutoff_ry > 0:
        raise BadInput(f"mesh cutoff {cutoff_ry:g} Ry: it must be positive (200-400 Ry is usual)")
    heights = 1 / torch.linalg.inv(cell.double()).norm(dim=0)
    wanted = [h * sqrt(cutoff_ry) / pi for h in heights.tolist()]
    check_room(prod(max(1.0, n) for n in wanted) * 8, f"a mesh of {cutoff_ry:g} Ry in this cell", REMEDY)
    a, b, c = (fft_size(n) for n in wanted)
    return a, b, c


_COARSEST = 9.0  # Ry: of a mesh of given shape, a little less than the least cutoff that a setting may have


def given_shape(cell: Tensor, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """A mesh that was asked for by its points. Raises BadInput for one on which no density can stand."""
    heights = (1 / torch.linalg.inv(cell.double()).norm(dim=0)).tolist()
    coarsest = min((pi * n / h) ** 2 for n, h in zip(shape, heights, strict=True))
    if coarsest < _COARSEST:
        least = "x".join(str(n) for n in mesh_shape(cell, 100.0))
        raise BadInput(
            f"a mesh of {'x'.join(map(str, shape))} points is of {coarsest:.2g} Ry in this cell, on which no density "
            f"can stand: 100 Ry are {least} (--mesh-cutoff chooses it)"
        )
    return shape


REMEDY = "take a lower mesh cutoff, a smaller cell or less vacuum"

# d/dm of a function on integer points, antisymmetric: exact for polynomials up to sixth degree (SIESTA's stencil for GGA)
STENCIL = (3 / 4, -3 / 20, 1 / 60)


@dataclass(frozen=True, eq=False)
class Mesh:
    """shape: points along each lattice vector.  cell: [3, 3] rows, Bohr.  Point m stands at (m / shape) @ cell.

    sheet: the electrostatics is that of a sheet, periodic along the first two lattice vectors only (see coulomb_kernel).
    """

    shape: tuple[int, int, int]
    cell: Tensor
    sheet: bool = False

    __repr__ = one_line

    @property
    def size(self) -> int:
        """Number of points."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @cached_property
    def detached(self) -> Mesh:
        """The mesh without the derivatives that its cell may carry."""
        return Mesh(self.shape, self.cell.detach(), self.sheet) if self.cell.requires_grad else self

    @cached_property
    def volume_element(self) -> Tensor:
        """[Bohr^3]"""
        return torch.linalg.det(self.cell).abs() / self.size

    @cached_property
    def steps(self) -> Tensor:
        """Vectors from a point to its neighbours, rows [3, 3]."""
        return self.cell / self.cell.new_tensor(self.shape)[:, None]

    @cached_property
    def inverse_steps(self) -> Tensor:
        """d m_i / d r_a [a, i]."""
        return torch.linalg.inv(self.steps)

    @cached_property
    def coulomb_kernel(self) -> Tensor:
        """4 pi / G^2 on the half-complex FFT grid, zero at G = 0 (a neutralising background).

        For a sheet the interaction is cut off at half the height of the cell, which takes away all images along the third
        vector and with them the field between them that a dipole makes: 4 pi / G^2 [1 - exp(-G_xy c/2) cos(G_z c/2)]
        (Ismail-Beigi, Phys. Rev. B 73, 233103 (2006)); exact for densities thinner than c/2.
        """
        inverse = torch.linalg.inv(self.cell)
        g2 = squared_length(self.shape, inverse)
        home = torch.zeros_like(g2, dtype=torch.bool)
        home[0, 0, 0] = True
        kernel = 4 * torch.pi / torch.where(home, torch.inf, g2)
        if not self.sheet:
            return kernel
        normal = torch.linalg.cross(self.cell[0], self.cell[1])
        normal = normal / normal.norm()
        half = 0.5 * (self.cell[2] @ normal).abs()
        x, y, z = wave_numbers(self.shape, self.cell)
        along = 2 * torch.pi * inverse.T @ normal
        g_z = (along[0] * x[:, None] + along[1] * y)[:, :, None] + along[2] * z
        parallel = (g2 - g_z.square()).clamp(min=1e-30).sqrt()
        cut = 1 - torch.exp(-parallel * half) * torch.cos(g_z * half)
        return torch.where(home, -2 * torch.pi * half.square(), kernel * cut)

    def hartree_potential(self, density: Tensor) -> Tensor:
        """V_H(r) with laplacian V_H = -4 pi n, zero average; n [x, y, z] in 1/Bohr^3, V in Ha."""
        return torch.fft.irfftn(torch.fft.rfftn(density) * self.coulomb_kernel, s=self.shape)

    def sphere(self, center: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """Points within `radius` of a position: indices [n, 3], not folded into the cell, and vectors from it [n, 3]."""
        middle = center @ self.inverse_steps
        reach = radius * self.inverse_steps.norm(dim=0)
        low, high = torch.ceil(middle - reach).long().tolist(), torch.floor(middle + reach).long().tolist()
        device = self.cell.device
        axes = [torch.arange(a, b + 1, device=device) for a, b in zip(low, high, strict=True)]
        # r = sum_i (m_i - middle_i) step_i: built axis by axis, so that the full box is never held as vectors
        parts = [(a.to(middle) - middle[x])[:, None] * self.steps[x] for x, a in enumerate(axes)]
        plane = parts[0][:, None] + parts[1][None]
        vectors = plane[:, :, None] + parts[2]
        inside = (vectors.square().sum(-1) < radius * radius).nonzero()
        index = torch.stack([axes[x][inside[:, x]] for x in range(3)], -1)
        return index, vectors[inside[:, 0], inside[:, 1], inside[:, 2]]

    def fold(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Flat index [n] of points [n, 3] folded into the cell, and the cell [n, 3] each came from."""
        shape = torch.tensor(self.shape, device=index.device)
        cell = torch.div(index, shape, rounding_mode="floor")
        inside = index - cell * shape
        return (inside[:, 0] * self.shape[1] + inside[:, 1]) * self.shape[2] + inside[:, 2], cell

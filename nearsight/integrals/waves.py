"""Sums over the waves of a mesh, of which real fields need half, and how they move with the cell."""

from __future__ import annotations

import torch
from torch import Tensor


def wave_numbers(shape: tuple[int, int, int], like: Tensor) -> list[Tensor]:
    """Whole numbers of waves m along each axis; along the last one those of real fields, from 0 up."""
    axes = [torch.fft.fftfreq(n, 1 / n, device=like.device) for n in shape[:2]]
    axes.append(torch.fft.rfftfreq(shape[2], 1 / shape[2], device=like.device))
    return [a.to(like) for a in axes]


def half_spectrum(shape: tuple[int, int, int], f: Tensor) -> Tensor:
    """f [x, y, half of z] counted twice where the half that is left out has the same, for sums over all waves; in place."""
    last = (shape[2] - 1) // 2
    f[..., 1 : last + 1] *= 2
    return f


def squared_length(shape: tuple[int, int, int], inverse: Tensor) -> Tensor:
    """|G|^2 [x, y, half of z] of G_i = 2 pi sum_k inverse_ik m_k; inverse: of the cell."""
    x, y, z = wave_numbers(shape, inverse)
    metric = (2 * torch.pi) ** 2 * inverse.T @ inverse
    plane = metric[0, 0] * x[:, None] ** 2 + 2 * metric[0, 1] * x[:, None] * y + metric[1, 1] * y**2
    tilt = 2 * (metric[0, 2] * x[:, None] + metric[1, 2] * y)
    return plane[:, :, None] + z * (tilt[:, :, None] + metric[2, 2] * z)


def by_inverse_cell(by_g2: Tensor, inverse: Tensor) -> Tensor:
    """sum_G q d(G^2) / d(inverse cell) [3, 3] of slopes q [x, y, half of z], summed as they are; shape as `squared_length`.

    d(G^2) / d(inverse_ij) = 2 (2 pi)^2 sum_k inverse_ik m_k m_j.
    """
    shape = (by_g2.shape[0], by_g2.shape[1], 2 * (by_g2.shape[2] - 1))
    x, y, z = wave_numbers(shape, inverse)
    over_z = by_g2 @ torch.stack([torch.ones_like(z), z, z * z], 1)  # [x, y, 3]
    ones = torch.ones_like(x), torch.ones_like(y)
    plain, first, second = over_z.unbind(-1)
    moments = inverse.new_zeros(3, 3)
    moments[0, 0], moments[1, 1], moments[2, 2] = (
        (x * x) @ plain @ ones[1],
        ones[0] @ plain @ (y * y),
        ones[0] @ second @ ones[1],
    )
    moments[0, 1] = moments[1, 0] = x @ plain @ y
    moments[0, 2] = moments[2, 0] = x @ first @ ones[1]
    moments[1, 2] = moments[2, 1] = ones[0] @ first @ y
    return 2 * (2 * torch.pi) ** 2 * inverse @ moments

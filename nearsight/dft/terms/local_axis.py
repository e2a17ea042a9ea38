"""Gradient corrections where moments turn from point to point: spins are counted along the local axis of the moment.

    n_s = (n + s |m|) / 2,    grad n_s = (grad n + s grad |m|) / 2,    s = +1, -1.

Two ways to take grad |m| on a mesh; for moments along one axis both are the collinear functional, also where they change sign.

- `variational`: finite differences of |m|, made smooth where it vanishes, or of u.m where all moments lie along one axis u
  (core/spin.py). All else is the derivative of that: the potential is along the moment, exerts no torque, and is bounded.
- `siesta`, in this file: u . grad m with u = m / |m| at each point, the diagonal of the gradient of the density matrix in the
  frame of the moment. As in SIESTA, u is not differentiated, in the potential as in forces: the potential has a part across
  the moment and is the derivative of no energy, so that forces have an error where moments turn (some 40 to 70 meV/Angstrom in
  a triangle of H), and moments without symmetry may creep for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from nearsight.xc.functionals import CACHED_POINTS, Functional, differentiable

Axes = Literal["variational", "siesta"]
NO_MOMENT = 1e-14  # moments below have no direction [mu_B/Bohr^3]


def length(m: Tensor) -> Tensor:
    """|m| of vectors [3, ...], differentiable, with no slope where it vanishes."""
    squared = m.square().sum(0)
    there = squared > NO_MOMENT**2
    return torch.where(there, torch.where(there, squared, 1.0).sqrt(), 0.0)


def direction(m: Tensor) -> Tensor:
    """m / |m| of vectors [3, ...], zero where there is none; not differentiated."""
    m = m.detach()
    size = length(m)
    return m / torch.where(size > 0, size, 1.0)


def in_local_frame(channels: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """n [2, points] and sigma [3, points] along an axis that is held, of channels [4, points] and gradients [4, 3, points]."""
    axis = direction(channels[1:])
    half = 0.5 * length(channels[1:])
    along = 0.5 * (axis[:, None] * gradients[1:]).sum(0)
    up, down = 0.5 * gradients[0] + along, 0.5 * gradients[0] - along
    sigma = torch.stack([up.square().sum(0), (up * down).sum(0), down.square().sum(0)])
    return torch.stack([0.5 * channels[0] + half, 0.5 * channels[0] - half]), sigma


def energy_of_held_axes(functional: Functional, channels: Tensor, gradients: Tensor) -> Tensor:
    """e [points] in Ha/Bohr^3 of channels [4, points] with gradients [4, 3, points]; differentiable, but for the axes."""
    return differentiable(functional, *in_local_frame(channels, gradients))


@torch.enable_grad()
def derivatives_of_held_axes(
    functional: Functional, channels: Tensor, gradients: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """e [points] and its derivatives in the channels [4, points] and their gradients [4, 3, points], without a graph."""
    size = channels.shape[-1] if channels.device.type != "cpu" else CACHED_POINTS
    found: Sequence[tuple[Tensor, ...]] = [
        _derivatives(functional, c, g)
        for c, g in zip(channels.detach().split(size, -1), gradients.detach().split(size, -1), strict=True)
    ]
    e, by_channels, by_gradients = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
    return e, by_channels, by_gradients


def _derivatives(functional: Functional, channels: Tensor, gradients: Tensor) -> tuple[Tensor, ...]:
    inputs = (channels.requires_grad_(), gradients.requires_grad_())
    e = energy_of_held_axes(functional, *inputs)
    return e.detach(), *torch.autograd.grad(e.sum(), inputs)

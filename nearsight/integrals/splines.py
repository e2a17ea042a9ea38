"""Cubic splines on uniform radial grids, evaluated in torch (differentiable in the argument)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.species import RadialFunction


@dataclass(frozen=True, eq=False)
class UniformSplines:
    """Several functions on one uniform grid from 0: coefficients [intervals, functions, 4] of (1, t, t^2, t^3), t in 0..1.

    Zero at and beyond `spacing * intervals`.
    """

    coefficients: Tensor
    spacing: float

    __repr__ = one_line

    @staticmethod
    def through(values: np.ndarray, spacing: float, even: bool = True) -> UniformSplines:
        """Splines through values [functions, points]: zero slope at the origin if `even`, zero curvature at the end.

        These are the end conditions of SIESTA's radial tables, so that the same table means the same function.
        """
        x = spacing * np.arange(values.shape[1])
        start = (1, np.zeros(len(values))) if even else (2, np.zeros(len(values)))
        c = CubicSpline(x, values, axis=1, bc_type=(start, (2, np.zeros(len(values))))).c  # [4, intervals, functions]
        powers = spacing ** np.arange(4)
        ordered = np.stack([c[3 - p] * powers[p] for p in range(4)], -1)
        return UniformSplines(torch.as_tensor(np.ascontiguousarray(ordered)), spacing)

    @staticmethod
    def of(functions: tuple[RadialFunction, ...] | list[RadialFunction]) -> list[UniformSplines]:
        """One object for each function (their grids differ): R(r)/r^l."""
        return [UniformSplines.through(f.values[None], f.spacing) for f in functions]

    @property
    def cutoff(self) -> float:
        """Where the grid ends [Bohr]."""
        return self.spacing * len(self.coefficients)

    def __call__(self, r: Tensor) -> Tensor:
        """Values [..., functions] at radii r [...]."""
        x = r / self.spacing
        index = x.detach().long().clamp(0, len(self.coefficients) - 1)
        t = (x - index)[..., None]
        c = self.coefficients.to(r)[index]
        value = c[..., 0] + t * (c[..., 1] + t * (c[..., 2] + t * c[..., 3]))
        return torch.where((r < self.cutoff)[..., None], value, torch.zeros_like(value))

    def slope_over_r(self, r: Tensor) -> Tensor:
        """f'(r) / r of the first function at radii r [points] before the end; 0 at the origin."""
        x = r / self.spacing
        index = x.long().clamp_(max=len(self.coefficients) - 1)
        t = x - index
        c = self._slopes.index_select(0, index)
        slope = c[:, 0] + t * (c[:, 1] + t * c[:, 2])
        return torch.where(r < 1e-12, 0.0, slope / r)

    @cached_property
    def _slopes(self) -> Tensor:
        """Coefficients of f' of the first function [intervals, 3]."""
        powers = torch.arange(1, 4, device=self.coefficients.device)
        return self.coefficients[:, 0, 1:] * powers / self.spacing

    def to(self, *args: Any, **kwargs: Any) -> UniformSplines:
        """The same on a device or of a type, with the arguments of `Tensor.to`."""
        moved = self.coefficients.to(*args, **kwargs)
        return self if moved is self.coefficients else UniformSplines(moved, self.spacing)


def radial_values(function: RadialFunction, r: np.ndarray) -> np.ndarray:
    """R(r) / r^l of a tabulated function at any radii, by the same spline as everywhere else; zero beyond the cutoff."""
    spline = CubicSpline(function.r, function.values, bc_type=((1, 0.0), (2, 0.0)))
    return np.where(r < function.cutoff, spline(np.minimum(r, function.cutoff)), 0.0)

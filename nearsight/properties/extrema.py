"""Where a band is highest or lowest: from a mesh to the place itself, by the gradients of the levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.properties.kdotp import Lattice

Objective = Callable[[Tensor, Tensor], tuple[float, Tensor]]


@dataclass(frozen=True, eq=False)
class Search:
    """Minimisation over k of a function of levels e [s, n] and velocities v [3, s, n] at one k-point.

    axes: lattice directions along which k moves.  step: of the mesh that the starts are from, fractional [3].
    """

    lattice: Lattice
    axes: list[int]
    step: Tensor

    __repr__ = one_line

    def minimum(self, objective: Objective, values: Tensor, points: Tensor, starts: int = 3) -> tuple[Tensor, float]:
        """k [3] and the lowest value found, from the best of points [n, 3] with known values [n].

        Beside the best points, one off the best by a part of a step in no special direction: an extremum by symmetry may be
        a saddle, with the true ones around it.
        """
        chosen: list[Tensor] = []
        for n in values.argsort().tolist():
            k = points[n]
            if all(float(((k - c - (k - c).round()) / self.step).abs().max()) > 1.5 for c in chosen):
                chosen.append(k)
            if len(chosen) == starts or not self.axes:
                break
        best, lowest = chosen[0], float(values.min())
        if not self.axes:
            return best, lowest
        for start in [*chosen, chosen[0] + self.step * torch.tensor([0.31, 0.17, 0.23], dtype=torch.float64)]:
            k, value = self._descend(objective, start)
            if value < lowest - 1e-9:  # a place of higher symmetry is kept where another is not lower
                best, lowest = k, value
        return best - torch.floor(best + 0.5 - 1e-9), lowest

    def _descend(self, objective: Objective, start: Tensor) -> tuple[Tensor, float]:
        reciprocal = self.lattice.structure.reciprocal.detach().cpu().double()
        seen: list[tuple[float, Tensor]] = []
        scale = self.step[self.axes].numpy()  # in units of a step of the mesh

        def function(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            k = start.clone()
            k[self.axes] += torch.from_numpy(x * scale)
            energies, coefficients = self.lattice.states(k)
            v = self.lattice.velocities(k[None], energies[:, None], coefficients[:, None])[:, :, 0]
            value, gradient = objective(energies.cpu(), v.cpu())
            seen.append((value, k))
            return value, (reciprocal @ gradient)[self.axes].numpy() * scale

        minimize(function, np.zeros(len(self.axes)), jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 60})
        value, k = min(seen, key=lambda s: s[0])
        return k, value

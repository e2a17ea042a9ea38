"""How wrong predicted matrix elements are, in meV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nearsight.core.units import HARTREE_EV

MEV = 1000 * HARTREE_EV  # 1 Ha in meV


def gauge_shifts(error: Tensor, overlap: Tensor, values: Sequence[int]) -> Tensor:
    """mu S of each structure that brings error + mu S nearest to zero in least squares [size].

    H and H + mu S are the same physics: the zero of energy of a periodic system has no meaning.
    """
    parts = zip(error.split(list(values)), overlap.split(list(values)), strict=True)
    return torch.cat([-(e * s).sum() / (s * s).sum() * s for e, s in parts])


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a loss says of predicted elements. value: meV.  gradient: its derivative in the elements [size]."""

    value: float
    gradient: Tensor


@dataclass(frozen=True)
class BlockLoss:
    """Mean over all stored elements of |error| (mae), error^2 (mse, meV^2), or MAE and root mean square averaged (mixed).

    gauge_invariant: the error is taken after the best shift H + mu S of each structure.
    """

    kind: Literal["mae", "mse", "mixed"] = "mae"
    gauge_invariant: bool = False

    def __call__(self, predicted: Tensor, target: Tensor, overlap: Tensor, values: Sequence[int]) -> Tensor:
        """predicted, target [size], Ha; overlap [size]; values: elements of each structure. -> scalar."""
        error = (predicted - target) * MEV
        if self.gauge_invariant:
            error = error + gauge_shifts(error, overlap, values)
        if self.kind == "mae":
            return error.abs().mean()
        if self.kind == "mse":
            return error.square().mean()
        return 0.5 * (error.abs().mean() + (error.square().mean() + 1e-6).sqrt())

    def judge(self, predicted: Tensor, target: Tensor, overlap: Tensor, values: Sequence[int]) -> Judgement:
        """The loss with its derivative in `predicted`."""
        free = predicted.detach().requires_grad_()
        with torch.enable_grad():
            loss = self(free, target, overlap, values)
        [gradient] = torch.autograd.grad(loss, free)
        return Judgement(float(loss.detach()), gradient)

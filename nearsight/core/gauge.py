"""The zero of energy, which a periodic system does not have: H and H + mu S are the same physics."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from torch import Tensor


def gauge_shift(difference: Tensor, overlap: Tensor) -> float:
    """The mu that minimises sum |difference + mu overlap|, in the unit of `difference`; both [components, size].

    For real matrices the minimum of this convex, piecewise linear function is the median of -difference / overlap with
    weights |overlap|.
    """
    d, s = difference[overlap != 0].cpu(), overlap[overlap != 0].cpu()
    if difference.is_complex():
        scale = float(d.abs().max()) / float(s.abs().max()) + 1e-12
        cost = lambda mu: float((d + mu * s).abs().sum())  # noqa: E731
        return float(minimize_scalar(cost, bracket=(-scale, scale), tol=1e-12).x)
    ratio, weight = (-d / s).numpy(), s.abs().numpy()
    order = np.argsort(ratio)
    cumulative = np.cumsum(weight[order])
    return float(ratio[order][np.searchsorted(cumulative, cumulative[-1] / 2)])

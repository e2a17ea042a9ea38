"""A smooth switch from one to zero along the radius."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def switch(r: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """1 before `start`, 0 after `end`, three times continuously differentiable."""
    x = np.clip((r - start) / (end - start), 0.0, 1.0)
    return np.asarray(1 - x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3), dtype=np.float64)

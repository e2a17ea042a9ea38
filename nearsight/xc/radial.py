"""Exchange and correlation of a spherical, spin-unpolarised density: the functionals of crystals, for atoms."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.xc.functionals import functional
from nearsight.xc.gas import FLOOR


def derivatives(
    n: NDArray[np.float64], slope: NDArray[np.float64], xc: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """e_xc, de_xc/dn and de_xc/dn' for n(r) and n'(r) of a spherical density, so that for any change of the density

    dE_xc = 4 pi int r^2 (de/dn dn + de/dn' dn') dr.

    Raises BadInput for an unknown functional.
    """
    chosen = functional(xc)
    inside = n > FLOOR
    density = torch.from_numpy(n[inside])[None]
    gradient = torch.from_numpy(slope[inside])[None]
    found = chosen.derivatives(density, gradient.square() if chosen.uses_gradient else None)
    e, by_density, by_slope = np.zeros_like(n), np.zeros_like(n), np.zeros_like(n)
    e[inside] = found.e.numpy()
    by_density[inside] = found.by_density[0].numpy()
    if found.by_sigma is not None:
        by_slope[inside] = (2 * gradient * found.by_sigma)[0].numpy()
    return e, by_density, by_slope

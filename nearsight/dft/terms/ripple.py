"""Which elements make the energy of exchange and correlation ripple as their atoms move against the mesh.

The sum of e_xc(r) over mesh points differs from its integral by the waves of e_xc whose length is a step of the mesh. Those of
an atom stem from the steep surroundings of its nucleus, which other atoms hardly change: the free atom tells them,

    ripple(K) = 4 pi int r^2 e_xc(n(r), n'(r)^2) sin(K r) / (K r) dr,   K = 2 pi / step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from nearsight.core.species import Species
from nearsight.integrals.splines import radial_values
from nearsight.xc.functionals import Functional

WAVES = (28.0, 31.0, 34.6)  # 1/Bohr: of meshes of 200, 250 and 300 Ry
LARGEST = 1e-7  # Ha; six such waves, above and below, are 0.03 meV


@lru_cache(maxsize=256)
def ripples(species: Species, functional: Functional) -> bool:
    """Whether the free atom of a species ripples by more than 1e-7 Ha on meshes of 200 to 300 Ry.

    It does not depend on the mesh at hand, so that the energy is one function of the cell.
    """
    end = species.orbital_cutoff
    r = np.linspace(0, end, int(end / 0.0005) + 2)
    n = np.zeros_like(r)
    for o in species.orbitals:
        if o.population > 0:
            n += o.population / (4 * np.pi) * (radial_values(o.radial, r) * r**o.l) ** 2
    if species.core_density is not None:
        n += radial_values(species.core_density, r)
    slope = CubicSpline(r, n)(r, 1)
    inside = n > 1e-10
    density, sigma = (torch.from_numpy(x[inside])[None] for x in (n, slope**2))
    e = np.zeros_like(r)
    with torch.no_grad():
        e[inside] = functional.energy(density, sigma if functional.uses_gradient else None).numpy()
    weight = 4 * np.pi * r * r * (r[1] - r[0]) * e
    return any(abs(float(np.sinc(k * r / np.pi) @ weight)) > LARGEST for k in WAVES)

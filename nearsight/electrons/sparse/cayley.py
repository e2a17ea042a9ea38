"""Densities of states of a window of energies, by moments of a unitary map: few of them, where the spectrum is wide.

Chebyshev moments (kpm.py) resolve all of a spectrum alike, which of S^-1 H is some 150 eV wide. With z = sigma + i eta

    B = (H - z S)^-1 (H - z* S) = 1 + 2 i eta (H - z S)^-1 S,      B c = exp(i phi) c,      phi = 2 arccot((E - sigma) / eta)

maps energies to the circle, the window sigma +- eta to its far half and all others to the near one, through infinity. Functions
of E that are as narrow as w have 4 eta / w Fourier coefficients there, and with random vectors x of covariance S^-1

    tau_n = E[x^H S B^n x] = Tr B^n,          Tr g = sum_n g_n tau_n,          g(phi) = sum_n g_n exp(i n phi).

A step is a product with S and a solve with one factor of the complex symmetric H - z S. Two moments come from each, since
B^T S = S B for real H and S:  x^T S B^(m+n) x = (S B^m x)^T B^n x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from nearsight.core.display import one_line
from nearsight.core.errors import NotConverged, Unavailable
from nearsight.core.memory import available, check_room
from nearsight.electrons.sparse.kpm import CHUNK, MARGIN, RESOLVED, SPARE, Series, spectrum_ends
from nearsight.electrons.sparse.pardiso import SYMMETRIC, Pardiso, library
from nearsight.electrons.sparse.pencil import Pencil, SparseMatrix

Array = NDArray[Any]
Told = Callable[[int, int], None]
LEAST = 40  # moments, for the return through infinity
REACH = 5.0  # widths beyond the edges, that Gaussians of levels there reach into the window
WIDEST = 1.5  # Ha: of a window; solves are complex, which a spectrum of some 150 eV must make up for
DRIFT = 2e-3  # of |B^n x|, that the solves may leave


@dataclass(frozen=True, eq=False)
class CayleyMoments:
    """tau_n [n, vectors] of each random vector, complex.  sigma, eta: of the map [Ha]."""

    values: Array
    sigma: float
    eta: float

    __repr__ = one_line

    def below(self, edges: Array, width: float) -> Array:
        """Levels of the window below ascending energies in it [E], each a Gaussian of a width [Ha]: [vectors, 1, E].

        Those far below the window are counted in part, the same for all edges: differences are right.
        """
        count = len(self.values)
        nodes = 4 * count
        phi = 2 * np.pi * (np.arange(nodes) + 0.5) / nodes
        e = self.sigma + self.eta / np.tan(0.5 * phi)
        fading = 0.5 * scipy.special.erfc((phi - 1.75 * np.pi) / (np.sqrt(2) * np.pi / 20))
        tau = self.values * np.exp(-1j * np.pi * np.arange(count) / nodes)[:, None]
        tau[0] *= 0.5
        found = np.empty((tau.shape[1], len(edges)))
        for at in range(0, len(edges), CHUNK):
            g = 0.5 * scipy.special.erfc((e - edges[at : at + CHUNK, None]) / (np.sqrt(2) * width)) * fading
            found[:, at : at + CHUNK] = 2 * (np.fft.fft(g, axis=1)[:, :count] @ tau).real.T / nodes
        return found[:, None]


def moments_for(window: tuple[float, float], width: float) -> int:
    """How many moments Gaussians of a width take in a window, all in Ha; an even number."""
    count = max(LEAST, int(np.ceil(RESOLVED * _reach(window, width) / width)) + 2)
    return count + count % 2


def factor_of_window(pencil: Pencil, window: tuple[float, float]) -> Pardiso | None:
    """An analysed factor for the moments of a window [Ha], or None where those of the whole spectrum are to be taken.

    It takes real H and S (Gamma), MKL, a window that is narrow enough to gain by it, and memory for the factor.
    """
    if pencil.complex or library() is None or window[1] - window[0] > WIDEST:
        return None
    upper = pencil.hamiltonian.pattern.upper
    try:
        factor = Pardiso(upper.size, upper.indptr, upper.indices, upper.block, SYMMETRIC, single=True)
    except Unavailable:
        return None
    return factor if factor.memory <= SPARE * available() else None


def moments_of_window(
    pencil: Pencil,
    factor: Pardiso,
    window: tuple[float, float],
    width: float,
    vectors: int,
    seed: int = 0,
    told: Told | None = None,
) -> CayleyMoments:
    """Moments of real H c = E S c for levels of a window [Ha] that are Gaussians of a width (standard deviation) [Ha].

    factor: of `factor_of_window`.  vectors: random ones.  told: of how many steps are done.
    Raises NotConverged where the solves leave too much.
    """
    n, overlap = pencil.size, pencil.overlap
    sigma, eta = 0.5 * (window[0] + window[1]), _reach(window, width)
    count = moments_for(window, width)
    what = f"{vectors} random vectors of {n} rows"
    check_room(8.0 * 10 * n * vectors, what, "take fewer --vectors")
    factor.factorise((pencil.shifted(sigma) - 1j * eta * overlap.upper()).astype(np.complex64))
    low, high = spectrum_ends(lambda v: overlap @ v, n, overlap.data.dtype)
    half = Series(overlap, lambda x: x**-0.5, low * (1 - 5 * MARGIN), high * (1 + MARGIN))
    x = half(np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, vectors)))
    narrow = SparseMatrix(overlap.pattern, overlap.data.astype(np.float32))

    def times(y: Array) -> Array:
        """S y of a complex y, by one product with a real matrix."""
        both = narrow @ np.concatenate([y.real, y.imag], 1)
        return np.asarray(both[:, :vectors] + 1j * both[:, vectors:])

    def product(a: Array, b: Array) -> Array:
        return np.asarray(np.einsum("ij,ij->j", a, b, dtype=np.complex128))

    y: Array = x.astype(np.complex64)
    sy: Array = (overlap @ x).astype(np.complex64)
    found = np.zeros((count, vectors), dtype=np.complex128)
    found[0] = product(sy, y)
    steps = count // 2
    for m in range(1, steps + 1):
        before = sy
        y = y + np.complex64(2j * eta) * factor.solve(sy)
        sy = times(y)
        found[2 * m - 1] = product(before, y)
        if 2 * m < count:
            found[2 * m] = product(sy, y)
        if m % 20 == 0 or m == steps:
            drift = np.abs(product(y.conj(), sy) / found[0] - 1).max()
            if not drift <= DRIFT:
                raise NotConverged(f"solves with H - z S leave {drift:.1e} after {m} steps: take a larger --width")
            if told is not None:
                told(m, steps)
    return CayleyMoments(found, sigma, eta)


def _reach(window: tuple[float, float], width: float) -> float:
    """eta [Ha]: half of the window, and what Gaussians of levels outside reach into it."""
    return 0.5 * (window[1] - window[0]) + REACH * width

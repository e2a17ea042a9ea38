"""The kernel polynomial method: densities of states of H c = E S c by Chebyshev moments and stochastic traces, linear in atoms.

After Weisse, Wellein, Alvermann and Fehske, Rev. Mod. Phys. 78, 275 (2006). With A = S^-1 (H - b S) / a, whose spectrum lies
within [-1, 1], and random vectors x of covariance S^-1 (S^-1/2 times signs),

    mu_m = E[x^H S T_m(A) x] = Tr T_m(A),          mu_m^G = E[sum_{i in G} Re (S x)*_i (T_m(A) x)_i]   (Mulliken's share),

y_m = S x_m and x_m = S^-1 y_m go through y_{m+1} = 2 (H - b S)/a x_m - y_{m-1}: one product and one solve a step, in single
precision (what 10^4 steps leave is 1e-3 of the noise of the traces). Without groups two moments come from each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.fft
import scipy.special
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from nearsight.core.display import one_line
from nearsight.core.errors import NearsightError, NotConverged, Unavailable
from nearsight.core.memory import available, check_room
from nearsight.electrons.sparse.factor import Factor, factor_for
from nearsight.electrons.sparse.pencil import Pencil, SparseMatrix

Array = NDArray[Any]
Told = Callable[[int, int], None]
RESOLVED = 4.0  # moments times the width, in units of the half width of the spectrum: exp(-8) of a Gaussian is cut off
CHUNK = 64  # energies at once
BOUNDS = 60  # steps to the ends of a spectrum
MARGIN = 0.01  # by which the spectrum is taken wider
HALF = 1e-7  # of S^-1/2 and S^-1 as series
SPARE = 0.6  # of the free memory that a factor of S may take; else S^-1 is a series
LEFT = 1e-4  # |b - S x| / |b| that a factor of S may leave


@dataclass(frozen=True, eq=False)
class Moments:
    """mu_m [m, groups, vectors] of each random vector, on energies middle + half cos(theta) [Ha]; one group: the whole."""

    values: Array
    middle: float
    half: float

    __repr__ = one_line

    def below(self, edges: Array, width: float) -> Array:
        """Levels below ascending energies [E], each a Gaussian of a width [Ha]: [vectors, groups, E].

        Tr g = sum_m c_m mu_m with the Chebyshev coefficients c_m of g(e) = erfc((e - E) / sqrt 2 w) / 2.
        """
        count, groups, vectors = self.values.shape
        nodes = 2 * count
        e = self.middle + self.half * np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
        mu = self.values.reshape(count, -1).copy()
        mu[0] *= 0.5
        found = np.empty((mu.shape[1], len(edges)))
        for at in range(0, len(edges), CHUNK):
            g = 0.5 * scipy.special.erfc((e - edges[at : at + CHUNK, None]) / (np.sqrt(2) * width))
            found[:, at : at + CHUNK] = (scipy.fft.dct(g, axis=1)[:, :count] @ mu).T / nodes
        return found.reshape(groups, vectors, -1).transpose(1, 0, 2)


class Series:
    """f(S) v as a Chebyshev series on the spectrum of S.  low, high: its ends."""

    def __init__(self, overlap: SparseMatrix, function: Callable[[Array], Array], low: float, high: float) -> None:
        self._matrix, self._middle, self._half = overlap.scipy, 0.5 * (high + low), 0.5 * (high - low)
        degree = 32

        def sampled(x: Any) -> Any:
            return function(self._middle + self._half * x)

        while True:
            c = chebyshev.chebinterpolate(sampled, degree)
            small = abs(c[-degree // 4 :]).max() < HALF * abs(c).max()
            if small or degree > 8192:
                break
            degree *= 2
        if not small:
            raise NearsightError(
                f"S is too ill-conditioned (from {low:.1e} to {high:.1e}) for a series: take a smaller basis"
            )
        self._coefficients = c[: 1 + int(np.flatnonzero(abs(c) > 0.01 * HALF * abs(c).max())[-1])]

    def __call__(self, v: Array) -> Array:
        """f(S) v [rows, m]."""
        c = self._coefficients

        def scaled(x: Array) -> Array:
            return np.asarray((self._matrix @ x - self._middle * x) / self._half)

        before, now = v, scaled(v)
        total = c[0] * before + c[1] * now
        for coefficient in c[2:]:
            before, now = now, 2 * scaled(now) - before
            total += coefficient * now
        return np.asarray(total)


def spectrum_ends(apply: Callable[[Array], Array], size: int, dtype: Any, overlap: Any = None) -> tuple[float, float]:
    """The ends of the spectrum of an operator that is self-adjoint in the inner product of S (None: the plain one)."""
    v = np.random.default_rng(1).standard_normal((size, 1)).astype(dtype)
    before, beta = np.zeros_like(v), 0.0
    alphas: list[float] = []
    betas: list[float] = []
    sv = v if overlap is None else overlap @ v
    norm = float(np.sqrt(np.vdot(v, sv).real))
    v, sv = v / norm, sv / norm
    for _ in range(min(BOUNDS, size)):
        w = apply(v)
        alphas.append(float(np.vdot(sv, w).real))
        w = w - alphas[-1] * v - beta * before
        sw = w if overlap is None else overlap @ w
        beta = float(np.sqrt(max(np.vdot(w, sw).real, 0.0)))
        betas.append(beta)
        if beta < 1e-10 * max(map(abs, alphas)):
            break
        before, v, sv = v, w / beta, sw / beta
    t = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
    theta, y = np.linalg.eigh(t)
    left = betas[-1] * np.abs(y[-1])
    return float(theta[0] - left[0]), float(theta[-1] + left[-1])


class InverseOverlap:
    """S^-1 v and S^-1/2 v: by a factor of S where there is room for one, else as series."""

    def __init__(self, overlap: SparseMatrix) -> None:
        self._overlap = overlap
        own = Pencil(overlap, overlap)
        dtype = overlap.data.dtype
        self._factor = self._factored(own)
        _, high = spectrum_ends(lambda v: overlap @ v, own.size, dtype)
        if self._factor is None:
            low, _ = spectrum_ends(lambda v: overlap @ v, own.size, dtype)
        else:
            low = 1 / spectrum_ends(self._factor.solve, own.size, dtype)[1]
        if not 0 < low < high:
            raise NearsightError("S is not positive definite, or too ill-conditioned: `nearsight check` tells more")
        low, high = low * (1 - 5 * MARGIN), high * (1 + MARGIN)
        self._series = Series(overlap, lambda x: 1 / x, low, high) if self._factor is None else None
        self.half = Series(overlap, lambda x: x**-0.5, low, high)

    def _factored(self, own: Pencil) -> Factor | None:
        try:
            factor = factor_for(own, single=True)
        except Unavailable:
            return None
        if factor.memory > SPARE * available():
            return None
        # H and S are both S here: H - sigma S is S at sigma 0
        factor.factorise(own, 0.0)
        b = np.random.default_rng(0).standard_normal((own.size, 2)).astype(own.overlap.data.dtype)
        left = np.linalg.norm(b - self._overlap @ factor.solve(b)) / np.linalg.norm(b)
        if not left <= LEFT:
            raise NotConverged(f"a solve with S leaves {left:.1e} of its right-hand side: S is too ill-conditioned")
        return factor

    def __call__(self, v: Array) -> Array:
        """S^-1 v [rows, m], in the precision of v."""
        found = self._factor.solve(v) if self._factor is not None else self._series(v)  # type: ignore[misc]
        return np.asarray(found).astype(v.dtype, copy=False)


def moments_of(
    pencil: Pencil, width: float, vectors: int, group: Array | None = None, seed: int = 0, told: Told | None = None
) -> Moments:
    """Moments of H c = E S c, as many as levels take that are Gaussians of a width (standard deviation) [Ha].

    vectors: random ones.  group: of each row [rows], numbers from 0, for their shares.  told: of how many steps are done.
    Raises NearsightError where S is too ill-conditioned, Unavailable where there is no room.
    """
    if pencil.complex:  # S too, at Gamma
        pencil = replace(pencil, overlap=replace(pencil.overlap, data=pencil.overlap.data.astype(np.complex128)))
    inverse = InverseOverlap(pencil.overlap)
    h, dtype = pencil.hamiltonian, pencil.hamiltonian.data.dtype
    ends = spectrum_ends(
        lambda v: inverse(h @ v), pencil.size, np.result_type(dtype, pencil.overlap.data.dtype), pencil.overlap
    )
    for _ in range(4):
        middle, half = 0.5 * (ends[0] + ends[1]), (0.5 + MARGIN) * (ends[1] - ends[0])
        count = int(np.ceil(RESOLVED * half / width)) + 2
        values = _moments(pencil, inverse, middle, half, count, vectors, group, seed, told)
        if values is not None:
            return Moments(values, middle, half)
        ends = (middle - 1.2 * half, middle + 1.2 * half)
    raise NotConverged("the ends of the spectrum were not found")


def _moments(
    pencil: Pencil,
    inverse: InverseOverlap,
    middle: float,
    half: float,
    count: int,
    vectors: int,
    group: Array | None,
    seed: int,
    told: Told | None,
) -> Array | None:
    """mu_m [m, groups, vectors]; None where the spectrum turns out to be wider."""
    n, complex_ = pencil.size, pencil.complex
    groups = 1 if group is None else int(group.max()) + 1
    kept = count if group is not None else count + count % 2
    check_room(
        8.0 * kept * groups * vectors + 8.0 * 6 * n * vectors * (1 + complex_),
        f"{kept} moments of {groups} groups and {vectors} vectors",
        "project on fewer groups, or take a larger --width",
    )
    kind: Any = np.complex64 if complex_ else np.float32
    scaled = SparseMatrix(
        pencil.hamiltonian.pattern, ((pencil.hamiltonian.data - middle * pencil.overlap.data) / half).astype(kind)
    )
    random = np.random.default_rng(seed)
    signs: Array = random.choice([-1.0, 1.0], size=(n, vectors))
    if complex_:
        signs = np.exp(2j * np.pi * random.random((n, vectors)))
    x = inverse.half(signs)
    y = (pencil.overlap @ x).astype(kind)
    x = x.astype(kind)
    first = y.conj()
    found = np.zeros((kept, groups, vectors))

    def product(a: Array, b: Array) -> Array:
        if group is None:
            return np.einsum("ij,ij->j", a, b, dtype=np.complex128 if complex_ else np.float64).real[None]
        each = (a * b).real
        return np.stack([np.bincount(group, weights=each[:, v], minlength=groups) for v in range(vectors)], 1)

    y_next = scaled @ x
    x_next = inverse(y_next)
    found[0], found[1] = product(first, x), product(first, x_next)
    limit = 1.05 * np.abs(found[0]).sum(0)
    steps = count if group is not None else kept // 2
    for m in range(1, steps):
        y, y_next = y_next, 2 * (scaled @ x_next) - y
        x, x_next = x_next, inverse(y_next)
        if group is None:
            # T_m T_m = (T_2m + 1) / 2 and T_m T_{m+1} = (T_{2m+1} + T_1) / 2
            found[2 * m] = 2 * product(y.conj(), x) - found[0]
            found[2 * m + 1] = 2 * product(y.conj(), x_next) - found[1]
        elif m + 1 < kept:
            found[m + 1] = product(first, x_next)
        if m % 50 == 0:
            if (np.abs(product(y.conj(), x).sum(0)) > limit).any():
                return None
            if told is not None:
                told(m, steps)
    if told is not None:
        told(steps, steps)
    return found

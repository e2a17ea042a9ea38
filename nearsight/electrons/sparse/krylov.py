"""States of H c = E S c near a shift: block Lanczos of (H - sigma S)^-1 S, then Rayleigh-Ritz in double precision.

After Ericsson and Ruhe, Math. Comp. 35, 1251 (1980), in the inner product of S, with full orthogonalisation. The factor may be
in single precision, when each solve is refined by one more in it; what that leaves, steps of inverse iteration take away,
x - (H - sigma S)^-1 r with the residuals r of the states in double.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from nearsight.core.display import one_line
from nearsight.core.errors import NotConverged
from nearsight.electrons.sparse.factor import Shift

Array = NDArray[Any]
RESIDUAL = (
    2e-7  # Ha: of |H x - E S x| with |x|_S = 1; the error of E is its square over the distance to states left out
)
RITZ = 1e-7  # of a Ritz value of the inverse: the residual that is asked for
STEPS = 12  # of correction
DEPENDENT = 5e-4  # lowest norm of a direction that Rayleigh-Ritz keeps


@dataclass(frozen=True, eq=False)
class Ritz:
    """energies [m], ascending [Ha].  vectors: [rows, m], x^H S x = 1.  residuals: |H x - E S x| [m]."""

    energies: Array
    vectors: Array
    residuals: Array

    __repr__ = one_line


def states_around(shift: Shift, below: int, above: int, block: int, most: int) -> Ritz:
    """The `below` states under the shift and the `above` ones over it, nearest first; the states in between are whole up to the
    chance that a start misses one, which inertia excludes (levels.py).

    block: right-hand sides of a solve.  most: largest Krylov space.  Raises NotConverged where it does not suffice.
    """
    n = shift.pencil.size
    late: Array = np.zeros(0)
    if n <= 3 * (below + above) + 8 * block or n < 300:
        return _dense(shift, below, above)
    found = rayleigh_ritz(shift, _krylov(shift, below, above, block, most))
    for _ in range(STEPS):
        wanted = _nearest(found.energies, shift.sigma, below, above)
        late = np.flatnonzero(found.residuals > RESIDUAL)
        if not len(np.intersect1d(late, wanted)):
            return Ritz(found.energies[wanted], found.vectors[:, wanted], found.residuals[wanted])
        vectors = found.vectors
        x, e = vectors[:, late], found.energies[late]
        vectors[:, late] -= shift.solve(shift.pencil.hamiltonian @ x - (shift.pencil.overlap @ x) * e)
        found = rayleigh_ritz(shift, vectors)
    raise NotConverged(f"{len(late)} states near the shift keep residuals up to {found.residuals[wanted].max():.1e} Ha")


def _nearest(energies: Array, sigma: float, below: int, above: int) -> Array:
    """Indices of the nearest states on either side. Raises NotConverged where there are not so many."""
    under, over = np.flatnonzero(energies < sigma), np.flatnonzero(energies >= sigma)
    if len(under) < below or len(over) < above:
        raise NotConverged("fewer states were found near the shift than are wanted")
    return np.concatenate([under[len(under) - below :], over[:above]])


def rayleigh_ritz(shift: Shift, vectors: Array) -> Ritz:
    """H and S in the space of some vectors; of directions that depend on others only what is independent."""
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    h, s = shift.pencil.hamiltonian @ vectors, shift.pencil.overlap @ vectors
    gram = vectors.conj().T @ s
    values, turn = np.linalg.eigh(0.5 * (gram + gram.conj().T))
    kept = values > DEPENDENT**2 * values[-1]
    turn = turn[:, kept] / np.sqrt(values[kept])
    small = turn.conj().T @ (vectors.conj().T @ h) @ turn
    e, u = np.linalg.eigh(0.5 * (small + small.conj().T))
    u = turn @ u
    x, residual = vectors @ u, h @ u - (s @ u) * e
    return Ritz(e, x, np.linalg.norm(residual, axis=0))


def _krylov(shift: Shift, below: int, above: int, block: int, most: int) -> Array:
    """Ritz vectors of the inverse, a few more than are wanted on either side [rows, m]."""
    overlap, n = shift.pencil.overlap, shift.pencil.size
    kind = np.complex128 if shift.pencil.complex else np.float64
    random = np.random.default_rng(0)
    start = random.standard_normal((n, block)).astype(kind)
    if shift.pencil.complex:
        start = start + 1j * random.standard_normal((n, block))
    most = min(most, n)
    basis, mapped = np.empty((n, most + block), kind, order="F"), np.empty((n, most + block), kind, order="F")
    small = np.zeros((most + block, most + block), kind)
    q, sq, _ = _orthonormal(start, overlap)
    size = 0
    while True:
        m = q.shape[1]
        basis[:, size : size + m], mapped[:, size : size + m] = q, sq
        w = shift.solve(sq)
        size += m
        for _ in range(2):
            c = mapped[:, :size].conj().T @ w
            small[:size, size - m : size] = small[:size, size - m : size] + c
            w = w - basis[:, :size] @ c
        q, sq, r = _orthonormal(w, overlap)
        if size >= below + above + 2 * block or size >= most or not q.shape[1]:
            t = small[:size, :size]
            upper = np.triu(t)
            theta, y = np.linalg.eigh(upper + np.triu(t, 1).conj().T)
            late = np.linalg.norm(r @ y[size - m :], axis=0) / np.maximum(np.abs(theta), 1e-300)
            under, over = theta < 0, theta > 0
            far = [np.flatnonzero(side)[np.argsort(-np.abs(theta[side]))] for side in (under, over)]
            chosen = [order[:count] for order, count in zip(far, (below, above), strict=True)]
            enough = len(chosen[0]) == below and len(chosen[1]) == above
            if (enough and bool((late[np.concatenate(chosen)] < RITZ).all())) or not q.shape[1]:
                extra = np.concatenate([order[: count + 4] for order, count in zip(far, (below, above), strict=True)])
                return np.asarray(basis[:, :size] @ y[:, extra])
            if size >= most:
                raise NotConverged(
                    f"{below + above} states near the shift did not converge in a Krylov space of {size}: ask for fewer states"
                )
        if size + q.shape[1] > most + block:
            q, sq = q[:, : most + block - size], sq[:, : most + block - size]


def _orthonormal(w: Array, overlap: Any) -> tuple[Array, Array, Array]:
    """q, S q and r with w = q r and q^H S q = 1; directions that vanish are left out."""
    total: Array | None = None
    for _ in range(2):
        sw = overlap @ w
        gram = w.conj().T @ sw
        gram = 0.5 * (gram + gram.conj().T)
        values, turn = np.linalg.eigh(gram)
        kept = values > 1e-20 * max(values[-1], 1e-300)
        root = np.sqrt(values[kept])
        r = root[:, None] * turn[:, kept].conj().T
        w, sw = w @ (turn[:, kept] / root), sw @ (turn[:, kept] / root)
        total = r if total is None else r @ total
    assert total is not None
    return w, sw, total


def _dense(shift: Shift, below: int, above: int) -> Ritz:
    """All states of a small system."""
    h, s = shift.pencil.hamiltonian.scipy.toarray(), shift.pencil.overlap.scipy.toarray()
    energies, vectors = scipy.linalg.eigh(h, s)
    chosen = _nearest(energies, shift.sigma, below, above)
    residual = h @ vectors[:, chosen] - s @ vectors[:, chosen] * energies[chosen]
    return Ritz(energies[chosen], vectors[:, chosen], np.linalg.norm(residual, axis=0))

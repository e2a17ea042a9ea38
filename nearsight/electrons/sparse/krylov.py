"""States of H c = E S c near a shift: block Lanczos of (H - sigma S)^-1 S, then Rayleigh-Ritz in double precision.

After Ericsson and Ruhe, Math. Comp. 35, 1251 (1980), in the inner product of S, with full orthogonalisation. The factor may be
in single precision: what its solves leave, Rayleigh-Ritz with H and S in double takes to second order, and steps of inverse
iteration, x - (H - sigma S)^-1 r with the residuals r of the states, take away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from nearsight.core.display import one_line
from nearsight.core.errors import NotConverged
from nearsight.electrons.sparse.factor import Shift

Array = NDArray[Any]
Enough = Callable[[Array, Array], bool]  # of the converged energies below and above the shift, nearest first
RITZ = {
    False: 1e-6,
    True: 1e-4,
}  # of a Ritz value: the residual asked for, whose square goes into the energy; single: noise
LEFT = 1e-9  # Ha: by how much a state's energy may still fall, to second order
STEPS = 12  # of correction
DEPENDENT = 5e-4  # lowest norm of a direction that Rayleigh-Ritz keeps
NOISY = 200  # vectors after which the nearest states have converged, but for noise of solves in single precision
PANEL = 128  # vectors that are held in one array
EXTRA = 8  # states beyond the wanted ones that Rayleigh-Ritz has on either side


@dataclass(frozen=True, eq=False)
class Ritz:
    """energies [m], ascending [Ha].  vectors: [rows, m], x^H S x = 1."""

    energies: Array
    vectors: Array

    __repr__ = one_line


class Krylov:
    """An S-orthonormal basis of a block Krylov space of the inverse, which grows until it holds what is wanted.

    block: right-hand sides of a solve, and the highest multiplicity that is seen at once.
    """

    def __init__(self, shift: Shift, block: int) -> None:
        n = shift.pencil.size
        self.shift, self.block, self.size = shift, block, 0
        self.exhausted = False  # nothing is left outside
        self._refines = False  # whether a solve is
        self._kind: Any = np.complex128 if shift.pencil.complex else np.float64
        self._panels: list[tuple[Array, Array]] = []  # of the basis, and S times it
        self._small = np.zeros((0, 0), self._kind)
        random = np.random.default_rng(0)
        start = random.standard_normal((n, block)).astype(self._kind)
        if shift.pencil.complex:
            start = start + 1j * random.standard_normal((n, block))
        self._q, self._sq, self._r = _orthonormal(start, shift.pencil.overlap)
        self._ritz: tuple[Array, Array, Array] | None = None

    def reach(self, enough: Enough, most: int) -> bool:
        """Grow until enough states have converged, all between them too; False where a space of `most` does not suffice."""
        check = 0
        while True:
            if self.size >= check or self.exhausted:
                below, above = self.energies()
                if self.exhausted or enough(below, above):
                    return True
                self._refines |= self.size >= NOISY and not (len(below) or len(above))
                check = self.size + max(self.block, self.size // 12)
            if self.size >= most:
                return False
            self._step()

    def energies(self) -> tuple[Array, Array]:
        """Converged energies below and above the shift, each nearest first, as far as all between have converged."""
        if not self.size:
            return np.zeros(0), np.zeros(0)
        found = []
        theta, _, late = self._values()
        for chosen in self._sides():
            good = late[chosen] < RITZ[self.shift.single]
            count = len(chosen) if self.exhausted else int(np.argmin(good)) if not good.all() else len(chosen)
            found.append(self.shift.sigma + 1 / theta[chosen[:count]])
        return found[0], found[1]

    def states(self, below: int, above: int) -> Ritz:
        """The nearest states on either side, refined. Raises NotConverged where that does not succeed."""
        _, y, _ = self._values()
        sides = self._sides()
        chosen = np.concatenate([s[: c + EXTRA] for s, c in zip(sides, (below, above), strict=True)])
        x, sx = self._combined(y[:, chosen])
        return refined(self.shift, x, sx, below, above)

    def _sides(self) -> tuple[Array, Array]:
        """Ritz values below and above the shift, nearest first."""
        theta, _, _ = self._values()
        under, over = np.flatnonzero(theta < 0), np.flatnonzero(theta > 0)
        return under[np.argsort(theta[under])], over[np.argsort(-theta[over])]

    def _values(self) -> tuple[Array, Array, Array]:
        """Ritz values of the inverse, their vectors in the basis, and relative residuals."""
        if self._ritz is None:
            upper = np.triu(self._small[: self.size, : self.size])
            theta, y = np.linalg.eigh(upper + np.triu(upper, 1).conj().T)
            last = y[self.size - self._last :]
            late = np.linalg.norm(self._r @ last, axis=0) / np.maximum(np.abs(theta), 1e-300)
            self._ritz = theta, y, late
        return self._ritz

    def _step(self) -> None:
        q, sq = self._q, self._sq
        m, self._last, self._ritz = q.shape[1], q.shape[1], None
        self._append(q, sq)
        w = self.shift.solve(sq, refine=self._refines)
        if self.size > len(self._small):
            larger = np.zeros((2 * self.size, 2 * self.size), self._kind)
            larger[: len(self._small), : len(self._small)] = self._small
            self._small = larger
        column = self._small[: self.size, self.size - m : self.size]
        for _ in range(2):
            c = np.concatenate([s.conj().T @ w for _, s in self._held()])
            column += c
            done = 0
            for own, _ in self._held():
                w = w - own @ c[done : done + own.shape[1]]
                done += own.shape[1]
        self._q, self._sq, self._r = _orthonormal(w, self.shift.pencil.overlap)
        room = self.shift.pencil.size - self.size
        if self._q.shape[1] > room:
            self._q, self._sq = self._q[:, :room], self._sq[:, :room]
        self.exhausted = not self._q.shape[1]

    def _append(self, q: Array, sq: Array) -> None:
        while q.shape[1]:
            at = self.size % PANEL
            if not at:
                n = self.shift.pencil.size
                self._panels.append((np.empty((n, PANEL), self._kind, "F"), np.empty((n, PANEL), self._kind, "F")))
            part = min(q.shape[1], PANEL - at)
            for panel, new in zip(self._panels[-1], (q, sq), strict=True):
                panel[:, at : at + part] = new[:, :part]
            self.size += part
            q, sq = q[:, part:], sq[:, part:]

    def _held(self) -> list[tuple[Array, Array]]:
        """The basis and S times it, in parts."""
        counts = [min(PANEL, self.size - PANEL * n) for n in range(len(self._panels))]
        return [(a[:, :m], b[:, :m]) for (a, b), m in zip(self._panels, counts, strict=True)]

    def _combined(self, y: Array) -> tuple[Array, Array]:
        """Vectors of the space by their coefficients, and S times them."""
        x: Array = np.zeros((self.shift.pencil.size, y.shape[1]), self._kind)
        sx = np.zeros_like(x)
        done = 0
        for own, mapped in self._held():
            part = y[done : done + own.shape[1]]
            x += own @ part
            sx += mapped @ part
            done += own.shape[1]
        return x, sx


def refined(shift: Shift, vectors: Array, mapped: Array, below: int, above: int) -> Ritz:
    """The states next to the shift in the span of some vectors, corrected until their energies stand.

    By -(H - sigma S)^-1 r a state would be corrected, and its energy by r^H (H - sigma S)^-1 r to second order.
    mapped: S times the vectors.  Raises NotConverged where it does not end.
    """
    move = np.zeros(0)
    for _ in range(STEPS):
        energies, x, sx, hx = _rayleigh_ritz(shift, vectors, mapped)
        wanted = _nearest(energies, shift.sigma, below, above)
        residual = hx - sx * energies
        correction = shift.solve(residual)
        move = np.abs((residual.conj() * correction).sum(0).real)
        if not (move[wanted] > LEFT).any():
            return Ritz(energies[wanted], x[:, wanted])
        late = move > 0.1 * LEFT
        vectors = x.copy()
        vectors[:, late] -= correction[:, late]
        mapped = sx
        mapped[:, late] = shift.pencil.overlap @ vectors[:, late]
    raise NotConverged(f"states near the shift keep errors of {float(move.max()):.1e} Ha")


def _nearest(energies: Array, sigma: float, below: int, above: int) -> Array:
    """Indices of the nearest states on either side. Raises NotConverged where there are not so many."""
    under, over = np.flatnonzero(energies < sigma), np.flatnonzero(energies >= sigma)
    if len(under) < below or len(over) < above:
        raise NotConverged("fewer states were found near the shift than are wanted")
    return np.concatenate([under[len(under) - below :], over[:above]])


def _rayleigh_ritz(shift: Shift, vectors: Array, mapped: Array) -> tuple[Array, Array, Array, Array]:
    """H and S in the space of some vectors; of directions that depend on others only what is independent.

    Energies, states x, S x and H x.
    """
    scale = 1 / np.linalg.norm(vectors, axis=0)
    vectors, s = vectors * scale, mapped * scale
    h = shift.pencil.hamiltonian @ vectors
    gram = vectors.conj().T @ s
    values, turn = np.linalg.eigh(0.5 * (gram + gram.conj().T))
    kept = values > DEPENDENT**2 * values[-1]
    turn = turn[:, kept] / np.sqrt(values[kept])
    small = turn.conj().T @ (vectors.conj().T @ h) @ turn
    e, u = np.linalg.eigh(0.5 * (small + small.conj().T))
    u = turn @ u
    return e, vectors @ u, s @ u, h @ u


def _orthonormal(w: Array, overlap: Any) -> tuple[Array, Array, Array]:
    """q, S q and r with w = q r and q^H S q = 1; directions that vanish are left out."""
    total: Array | None = None
    sw = overlap @ w
    for _ in range(2):
        gram = w.conj().T @ sw
        values, turn = np.linalg.eigh(0.5 * (gram + gram.conj().T))
        kept = values > 1e-20 * max(values[-1], 1e-300)
        root = np.sqrt(values[kept])
        r = root[:, None] * turn[:, kept].conj().T
        w, sw = w @ (turn[:, kept] / root), sw @ (turn[:, kept] / root)
        if len(root) and root[0] < 1e-3 * root[-1]:  # S w is that of differences of large vectors
            sw = overlap @ w
        total = r if total is None else r @ total
    assert total is not None
    return w, sw, total


def all_states(shift: Shift) -> Ritz:
    """Every state of a small system, by dense matrices."""
    h, s = shift.pencil.hamiltonian.scipy.toarray(), shift.pencil.overlap.scipy.toarray()
    return Ritz(*scipy.linalg.eigh(h, s))

"""Factors of H - sigma S: solve, and count the levels below sigma. By MKL's PARDISO, or by SciPy for small systems."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from nearsight.core.errors import NotConverged, Unavailable
from nearsight.electrons.sparse.pardiso import HERMITIAN, REAL, Pardiso, library
from nearsight.electrons.sparse.pencil import Pencil

Array = NDArray[Any]
SCIPY_ROWS = 6000  # above, SuperLU takes minutes for one factor
SOLVED = {False: 1e-8, True: 1e-3}  # |b - A x| / |b| that a factor may leave, in double and in single precision
MOVED = 1e-7  # Ha: by which a shift is moved that stands on a level


class Factor(Protocol):
    """L D L^H of H - sigma S.  holder: whose matrix it is of."""

    holder: object

    @property
    def memory(self) -> float:
        """Bytes of the factor, known before it is made; 0 where that is not known, for small systems."""

    def factorise(self, pencil: Pencil, sigma: float) -> None:
        """At another shift, or for another matrix of the same pattern."""

    def solve(self, right: Array) -> Array:
        """(H - sigma S)^-1 b [rows, m]."""

    def negative(self) -> int:
        """Levels below sigma."""


class PardisoFactor:
    """By PARDISO. single: in single precision, half of the memory and of the time."""

    def __init__(self, pencil: Pencil, single: bool) -> None:
        self.holder: object = None
        upper = pencil.hamiltonian.pattern.upper
        kind = HERMITIAN if pencil.complex else REAL
        self._factor = Pardiso(upper.size, upper.indptr, upper.indices, upper.block, kind, single)

    @property
    def memory(self) -> float:
        """Bytes of the factor, known before it is made."""
        return self._factor.memory

    def factorise(self, pencil: Pencil, sigma: float) -> None:
        """As `Factor`."""
        self._factor.factorise(pencil.shifted(sigma))

    def solve(self, right: Array) -> Array:
        """As `Factor`."""
        return self._factor.solve(right)

    def negative(self) -> int:
        """As `Factor`."""
        return self._factor.negative()


class ScipyFactor:
    """By SuperLU without exchange of rows: U = D L^H, whose diagonal has the signs of D. For small systems."""

    holder: object = None
    memory = 0.0

    def factorise(self, pencil: Pencil, sigma: float) -> None:
        """As `Factor`."""
        matrix = (pencil.hamiltonian.scipy - sigma * pencil.overlap.scipy).tocsc()
        self._lu = scipy.sparse.linalg.splu(
            matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        self._exchanged = not np.array_equal(self._lu.perm_r, self._lu.perm_c)

    def solve(self, right: Array) -> Array:
        """As `Factor`."""
        return np.asarray(self._lu.solve(np.ascontiguousarray(right)))

    def negative(self) -> int:
        """As `Factor`. Raises NotConverged where rows were exchanged."""
        if self._exchanged:
            raise NotConverged("rows were exchanged, so that levels cannot be counted: move the shift")
        return int((self._lu.U.diagonal().real < 0).sum())


def factor_for(pencil: Pencil, single: bool) -> Factor:
    """PARDISO where it is there, SciPy's for small systems elsewhere. Raises Unavailable, with what to install."""
    if library() is not None:
        return PardisoFactor(pencil, single)
    if pencil.size > SCIPY_ROWS:
        raise Unavailable(
            f"a sparse factorisation of {pencil.size} rows needs MKL (x86-64): pip install 'nearsight[sparse]'"
        )
    return ScipyFactor()


class Shift:
    """One k-point's H - sigma S, factorised and checked, at a shift that may be moved a little.

    Shifts may share a factor: the one that solves next factorises again.
    """

    def __init__(self, pencil: Pencil, factor: Factor, single: bool) -> None:
        self.pencil, self.factor, self.single = pencil, factor, single and library() is not None
        self.sigma = 0.0

    def at(self, sigma: float) -> int:
        """Factorise there, check a solve, and count the levels below. Raises NotConverged where no factor is sound."""
        said = "no sound factor was found"
        for move in (0.0, 1.0, -1.7, 4.1, -7.3, 31.0):
            self.sigma = sigma + move * MOVED
            try:
                self._factorise()
                count = self.factor.negative()
                self._check()
            except (NotConverged, RuntimeError) as error:  # the latter SuperLU's word for a singular matrix
                said = str(error)
                continue
            return count
        raise NotConverged(f"H - {sigma:.6f} S cannot be factorised: {said}")

    def _factorise(self) -> None:
        self.factor.holder = None
        self.factor.factorise(self.pencil, self.sigma)
        self.factor.holder = self

    def solve(self, right: Array, refine: bool = True) -> Array:
        """(H - sigma S)^-1 b; of a factor in single precision refined once, by the residual in double."""
        if self.factor.holder is not self:
            self._factorise()
        found = self._plain(right)
        return found + self._plain(right - self.apply(found)) if self.single and refine else found

    def _plain(self, right: Array) -> Array:
        found = self.factor.solve(right)
        return found.astype(np.complex128 if self.pencil.complex else np.float64, copy=False)

    def apply(self, x: Array) -> Array:
        """(H - sigma S) x."""
        return self.pencil.hamiltonian @ x - self.sigma * (self.pencil.overlap @ x)

    def _check(self) -> None:
        b = np.random.default_rng(0).standard_normal((self.pencil.size, 2))
        left = np.linalg.norm(b - self.apply(self.solve(b))) / np.linalg.norm(b)
        if not left <= SOLVED[self.single]:
            raise NotConverged(f"a solve leaves {left:.1e} of its right-hand side")

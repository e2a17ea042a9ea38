"""MKL PARDISO by ctypes: L D L^H of sparse symmetric and Hermitian matrices, with the number of negative pivots.

The optional extra `nearsight[sparse]` brings the library (the wheel `mkl`, x86-64). What it computes, after Schenk and
Gaertner, Future Generation Computer Systems 20, 475 (2004): nested dissection, supernodal factorisation, 1x1 and 2x2 pivots.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.errors import NearsightError, NotConverged, Unavailable

REAL, HERMITIAN, SYMMETRIC = -2, -4, 6  # PARDISO's words: real symmetric and Hermitian, indefinite; complex symmetric
ANALYSE, FACTORISE, SOLVE, PIVOTS, RELEASE = 11, 22, 33, 332, -1
_NAMES = ("libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so", "mkl_rt.3.dll", "mkl_rt.2.dll", "libmkl_rt.2.dylib")
_FOLDERS = (Path(sys.prefix) / "lib", Path(sys.prefix) / "Library" / "bin")
_ERRORS = {
    -2: "it needs more memory than there is",
    -3: "no order of elimination was found",
    -4: "a pivot is zero",
    -7: "a diagonal block is singular",
    -8: "it has too many elements for 32-bit counts",
}


@cache
def library() -> ctypes.CDLL | None:
    """The library; None where there is none."""
    for place in [*(f / n for f in _FOLDERS for n in _NAMES if (f / n).is_file()), *_NAMES]:
        try:
            found = ctypes.CDLL(str(place))
            found.pardiso_64.restype = None
        except (OSError, AttributeError):
            continue
        return found
    return None


def require_library() -> ctypes.CDLL:
    """The library. Raises Unavailable, with what to install, where there is none."""
    found = library()
    if found is None:
        raise Unavailable(
            "sparse factorisation of matrices of this size needs MKL (x86-64): pip install 'nearsight[sparse]'"
        )
    return found


def _pointer(array: NDArray[Any]) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)


class Pardiso:
    """Factors of matrices of one pattern, analysed once.

    n: rows.  indptr, indices: compressed sparse rows of the upper triangle with its diagonal; of blocks [block, block] where
    block > 1 (the diagonal blocks whole).  kind: REAL, HERMITIAN or SYMMETRIC.  single: whether factors are held in single
    precision.
    Raises Unavailable without the library, NearsightError where a factorisation fails.
    """

    def __init__(
        self,
        n: int,
        indptr: NDArray[Any],
        indices: NDArray[Any],
        block: int = 1,
        kind: int = REAL,
        single: bool = False,
    ) -> None:
        self.n, self.kind, self.single = n, kind, single
        scalar = (np.float64, np.float32) if kind == REAL else (np.complex128, np.complex64)
        self.dtype = np.dtype(scalar[single])
        self._library = require_library()
        self._rows = n // block
        self._indptr = np.ascontiguousarray(indptr, dtype=np.int64)
        self._indices = np.ascontiguousarray(indices, dtype=np.int64)
        self._handle = np.zeros(64, dtype=np.int64)
        self._iparm = iparm = np.zeros(64, dtype=np.int64)
        iparm[0] = 1  # what follows is said, not left to defaults
        iparm[1] = 2  # nested dissection
        iparm[9] = 8  # pivots below 1e-8 of the largest are perturbed (and counted)
        iparm[17] = -1  # count the elements of the factor
        iparm[20] = 1  # 1x1 and 2x2 pivots; with 1x1 alone Hermitian matrices come out wrong without a word
        iparm[27] = int(single)
        iparm[34] = 1  # indices begin at 0
        iparm[36] = block if block > 1 else 0
        self._values = np.zeros(0, dtype=self.dtype)
        self._call(ANALYSE)
        weakref.finalize(self, _release, self._library, self._handle, self._rows, self._iparm, kind)

    def _call(self, phase: int, right: NDArray[Any] | None = None, found: NDArray[Any] | None = None) -> None:
        self._library.mkl_set_num_threads(ctypes.byref(ctypes.c_int(torch.get_num_threads())))
        empty = np.zeros(1, dtype=self.dtype)
        count = 1 if right is None else len(right)
        error = _pardiso(
            self._library,
            self._handle,
            self.kind,
            phase,
            self._rows,
            self._values if len(self._values) else empty,
            self._indptr,
            self._indices,
            count,
            self._iparm,
            empty if right is None else right,
            empty if found is None else found,
        )
        if error:
            what = _ERRORS.get(error, f"PARDISO says {error}")
            kind = NotConverged if error in (-4, -7) else Unavailable if error == -2 else NearsightError
            raise kind(f"a sparse matrix of {self.n} rows cannot be factorised: {what}")

    def factorise(self, values: NDArray[Any]) -> None:
        """Of values in the order of the pattern; blocks row-major. They are kept by reference until the next ones."""
        self._values = np.ascontiguousarray(values.reshape(-1), dtype=self.dtype)
        self._call(FACTORISE)

    def solve(self, right: NDArray[Any]) -> NDArray[Any]:
        """x [n, m] of A x = b [n, m], in the precision of the factor."""
        rows = np.ascontiguousarray(right.T, dtype=self.dtype)  # one right-hand side after another
        found = np.empty_like(rows)
        self._call(SOLVE, rows, found)
        return found.T

    def negative(self) -> int:
        """How many eigenvalues the matrix has below zero: those of D, by Sylvester's law of inertia.

        PARDISO counts them for real matrices alone. D has blocks of one row, or of two rows i and p(i) anywhere; those of
        D^-1 = {d_i, o_i} are read off its products with vectors of 0 and 1: for each binary digit, those of all rows that have
        it, and of all that have not. A row i has a partner with the other digit just where the second product is not zero.
        """
        if self.kind == REAL:
            return int(self._iparm[22])
        row = np.arange(self.n)
        partner, off = row.copy(), np.zeros(self.n)
        diagonal = self._through_pivots(np.ones((self.n, 1)))[:, 0].real  # of rows without a partner
        for digit in range(max(1, int(self.n - 1).bit_length())):
            has = (row >> digit) & 1
            with_it, without = self._through_pivots(np.stack([has, 1 - has], 1).astype(float)).T
            own, other = np.where(has, with_it, without), np.where(has, without, with_it)
            apart = other != 0
            partner[apart] ^= 1 << digit
            off[apart], diagonal[apart] = np.abs(other[apart]), own[apart].real
        partner = np.minimum(partner, self.n - 1)
        if not (np.array_equal(partner[partner], row) and np.allclose(off[partner], off, rtol=1e-3)):
            raise NotConverged(f"the pivots of a sparse matrix of {self.n} rows do not pair up: take another shift")
        first = row < partner
        indefinite = diagonal[first] * diagonal[partner[first]] < off[first] ** 2
        two = np.where(indefinite, 1, 2 * (diagonal[first] < 0))
        return int((diagonal[row == partner] < 0).sum() + two.sum())

    def _through_pivots(self, right: NDArray[Any]) -> NDArray[Any]:
        """D^-1 b [n, m], in the order of elimination."""
        # MKL 2026.2 has the first of several wrong (its pivots of two rows are left out), so that one is put before them
        rows = np.ascontiguousarray(np.concatenate([right[:, :1], right], 1).T, dtype=self.dtype)
        found = np.empty_like(rows)
        self._call(PIVOTS, rows, found)
        return found[1:].T

    @property
    def perturbed(self) -> int:
        """How many pivots were too small and were changed."""
        return int(self._iparm[13])

    @property
    def memory(self) -> float:
        """Bytes that analysis and factor take, as forecast by the analysis."""
        return 1024.0 * float(max(self._iparm[14], self._iparm[15] + self._iparm[16]))


def _pardiso(
    library: ctypes.CDLL,
    handle: NDArray[Any],
    kind: int,
    phase: int,
    rows: int,
    values: NDArray[Any],
    indptr: NDArray[Any],
    indices: NDArray[Any],
    count: int,
    iparm: NDArray[Any],
    right: NDArray[Any],
    found: NDArray[Any],
) -> int:
    def number(x: int) -> Any:
        return ctypes.byref(ctypes.c_int64(x))

    error = ctypes.c_int64(0)
    order = np.zeros(1, dtype=np.int64)
    library.pardiso_64(
        _pointer(handle), number(1), number(1), number(kind), number(phase), number(rows),
        _pointer(values), _pointer(indptr), _pointer(indices), _pointer(order), number(count),
        _pointer(iparm), number(0), _pointer(right), _pointer(found), ctypes.byref(error),
    )  # fmt: skip
    return int(error.value)


def _release(library: ctypes.CDLL, handle: NDArray[Any], rows: int, iparm: NDArray[Any], kind: int) -> None:
    """Give back what PARDISO holds."""
    none = np.zeros(1)
    index = np.zeros(1, dtype=np.int64)
    _pardiso(library, handle, kind, RELEASE, rows, none, index, index, 1, iparm, none, none)

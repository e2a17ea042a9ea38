"""Decompositions of matrices of features, often as good as singular: where one algorithm gives up, another is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from nearsight.core.errors import BadInput

_JITTERS = (1e-15, 1e-13, 1e-11)  # of the largest element, on the diagonal: below what a ridge would see


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n], ascending, and eigenvectors [n, n] (columns) of a real symmetric matrix.

    Divide and conquer, which may not converge for matrices with many equal eigenvalues; then QR, bisection, and both of the
    matrix with a diagonal below rounding added.  Raises BadInput for a matrix that is not finite.
    """
    _require_finite(matrix)
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        values, vectors = _first(_eigh_of(matrix.detach().cpu().numpy()))
        return torch.from_numpy(values).to(matrix), torch.from_numpy(vectors).to(matrix)


def singular_values(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [min(m, n)], descending, and right singular vectors [n, n] (rows) of a real matrix [m, n].

    Raises BadInput for a matrix that is not finite.
    """
    _require_finite(matrix)
    try:
        _, s, v = torch.linalg.svd(matrix, full_matrices=True)
    except torch.linalg.LinAlgError:
        found = scipy.linalg.svd(matrix.detach().cpu().numpy(), full_matrices=True, lapack_driver="gesvd")
        s, v = (torch.from_numpy(np.ascontiguousarray(x)).to(matrix) for x in found[1:])
    return s, v


def _eigh_of(matrix: np.ndarray) -> Iterator[Callable[[], tuple[np.ndarray, np.ndarray]]]:
    scale = float(np.abs(matrix).max())
    for jitter in (0.0, *_JITTERS):
        for driver in ("ev", "evx"):
            yield partial(scipy.linalg.eigh, matrix + jitter * scale * np.eye(len(matrix)), driver=driver)


def _first(tries: Iterator[Callable[[], tuple[np.ndarray, np.ndarray]]]) -> tuple[np.ndarray, np.ndarray]:
    last: Exception | None = None
    for attempt in tries:
        try:
            return attempt()
        except np.linalg.LinAlgError as error:
            last = error
    raise BadInput(
        "no algorithm finds the eigenvectors of the features of the data: their numbers are not sound"
    ) from last


def _require_finite(matrix: Tensor) -> None:
    if not bool(torch.isfinite(matrix).all()):
        raise BadInput("features or labels of the data are not finite, or so large that their squares are not")

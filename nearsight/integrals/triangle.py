"""The lower triangle of a symmetric matrix, in blocks of rows: what products of orbitals need of a square."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

STRETCHES, LEAST_ROWS = 3, 40  # how many, and the fewest rows that pay for one more


@dataclass(frozen=True)
class Stretch:
    """Some rows of the lower triangle of a square matrix, as a block that is as wide as its last row.

    start, stop: its rows, and its columns 0 ... stop - 1.  first, last: of its elements, counted row by row in the triangle.
    places: of these elements in the block, flat.
    """

    start: int
    stop: int
    first: int
    last: int
    places: Tensor


@lru_cache(maxsize=512)
def triangle(n: int, device: torch.device) -> tuple[Stretch, ...]:
    """The lower triangle of a matrix [n, n] in up to four stretches of rows: less work than all of the square."""
    parts = min(STRETCHES, max(1, n // LEAST_ROWS))
    edges = [round(n * p / parts) for p in range(parts + 1)]
    found = []
    for start, stop in pairwise(edges):
        i, j = torch.tril_indices(stop - start, stop, offset=start, device=device)
        first, last = start * (start + 1) // 2, stop * (stop + 1) // 2
        found.append(Stretch(start, stop, first, last, i * stop + j))
    return tuple(found)

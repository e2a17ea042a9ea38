"""k-points shared among processes: each holds its states and gives energies and sums over its k-points."""

from __future__ import annotations

from nearsight.core.blocks import BlockMatrix
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.solvers.share import Share


def shares_of(overlap: BlockMatrix, kpoints: KPoints, chunk: int, processes: int) -> tuple[Share, ...]:
    return (Share.of(overlap, kpoints.k, kpoints.weights, chunk),)

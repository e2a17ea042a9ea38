"""Electrons below energies by moments of random vectors (electrons/sparse: kpm, cayley), with the error of their mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.electrons.sparse.cayley import CayleyMoments, factor_of_window, moments_of_window
from nearsight.electrons.sparse.kpm import Moments, moments_of
from nearsight.electrons.sparse.pencil import SparseProblem
from nearsight.properties.brillouin import Sampling
from nearsight.properties.contract import Progress
from nearsight.properties.projections import Projection


@dataclass(frozen=True, eq=False)
class Sampled:
    """Electrons below each edge, of each spin [s, E + 1] and of groups of orbitals [groups, E + 1]; means over random vectors.

    error, projected_error: standard errors of the densities, the means over the bins [s, E], [groups, E], electrons/Ha.
    """

    below: Tensor
    projected: Tensor
    error: Tensor
    projected_error: Tensor

    __repr__ = one_line


def sampled_below(
    hamiltonian: BlockMatrix,
    overlap: BlockMatrix,
    edges: Tensor,
    mesh: Sampling,
    width: float,
    vectors: int,
    groups: Projection | None,
    progress: Progress,
    differences: bool = False,
) -> Sampled:
    """Electrons below ascending energies [E + 1], levels as Gaussians of a width [Ha], from so many random vectors.

    differences: whether a constant may be missing in them, so that levels far below need not be counted.
    Raises NearsightError where S is too ill-conditioned, Unavailable where there is no room.
    """
    problem = SparseProblem.of(hamiltonian, overlap)
    spins, per_level = problem.spin.matrices, problem.spin.electrons_per_level
    step = float(edges[1] - edges[0])
    count = 0 if groups is None else len(groups.names)
    below = np.zeros((vectors, spins, len(edges)))
    projected = np.zeros((vectors, count, len(edges)))
    points = len(mesh.k) * spins
    for s in range(spins):
        own = None if groups is None else groups.group[s][_order(problem)].numpy()
        for n, (k, weight) in enumerate(zip(mesh.k, mesh.weights.tolist(), strict=True)):
            done = s * len(mesh.k) + n

            def told(at: int, of: int, done: int = done) -> None:
                progress.advance(done * of + at, points * of)

            pencil, window = problem.at(k, s), (float(edges[0]), float(edges[-1]))
            factor = factor_of_window(pencil, window) if differences and own is None else None
            moments: Moments | CayleyMoments
            if factor is not None:
                moments = moments_of_window(pencil, factor, window, width, vectors, seed=done, told=told)
            else:
                moments = moments_of(pencil, width, vectors, own, seed=done, told=told)
            found = per_level * weight * moments.below(edges.numpy(), width)
            below[:, s] += found.sum(1)
            if own is not None:
                projected[:, : found.shape[1]] += found
    errors = [np.diff(x, axis=-1).std(0, ddof=1) / (step * vectors**0.5) for x in (below, projected)]
    means = [x.mean(0) for x in (below, projected)]
    return Sampled(*(torch.from_numpy(x) for x in (*means, *errors)))


def _order(problem: SparseProblem) -> Tensor:
    """For each row of the sparse H(k) the one of the dense: of spinors, an atom's spins stand together."""
    basis = problem.hamiltonian.basis
    if problem.pattern.factor == 1:
        return torch.arange(basis.size)
    counts = basis.counts.cpu()
    starts = counts.cumsum(0) - counts
    atoms = [torch.arange(int(a), int(a + n)) for a, n in zip(starts, counts, strict=True)]
    return torch.cat([torch.cat([rows, rows + basis.size]) for rows in atoms])

"""What the data say before any learning: mean on-site blocks, two-centre functions, and the spread about both."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nearsight.nn.graph import Graph
from nearsight.nn.readout import BlockReadout, RadialTable
from nearsight.nn.so2 import FrameIrreps

SMOOTHNESS = 1e-2  # penalty on the curvature of a two-centre function, relative to one sample a knot
WIDTH = 0.3  # window in which the spread about it is averaged [Bohr]
FLOOR = 1e-6  # least spread [Ha]; 0.03 meV


def fit_statistics(readout: BlockReadout, samples: Iterable[tuple[Graph, Tensor]]) -> None:
    """Fill the readout's baseline and scales from graphs and their target elements [size], Ha.

    The two-centre functions are smoothing splines: least squares over all edges of an ordered pair of elements, with a
    penalty on second differences that also bridges distances without data.
    """
    sites, edges, species, pairs, distances = [], [], [], [], []
    count = len(readout.slots.numbers)
    for graph, values in samples:
        site, edge = readout.components(graph, values.double())
        stored = torch.unique(graph.block[graph.block >= graph.atoms]) - graph.atoms
        sites.append(site)
        species.append(graph.species)
        edges.append(edge[stored])
        pairs.append((graph.species[graph.i] * count + graph.species[graph.j])[stored])
        distances.append(graph.distance[stored].double())
    _fit_sites(readout, torch.cat(sites), torch.cat(species))
    if sum(len(d) for d in distances):
        _fit_edges(readout, torch.cat(edges), torch.cat(pairs), torch.cat(distances))


def _fit_sites(readout: BlockReadout, site: Tensor, species: Tensor) -> None:
    scalar = readout.slots.scalars_allowed().to(site)
    channel = readout.irreps.channel_of_column().to(site.device)
    for z in range(len(readout.slots.numbers)):
        own = site[species == z]
        if not len(own):
            continue
        mean = own.mean(0) * scalar
        readout.site_mean[z] = mean
        readout.site_scale[z] = _pooled((own - mean).square().mean(0), channel).sqrt().clamp(min=FLOOR)


def _fit_edges(readout: BlockReadout, edge: Tensor, pair: Tensor, r: Tensor) -> None:
    even = torch.arange(edge.shape[1], device=edge.device) < readout.frame.even
    channel = _frame_channels(readout.frame).to(edge.device)
    table = readout.log_scale
    grid = table.step * (torch.arange(table.knots, device=r.device).double() - 1)
    for p in range(len(readout.slots.numbers) ** 2):
        own = pair == p
        if not own.any():
            readout.log_scale.coefficients[p] = torch.log(torch.tensor(FLOOR))
            continue
        coefficients = _spline(readout.mean, r[own], edge[own]) * even
        readout.mean.coefficients[p] = coefficients
        residual = edge[own] - readout.mean(r[own], torch.full_like(pair[own], p)).double()
        square = _pooled(residual.square(), channel)
        nearness = torch.exp(-0.5 * ((grid[:, None] - r[own]) / WIDTH) ** 2)
        nearness = nearness + 1e-6 * torch.exp(-0.5 * ((grid[:, None] - r[own]) / (8 * WIDTH)) ** 2) + 1e-12
        variance = (nearness @ square) / nearness.sum(1, keepdim=True)
        readout.log_scale.coefficients[p] = variance.sqrt().clamp(min=FLOOR).log()


def _spline(table: RadialTable, r: Tensor, values: Tensor) -> Tensor:
    """Coefficients [knots, functions] of the smoothing spline through values [n, functions] at r [n]."""
    index, weights = table.weights(r)
    design = r.new_zeros(len(r), table.knots)
    for k in range(4):
        design[torch.arange(len(r)), index + k] = weights[:, k]
    bend = torch.diff(torch.eye(table.knots, dtype=r.dtype, device=r.device), n=2, dim=0)
    normal = design.T @ design + SMOOTHNESS * len(r) / table.knots * bend.T @ bend
    normal = normal + 1e-10 * torch.eye(table.knots, dtype=r.dtype, device=r.device)
    return torch.linalg.solve(normal, design.T @ values)


def _frame_channels(frame: FrameIrreps) -> Tensor:
    """Index of the O(2) irrep of each flat component [dim]."""
    zero = torch.arange(frame.even + frame.odd)
    columns, first = [zero], len(zero)
    for c in frame.pairs:
        columns.append((first + torch.arange(c)).repeat(2))
        first += c
    return torch.cat(columns)


def _pooled(square: Tensor, channel: Tensor) -> Tensor:
    """Each component's mean over the components of its irrep, along the last axis: a scale must not break the symmetry."""
    count = int(channel.max()) + 1
    total = square.new_zeros(*square.shape[:-1], count).index_add(-1, channel, square)
    number = torch.bincount(channel, minlength=count).to(square)
    return (total / number)[..., channel]


def mean_neighbours(counts: Iterable[tuple[int, int]]) -> float:
    """Mean number of message edges an atom has, from (message edges, atoms) of each structure."""
    edges, atoms = map(sum, zip(*counts, strict=True))
    return max(1.0, edges / atoms)

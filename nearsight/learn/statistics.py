"""What the data say before any learning: the cluster expansion by ridge regression, and the spread about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearsight.nn.graph import Graph
from nearsight.nn.readout import BlockReadout
from nearsight.nn.so2 import FrameIrreps

WIDTH = 0.3  # window in which the spread is averaged over distances [Bohr]
FLOOR = 1e-6  # least spread [Ha]; 0.03 meV
INDEPENDENT = 0.5  # share of the rows that count: each block is seen from both of its ends
RIDGES = tuple(10.0**k for k in range(-12, 1))  # tried, relative to the largest eigenvalue


@dataclass
class Regression:
    """Normal equations of one block of coefficients, gathered structure by structure."""

    gram: Tensor  # X^T X [features, features]
    moment: Tensor  # X^T Y [features, channels]
    square: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # |Y|^2
    rows: int = 0

    @staticmethod
    def like(coefficients: Tensor) -> Regression:
        features, channels = coefficients.shape
        return Regression(coefficients.new_zeros(features, features), coefficients.new_zeros(features, channels))

    def add(self, x: Tensor, y: Tensor) -> None:
        """x: [rows, features], y: [rows, channels]"""
        self.gram += x.T @ x
        self.moment += x.T @ y
        self.square = self.square + y.square().sum().to(self.square.device)
        self.rows += len(x)

    def solve(self) -> Tensor:
        """The ridge regression whose generalised cross-validation error, rss / (n - 1.4 df)^2, is least."""
        values, vectors = torch.linalg.eigh(self.gram)
        values = values.clamp(min=0)
        z = vectors.T @ self.moment
        power = z.square().sum(1)
        best, chosen = math.inf, 1.0
        for ridge in RIDGES:
            damped = values + ridge * values[-1].clamp(min=1e-300)
            rss = float(self.square.to(power) - (power * (2 / damped - values / damped**2)).sum())
            free = INDEPENDENT * self.rows - 1.4 * float((values / damped).sum())
            if free > 0 and max(rss, 1e-14 * float(self.square)) / free**2 < best:
                best, chosen = max(rss, 1e-14 * float(self.square)) / free**2, ridge
        return vectors @ (z / (values + chosen * values[-1].clamp(min=1e-300))[:, None])


def fit_statistics(readout: BlockReadout, samples: Iterable[tuple[Graph, Tensor]]) -> None:
    """Fill the readout's cluster expansion and scales from float64 graphs and their target elements [size], Ha."""
    kept = list(samples)
    _fit_cluster(readout, kept)
    _fit_scales(readout, kept)


def _stored(graph: Graph) -> Tensor:
    """Edges that are pairs of the matrix."""
    return torch.unique(graph.block[graph.block >= graph.atoms]) - graph.atoms


def _fit_cluster(readout: BlockReadout, samples: Sequence[tuple[Graph, Tensor]]) -> None:
    cluster = readout.cluster
    work: dict[tuple[str, int], Regression] = {}

    def add(name: str, kind: int, x: Tensor, y: Tensor) -> None:
        if (name, kind) not in work:
            work[name, kind] = Regression.like(getattr(cluster, name)[kind])
        work[name, kind].add(x.reshape(-1, x.shape[-1]), y.reshape(-1, work[name, kind].moment.shape[1]))

    for graph, values in samples:
        site, edge = readout.components(graph, values.double())
        densities = cluster.densities(graph)
        for l, parity, columns in cluster.site_blocks():
            features = cluster.site_features(densities, l, parity)
            for z in torch.unique(graph.species).tolist():
                own = graph.species == z
                add(f"site_{l}_{parity}", z, features[own], site[own][:, columns])
        stored = _stored(graph)
        pair = (graph.species[graph.i] * cluster.elements + graph.species[graph.j])[stored]
        for p in torch.unique(pair).tolist():
            edges = stored[pair == p]
            features_of = cluster.edge_features(graph, densities, edges)
            for m, columns in cluster.edge_blocks():
                add(f"edge_{m}", p, features_of[m], edge[edges][:, columns])
    for (name, kind), regression in work.items():
        getattr(cluster, name)[kind] = regression.solve()


def _fit_scales(readout: BlockReadout, samples: Sequence[tuple[Graph, Tensor]]) -> None:
    elements = readout.cluster.elements
    sites, edges, species, pairs, distances = [], [], [], [], []
    for graph, values in samples:
        site, edge = readout.components(graph, values.double())
        expanded_site, expanded_edge = readout.cluster(graph)
        stored = _stored(graph)
        sites.append(site - expanded_site)
        species.append(graph.species)
        edges.append((edge - expanded_edge)[stored])
        pairs.append((graph.species[graph.i] * elements + graph.species[graph.j])[stored])
        distances.append(graph.distance[stored])
    site, kind = torch.cat(sites), torch.cat(species)
    channel = readout.irreps.channel_of_column().to(site.device)
    for z in torch.unique(kind).tolist():
        spread = _pooled(site[kind == z].square().mean(0), channel).sqrt()
        readout.site_scale[z] = spread.clamp(min=FLOOR)
    edge, pair, r = torch.cat(edges), torch.cat(pairs), torch.cat(distances)
    table = readout.log_scale
    table.coefficients.fill_(math.log(FLOOR))
    if not len(r):
        return
    grid = table.step * (torch.arange(table.knots, device=r.device).double() - 1)
    channel = _frame_channels(readout.frame).to(r.device)
    for p in torch.unique(pair).tolist():
        own = pair == p
        square = _pooled(edge[own].square(), channel)
        apart = (grid[:, None] - r[own]) / WIDTH
        nearness = torch.exp(-0.5 * apart**2) + 1e-6 * torch.exp(-0.5 * (apart / 8) ** 2) + 1e-12
        variance = (nearness @ square) / nearness.sum(1, keepdim=True)
        table.coefficients[p] = variance.sqrt().clamp(min=FLOOR).log()


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

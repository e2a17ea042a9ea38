"""What the data say before any learning: the cluster expansion by ridge regression, and the spread about it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.models.contract import LEAST_SHARE, Told, silent
from nearsight.models.decompositions import symmetric_eigen
from nearsight.models.graph import Graph
from nearsight.models.readout import BlockReadout
from nearsight.models.so2 import FrameIrreps

WIDTH = 0.3  # window in which the spread is averaged over distances [Bohr]
FLOOR = 1e-6  # least spread [Ha]; 0.03 meV
FOLDS = 4  # groups of structures for cross-validation
RIDGES = tuple(10.0**k for k in range(-12, 2))  # tried, relative to the largest eigenvalue
WITHOUT_FOLDS = 1e-6  # the ridge where there is one structure only


@dataclass
class Normal:
    """Normal equations: X^T X [features, features], X^T Y [features, channels] and |Y|^2."""

    gram: Tensor
    moment: Tensor
    square: float = 0.0

    def minus(self, other: Normal) -> Normal:
        """Without the rows of another, which were counted in."""
        return Normal(self.gram - other.gram, self.moment - other.moment, self.square - other.square)

    def error(self, coefficients: Tensor) -> float:
        """|Y - X coefficients|^2"""
        explained = 2 * (coefficients * self.moment).sum() - (coefficients * (self.gram @ coefficients)).sum()
        return self.square - float(explained)


class Regression:
    """Ridge regression of one block of coefficients, gathered structure by structure, checked on structures left out.

    Elements of one structure are not independent, so whole structures are left out; the ridge is the one whose
    predictions for them are best.
    """

    def __init__(self) -> None:
        self.folds: dict[int, Normal] = {}

    def add(self, structure: int, x: Tensor, y: Tensor) -> None:
        """x: [rows, features], y: [rows, channels]"""
        new = Normal(x.T @ x, x.T @ y, float(y.square().sum()))
        old = self.folds.get(structure % FOLDS)
        if old is not None:
            new = Normal(old.gram + new.gram, old.moment + new.moment, old.square + new.square)
        self.folds[structure % FOLDS] = new

    def solve(self) -> Tensor:
        """Coefficients [features, channels]."""
        parts = list(self.folds.values())
        whole = Normal(sum(p.gram for p in parts), sum(p.moment for p in parts), sum(p.square for p in parts))  # type: ignore[arg-type]
        if len(parts) == 1:
            return next(iter(_ridges(whole, (WITHOUT_FOLDS,))))
        errors = [0.0] * len(RIDGES)
        for part in parts:
            for k, coefficients in enumerate(_ridges(whole.minus(part), RIDGES)):
                errors[k] += part.error(coefficients)
        best = min(range(len(RIDGES)), key=errors.__getitem__)
        return next(iter(_ridges(whole, (RIDGES[best],))))


def _ridges(normal: Normal, ridges: Sequence[float]) -> Iterator[Tensor]:
    values, vectors = symmetric_eigen(normal.gram)
    values = values.clamp(min=0)
    z = vectors.T @ normal.moment
    for ridge in ridges:
        yield vectors @ (z / (values + ridge * values[-1].clamp(min=1e-300))[:, None])


def fit_statistics(readout: BlockReadout, samples: Iterable[tuple[Graph, Tensor]], told: Told = silent) -> None:
    """Fill the readout's cluster expansion and scales from float64 graphs and their target elements [size], Ha.

    told: elements and pairs of elements that are done, and all.
    """
    kept = list(samples)
    _fit_cluster(readout, kept, told)
    _fit_scales(readout, kept)


def fit_scales(readout: BlockReadout, samples: Iterable[tuple[Graph, Tensor]], share: float = LEAST_SHARE) -> None:
    """The scales alone, with no expansion: for so few structures that an expansion would be exact and say nothing of others.

    Each irrep gets its own spread, but at least this share of the largest: what one structure lacks by its symmetry, or by
    the targets being provisional, may still have to move.  share: 1 makes all scales of sites, and all of pairs, equal.
    """
    _fit_scales(readout, list(samples))
    readout.site_scale.clamp_(min=float(readout.site_scale.max()) * share)
    table = readout.log_scale.coefficients
    table.clamp_(min=float(table.max()) + math.log(share))


def _fit_cluster(readout: BlockReadout, samples: Sequence[tuple[Graph, Tensor]], told: Told) -> None:
    cluster = readout.cluster
    kinds = cluster.elements + cluster.elements**2
    components = [readout.components(graph, values.double()) for graph, values in samples]
    densities = [cluster.densities(graph) for graph, _ in samples]

    def solve(work: dict[str, Regression], kind: int) -> None:
        for name, regression in work.items():
            getattr(cluster, name)[kind] = regression.solve()

    for z in range(cluster.elements):
        told(z, kinds)
        work: dict[str, Regression] = defaultdict(Regression)
        for k, (graph, _) in enumerate(samples):
            own = graph.edges.species == z
            if own.any():
                for l, parity, columns in cluster.site_blocks():
                    features = cluster.site_features([d[own] for d in densities[k]], l, parity)
                    target = components[k][0][own][:, columns.to(own.device)].reshape(features.shape[0], 2 * l + 1, -1)
                    work[f"site_{l}_{parity}"].add(k, features.flatten(0, 1), target.flatten(0, 1))
        solve(work, z)
    for p in range(cluster.elements**2):  # one at a time: there may be many, and each has large normal equations
        told(cluster.elements + p, kinds)
        work = defaultdict(Regression)
        for k, (graph, _) in enumerate(samples):
            stored = graph.blocks.stored(graph.edges)
            edges = stored[graph.edges.kinds(cluster.elements)[stored] == p]
            if len(edges):
                features_of = cluster.edge_features(graph, densities[k], edges)
                for m, columns in cluster.edge_blocks():
                    x = features_of[m].reshape(-1, features_of[m].shape[-1])
                    target = components[k][1][edges][:, columns.to(edges.device)]
                    work[f"edge_{m}"].add(k, x, target.reshape(len(x), -1))
        solve(work, p)
    told(kinds, kinds)


def _fit_scales(readout: BlockReadout, samples: Sequence[tuple[Graph, Tensor]]) -> None:
    elements = readout.cluster.elements
    sites, edges, species, pairs, distances = [], [], [], [], []
    for graph, values in samples:
        site, edge = readout.components(graph, values.double())
        expanded_site, expanded_edge = readout.cluster(graph)
        stored = graph.blocks.stored(graph.edges)
        sites.append(site - expanded_site)
        species.append(graph.edges.species)
        edges.append((edge - expanded_edge)[stored])
        pairs.append(graph.edges.kinds(elements)[stored])
        distances.append(graph.edges.distance[stored])
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

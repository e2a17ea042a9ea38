"""What the data say before any learning: the cluster expansion by ridge regression, and the spread about it.

A baseline is to help where it was not fitted. Where the data have several compositions, whole compositions are left out: the
ridges are those that predict them best, an irrep of a block keeps its coefficients only where they lower the error of
compositions left out, and the scales are the spread of what is left there. With one composition, structures are left out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial, reduce

import torch
from torch import Tensor

from nearsight.models.baseline import ClusterExpansion
from nearsight.models.contract import LEAST_SHARE, Told, silent
from nearsight.models.decompositions import symmetric_eigen
from nearsight.models.graph import Graph
from nearsight.models.readout import BlockReadout
from nearsight.models.so2 import FrameIrreps

WIDTH = 0.3  # window in which the spread is averaged over distances [Bohr]
FLOOR = 1e-6  # least spread [Ha]; 0.03 meV
FOLDS = 4  # groups of structures for cross-validation
FEW = 3  # compositions: with more, what one of them alone has says nothing of others
RIDGES = tuple(10.0**k for k in range(-12, 2))  # tried, relative to the largest eigenvalue
WITHOUT_FOLDS = 1e-6  # the ridge where there is one structure only


@dataclass
class Normal:
    """Normal equations: X^T X [features, features], X^T Y [features, channels] and |Y|^2 [channels]."""

    gram: Tensor
    moment: Tensor
    square: Tensor

    def plus(self, other: Normal) -> Normal:
        """With the rows of another."""
        return Normal(self.gram + other.gram, self.moment + other.moment, self.square + other.square)

    def error(self, coefficients: Tensor) -> Tensor:
        """|Y - X coefficients|^2 of each channel [channels]."""
        explained = 2 * (coefficients * self.moment).sum(0) - (coefficients * (self.gram @ coefficients)).sum(0)
        return self.square - explained


@dataclass(frozen=True)
class Folds:
    """Which structures are left out together: fold [structures].  grouped: whether compositions were kept together.

    several: how many compositions there are.
    """

    fold: tuple[int, ...]
    grouped: bool
    several: int

    @staticmethod
    def of(compositions: Sequence[Hashable]) -> Folds:
        """At most FOLDS: structures in turn where all have one composition, else compositions, the largest first into the
        smallest fold."""
        sizes = Counter(compositions)
        if len(sizes) == 1:
            return Folds(tuple(k % FOLDS for k in range(len(compositions))), False, 1)
        filled = [0] * min(FOLDS, len(sizes))
        place: dict[Hashable, int] = {}
        for composition, size in sorted(sizes.items(), key=lambda x: (-x[1], repr(x[0]))):
            place[composition] = min(range(len(filled)), key=filled.__getitem__)
            filled[place[composition]] += size
        return Folds(tuple(place[c] for c in compositions), True, len(sizes))


@dataclass
class Fitted:
    """Coefficients of one block [features, channels], and for each fold those that were fitted without it."""

    whole: Tensor
    without: Mapping[int, Tensor] = field(default_factory=dict)


class Regression:
    """Ridge regression of one block of coefficients, gathered structure by structure, checked on structures left out.

    Elements of one structure are not independent, so whole structures are left out, or whole compositions (Folds); the ridge
    is the one whose predictions for them are best.
    """

    def __init__(self, folds: Folds) -> None:
        self.folds = folds
        self.parts: dict[tuple[int, int], Normal] = {}  # by the fold, and by the place within it

    def add(self, structure: int, x: Tensor, y: Tensor) -> None:
        """x: [rows, features], y: [rows, channels]"""
        new = Normal(x.T @ x, x.T @ y, y.square().sum(0))
        key = self.folds.fold[structure], structure % FOLDS if self.folds.several <= FEW else 0
        self.parts[key] = self.parts[key].plus(new) if key in self.parts else new

    def solve(self) -> Fitted:
        """A channel that coefficients do not help, on compositions left out, has none."""
        whole = _total(self.parts.values())
        folds = sorted({fold for fold, _ in self.parts})
        by_fold = {f: _total(p for (fold, _), p in self.parts.items() if fold == f) for f in folds}
        if len(folds) == 1 and self.folds.grouped:
            if self.folds.several > FEW:  # nothing tells what they are worth elsewhere
                return Fitted(torch.zeros_like(whole.moment))
            by_fold = {place: p for (_, place), p in self.parts.items()}
        if len(by_fold) == 1:
            return Fitted(next(iter(_ridges(whole, (WITHOUT_FOLDS,)))))
        rest = {f: _total(p for g, p in by_fold.items() if g != f) for f in by_fold}
        errors = torch.zeros(len(RIDGES), whole.moment.shape[1]).to(whole.moment)
        for f, part in by_fold.items():
            for k, coefficients in enumerate(_ridges(rest[f], RIDGES)):
                errors[k] += part.error(coefficients)
        best = int(errors.sum(1).argmin())
        [found] = _ridges(whole, (RIDGES[best],))
        if not self.folds.grouped or len(folds) == 1:
            return Fitted(found)
        helps = errors[best] < whole.square
        without = {f: next(iter(_ridges(rest[f], (RIDGES[best],)))) * helps for f in by_fold}
        return Fitted(found * helps, without)


def _total(parts: Iterable[Normal]) -> Normal:
    first, *others = parts
    return reduce(Normal.plus, others, first)


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
    folds = Folds.of([_composition(graph) for graph, _ in kept])
    fitted = _fit_cluster(readout, kept, folds, told)
    _fit_scales(readout, kept, folds, fitted)


def _composition(graph: Graph) -> tuple[tuple[int, int], ...]:
    """(element, number) of each, the numbers without a common factor."""
    counts = Counter(graph.edges.species.tolist())
    least = math.gcd(*counts.values())
    return tuple(sorted((z, n // least) for z, n in counts.items()))


def fit_scales(readout: BlockReadout, samples: Iterable[tuple[Graph, Tensor]], share: float = LEAST_SHARE) -> None:
    """The scales alone, with no expansion: for so few structures that an expansion would be exact and say nothing of others.

    Each irrep gets its own spread, but at least this share of the largest: what one structure lacks by its symmetry, or by
    the targets being provisional, may still have to move.  share: 1 makes all scales of sites, and all of pairs, equal.
    """
    kept = list(samples)
    _fit_scales(readout, kept, Folds.of([0] * len(kept)), {})
    readout.site_scale.clamp_(min=float(readout.site_scale.max()) * share)
    table = readout.log_scale.coefficients
    table.clamp_(min=float(table.max()) + math.log(share))


def _fit_cluster(
    readout: BlockReadout, samples: Sequence[tuple[Graph, Tensor]], folds: Folds, told: Told
) -> dict[tuple[str, int], Fitted]:
    """Sets the coefficients; all of them by the block's name and the index of the element, or pair of elements."""
    cluster = readout.cluster
    found: dict[tuple[str, int], Fitted] = {}
    kinds = cluster.elements + cluster.elements**2
    components = [readout.components(graph, values.double()) for graph, values in samples]
    densities = [cluster.densities(graph) for graph, _ in samples]

    def solve(work: dict[str, Regression], kind: int) -> None:
        for name, regression in work.items():
            found[name, kind] = regression.solve()
            getattr(cluster, name)[kind] = found[name, kind].whole

    for z in range(cluster.elements):
        told(z, kinds)
        work: dict[str, Regression] = defaultdict(partial(Regression, folds))
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
        work = defaultdict(partial(Regression, folds))
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
    return found


@contextmanager
def left_out(cluster: ClusterExpansion, fitted: Mapping[tuple[str, int], Fitted], fold: int) -> Iterator[None]:
    """The cluster expansion with the coefficients that were fitted without a fold, for a while."""
    try:
        for (name, kind), block in fitted.items():
            getattr(cluster, name)[kind] = block.without.get(fold, block.whole)
        yield
    finally:
        for (name, kind), block in fitted.items():
            getattr(cluster, name)[kind] = block.whole


def _fit_scales(
    readout: BlockReadout,
    samples: Sequence[tuple[Graph, Tensor]],
    folds: Folds,
    fitted: Mapping[tuple[str, int], Fitted],
) -> None:
    elements = readout.cluster.elements
    sites, edges, species, pairs, distances = [], [], [], [], []
    for fold in range(FOLDS) if folds.grouped else [None]:
        own = [sample for sample, place in zip(samples, folds.fold, strict=True) if fold in (None, place)]
        with nullcontext() if fold is None else left_out(readout.cluster, fitted, fold):
            for graph, values in own:
                site, edge = readout.components(graph, values.double())
                if fitted:
                    expanded_site, expanded_edge = readout.expansion(graph)
                    site, edge = site - expanded_site, edge - expanded_edge
                stored = graph.blocks.stored(graph.edges)
                sites.append(site)
                species.append(graph.edges.species)
                edges.append(edge[stored])
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

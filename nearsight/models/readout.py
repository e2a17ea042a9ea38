"""Features of atoms and edges -> the elements of a hermitian matrix, by way of the bond's frame, in the scale of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor, nn

from nearsight.core.display import one_line
from nearsight.core.spin import NONE
from nearsight.core.spin_parts import SpinPart, SpinParts
from nearsight.models.baseline import ClusterExpansion
from nearsight.models.blockmap import OrbitalSlots
from nearsight.models.graph import Graph
from nearsight.models.layers import Irreps, join_irreps
from nearsight.models.so2 import Frame, FrameIrreps, into_frame


def flatten_frame(features: Frame) -> Tensor:
    """[edges, dim]: m = 0 even, odd, then for each m both rows."""
    return torch.cat([features[0], *(y.flatten(1) for y in features[1:])], 1)


def frame_basis(irreps: Irreps) -> Tensor:
    """The signed permutation [irreps.dim, frame.dim], float64, from flat O(3) features in a bond's frame to flat O(2) ones."""
    eye = torch.eye(irreps.dim, dtype=torch.float64, device="cpu")
    identity = [
        torch.eye(2 * l + 1, dtype=torch.float64, device="cpu").expand(irreps.dim, -1, -1)
        for l in range(1, irreps.l_max + 1)
    ]
    return flatten_frame(into_frame(irreps, eye, identity))


@dataclass(frozen=True, eq=False)
class PartCoupling:
    """How the irreps of one part of H (spin_parts.py) stand among those of all, and become its elements.

    site, frame: its columns among the flat O(3) features of atoms and the flat O(2) features of edges.  of_site, of_frame: from
    these to elements [dim, (2 rank + 1) P^2], orthogonal, float64.
    """

    part: SpinPart
    site: Tensor
    frame: Tensor
    of_site: Tensor
    of_frame: Tensor

    __repr__ = one_line


def part_couplings(slots: OrbitalSlots, parts: SpinParts) -> tuple[Irreps, list[PartCoupling]]:
    """The irreps of all parts of H together, and each part's share in them."""
    found = [slots.coupling(p.rank) for p in parts.parts]
    irreps, columns = join_irreps([own for own, _ in found])
    basis = frame_basis(irreps)
    result = []
    for part, (_, coupling), site in zip(parts.parts, found, columns, strict=True):
        own = basis[site]
        frame = own.abs().sum(0).nonzero()[:, 0]
        result.append(PartCoupling(part, site, frame, coupling, own[:, frame].T @ coupling))
    return irreps, result


def highest_l(shells: Mapping[int, Sequence[int]], parts: SpinParts) -> int:
    """Of the irreps of blocks of these parts: l1 + l2, and the rank in spin."""
    return 2 * max(max(s) for s in shells.values()) + max(p.rank for p in parts.parts)


class RadialTable(nn.Module):
    """A vector of functions of a distance for each ordered pair of elements: cubic B-splines from 0 to `reach` [Bohr].

    Constant beyond. coefficients: [pairs of elements, knots, functions], the first knot one step before 0.  step: about so far
    from knot to knot [Bohr].
    """

    STEP, WIDE = 0.25, 0.6  # of few elements, and of so many that their pairs' tables would be most of a model's file
    coefficients: Tensor

    def __init__(self, pairs: int, reach: float, functions: int, step: float = STEP) -> None:
        super().__init__()
        self.knots = max(1, ceil(reach / step)) + 3
        self.step = reach / (self.knots - 3)
        self.register_buffer("coefficients", torch.zeros(pairs, self.knots, functions))

    def weights(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The four splines that are not zero at r [n]: first index [n] and values [n, 4]."""
        x = (r.double() / self.step).clamp(0, self.knots - 3)
        index = x.floor().clamp(max=self.knots - 4).long()
        t = x - index
        values = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
        return index, (torch.stack(values, -1) / 6)

    def forward(self, r: Tensor, pair: Tensor) -> Tensor:
        """[n, functions] at the distances r [n] of the element pairs `pair` [n]."""
        index, weights = self.weights(r)
        result = self.coefficients.new_zeros(len(r), self.coefficients.shape[2])
        for k in range(4):
            result += weights[:, k, None].to(result) * self.coefficients[pair, index + k]
        return result


class BlockReadout(nn.Module):
    """Features of atoms and edges -> the elements of a hermitian matrix, in the scale that the training data have.

    H = baseline + scale * network, for each part that its spin gives H (core/spin_parts.py).  The baseline is the cluster
    expansion (see baseline.py).  The scale is the spread of the data about it: on-site for each element and irrep; off-site
    for each pair of elements, pair of shells, L and |m|, as a function of the distance.
    moments: whether the network is told the atoms' moments.
    """

    site_scale: Tensor

    def __init__(
        self,
        shells: Mapping[int, Sequence[int]],
        cutoff: float,
        reach: float,
        l_max: int,
        parts: SpinParts | None = None,
        surroundings: bool = True,
        moments: bool = False,
    ) -> None:
        super().__init__()
        self.slots = OrbitalSlots(shells)
        self.parts = parts or SpinParts.of(NONE)
        self.irreps, self._couplings = part_couplings(self.slots, self.parts)
        self.frame = FrameIrreps.of(self.irreps)
        size, elements = self.irreps.dim, len(self.slots.numbers)
        self.register_buffer("site_scale", torch.ones(elements, size))
        step = RadialTable.STEP if surroundings else RadialTable.WIDE
        self.log_scale = RadialTable(elements**2, reach, size, step)
        self.cluster = ClusterExpansion(elements, self.irreps, self.frame, cutoff, reach, l_max, surroundings)
        self.expanded = [not (moments and p.odd) for p in self.parts.parts]
        self._cast: tuple[torch.device, torch.dtype, list[PartCoupling]] | None = None

    def couplings(self, like: Tensor) -> list[PartCoupling]:
        """Of each part, in the precision of `like` and on its device."""
        if self._cast is None or self._cast[:2] != (like.device, like.dtype):
            device, dtype = like.device, like.dtype
            cast = [
                PartCoupling(
                    c.part,
                    c.site.to(device),
                    c.frame.to(device),
                    c.of_site.to(device, dtype),
                    c.of_frame.to(device, dtype),
                )
                for c in self._couplings
            ]
            self._cast = device, dtype, cast
        return self._cast[2]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cast": None}

    def complete(self, graph: Graph) -> Graph:
        """The float64 graph with its baseline and scale, in the precision of the network."""
        edges = graph.edges
        pair = edges.kinds(len(self.slots.numbers))
        baseline = self.assemble(graph, *self.expansion(graph))
        scale = self.log_scale(edges.distance, pair).exp()
        return replace(graph, baseline=baseline, scale=scale).cast(self.site_scale.dtype)

    def fitted(self) -> dict[str, Tensor]:
        """What `complete` uses of what was fitted: coefficients of the cluster expansion, and scales of edges."""
        return {k: x for k, x in self.state_dict().items() if k.startswith(("cluster.", "log_scale."))}

    def expansion(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """What the cluster expansion says, as `components` do; zero in parts that time reversal turns where there are moments,
        of which the expansion knows nothing."""
        site, edge = self.cluster(graph)
        for c, expanded in zip(self.couplings(site), self.expanded, strict=True):
            if not expanded:
                site[:, c.site], edge[:, c.frame] = 0.0, 0.0
        return site, edge

    def assemble(self, graph: Graph, site: Tensor, edge: Tensor) -> Tensor:
        """Channels [channels, size] of the hermitian matrix with these irreps of atoms [atoms, irreps.dim] and these O(2)
        features of edges, in the bond's frame [edges, frame.dim]."""
        p = self.slots.size
        turn = graph.orbital_frames
        found = []
        for c in self.couplings(site):
            w = c.part.width
            own_site, own_edge = (
                x if w * p * p == x.shape[1] else x[:, i] for x, i in ((site, c.site), (edge, c.frame))
            )
            sites = (own_site @ c.of_site).view(-1, w, p * p)
            edges = (own_edge @ c.of_frame).view(-1, w, p, p)
            if c.part.rank:
                edges = torch.einsum("est,esxy->etxy", graph.wigner[c.part.rank - 1], edges)
            edges = turn[:, None].transpose(2, 3) @ edges @ turn[:, None]
            found.append(graph.blocks.elements(sites.transpose(0, 1), edges.transpose(0, 1).flatten(2), c.part.sign))
        return torch.cat(found)

    def components(self, graph: Graph, channels: Tensor) -> tuple[Tensor, Tensor]:
        """The way back: irreps of the on-site blocks [atoms, irreps.dim] and O(2) components of the edges [edges, frame.dim]
        of a matrix's channels [channels, size]."""
        turn = graph.orbital_frames.to(channels)[:, None]
        sites = channels.new_zeros(graph.edges.atoms, self.irreps.dim)
        edges = channels.new_zeros(len(graph.edges), self.frame.dim)
        couplings = self.couplings(channels)
        for c, own in zip(couplings, channels.split([c.part.width for c in couplings]), strict=True):
            site, edge = (x.transpose(0, 1) for x in graph.blocks.blocks(own, graph.edges))
            edge = turn @ edge @ turn.transpose(2, 3)
            if c.part.rank:
                edge = torch.einsum("est,etxy->esxy", graph.wigner[c.part.rank - 1].to(channels), edge)
            sites[:, c.site] = site.flatten(1) @ c.of_site.T
            edges[:, c.frame] = edge.flatten(1) @ c.of_frame.T
        return sites, edges

    def forward(self, graph: Graph, site: Tensor, edge: Tensor) -> Tensor:
        """Channels [channels, size], Ha, from on-site features [atoms, irreps.dim] and edge features [edges, frame.dim], of
        order one."""
        return graph.baseline + self.assemble(graph, site * self.site_scale[graph.edges.species], edge * graph.scale)

    def elements(self, graph: Graph, site: Tensor, edge: Tensor) -> Tensor:
        """The same as elements of the matrix [components, size]."""
        return self.parts.values(self(graph, site, edge))

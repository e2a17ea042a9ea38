"""Features of atoms and edges -> the elements of a hermitian matrix, by way of the bond's frame, in the scale of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor, nn

from nearsight.models.baseline import ClusterExpansion
from nearsight.models.blockmap import OrbitalSlots
from nearsight.models.graph import Graph
from nearsight.models.layers import Irreps
from nearsight.models.so2 import Frame, FrameIrreps, into_frame


def flatten_frame(features: Frame) -> Tensor:
    """[edges, dim]: m = 0 even, odd, then for each m both rows."""
    return torch.cat([features[0], *(y.flatten(1) for y in features[1:])], 1)


def frame_coupling(irreps: Irreps, coupling: Tensor) -> Tensor:
    """The matrix [P^2, P^2] from flat O(2) features to the elements of a block in the bond's frame."""
    eye = torch.eye(irreps.dim, dtype=coupling.dtype)
    identity = [
        torch.eye(2 * l + 1, dtype=coupling.dtype).expand(irreps.dim, -1, -1) for l in range(1, irreps.l_max + 1)
    ]
    return flatten_frame(into_frame(irreps, eye, identity)).T @ coupling


class RadialTable(nn.Module):
    """A vector of functions of a distance for each ordered pair of elements: cubic B-splines from 0 to `reach` [Bohr].

    Constant beyond. coefficients: [pairs of elements, knots, functions], the first knot one step before 0.
    """

    STEP = 0.25  # about [Bohr]
    coefficients: Tensor

    def __init__(self, pairs: int, reach: float, functions: int) -> None:
        super().__init__()
        self.knots = max(1, ceil(reach / self.STEP)) + 3
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

    H = baseline + scale * network.  The baseline is the cluster expansion (see baseline.py).  The scale is the spread of
    the data about it: on-site for each element and irrep; off-site for each pair of elements, pair of shells, L and |m|,
    as a function of the distance.
    """

    coupling: Tensor
    frame_coupling: Tensor
    site_scale: Tensor

    def __init__(self, shells: Mapping[int, Sequence[int]], cutoff: float, reach: float, l_max: int) -> None:
        super().__init__()
        self.slots = OrbitalSlots(shells)
        self.irreps, coupling = self.slots.coupling()
        self.frame = FrameIrreps.of(self.irreps)
        size, elements = self.irreps.dim, len(self.slots.numbers)
        single = torch.get_default_dtype()
        self.register_buffer("coupling", coupling.to(single), persistent=False)
        self.register_buffer("frame_coupling", frame_coupling(self.irreps, coupling).to(single), persistent=False)
        self.register_buffer("site_scale", torch.ones(elements, size))
        self.log_scale = RadialTable(elements**2, reach, size)
        self.cluster = ClusterExpansion(elements, self.irreps, self.frame, cutoff, reach, l_max)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Constants are made anew in float64 before a cast, so that a model made double is exact to double precision."""
        _, coupling = self.slots.coupling()
        result = super()._apply(fn, recurse)
        device, dtype = self.site_scale.device, self.site_scale.dtype
        self.coupling = coupling.to(device, dtype)
        self.frame_coupling = frame_coupling(self.irreps, coupling).to(device, dtype)
        return result

    def complete(self, graph: Graph) -> Graph:
        """The float64 graph with its baseline and scale, in the precision of the network."""
        edges = graph.edges
        pair = edges.kinds(len(self.slots.numbers))
        site, edge = self.cluster(graph)
        baseline = self.assemble(graph, site @ self.coupling.to(site), edge @ self.frame_coupling.to(edge))
        scale = self.log_scale(edges.distance, pair).exp()
        return replace(graph, baseline=baseline, scale=scale).cast(self.site_scale.dtype)

    def assemble(self, graph: Graph, site: Tensor, edge: Tensor) -> Tensor:
        """Elements [size] of the hermitian matrix with these on-site blocks [atoms, P^2] and bond-frame blocks [edges, P^2]."""
        p = self.slots.size
        turn = graph.orbital_frames
        return graph.blocks.elements(site, torch.bmm(torch.bmm(turn.transpose(1, 2), edge.view(-1, p, p)), turn))

    def components(self, graph: Graph, values: Tensor) -> tuple[Tensor, Tensor]:
        """The way back: on-site irreps [atoms, P^2] and O(2) components of the edges [edges, P^2] of a matrix [size]."""
        site, edge = graph.blocks.blocks(values, graph.edges)
        turn = graph.orbital_frames.to(values)
        edge = turn @ edge @ turn.transpose(1, 2)
        return site.flatten(1) @ self.coupling.to(values).T, edge.flatten(1) @ self.frame_coupling.to(values).T

    def forward(self, graph: Graph, site: Tensor, edge: Tensor) -> Tensor:
        """Elements [size], Ha, from on-site features [atoms, irreps.dim] and edge features [edges, frame.dim], of order one."""
        site = (site * self.site_scale[graph.edges.species]) @ self.coupling
        edge = (edge * graph.scale) @ self.frame_coupling
        return graph.baseline + self.assemble(graph, site, edge)

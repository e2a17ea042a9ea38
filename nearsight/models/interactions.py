"""Messages between atoms through the frame of each bond: what models of the DeepH-2 kind begin with.

Only the bond axis is fixed (Wang et al., arXiv:2401.17015), so the frame has no jumps; edge features live in their frame all
the time; O(3) parity holds inside the frame (so2.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from nearsight.core.display import shown
from nearsight.core.errors import BadInput
from nearsight.models.edges import Edges
from nearsight.models.layers import Gate, Irreps, Linear
from nearsight.models.local_model import LocalModel
from nearsight.models.so2 import (
    Frame,
    FrameGate,
    FrameIrreps,
    FrameLinear,
    into_frame,
    joined,
    joined_irreps,
    out_of_frame,
    scaled,
)


class EdgeConvolution(nn.Module):
    """Atoms i and j, turned into the edge's frame, and the edge's own features -> `outputs` in the frame.

    x_i and x_j are projected, added, turned once, scaled channel by channel by a function of the edge (distance and
    elements), and pass two O(2) maps with a gate between them.  final: the last output gets a linear map of the same as
    well, past the gate, and all outputs begin as zero.
    """

    def __init__(
        self,
        node: Irreps,
        edge: FrameIrreps,
        hidden: FrameIrreps,
        outputs: Sequence[FrameIrreps],
        radial: int,
        final: bool = False,
    ) -> None:
        super().__init__()
        self.node, self.edge, self.frame = node, edge, FrameIrreps.of(node)
        self.here, self.there = Linear(node, node), Linear(node, node)
        self.filter = nn.Linear(radial, self.frame.channels)
        self.gate = FrameGate(hidden)
        self.enter = FrameLinear(joined_irreps(self.frame, edge), self.gate.source)
        scale = 0.0 if final else 1.0
        self.leave = nn.ModuleList(FrameLinear(hidden, o, scale) for o in outputs)
        self.straight = FrameLinear(joined_irreps(self.frame, edge), outputs[-1], scale) if final else None
        nn.init.ones_(self.filter.bias)

    def forward(
        self, x: Tensor, edge: Frame, radial: Tensor, i: Tensor, j: Tensor, wigner: Sequence[Tensor]
    ) -> list[Frame]:
        """Each of `outputs`, of x [atoms, node.dim], edge features in the frame and radial [edges, functions]."""
        both = self.here(x).index_select(0, i) + self.there(x).index_select(0, j)
        turned = scaled(into_frame(self.node, both, wigner), self.filter(radial))
        entering = joined(turned, edge, self.frame, self.edge)
        hidden = self.gate(self.enter(entering))
        left = [leave(hidden) for leave in self.leave]
        if self.straight is not None:
            left[-1] = [a + b for a, b in zip(left[-1], self.straight(entering), strict=True)]
        return left


class Interaction(nn.Module):
    """One update of edges and atoms: edge convolution, sum of messages over neighbours, then a gated layer on each atom."""

    def __init__(
        self, node: Irreps, edge_in: FrameIrreps, edge: FrameIrreps, hidden: FrameIrreps, radial: int, neighbours: float
    ) -> None:
        super().__init__()
        self.node = node
        self.convolution = EdgeConvolution(node, edge_in, hidden, [FrameIrreps.of(node), edge], radial)
        self.collect = Linear(node, node, 1 / sqrt(neighbours))
        self.gate = Gate(node)
        self.enter, self.leave = Linear(node, self.gate.source), Linear(node, node)

    def forward(
        self, x: Tensor, edge: Frame, radial: Tensor, fade: Tensor, edges: Edges, frames: Sequence[Tensor]
    ) -> tuple[Tensor, Frame]:
        """x [atoms, node.dim] after the update, and that of the edges by itself; fade: envelope [edges, 1] of both."""
        n = edges.messages
        i, j = edges.i[:n], edges.j[:n]
        wigner = [w[:n] for w in frames]
        message, update = self.convolution(x, edge, radial, i, j, wigner)
        arrived = out_of_frame(self.node, message, wigner) * fade
        x = x + self.collect(torch.zeros_like(x).index_add(0, i, arrived))
        x = x + self.leave(self.gate(self.enter(x)))
        faded = [update[0] * fade, *(u * fade[:, None] for u in update[1:])]
        return x, faded


_MOST_CHANNELS = 4096  # of one kind


def check_channels(**frame: Sequence[int]) -> None:
    """Raises BadInput for channels in an edge's frame of which no network can be made."""
    for name, channels in frame.items():
        if len(channels) < 3 or not all(0 <= n <= _MOST_CHANNELS for n in channels):
            raise BadInput(f"model.{name}: {shown(list(channels))} are no channels of m = 0 even, 0 odd, 1, 2, ...")


class BondFrameModel(LocalModel):
    """The part that models of the DeepH-2 kind share: features of atoms and of edges, from elements, distances, messages."""

    sizes = ("irreps", "edge", "hidden", "layers", "radial", "width")

    def begin(
        self,
        l_max: int,
        *,
        cutoff: float,
        reach: float,
        irreps: str,
        edge: Sequence[int],
        hidden: Sequence[int],
        layers: int,
        radial: int,
        width: int,
        neighbours: float,
        pseudo: int = 0,
    ) -> tuple[Irreps, FrameIrreps, FrameIrreps]:
        """Make the layers; the features of atoms, of edges and within a convolution, with l and m as high as l_max at least.

        cutoff: of messages, reach: of the longest edge [Bohr].  irreps, edge, hidden: as in a table (DeepH2Config).
        neighbours: mean number in the cutoff.  pseudo: channels of pseudo tensors that each l has at least.
        Raises BadInput for sizes of which no network can be made.
        """
        check_channels(edge=edge, hidden=hidden)
        self.embed(cutoff=cutoff, reach=reach, layers=layers, radial=radial, width=width, neighbours=neighbours)
        self.irreps = node = Irreps.parse(irreps).reaching(l_max).with_pseudo(pseudo)
        self.edge_irreps, inner = (frame_irreps(f, node.l_max) for f in (edge, hidden))
        self.first_edge = nn.Linear(width, self.edge_irreps.even)
        self.embed_multipoles(width)
        invariant = FrameIrreps(self.edge_irreps.even, 0, ())
        self.interactions = nn.ModuleList(
            Interaction(node, self.edge_irreps if k else invariant, self.edge_irreps, inner, width, neighbours)
            for k in range(layers)
        )
        return node, self.edge_irreps, inner

    def pass_messages(
        self, edges: Edges, frames: Sequence[Tensor], seen: Tensor | None = None
    ) -> tuple[Tensor, Frame, Tensor, Tensor]:
        """Features of atoms [atoms, node.dim] and of message edges, and of all edges: invariants of distance and elements
        [edges, width], and the first features [edges, even].

        frames: D^l, l = 1.., into each edge's frame.  seen: what atoms begin with beside their element and the multipoles of
        their neighbours [atoms, node.dim].
        """
        n = edges.messages
        kind, radial, fade = self.invariants(edges)
        near = radial[:n]
        first = self.first_edge(radial)
        x = self.multipoles_of(edges, frames, kind, near, fade)
        x = x if seen is None else x + seen
        edge: Frame = [first[:n]]
        for interaction in self.interactions:
            x, update = interaction(x, edge, near, fade, edges, frames)
            edge = added(edge, update)
        return x, edge, radial, first

    def all_edges(self, edge: Frame, first: Tensor, n: int) -> Frame:
        """Edge features of message edges, followed by the first features of the other edges."""
        rest = len(first) - n
        if rest == 0:
            return edge
        even = torch.nn.functional.pad(first[n:], (0, self.edge_irreps.odd))
        return [torch.cat([edge[0], even]), *(torch.cat([y, y.new_zeros(rest, *y.shape[1:])]) for y in edge[1:])]


def frame_irreps(counts: Sequence[int], l_max: int) -> FrameIrreps:
    """Channels (m = 0 even, m = 0 odd, m = 1, 2, ...), the last as often as m goes up to l_max."""
    even, odd, *pairs = counts
    pairs = [*pairs, *[pairs[-1]] * (l_max - len(pairs))][:l_max]
    return FrameIrreps(even, odd, tuple(pairs))


def added(edge: Frame, update: Frame) -> Frame:
    """edge + update; m and odd channels that `edge` lacks are zero."""
    missing = update[0].shape[1] - edge[0].shape[1]
    zero = torch.nn.functional.pad(edge[0], (0, missing)) if missing else edge[0]
    return [zero + update[0], *(a + b for a, b in zip(edge[1:], update[1:], strict=False)), *update[len(edge) :]]

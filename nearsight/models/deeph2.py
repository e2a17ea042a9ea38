"""DeepH-2: messages and edge features pass through O(2)-equivariant maps in the frame of each edge.

After Wang et al., arXiv:2401.17015 (DeepH-2): only the bond axis is fixed, so the frame has no jumps. What is our own:
O(3) parity inside the frame (see so2.py), edge features that live in their frame all the time, and a readout scaled by
two-centre statistics (see readout.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.models.graph import Graph, build_graph
from nearsight.models.layers import MLP, Gate, Irreps, Linear, RadialBasis, envelope
from nearsight.models.readout import BlockReadout, flatten_frame
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

    def forward(self, x: Tensor, edge: Frame, radial: Tensor, fade: Tensor, graph: Graph) -> tuple[Tensor, Frame]:
        n = graph.messages
        i, j = graph.i[:n], graph.j[:n]
        wigner = [w[:n] for w in graph.wigner]
        message, update = self.convolution(x, edge, radial, i, j, wigner)
        arrived = out_of_frame(self.node, message, wigner) * fade
        x = x + self.collect(torch.zeros_like(x).index_add(0, i, arrived))
        x = x + self.leave(self.gate(self.enter(x)))
        faded = [update[0] * fade, *(u * fade[:, None] for u in update[1:])]
        return x, faded


class DeepH2(nn.Module):
    """Structure -> Hamiltonian (or its difference from a reference), equivariant under all of O(3), strictly local.

    shells: angular momenta of each element's shells.  cutoff: reach of one message [Bohr].  reach: longest distance of a
    matrix pair [Bohr].  irreps: features of atoms.  edge, hidden: channels in the edge's frame (even m = 0, odd m = 0, then
    m = 1, 2, ...).  layers: interactions; the prediction depends on atoms within (layers + 1) cutoffs and one more edge.
    neighbours: mean number within the cutoff.  Highest l and m are raised to what the orbitals need.

    A new network gives zero, so that the first prediction is the cluster expansion.
    """

    LAST_LAYERS = ("pair.leave.0", "pair.straight", "site_leave")  # the prediction is linear in their weights
    column: Tensor

    def __init__(
        self,
        shells: Mapping[int, Sequence[int]],
        *,
        cutoff: float,
        reach: float,
        irreps: str,
        edge: Sequence[int],
        hidden: Sequence[int],
        layers: int,
        radial: int = 16,
        width: int = 64,
        neighbours: float = 12.0,
    ) -> None:
        super().__init__()
        self.irreps = node = Irreps.parse(irreps).reaching(2 * max(max(s) for s in shells.values()))
        self.readout = BlockReadout(shells, cutoff, reach, node.l_max)
        edge_irreps, hidden_irreps = (_frame_irreps(f, node.l_max) for f in (edge, hidden))
        self.cutoff, self.neighbours = cutoff, neighbours
        elements = len(self.readout.slots.numbers)
        self.embedding = nn.Parameter(torch.randn(elements, width) / 2)
        self.basis = RadialBasis(radial, max(cutoff, 1.05 * reach))
        self.radial = MLP(radial + 2 * width, width, width, width)
        self.first_edge = nn.Linear(width, edge_irreps.even)
        self.first_node = nn.Linear(width, node.true[0])
        self.multipoles = nn.Linear(width, sum(node.true))
        invariant = FrameIrreps(edge_irreps.even, 0, ())
        self.interactions = nn.ModuleList(
            Interaction(node, edge_irreps if k else invariant, edge_irreps, hidden_irreps, width, neighbours)
            for k in range(layers)
        )
        self.edge_irreps = edge_irreps
        self.pair = EdgeConvolution(node, edge_irreps, hidden_irreps, [self.readout.frame], width, final=True)
        self.site_gate = Gate(node)
        self.site_enter = Linear(node, self.site_gate.source)
        self.site_factor = nn.Parameter(torch.ones(elements, sum(node.channels)))
        self.site_leave = Linear(node, self.readout.irreps, 0.0)
        self.register_buffer("column", node.channel_of_column(), persistent=False)

    def prepare(self, structure: Structure, layout: BlockLayout) -> Graph:
        """All that does not depend on the network's weights, to be computed once."""
        return self.readout.prepare(self.graph(structure, layout))

    def graph(self, structure: Structure, layout: BlockLayout) -> Graph:
        """Edges and frames in float64, on the network's device."""
        graph = build_graph(structure, layout, self.readout.slots, self.cutoff, self.irreps.l_max)
        return graph.to(self.embedding.device)

    def forward(self, graph: Graph) -> Tensor:
        """Matrix elements [size], Ha, of a prepared graph."""
        n = graph.messages
        kind = self.embedding[graph.species]
        radial = self.radial(torch.cat([self.basis(graph.distance), kind[graph.i], kind[graph.j]], 1))
        near = radial[:n]
        fade = envelope(graph.distance[:n], self.cutoff)[:, None]
        first = self.first_edge(radial)
        x = self._multipoles(graph, kind, near, fade)
        edge: Frame = [first[:n]]
        for interaction in self.interactions:
            x, update = interaction(x, edge, near, fade, graph)
            edge = _added(edge, update)
        edge = self._all_edges(edge, first, n)
        [pairs] = self.pair(x, edge, radial, graph.i, graph.j, graph.wigner)
        site = self.site_gate(self.site_enter(x))
        site = self.site_leave(site * self.site_factor[graph.species][:, self.column])
        return self.readout(graph, site, flatten_frame(pairs))

    def __call__(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Of a Graph: forward. Of a Structure (and, if wanted, a layout): a BlockMatrix."""
        if args and isinstance(args[0], Structure):
            return self.matrix(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def matrix(self, structure: Structure, layout: BlockLayout | None = None) -> BlockMatrix:
        """The predicted matrix on a layout; without one, on all pairs within the message cutoff."""
        if layout is None:
            basis = Basis.of(structure.numbers, self.readout.slots.shells)
            layout = BlockLayout(basis, Pairs.within(structure, self.cutoff))
        return BlockMatrix(layout, self(self.prepare(structure, layout))[None])

    def _multipoles(self, graph: Graph, kind: Tensor, radial: Tensor, fade: Tensor) -> Tensor:
        """First features of atoms: their element, and sum_j w_lc(r_ij) Y_lm(r_ij)."""
        n = graph.messages
        weights = self.multipoles(radial) * (fade / sqrt(self.neighbours))
        columns = []
        present = [t for t, c in zip(self.irreps.true, self.irreps.channels, strict=True) if c]
        for (l, _, c), w in zip(self.irreps.blocks(), weights.split(present, 1), strict=True):
            t = self.irreps.true[l]
            harmonics = graph.wigner[l - 1][:n, l, :] if l else w.new_ones(n, 1)
            y = harmonics[:, :, None] * w[:, None, :]
            columns.append((torch.nn.functional.pad(y, (0, c - t)) if c > t else y).flatten(1))
        x = kind.new_zeros(graph.atoms, self.irreps.dim).index_add(0, graph.i[:n], torch.cat(columns, 1))
        return x + torch.nn.functional.pad(self.first_node(kind), (0, self.irreps.dim - self.irreps.true[0]))

    def _all_edges(self, edge: Frame, first: Tensor, n: int) -> Frame:
        """Edge features of message edges, followed by the first features of the other edges."""
        rest = len(first) - n
        if rest == 0:
            return edge
        even = torch.nn.functional.pad(first[n:], (0, self.edge_irreps.odd))
        return [torch.cat([edge[0], even]), *(torch.cat([y, y.new_zeros(rest, *y.shape[1:])]) for y in edge[1:])]


def _frame_irreps(counts: Sequence[int], l_max: int) -> FrameIrreps:
    even, odd, *pairs = counts
    pairs = [*pairs, *[pairs[-1]] * (l_max - len(pairs))][:l_max]
    return FrameIrreps(even, odd, tuple(pairs))


def _added(edge: Frame, update: Frame) -> Frame:
    """edge + update; m and odd channels that `edge` lacks are zero."""
    missing = update[0].shape[1] - edge[0].shape[1]
    zero = torch.nn.functional.pad(edge[0], (0, missing)) if missing else edge[0]
    return [zero + update[0], *(a + b for a, b in zip(edge[1:], update[1:], strict=False)), *update[len(edge) :]]

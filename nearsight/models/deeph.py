"""DeepH: elements of H are invariant numbers in a local frame of each pair of atoms, and an invariant network gives them.

After Li et al., Nat. Comput. Sci. 2, 367 (2022): atoms pass invariant messages (gated, of distances); a last message sees where
neighbours stand, by Y_lm in the frame of the pair: z along the bond, x towards the nearest neighbour of atom i that is not on
the bond. An on-site block has the frame of the bond to the nearest neighbour. What is our own: both hands of a frame are asked,
so that mirrors hold as rotations do; where all neighbours are on the bond, or there is none, what turns about it is zero; the
readout in the scale of the data (readout.py), which deeph2 shares.

A frame jumps where two neighbours swap their distance, and has a choice where two are equally near, as in a crystal without
displacements: there the prediction is one of several. deeph2 and deeph_e3 have no such frames; this one is here to be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.core.spin import NONE
from nearsight.core.spin import spin as find_spin
from nearsight.core.spin_parts import SpinParts
from nearsight.core.structure import Structure
from nearsight.models.contract import PresetConfig
from nearsight.models.edges import Edges, edgewise
from nearsight.models.graph import Graph
from nearsight.models.layers import MLP, Irreps
from nearsight.models.matrix_model import MatrixModel
from nearsight.models.readout import BlockReadout, flatten_frame, highest_l
from nearsight.models.so2 import Frame, FrameIrreps, into_frame, out_of_frame
from nearsight.models.targets import TOTAL, Inputs, Prediction, Target

PRESETS: dict[str, dict[str, Any]] = {
    "small": {"channels": 6, "layers": 2, "width": 48, "hidden": 128},
    "base": {"channels": 8, "layers": 4, "width": 64, "hidden": 256},
    "large": {"channels": 16, "layers": 5, "width": 128, "hidden": 512},
}
OFF_THE_BOND = 0.1  # sine of the angle of a neighbour that gives a frame its second axis, at least


class DeepHConfig(PresetConfig):
    """kind and preset of the network; further keys replace the preset's.

    cutoff_ang: reach of one message [Angstrom].  channels: functions of the distance with each Y_lm, l <= l_max, of the last
    message.  layers: invariant messages before it.  radial: functions of the distance.  width: features of atoms.  hidden: of
    the network that gives the elements.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    kind: Literal["deeph"] = "deeph"
    target: Literal["total", "delta"] = "total"
    preset: Literal["small", "base", "large"] = "small"
    cutoff_ang: float = Field(4.25, gt=0, le=50)
    channels: int | None = Field(None, ge=1, le=1024)
    l_max: int = Field(4, ge=0, le=8)
    layers: int | None = Field(None, ge=1, le=32)
    radial: int = Field(8, ge=1, le=512)
    width: int | None = Field(None, ge=1, le=8192)
    hidden: int | None = Field(None, ge=1, le=8192)


@dataclass(frozen=True, eq=False)
class LocalGraph(Graph):
    """A graph with what its local frames are beside those of the bonds.

    second: where the second axis of each edge's frame is, seen along the bond [edges, 2]: a unit vector, or zero where there is
    none.  nearest: the message edge to the nearest neighbour of each atom [atoms], -1 where there is none.
    """

    second: Tensor
    nearest: Tensor

    __repr__ = one_line

    @classmethod
    def of_graph(cls, graph: Graph) -> LocalGraph:
        """With the frames of a single structure's graph."""
        edges, n = graph.edges, graph.edges.messages
        turn = graph.wigner[0]
        directions = turn[:n, 1, :]
        second = edges.distance.new_zeros(len(edges), 2)
        nearest = torch.full_like(edges.species, -1)
        for atom in range(edges.atoms):
            around = (edges.i[:n] == atom).nonzero()[:, 0]
            if not len(around):
                continue
            around = around[torch.argsort(edges.distance[around], stable=True)]
            nearest[atom] = around[0]
            own = (edges.i == atom).nonzero()[:, 0]
            y, _, x = torch.einsum("eab,fb->aef", turn[own], directions[around])
            off = x.square() + y.square() > OFF_THE_BOND**2
            first = off.long().argmax(1, keepdim=True)
            xy = torch.cat([x.gather(1, first), y.gather(1, first)], 1)
            second[own] = xy / xy.norm(dim=1, keepdim=True).clamp(min=1e-30) * off.any(1, keepdim=True)
        return cls(**{f.name: getattr(graph, f.name) for f in fields(Graph)}, second=second, nearest=nearest)

    @classmethod
    def batch(cls, samples: Sequence[Graph]) -> LocalGraph:
        """Several graphs as one, message edges of all of them first."""
        local = [s for s in samples if isinstance(s, LocalGraph)]
        if len(local) == 1:
            return local[0]
        graph, edges = Graph.batch(samples), [s.edges for s in local]
        before = [sum(e.messages for e in edges[:k]) for k in range(len(edges))]
        nearest = [torch.where(s.nearest < 0, s.nearest, s.nearest + n) for s, n in zip(local, before, strict=True)]
        return cls(
            **{f.name: getattr(graph, f.name) for f in fields(Graph)},
            second=edgewise([s.second for s in local], edges),
            nearest=torch.cat(nearest),
        )


def turned(frame: Frame, second: Tensor, back: bool = False) -> Frame:
    """Features in the bond's frame, seen in the local frame whose x axis is `second` [edges, 2]; or the way back.

    A pair m turns by m times the angle; without a second axis it is zero.
    """
    c, s = torch.ones_like(second[:, 0]), torch.zeros_like(second[:, 0])
    x, y = second.unbind(1)
    result = [frame[0]]
    for pair in frame[1:]:
        c, s = c * x - s * y, s * x + c * y
        cos, sin = c[:, None], (-s if back else s)[:, None]
        result.append(torch.stack([pair[:, 0] * cos + pair[:, 1] * sin, pair[:, 1] * cos - pair[:, 0] * sin], 1))
    return result


def by_hand(frame: Frame, irreps: FrameIrreps) -> tuple[Tensor, Tensor]:
    """What a mirror through the local frame's x-z plane keeps, and what it negates [edges, ...]."""
    keeps = [frame[0][:, : irreps.even], *(pair[:, 0] for pair in frame[1:])]
    turns = [frame[0][:, irreps.even :], *(pair[:, 1] for pair in frame[1:])]
    return torch.cat(keeps, 1), torch.cat(turns, 1)


class _Elements(nn.Module):
    """Invariants and what a mirror negates -> features of `target` in the local frame; zero at first."""

    def __init__(self, kept: int, negated: int, target: FrameIrreps, hidden: int) -> None:
        super().__init__()
        self.target = target
        self.body = MLP(kept + negated, hidden, hidden, hidden)
        self.leave = nn.Linear(hidden, target.dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, kept: Tensor, negated: Tensor) -> Frame:
        f = self.target
        one, other = (self.leave(silu(self.body(torch.cat([kept, sign * negated], 1)))) for sign in (1, -1))
        even, odd = 0.5 * (one + other), 0.5 * (one - other)
        zero = torch.cat([even[:, : f.even], odd[:, f.even : f.even + f.odd]], 1)
        start, result = f.even + f.odd, [zero]
        for width in f.pairs:
            a, b = slice(start, start + width), slice(start + width, start + 2 * width)
            result.append(torch.stack([even[:, a], odd[:, b]], 1))
            start += 2 * width
        return result


class _Message(nn.Module):
    """h_i + sum_j sigmoid(A z) softplus(B z), z of both atoms and the edge: DeepH's gated convolution."""

    def __init__(self, width: int, neighbours: float) -> None:
        super().__init__()
        self.both = nn.Linear(3 * width, 2 * width)
        self.collect = nn.Linear(width, width)
        self.share = 1 / sqrt(neighbours)

    def forward(self, h: Tensor, radial: Tensor, fade: Tensor, i: Tensor, j: Tensor) -> Tensor:
        gate, value = self.both(torch.cat([h[i], h[j], radial], 1)).chunk(2, 1)
        messages = torch.sigmoid(gate) * softplus(value) * fade
        return h + self.collect(self.share * torch.zeros_like(h).index_add(0, i, messages))


class DeepH(MatrixModel):
    """Structure -> Hamiltonian (or what `target` says), in local frames; equivariant under all of O(3), strictly local.

    Arguments as of DeepHConfig, lengths in Bohr; reach, neighbours, spin, surroundings as of DeepH2.
    """

    Config = DeepHConfig
    Sample = LocalGraph
    sizes = ("channels", "l_max", "layers", "radial", "width", "hidden")

    def __init__(
        self,
        shells: Mapping[int, Sequence[int]],
        target: str | Target = TOTAL,
        *,
        cutoff: float,
        reach: float,
        channels: int,
        l_max: int,
        layers: int,
        radial: int = 8,
        width: int = 48,
        hidden: int = 128,
        neighbours: float = 12.0,
        spin: str = NONE.name,
        surroundings: bool = True,
    ) -> None:
        super().__init__(shells, target)
        self.embed(cutoff=cutoff, reach=reach, layers=layers, radial=radial, width=width, neighbours=neighbours)
        parts = SpinParts.without_moments(find_spin(spin))
        highest = highest_l(shells, parts)
        self.seen = Irreps((channels,) * (l_max + 1), (0,) * (l_max + 1))
        self.irreps = self.seen.reaching(highest)  # as high as the frames go
        self.messages = nn.ModuleList(_Message(width, neighbours) for _ in range(layers))
        self.weigh = nn.Linear(2 * width, channels * (l_max + 1))
        self.readout = BlockReadout(shells, cutoff, reach, highest, parts, surroundings)
        view, made = FrameIrreps.of(self.seen), FrameIrreps.of(self.readout.irreps)
        kept, negated = view.even + sum(view.pairs), sum(view.pairs)
        self.pair_elements = _Elements(2 * kept + 3 * width, 2 * negated, made, hidden)
        self.site_elements = _Elements(kept + 2 * width, negated, made, hidden)
        self.alone = nn.Linear(width, self.readout.irreps.true[0])

    def geometry(self, structure: Structure, layout: BlockLayout, inputs: Inputs) -> LocalGraph:
        """Edges and frames. Raises BadInput for an element that the model does not know."""
        return LocalGraph.of_graph(super().geometry(structure, layout, inputs))

    def forward(self, graph: LocalGraph) -> Prediction:
        """Matrix elements [components, size], Ha, of a prepared graph."""
        edges, n = graph.edges, graph.edges.messages
        i, j = edges.i[:n], edges.j[:n]
        h, radial, fade = self.invariants(edges)
        for message in self.messages:
            h = message(h, radial[:n], fade, i, j)
        x = self._seen(edges, graph.wigner, torch.cat([h[j], radial[:n]], 1), fade)
        ends = [self._local(x[end], graph.wigner, graph.second) for end in (edges.i, edges.j)]
        invariants = torch.cat([h[edges.i], h[edges.j], radial, *(kept for kept, _ in ends)], 1)
        pairs = self.pair_elements(invariants, torch.cat([negated for _, negated in ends], 1))
        site = self._sites(graph, h, x, radial)
        values = self.readout.elements(graph, site, flatten_frame(turned(pairs, graph.second, back=True)))
        return Prediction(values, graph.sizes, self.target)

    def _seen(self, edges: Edges, frames: Sequence[Tensor], inputs: Tensor, fade: Tensor) -> Tensor:
        """sum_j w_lc(r_ij, h_j) Y_lm(r_ij) of each atom [atoms, seen.dim]."""
        n = edges.messages
        weights = (self.weigh(inputs) * (fade / sqrt(self.neighbours))).chunk(self.seen.l_max + 1, 1)
        columns = []
        for l, w in enumerate(weights):
            harmonics = frames[l - 1][:n, l, :] if l else w.new_ones(n, 1)
            columns.append((harmonics[:, :, None] * w[:, None, :]).flatten(1))
        return fade.new_zeros(edges.atoms, self.seen.dim).index_add(0, edges.i[:n], torch.cat(columns, 1))

    def _local(self, x: Tensor, frames: Sequence[Tensor], second: Tensor) -> tuple[Tensor, Tensor]:
        """Features [edges, seen.dim] in the local frames: what a mirror keeps and what it negates."""
        framed = into_frame(self.seen, x, frames[: self.seen.l_max])
        return by_hand(turned(framed, second), FrameIrreps.of(self.seen))

    def _sites(self, graph: LocalGraph, h: Tensor, x: Tensor, radial: Tensor) -> Tensor:
        """Irreps of on-site blocks [atoms, irreps.dim], by the frame of the bond to the nearest neighbour."""
        irreps = self.readout.irreps
        site = h.new_zeros(len(h), irreps.dim)
        site = torch.cat([self.alone(h), site[:, irreps.true[0] :]], 1)
        having = (graph.nearest >= 0).nonzero()[:, 0]
        bond = graph.nearest[having]
        frames, second = [w[bond] for w in graph.wigner], graph.second[bond]
        kept, negated = self._local(x[having], frames, second)
        made = self.site_elements(torch.cat([h[having], radial[bond], kept], 1), negated)
        return site.index_add(0, having, out_of_frame(irreps, turned(made, second, back=True), frames))

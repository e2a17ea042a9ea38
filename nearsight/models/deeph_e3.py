"""DeepH-E3: features of atoms are irreps of O(3) in one frame for all, mixed by tensor products with the harmonics of edges.

After Gong et al., Nat. Commun. 14, 2848 (2023): messages are tensor products of features with Y_lm of the edge, weighted by
functions of its length, and a block between two shells is read from irreps l = |l1-l2| .. l1+l2 (Wigner-Eckart). What is our
own: parity of every channel, the first features of atoms, and the readout in the scale of the data (readout.py), as in deeph2.
A product costs the sixth power of l, where a map in the frame of the bond costs the third: it is here to be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nearsight.core.spin import NONE
from nearsight.core.spin import spin as find_spin
from nearsight.core.spin_parts import SpinParts
from nearsight.models.contract import PresetConfig
from nearsight.models.deeph2 import SPINOR_PSEUDO
from nearsight.models.graph import Graph
from nearsight.models.layers import Gate, Irreps, Linear
from nearsight.models.matrix_model import MatrixModel
from nearsight.models.readout import BlockReadout, flatten_frame, highest_l
from nearsight.models.so2 import into_frame
from nearsight.models.targets import TOTAL, Prediction, Target
from nearsight.models.tensor_products import EdgeProduct

PRESETS: dict[str, dict[str, Any]] = {
    "small": {"irreps": "16x0e+8x1o+6x2e+4x3o+3x4e+2x1e+2x2o", "layers": 1, "width": 32},
    "base": {"irreps": "32x0e+16x1o+8x2e+6x3o+4x4e+4x1e+4x2o+2x3e", "layers": 2, "width": 48},
    "large": {"irreps": "64x0e+32x1o+16x2e+8x3o+8x4e+8x1e+8x2o+4x3e", "layers": 3, "width": 64},
}


class DeepHE3Config(PresetConfig):
    """kind and preset of the network; further keys replace the preset's.

    cutoff_ang: reach of one message [Angstrom].  irreps: features of atoms.  l_edge: highest harmonic of an edge.  layers:
    interactions.  radial: functions of the distance.  width: of the networks on them.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    kind: Literal["deeph_e3"] = "deeph_e3"
    target: Literal["total", "delta"] = "total"
    preset: Literal["small", "base", "large"] = "small"
    cutoff_ang: float = Field(4.25, gt=0, le=50)
    irreps: str | None = None
    l_edge: int = Field(4, ge=0, le=8)
    layers: int | None = Field(None, ge=1, le=32)
    radial: int = Field(8, ge=1, le=512)
    width: int | None = Field(None, ge=1, le=8192)


class _Interaction(nn.Module):
    """One update of atoms: products of neighbours' features with the edge's harmonics, summed, then a gated layer."""

    def __init__(self, node: Irreps, l_edge: int, width: int, neighbours: float) -> None:
        super().__init__()
        self.product = EdgeProduct(node, l_edge, node)
        self.weights = nn.Linear(width, self.product.weights)
        self.enter = Linear(node, node)
        self.collect = Linear(self.product.product, node, 1 / sqrt(neighbours))
        self.gate = Gate(node)
        self.up, self.down = Linear(node, self.gate.source), Linear(node, node)
        nn.init.ones_(self.weights.bias)

    def forward(
        self, x: Tensor, radial: Tensor, fade: Tensor, i: Tensor, j: Tensor, harmonics: Sequence[Tensor]
    ) -> Tensor:
        messages = self.product(self.enter(x)[j], harmonics, self.weights(radial) * fade)
        arrived = messages.new_zeros(len(x), messages.shape[1]).index_add(0, i, messages)
        x = x + self.collect(arrived)
        return x + self.down(self.gate(self.up(x)))


class DeepHE3(MatrixModel):
    """Structure -> Hamiltonian (or what `target` says), equivariant under all of O(3), strictly local.

    Arguments as of DeepH2, without channels in the edge's frame; l_edge: highest harmonic of an edge.
    """

    Config = DeepHE3Config
    sizes = ("irreps", "l_edge", "layers", "radial", "width")
    column: Tensor

    def __init__(
        self,
        shells: Mapping[int, Sequence[int]],
        target: str | Target = TOTAL,
        *,
        cutoff: float,
        reach: float,
        irreps: str,
        l_edge: int,
        layers: int,
        radial: int = 8,
        width: int = 48,
        neighbours: float = 12.0,
        spin: str = NONE.name,
        surroundings: bool = True,
    ) -> None:
        super().__init__(shells, target)
        parts = SpinParts.without_moments(find_spin(spin))
        pseudo = 0 if parts.is_real else SPINOR_PSEUDO
        self.embed(cutoff=cutoff, reach=reach, layers=layers, radial=radial, width=width, neighbours=neighbours)
        self.irreps = node = Irreps.parse(irreps).reaching(highest_l(shells, parts)).with_pseudo(pseudo)
        self.l_edge = min(l_edge, node.l_max)
        self.embed_multipoles(width)
        self.interactions = nn.ModuleList(_Interaction(node, self.l_edge, width, neighbours) for _ in range(layers))
        self.readout = BlockReadout(shells, cutoff, reach, node.l_max, parts, surroundings)
        self.here, self.there = Linear(node, node), Linear(node, node)
        self.gate = Gate(node)
        self.product = EdgeProduct(node, self.l_edge, node)
        self.weights = nn.Linear(width, self.product.weights)
        nn.init.ones_(self.weights.bias)
        self.pair_enter = Linear(self.product.product, self.gate.source)
        self.pair_leave = Linear(node, self.readout.irreps, 0.0)
        self.pair_straight = Linear(self.product.product, self.readout.irreps, 0.0)
        elements = len(self.shells)
        self.site_gate = Gate(node)
        self.site_enter = Linear(node, self.site_gate.source)
        self.site_factor = nn.Parameter(torch.ones(elements, sum(node.channels)))
        self.site_leave = Linear(node, self.readout.irreps, 0.0)
        self.register_buffer("column", node.channel_of_column(), persistent=False)

    def forward(self, graph: Graph) -> Prediction:
        """Matrix elements [components, size], Ha, of a prepared graph."""
        edges = graph.edges
        n = edges.messages
        kind, radial, fade = self.invariants(edges)
        harmonics = [radial.new_ones(len(edges), 1), *(w[:, l, :] for l, w in enumerate(graph.wigner, start=1))]
        x = self.multipoles_of(edges, graph.wigner, kind, radial[:n], fade)
        near = [y[:n] for y in harmonics]
        for interaction in self.interactions:
            x = interaction(x, radial[:n], fade, edges.i[:n], edges.j[:n], near)
        both = self.here(x)[edges.i] + self.there(x)[edges.j]
        product = self.product(both, harmonics, self.weights(radial))
        pair = self.pair_leave(self.gate(self.pair_enter(product))) + self.pair_straight(product)
        site = self.site_gate(self.site_enter(x))
        site = self.site_leave(site * self.site_factor[edges.species][:, self.column])
        framed = into_frame(self.readout.irreps, pair, graph.wigner)
        values = self.readout.elements(graph, site, flatten_frame(framed))
        return Prediction(values, graph.sizes, self.target)

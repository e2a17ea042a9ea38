"""DeepH-2: messages and edge features pass through O(2)-equivariant maps in the frame of each edge.

After Wang et al., arXiv:2401.17015 (DeepH-2): only the bond axis is fixed, so the frame has no jumps. What is our own:
O(3) parity inside the frame (see so2.py), edge features that live in their frame all the time, and a readout scaled by
two-centre statistics (see readout.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from nearsight.core.spin import NONE
from nearsight.core.spin import spin as find_spin
from nearsight.core.spin_parts import SpinParts
from nearsight.models.contract import LastLayer, PresetConfig
from nearsight.models.graph import Graph
from nearsight.models.interactions import BondFrameModel, EdgeConvolution
from nearsight.models.layers import Gate, Linear
from nearsight.models.matrix_model import MatrixModel
from nearsight.models.readout import BlockReadout, flatten_frame, highest_l
from nearsight.models.so2 import FrameLinear
from nearsight.models.targets import TOTAL, Prediction, Target

SPINOR_PSEUDO = (
    2  # channels at least of pseudo tensors of each l, which spin-orbit coupling is as often made of as of true ones
)

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "irreps": "32x0e+16x1o+8x2e+4x3o+4x4e+4x1e+4x2o",
        "edge": (32, 4, 16, 8, 4, 4),
        "hidden": (48, 4, 24, 16, 8, 4),
        "layers": 1,
        "width": 48,
    },
    "base": {
        "irreps": "64x0e+32x1o+16x2e+8x3o+4x4e+8x1e+8x2o+4x3e",
        "edge": (64, 8, 32, 16, 8, 4),
        "hidden": (64, 8, 40, 24, 12, 6),
        "layers": 2,
        "width": 64,
    },
    "large": {
        "irreps": "96x0e+64x1o+32x2e+16x3o+8x4e+16x1e+16x2o+8x3e",
        "edge": (96, 16, 64, 32, 16, 8),
        "hidden": (128, 16, 80, 48, 24, 12),
        "layers": 3,
        "width": 96,
    },
}


class DeepH2Config(PresetConfig):
    """kind and preset of the network; further keys replace the preset's.

    cutoff_ang: reach of one message [Angstrom].  irreps: features of atoms.  edge, hidden: channels in the edge's frame
    (m = 0 even, m = 0 odd, m = 1, 2, ...).  layers: interactions.  radial: functions of the distance.  width: of the
    networks on them.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    elsewhere: ClassVar[Mapping[str, str]] = {"density": "deeph2-density"}

    kind: Literal["deeph2"] = "deeph2"
    preset: Literal["small", "base", "large"] = "base"
    cutoff_ang: float = Field(4.25, gt=0, le=50)
    irreps: str | None = None
    edge: tuple[int, ...] | None = Field(None, min_length=3)
    hidden: tuple[int, ...] | None = Field(None, min_length=3)
    layers: int | None = Field(None, ge=1, le=32)
    radial: int = Field(8, ge=1, le=512)
    width: int | None = Field(None, ge=1, le=8192)


class DeepH2(MatrixModel, BondFrameModel):
    """Structure -> Hamiltonian (or what `target` says), equivariant under all of O(3), strictly local.

    shells: angular momenta of each element's shells.  cutoff: reach of one message [Bohr].  reach: longest distance of a
    matrix pair [Bohr].  irreps: features of atoms.  edge, hidden: channels in the edge's frame (even m = 0, odd m = 0, then
    m = 1, 2, ...).  layers: interactions; the prediction depends on atoms within (layers + 1) cutoffs and one more edge.
    neighbours: mean number within the cutoff.  spin: of the matrices; with collinear spin those of the state that the data
    have, between spinors the part that time reversal leaves, which without moments is all of H.  surroundings: of the cluster
    expansion (baseline.py).  Highest l and m are raised to what the orbitals need.

    A new network gives zero, so that the first prediction is the cluster expansion.
    """

    Config = DeepH2Config
    last_layer_names = ("pair.leave.0", "pair.straight", "site_leave")
    column: Tensor

    def __init__(
        self,
        shells: Mapping[int, Sequence[int]],
        target: str | Target = TOTAL,
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
        spin: str = NONE.name,
        surroundings: bool = True,
    ) -> None:
        super().__init__(shells, target)
        parts = SpinParts.without_moments(find_spin(spin))
        node, edge_irreps, hidden_irreps = self.begin(
            highest_l(shells, parts),
            cutoff=cutoff,
            reach=reach,
            irreps=irreps,
            edge=edge,
            hidden=hidden,
            layers=layers,
            radial=radial,
            width=width,
            neighbours=neighbours,
            pseudo=0 if parts.is_real else SPINOR_PSEUDO,
        )
        self.readout = BlockReadout(shells, cutoff, reach, node.l_max, parts, surroundings)
        elements = len(self.shells)
        self.pair = EdgeConvolution(node, edge_irreps, hidden_irreps, [self.readout.frame], width, final=True)
        self.site_gate = Gate(node)
        self.site_enter = Linear(node, self.site_gate.source)
        self.site_factor = nn.Parameter(torch.ones(elements, sum(node.channels)))
        self.site_leave = Linear(node, self.readout.irreps, 0.0)
        self.register_buffer("column", node.channel_of_column(), persistent=False)

    def last_layers(self, sample: Graph) -> list[LastLayer]:
        """Each with its inputs; rows count by the mean square of the scales that they meet, pairs outside the matrix not."""
        seen: dict[str, Any] = {}
        hooks = [
            self.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
            for name in self.last_layer_names
        ]
        try:
            self(sample)
        finally:
            for hook in hooks:
                hook.remove()
        stored = torch.zeros_like(sample.edges.i, dtype=torch.bool)
        stored[sample.blocks.stored(sample.edges)] = True
        edge = (sample.scale.square().mean(1) * stored).sqrt()
        site = self.readout.site_scale.square().mean(1).sqrt()[sample.edges.species]
        roots = {"pair.leave.0": edge, "pair.straight": edge, "site_leave": site}
        layers = {name: cast("Linear | FrameLinear", self.get_submodule(name)) for name in seen}
        return [
            LastLayer(
                name,
                layers[name].features(x, roots[name]),
                roots[name].square().sum().expand(len(layers[name].bias)),
            )
            for name, x in seen.items()
        ]

    def forward(self, graph: Graph) -> Prediction:
        """Matrix elements [components, size], Ha, of a prepared graph."""
        edges = graph.edges
        x, edge, radial, first = self.pass_messages(edges, graph.wigner)
        edge = self.all_edges(edge, first, edges.messages)
        [pairs] = self.pair(x, edge, radial, edges.i, edges.j, graph.wigner)
        site = self.site_gate(self.site_enter(x))
        site = self.site_leave(site * self.site_factor[edges.species][:, self.column])
        values = self.readout.elements(graph, site, flatten_frame(pairs))
        return Prediction(values, graph.sizes, self.target)

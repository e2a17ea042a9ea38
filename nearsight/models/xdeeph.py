"""xDeepH: Hamiltonians of magnetic structures, functions of where the atoms are and of where their moments point.

After Li et al., Nat. Comput. Sci. 3, 321 (2023): layers of atoms and edges that know the structure alone, then one layer of
magnetic moments, strictly local, then the construction of H, equivariant under E(3) x {1, T}. What is our own: the layers are
those of deeph2.py; and the part of H that a turn of all spins alone would turn along, which is nearly all of it, is made of
invariants of the moments and of blocks times moments (moments.py), so that it keeps that symmetry whatever the weights are.

Time reversal. The moment layer acts on features x(m) and x(-m) alike. Their sum is even, their difference odd under time
reversal: with them every feature has (l, parity, time reversal), and nonlinear layers mix them as the group demands. H takes
a0 and a from the sum, b0 and b from the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.spin import NONE, SPINOR, Spin
from nearsight.core.spin_parts import SpinParts, as_spinor
from nearsight.core.structure import Structure
from nearsight.models.baseline import SURROUNDED
from nearsight.models.contract import Prepared, Setting, Told, silent
from nearsight.models.deeph2 import SPINOR_PSEUDO, DeepH2Config
from nearsight.models.edges import Edges, edgewise
from nearsight.models.graph import Graph
from nearsight.models.interactions import BondFrameModel, EdgeConvolution, Interaction, added
from nearsight.models.layers import Gate, Irreps, Linear, envelope
from nearsight.models.moments import TENSORS, FieldReadout, MomentInputs, as_vectors, cross, edge_tensors, yzx
from nearsight.models.readout import BlockReadout, flatten_frame, highest_l
from nearsight.models.so2 import Frame, FrameIrreps, joined, joined_irreps
from nearsight.models.statistics import fit_scales, fit_statistics
from nearsight.models.targets import TOTAL, Inputs, Prediction, Target

TOGETHER = 20_000  # edges with messages up to which the three passes of the moment layer are one batch
TIED = 0.1  # how much of what ties spins to space a new network lets through


class XDeepHConfig(DeepH2Config):
    """Keys of deeph2, and those of the moments.

    gaussians: trainable functions of a moment's size.  sums: weighted sums of its neighbours' moments that each atom forms.
    spin_orbit: whether something ties spins to space. Without spin-orbit coupling in the data a turn of all spins alone turns H
    and nothing else: with false that holds exactly, and a step costs a third.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {"energy": "xdeeph-energy"}

    kind: Literal["xdeeph"] = "xdeeph"  # type: ignore[assignment]
    target: Literal["total", "delta"] = "total"
    preset: Literal["small", "base", "large"] = "small"
    gaussians: int = Field(8, ge=1, le=256)
    sums: int = Field(2, ge=1, le=16)
    spin_orbit: bool = True


@dataclass(frozen=True, eq=False)
class MagneticGraph(Prepared):
    """graph: of the structure, with all that does not depend on moments.  moments: of each atom [atoms, 3], mu_B, y, z, x.

    sign: of the first component that is not zero (0 without any), the same for all atoms of a structure [atoms]: of m and -m
    the network sees one, so that time reversal holds to the last bit however products of matrices are rounded.
    """

    graph: Graph
    moments: Tensor
    sign: Tensor
    sizes: tuple[int, ...]

    __repr__ = one_line

    @property
    def edge_count(self) -> int:
        """Of the graph."""
        return self.graph.edge_count

    @classmethod
    def batch(cls, samples: Sequence[MagneticGraph]) -> MagneticGraph:
        """Several as one."""
        graph = Graph.batch([s.graph for s in samples])
        moments, sign = (torch.cat([getattr(s, name) for s in samples]) for name in ("moments", "sign"))
        return cls(graph, moments, sign, graph.sizes)


class SiteHead(nn.Module):
    """A gated layer on each atom, and the features of its on-site blocks, which begin as zero."""

    column: Tensor

    def __init__(self, node: Irreps, target: Irreps, elements: int) -> None:
        super().__init__()
        self.gate = Gate(node)
        self.enter = Linear(node, self.gate.source)
        self.factor = nn.Parameter(torch.ones(elements, sum(node.channels)))
        self.leave = Linear(node, target, 0.0)
        self.register_buffer("column", node.channel_of_column(), persistent=False)

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """x [atoms, node.dim] -> [atoms, target.dim]"""
        y: Tensor = self.leave(self.gate(self.enter(x)) * self.factor[species][:, self.column])
        return y


class XDeepH(BondFrameModel):
    """Structure and moments -> spinor Hamiltonian, equivariant under O(3) with its spinors and under time reversal.

    Arguments as of DeepH2; gaussians: functions of |m|; sums: of neighbours' moments.  It is strictly local: of the structure
    H_ij depends on atoms within (layers + 2) cutoffs of i and j, of the moments on those within one.

    H = expansion(structure) + h(structure, invariants of m) + sum_q B_q v_q + sum_q A_q u_q + tied * k(structure, m),
    with v_q moments (an atom's own, both of an edge, sums over neighbours), u_q products of two, and k general in all parts;
    without spin_orbit k is zero, and the expansion and h are in a0 alone.
    """

    Config = XDeepHConfig
    Sample = MagneticGraph
    needs = frozenset({"moments"})

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
        gaussians: int = 8,
        sums: int = 2,
        surroundings: bool = True,
        spin_orbit: bool = True,
    ) -> None:
        super().__init__(shells, target)
        parts = SpinParts.of(SPINOR)
        self.spin_orbit = spin_orbit
        node, edge_irreps, inner = self.begin(
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
            pseudo=SPINOR_PSEUDO,
        )
        elements, self.sums, self.reach = len(self.shells), sums, reach
        self.readout = BlockReadout(shells, cutoff, reach, node.l_max, parts, surroundings, moments=True)
        slots = self.readout.slots
        self.exchange = FieldReadout(slots, reach, 1 + sums, 2 + 2 * sums, 1)
        self.twist = FieldReadout(slots, reach, sums, 1 + 2 * sums, -1)
        self.inputs_of_moments = MomentInputs(elements, gaussians, width)
        self.scalars = nn.Linear(width, node.true[0])
        if spin_orbit:
            self.vectors = nn.Linear(width, node.pseudo[1])
        self.gathered = nn.Linear(width, sums)
        entering = joined_irreps(edge_irreps, FrameIrreps.of(TENSORS))
        self.moment_layer = Interaction(node, entering, edge_irreps, inner, width, neighbours)
        self.pair = EdgeConvolution(node, entering, inner, [self.readout.frame], width, final=True)
        self.site = SiteHead(node, self.readout.irreps, elements)
        fields = joined_irreps(self.exchange.frame, self.twist.frame)
        self.field_pair = EdgeConvolution(node, edge_irreps, inner, [fields], width, final=True)
        self.exchange_site = SiteHead(node, self.exchange.irreps, elements)
        self.twist_site = SiteHead(node, self.twist.irreps, elements)
        if spin_orbit:
            self.tied = nn.Parameter(torch.full((2, len(parts.parts)), TIED))

    @classmethod
    def arguments(cls, config: Any, setting: Setting) -> dict[str, Any]:
        """Keyword arguments of the constructor, from the table and the data."""
        own = {"gaussians": config.gaussians, "sums": config.sums, "spin_orbit": config.spin_orbit}
        return super().arguments(config, setting) | own | {"surroundings": len(setting.shells) <= SURROUNDED}

    @property
    def spin(self) -> Spin:
        """It gives spinors, of collinear data too."""
        return SPINOR

    @property
    def locality(self) -> float:
        """One cutoff for the first features of atoms, one for each interaction, and one for the layer of moments."""
        return (self.layers + 2) * self.cutoff

    @property
    def locality_of_moments(self) -> float:
        """A block depends on no moment of an atom that is farther than this from both of its own [Bohr]."""
        return self.cutoff

    @property
    def geometry_settings(self) -> dict[str, Any]:
        """Cutoff, orbitals, and the highest l of the frames."""
        return {"cutoff": self.cutoff, "shells": self.shells, "l_max": self.irreps.l_max}

    def check_spin(self, found: Spin, name: object) -> None:
        """Raises BadInput for data without spin. Collinear data serve: they are spinors along z."""
        if found is NONE:
            raise BadInput(
                f"{name} has spin none, and xdeeph learns magnetic states: take kind deeph2, or compute it with spin"
            )

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        """As of every model, of collinear calculations along z."""
        found = calculation.require_hamiltonian()
        self.check_spin(found.spin, calculation.name)
        return super().labels(replace(calculation, hamiltonian=self.in_its_spin(found)), inputs)

    def in_its_spin(self, hamiltonian: BlockMatrix) -> BlockMatrix:
        """Between spinors, of collinear data along z."""
        return as_spinor(hamiltonian)

    def geometry(self, structure: Structure, layout: BlockLayout, inputs: Inputs) -> MagneticGraph:
        """Edges, frames, moments. Raises BadInput for an element that the model does not know, MissingData without moments."""
        self.check(structure.numbers)
        moments: Tensor = inputs.require("moments")
        l_max = self.irreps.l_max
        graph = Graph.of(structure.to("cpu"), layout.to("cpu"), self.readout.slots, self.cutoff, l_max)
        m = yzx(moments.detach().to("cpu", torch.float64))
        first = m[m != 0][:1].sign()
        sign = (first if len(first) else m.new_zeros(1)).expand(len(m)).clone()
        return MagneticGraph(graph, m, sign, graph.sizes)

    def complete(self, sample: MagneticGraph) -> MagneticGraph:
        """With the cluster expansion's values and the scales, on the network's device, in its precision."""
        there = sample.to(self.device)
        moments, sign = there.moments.to(self.dtype), there.sign.to(self.dtype)
        return MagneticGraph(self.readout.complete(there.graph), moments, sign, there.sizes)

    @torch.no_grad()
    def fit_baseline(self, samples: Iterable[tuple[MagneticGraph, Tensor]], told: Told = silent) -> None:
        """Cluster expansion of what time reversal leaves, and scales, from samples and labels [components, size], Ha."""
        kept = self._channels(samples)
        fit_statistics(self.readout, kept, told)
        self._fit_fields(kept)

    @torch.no_grad()
    def fit_scales(self, samples: Iterable[tuple[MagneticGraph, Tensor]], share: float) -> None:
        """Scales alone, none below `share` of the largest."""
        kept = self._channels(samples)
        fit_scales(self.readout, kept, share)
        self._fit_fields(kept)

    def _channels(self, samples: Iterable[tuple[MagneticGraph, Tensor]]) -> list[tuple[Graph, Tensor]]:
        parts = self.readout.parts
        return [(s.graph.to(self.device), parts.of_values(labels).to(self.device)) for s, labels in samples]

    def _fit_fields(self, samples: Sequence[tuple[Graph, Tensor]]) -> None:
        """The scales of the vectors' blocks: of each component of b and a as of a matrix without spin."""
        widths = [p.width for p in self.readout.parts.parts]
        for field, name in ((self.exchange, "exchange"), (self.twist, "spin-orbit")):
            place = [p.name for p in self.readout.parts.parts].index(name)
            plain = BlockReadout(self.shells, self.cutoff, self.reach, 1).double().to(self.device)
            fit_scales(plain, [(g, c[None]) for g, x in samples for c in x.split(widths)[place]], 1e-6)
            field.site_scale.copy_(plain.site_scale)
            field.log_scale.coefficients.copy_(plain.log_scale.coefficients)

    def fitted(self) -> dict[str, Tensor]:
        """Coefficients of the cluster expansion, and scales of edges."""
        return self.readout.fitted()

    def forward(self, sample: MagneticGraph) -> Prediction:
        """Matrix elements [components, size], Ha, of a prepared sample."""
        graph, moments = sample.graph, sample.moments
        edges, frames, n = graph.edges, graph.wigner, graph.edges.messages
        x, edge, radial, first = self.pass_messages(edges, frames)
        own = self.inputs_of_moments.atoms(moments, edges.species)
        magnetic = self.inputs_of_moments.edges(moments, own, radial, edges)
        x = x + torch.nn.functional.pad(self.scalars(own), (0, self.irreps.dim - self.irreps.true[0]))
        tensors = edge_tensors(moments, edges, frames)
        nothing = [torch.zeros_like(t) for t in tensors]
        fade = envelope(edges.distance[:n], self.cutoff)[:, None]
        passes = [(x, nothing)]
        if self.spin_orbit:
            vectors = as_vectors(self.vectors(own), moments * sample.sign[:, None], self.irreps)
            passes += [(x + vectors, tensors), (x - vectors, tensors)]
        known = edges, frames, edge, first, magnetic, fade
        groups = [[p] for p in passes] if n > TOGETHER else [passes]
        found = [one for group in groups for one in self._moments_pass(group, *known)]
        site = self._both(0, [s for s, *_ in found], sample.sign)
        pairs = self._both(1, [p for _, p, *_ in found], sample.sign[edges.i])
        y, every = found[0][2:]
        channels = self.readout(graph, site, pairs)
        if not self.spin_orbit:  # of these only a0 stays as it is where all spins are turned
            channels = torch.cat([channels[:1], torch.zeros_like(channels[1:])])
        b, a = self._fields(graph, moments, y, every, magnetic, fade)
        zero = torch.zeros_like(b[:1])
        channels = channels + torch.cat([zero, a, zero, b])
        return Prediction(self.readout.parts.values(channels), graph.sizes, self.target)

    def _moments_pass(
        self,
        passes: Sequence[tuple[Tensor, Frame]],
        edges: Edges,
        frames: Sequence[Tensor],
        edge: Frame,
        first: Tensor,
        magnetic: Tensor,
        fade: Tensor,
    ) -> list[tuple[Tensor, Tensor, Tensor, Frame]]:
        """For each of the features of atoms and tensors of edges: features of the on-site blocks and of the edges' blocks in
        their frames, and features of atoms and of edges. All of them are one batch of copies of the structure.
        """
        k, n = len(passes), edges.messages
        several = [edges] * k
        copies = Edges.batch(several) if k > 1 else edges
        wigner = [edgewise([w] * k, several) for w in frames]
        there = FrameIrreps.of(TENSORS)
        of_two = [edgewise(list(t), several) for t in zip(*(t for _, t in passes), strict=True)]
        edge = [torch.cat([f] * k) for f in edge]
        magnetic, first = (edgewise([f] * k, several) for f in (magnetic, first))
        near = joined(edge, [t[: k * n] for t in of_two], self.edge_irreps, there)
        x = torch.cat([x for x, _ in passes])
        y, update = self.moment_layer(x, near, magnetic[: k * n], torch.cat([fade] * k), copies, wigner)
        every = self.all_edges(added(edge, update), first, k * n)
        entering = joined(every, of_two, self.edge_irreps, there)
        [pairs] = self.pair(y, entering, magnetic, copies.i, copies.j, wigner)

        def apart(values: Tensor) -> list[Tensor]:
            near, rest = values[: k * n].split([n] * k), values[k * n :].split([len(edges) - n] * k)
            return [torch.cat(both) for both in zip(near, rest, strict=True)]

        sites = self.site(y, copies.species).split(edges.atoms)
        frames_of = list(zip(*(apart(f) for f in every), strict=True))
        each = zip(sites, apart(flatten_frame(pairs)), y.split(edges.atoms), frames_of, strict=True)
        return [(s, p, z, list(f)) for s, p, z, f in each]

    def _both(self, kind: int, found: Sequence[Tensor], sign: Tensor) -> Tensor:
        """Features of H: what invariants give, and what ties spins to space, even in the sum and odd in the difference.

        kind: 0 on-site, 1 of edges.  found: features without vectors of the moments, with these times the sign, and with these
        turned; the first alone where nothing ties spins to space.
        """
        if len(found) == 1:
            return found[0]
        without, forth, back = found
        result = torch.zeros_like(without)
        even, odd = 0.5 * (forth + back), 0.5 * (forth - back) * sign[:, None]
        for k, c in enumerate(self.readout.couplings(without)):
            columns, share = (c.site, c.frame)[kind], self.tied[kind, k]
            own = without[:, columns]
            result[:, columns] = share * odd[:, columns] if c.part.odd else own + share * (even[:, columns] - own)
        return result

    def _fields(
        self, graph: Graph, moments: Tensor, x: Tensor, edge: Frame, magnetic: Tensor, fade: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The exchange field b and the twist a [3, size] of blocks times moments, and times products of two."""
        edges, n, atoms = graph.edges, graph.edges.messages, len(moments)
        i, j = edges.i, edges.j
        weights = self.gathered(magnetic[:n]) * (fade / self.neighbours**0.5)
        terms = weights[:, :, None] * moments[j[:n]][:, None]
        sums = moments.new_zeros(atoms, self.sums, 3).index_add(0, i[:n], terms)
        own = moments[:, None]
        at_sites = torch.cat([own, sums], 1)
        at_edges = torch.cat([at_sites[i], at_sites[j]], 1)
        site_twists = cross(own.expand_as(sums), sums)
        twists = torch.cat([cross(own[i], own[j]), site_twists[i], site_twists[j]], 1)
        [pairs] = self.field_pair(x, edge, magnetic, i, j, graph.wigner)
        b_pairs, a_pairs = _parted(pairs, self.exchange.frame, self.twist.frame)
        b = self.exchange(graph, self.exchange_site(x, edges.species), b_pairs, at_sites, at_edges)
        a = self.twist(graph, self.twist_site(x, edges.species), a_pairs, site_twists, twists)
        return b, a


def _parted(features: Frame, first: FrameIrreps, second: FrameIrreps) -> tuple[Tensor, Tensor]:
    """The flat features of both whose channels `joined_irreps` has put together [edges, dim] each."""
    e, f = first.even, first.even + second.even
    zero = features[0]
    parts: tuple[Frame, Frame] = (
        [torch.cat([zero[:, :e], zero[:, f : f + first.odd]], 1)],
        [torch.cat([zero[:, e:f], zero[:, f + first.odd :]], 1)],
    )
    for m, y in enumerate(features[1:]):
        c = first.pairs[m] if m < len(first.pairs) else 0
        parts[0].append(y[:, :, :c])
        parts[1].append(y[:, :, c:])
    return flatten_frame(parts[0]), flatten_frame(parts[1])

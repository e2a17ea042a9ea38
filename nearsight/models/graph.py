"""Graph: a structure (or several) as models in the bond's frame see it: edges, their frames, and the matrix's elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.core.structure import Structure
from nearsight.models.blockmap import BlockMap, OrbitalSlots
from nearsight.models.contract import Prepared
from nearsight.models.edges import Edges, edgewise
from nearsight.models.so2 import edge_rotations, wigner_matrices


@dataclass(frozen=True, eq=False)
class Graph(Prepared):
    """A prepared sample of a model whose edges have frames.

    edges: of the structure; the frame of an edge looks from i to j.  blocks: where each matrix element is.
    wigner: D^l, l = 1.., into each edge's frame.  orbital_frames: the same for all orbital slots of an atom [edges, P, P].
    sizes: elements of each structure.  baseline: [channels, size] and scale: [edges, frame.dim], filled in by the
    readout (else empty).
    """

    edges: Edges
    blocks: BlockMap
    wigner: tuple[Tensor, ...]
    orbital_frames: Tensor
    sizes: tuple[int, ...]
    baseline: Tensor
    scale: Tensor

    __repr__ = one_line

    @property
    def edge_count(self) -> int:
        """Edges, those that carry no messages among them."""
        return len(self.edges)

    @staticmethod
    def of(structure: Structure, layout: BlockLayout, slots: OrbitalSlots, cutoff: float, l_max: int) -> Graph:
        """Without baseline and scale, in float64, on the structure's device. cutoff: of messages [Bohr]."""
        structure = structure.to(torch.float64)
        species = slots.index_of(structure.numbers)
        edges, vectors, place = Edges.of(structure, layout, cutoff, species)
        wigner = wigner_matrices(max(l_max, slots.l_max), edge_rotations(vectors))
        return Graph(
            edges=edges,
            blocks=BlockMap.of(layout, place, structure.numbers, slots),
            wigner=wigner[:l_max],
            orbital_frames=slots.rotation(wigner, len(edges), structure.cell),
            sizes=(layout.size,),
            baseline=structure.cell.new_zeros(0),
            scale=structure.cell.new_zeros(0),
        )

    @classmethod
    def batch(cls, samples: Sequence[Graph]) -> Graph:
        """Several graphs as one, message edges of all of them first."""
        if len(samples) == 1:
            return samples[0]
        edges = [g.edges for g in samples]
        return Graph(
            edges=Edges.batch(edges),
            blocks=BlockMap.batch([g.blocks for g in samples], edges),
            wigner=tuple(edgewise(w, edges) for w in zip(*(g.wigner for g in samples), strict=True)),
            orbital_frames=edgewise([g.orbital_frames for g in samples], edges),
            sizes=tuple(n for g in samples for n in g.sizes),
            baseline=torch.cat([g.baseline for g in samples], -1),
            scale=edgewise([g.scale for g in samples], edges),
        )

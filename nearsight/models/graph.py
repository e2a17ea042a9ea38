"""Graph: a structure (or several) made ready for a network, once: edges, their frames, and where each element comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.models.readout import OrbitalSlots
from nearsight.models.so2 import edge_rotations, wigner_matrices


@dataclass(frozen=True, eq=False)
class Graph:
    """Atoms, directed edges (message edges first) and the elements of the matrix.

    species: index of each atom's element [atoms].  i, j: atoms of each edge [edges]; the frame of an edge looks from i to j.
    messages: how many edges carry messages.  distance: [edges], Bohr.  wigner: D^l, l = 1.., into each edge's frame.
    orbital_frames: the same for all orbital slots of an atom [edges, P, P].
    block: which block each matrix element is in, atoms' on-site blocks first, then edges' [size].  local: where in the P x P
    block [size].  transposed: index of the transposed element [size].
    baseline: [size] and scale: [edges, P^2], filled in by the model (see readout.BlockStatistics).
    values: elements of each structure.
    """

    species: Tensor
    i: Tensor
    j: Tensor
    messages: int
    distance: Tensor
    wigner: tuple[Tensor, ...]
    orbital_frames: Tensor
    block: Tensor
    local: Tensor
    transposed: Tensor
    values: tuple[int, ...]
    baseline: Tensor
    scale: Tensor

    @property
    def atoms(self) -> int:
        return len(self.species)

    @property
    def edges(self) -> int:
        return len(self.i)

    def to(self, device: torch.device | str) -> Graph:
        return self._with(lambda x: x.to(device))

    def cast(self, dtype: torch.dtype) -> Graph:
        """Real numbers in another precision; indices stay."""
        return self._with(lambda x: x.to(dtype) if x.is_floating_point() else x)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Graph:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: change(x) for k, x in tensors.items() if isinstance(x, Tensor)}
        return replace(self, wigner=tuple(change(w) for w in self.wigner), **moved)


def build_graph(structure: Structure, layout: BlockLayout, slots: OrbitalSlots, cutoff: float, l_max: int) -> Graph:
    """Edges are the matrix's pairs together with all pairs closer than the message cutoff [Bohr].

    Everything is float64: networks cast what they need (Graph.cast).
    """
    structure = structure.to(torch.float64)
    device = structure.cell.device
    pairs, matrix = Pairs.within(structure, cutoff).union(layout.pairs), layout.pairs
    on_site = (pairs.i == pairs.j) & (pairs.R == 0).all(1)
    vectors = pairs.vectors(structure)
    distance = vectors.norm(dim=1)
    near = distance < cutoff
    order = torch.cat([(near & ~on_site).nonzero()[:, 0], (~near & ~on_site).nonzero()[:, 0]])
    rotations = edge_rotations(vectors[order])
    wigner = wigner_matrices(max(l_max, slots.l_max), rotations)

    atoms = len(structure)
    place = torch.empty(len(pairs), dtype=torch.int64, device=device)
    place[order] = atoms + torch.arange(len(order), device=device)
    place[on_site] = pairs.i[on_site]
    block = place[pairs.find(matrix.i, matrix.j, matrix.R)]
    row, column = layout.local
    numbers = structure.numbers
    slot = slots.table.to(device)
    species = slots.index_of(numbers)
    pair = layout.pair.long()
    local = slot[species[matrix.i[pair]], row] * slots.size + slot[species[matrix.j[pair]], column]
    return Graph(
        species=species,
        i=pairs.i[order],
        j=pairs.j[order],
        messages=int((near & ~on_site).sum()),
        distance=distance[order],
        wigner=wigner[:l_max],
        orbital_frames=slots.rotation(wigner, len(order), structure.cell),
        block=block[pair],
        local=local,
        transposed=layout.transposed.long(),
        values=(layout.size,),
        baseline=torch.zeros(layout.size, dtype=torch.float64, device=device),
        scale=torch.zeros(0, dtype=torch.float64, device=device),
    )


def batch(graphs: Sequence[Graph]) -> Graph:
    """Several graphs as one, message edges of all of them first."""
    if len(graphs) == 1:
        return graphs[0]
    atoms = sum(g.atoms for g in graphs)
    messages = sum(g.messages for g in graphs)
    blocks, edges_i, edges_j, transposed = [], [], [], []
    atom, message, rest, value = 0, 0, messages, 0
    for g in graphs:
        edge = g.block - g.atoms
        shifted = atoms + edge + torch.where(edge < g.messages, message, rest - g.messages)
        blocks.append(torch.where(edge < 0, g.block + atom, shifted))
        edges_i.append(g.i + atom)
        edges_j.append(g.j + atom)
        transposed.append(g.transposed + value)
        atom, message, rest, value = (
            atom + g.atoms,
            message + g.messages,
            rest + g.edges - g.messages,
            value + len(g.local),
        )

    def edgewise(parts: Sequence[Tensor]) -> Tensor:
        near = [p[: g.messages] for p, g in zip(parts, graphs, strict=True)]
        return torch.cat([*near, *(p[g.messages :] for p, g in zip(parts, graphs, strict=True))])

    return Graph(
        species=torch.cat([g.species for g in graphs]),
        i=edgewise(edges_i),
        j=edgewise(edges_j),
        messages=messages,
        distance=edgewise([g.distance for g in graphs]),
        wigner=tuple(edgewise(w) for w in zip(*(g.wigner for g in graphs), strict=True)),
        orbital_frames=edgewise([g.orbital_frames for g in graphs]),
        block=torch.cat(blocks),
        local=torch.cat([g.local for g in graphs]),
        transposed=torch.cat(transposed),
        values=tuple(n for g in graphs for n in g.values),
        baseline=torch.cat([g.baseline for g in graphs]),
        scale=edgewise([g.scale for g in graphs]),
    )

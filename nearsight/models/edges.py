"""Directed edges of a structure, messages and pairs of the matrix together, and which of them a matrix element lives on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.models.records import TensorRecord


@dataclass(frozen=True, eq=False)
class Edges(TensorRecord):
    """Edges (i in cell 0, j in cell R) between different sites; those that carry messages come first.

    species: index of each atom's element [atoms].  i, j: atoms of each edge [edges].  messages: how many carry messages,
    which are those shorter than the cutoff.  distance: [edges], Bohr.
    """

    species: Tensor
    i: Tensor
    j: Tensor
    messages: int
    distance: Tensor

    __repr__ = one_line

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return len(self.species)

    def __len__(self) -> int:
        return len(self.i)

    def kinds(self, elements: int) -> Tensor:
        """Index of each edge's ordered pair among the elements squared [edges]."""
        return self.species[self.i] * elements + self.species[self.j]

    @staticmethod
    def of(structure: Structure, layout: BlockLayout, cutoff: float, species: Tensor) -> tuple[Edges, Tensor, Tensor]:
        """The edges of a structure, their vectors r_j + R - r_i [edges, 3], Bohr, and the places of the matrix's pairs.

        Edges are the matrix's pairs together with all pairs closer than the message cutoff [Bohr].  species: index of each
        atom's element [atoms].  places [pairs of the layout]: the atom for an on-site pair, atoms + edge for another.
        """
        device = structure.cell.device
        pairs, matrix = Pairs.within(structure, cutoff).union(layout.pairs), layout.pairs
        on_site = (pairs.i == pairs.j) & (pairs.R == 0).all(1)
        vectors = pairs.vectors(structure)
        distance = vectors.norm(dim=1)
        near = distance < cutoff
        order = torch.cat([(near & ~on_site).nonzero()[:, 0], (~near & ~on_site).nonzero()[:, 0]])
        atoms = len(structure)
        place = torch.empty(len(pairs), dtype=torch.int64, device=device)
        place[order] = atoms + torch.arange(len(order), device=device)
        place[on_site] = pairs.i[on_site]
        edges = Edges(species, pairs.i[order], pairs.j[order], int((near & ~on_site).sum()), distance[order])
        return edges, vectors[order], place[pairs.find(matrix.i, matrix.j, matrix.R)]

    @classmethod
    def batch(cls, several: Sequence[Edges]) -> Edges:
        """Those of several structures as one, message edges of all of them first."""
        shifts = [sum(e.atoms for e in several[:k]) for k in range(len(several))]
        return Edges(
            species=torch.cat([e.species for e in several]),
            i=edgewise([e.i + n for e, n in zip(several, shifts, strict=True)], several),
            j=edgewise([e.j + n for e, n in zip(several, shifts, strict=True)], several),
            messages=sum(e.messages for e in several),
            distance=edgewise([e.distance for e in several], several),
        )


def edgewise(parts: Sequence[Tensor], several: Sequence[Edges]) -> Tensor:
    """A quantity of each edge of several structures [edges, ...] in the order of `Edges.batch`."""
    near = [p[: e.messages] for p, e in zip(parts, several, strict=True)]
    return torch.cat([*near, *(p[e.messages :] for p, e in zip(parts, several, strict=True))])


def mean_neighbours(structures: Iterable[Structure], cutoff: float) -> float:
    """Mean number of message edges an atom has, at least 1."""
    edges, atoms = 0, 0
    for s in structures:
        edges, atoms = edges + len(Pairs.within(s, cutoff)) - len(s), atoms + len(s)
    return max(1.0, edges / atoms)

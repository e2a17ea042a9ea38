"""What all networks of messages begin with: invariants of elements and distances, and the multipoles of neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nearsight.core.display import shown
from nearsight.core.errors import BadInput
from nearsight.core.units import BOHR_ANG
from nearsight.models.contract import HamiltonianModel, Setting
from nearsight.models.edges import Edges, mean_neighbours
from nearsight.models.layers import MLP, Irreps, RadialBasis, envelope

_MOST = {"layers": 32, "radial": 512, "width": 8192}
_FARTHEST = 100.0  # Bohr


def check_sizes(cutoff: float, reach: float, neighbours: float, **sizes: int) -> None:
    """Raises BadInput for sizes of which no network can be made. cutoff, reach: Bohr."""
    for name, size in sizes.items():
        if not 1 <= size <= _MOST[name]:
            raise BadInput(f"model.{name}: {shown(size)} is not from 1 to {_MOST[name]}")
    for name, length in (("cutoff", cutoff), ("reach", reach)):
        if not 0 < length <= _FARTHEST:
            raise BadInput(f"a {name} of {shown(length)} Bohr: it must be positive, and {_FARTHEST:g} at most")
    if not 0 < neighbours < 1e4:
        raise BadInput(f"{shown(neighbours)} neighbours in the mean: it must be positive")


class LocalModel(HamiltonianModel):
    """A network of messages within a cutoff, as far as all of them are the same."""

    #: keys of the table that are arguments of the constructor as they stand
    sizes: ClassVar[tuple[str, ...]] = ("layers", "radial", "width")
    irreps: Irreps

    def embed(self, *, cutoff: float, reach: float, layers: int, radial: int, width: int, neighbours: float) -> None:
        """Make what `invariants` takes.

        cutoff: of messages, reach: of the longest edge [Bohr].  radial: functions of the distance.  width: of what is made of
        them.  neighbours: mean number in the cutoff.
        Raises BadInput for sizes of which no network can be made.
        """
        check_sizes(cutoff, reach, neighbours, layers=layers, radial=radial, width=width)
        self.cutoff, self.layers, self.neighbours = cutoff, layers, neighbours
        self.embedding = nn.Parameter(torch.randn(len(self.shells), width) / 2)
        self.basis = RadialBasis(radial, max(cutoff, 1.05 * reach))
        self.radial = MLP(radial + 2 * width, width, width, width)

    def embed_multipoles(self, width: int) -> None:
        """Make what `multipoles_of` takes, with the first features of atoms in `irreps`."""
        self.first_node = nn.Linear(width, self.irreps.true[0])
        self.multipoles = nn.Linear(width, sum(self.irreps.true))

    @classmethod
    def arguments(cls, config: Any, setting: Setting) -> dict[str, Any]:
        """Keyword arguments of the constructor, from the table and the data."""
        cutoff = config.cutoff_ang / BOHR_ANG
        given = {name: getattr(config, name) for name in cls.sizes}
        return {
            "cutoff": cutoff,
            "reach": setting.reach,
            **{name: list(x) if isinstance(x, tuple) else x for name, x in given.items()},
            "neighbours": mean_neighbours(setting.structures, cutoff),
        }

    @property
    def locality(self) -> float:
        """One cutoff for each layer, and one for the first features of atoms, or the last."""
        return (self.layers + 1) * self.cutoff

    def invariants(self, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Of each atom's element [atoms, width], of all edges' elements and distances [edges, width], and the envelope of
        those that carry messages [messages, 1]."""
        kind = self.embedding[edges.species]
        radial = self.radial(torch.cat([self.basis(edges.distance), kind[edges.i], kind[edges.j]], 1))
        return kind, radial, envelope(edges.distance[: edges.messages], self.cutoff)[:, None]

    def multipoles_of(
        self, edges: Edges, frames: Sequence[Tensor], kind: Tensor, radial: Tensor, fade: Tensor
    ) -> Tensor:
        """First features of atoms [atoms, irreps.dim]: their element, and sum_j w_lc(r_ij) Y_lm(r_ij)."""
        n = edges.messages
        weights = self.multipoles(radial) * (fade / sqrt(self.neighbours))
        columns = []
        present = [t for t, c in zip(self.irreps.true, self.irreps.channels, strict=True) if c]
        for (l, _, c), w in zip(self.irreps.blocks(), weights.split(present, 1), strict=True):
            t = self.irreps.true[l]
            harmonics = frames[l - 1][:n, l, :] if l else w.new_ones(n, 1)
            y = harmonics[:, :, None] * w[:, None, :]
            columns.append((torch.nn.functional.pad(y, (0, c - t)) if c > t else y).flatten(1))
        x = kind.new_zeros(edges.atoms, self.irreps.dim).index_add(0, edges.i[:n], torch.cat(columns, 1))
        return x + torch.nn.functional.pad(self.first_node(kind), (0, self.irreps.dim - self.irreps.true[0]))

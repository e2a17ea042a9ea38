"""From irreps to orbital blocks (Wigner-Eckart), for any orbital content and any number of elements.

A block between shells l1 and l2 is the sum of irreps L = |l1 - l2| .. l1 + l2 of parity (-1)^(l1 + l2). Elements share
orbital *slots*: for each l as many shells as the richest element has. One constant orthogonal matrix takes all irreps of a
P x P block to its elements; in the frame of the bond the same holds for O(2) irreps. Elements an atom lacks are never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nearsight.core import so3
from nearsight.core.errors import NearsightError
from nearsight.core.structure import SYMBOLS
from nearsight.models.baseline import ClusterExpansion
from nearsight.models.layers import Irreps
from nearsight.models.so2 import Frame, FrameIrreps, into_frame

if TYPE_CHECKING:
    from nearsight.models.graph import Graph


class OrbitalSlots:
    """Where each orbital of each element stands in the common P x P block.

    shells: angular momenta of each known element's shells.  slots: l of each common shell.  size: P.
    table: slot of each orbital of each element [elements, most orbitals].
    """

    def __init__(self, shells: Mapping[int, Sequence[int]]) -> None:
        self.shells = {z: tuple(shells[z]) for z in sorted(shells)}
        self.numbers = tuple(self.shells)
        l_max = max(max(s) for s in self.shells.values())
        self.slots = tuple(l for l in range(l_max + 1) for _ in range(max(s.count(l) for s in self.shells.values())))
        self.l_max = l_max
        self.size = sum(2 * l + 1 for l in self.slots)
        first = np.concatenate([[0], np.cumsum([2 * l + 1 for l in self.slots])])
        self.table = torch.zeros(len(self.numbers), self.size, dtype=torch.int64)
        for index, s in enumerate(self.shells.values()):
            seen = dict.fromkeys(range(l_max + 1), 0)
            orbitals: list[int] = []
            for l in s:
                slot = self.slots.index(l) + seen[l]
                seen[l] += 1
                orbitals += range(first[slot], first[slot + 1])
            self.table[index, : len(orbitals)] = torch.tensor(orbitals)

    def index_of(self, numbers: Tensor) -> Tensor:
        """Index of each atom's element [atoms]; raises NearsightError for an element that is not known."""
        unknown = sorted({z for z in numbers.tolist() if z not in self.shells})
        if unknown:
            raise NearsightError(
                f"the model never saw {', '.join(SYMBOLS[z] for z in unknown)}: "
                f"it knows {', '.join(SYMBOLS[z] for z in self.numbers)}; train one on data with that element"
            )
        known = torch.zeros(max(self.numbers) + 1, dtype=torch.int64, device=numbers.device)
        known[list(self.numbers)] = torch.arange(len(self.numbers), device=numbers.device)
        return known[numbers]

    def rotation(self, wigner: Sequence[Tensor], count: int, like: Tensor) -> Tensor:
        """Rotation of all slots of an atom [count, P, P] from D^l, l = 1..l_max."""
        result = like.new_zeros(count, self.size, self.size)
        start = 0
        for l in self.slots:
            stop = start + 2 * l + 1
            result[:, start:stop, start:stop] = wigner[l - 1] if l else 1
            start = stop
        return result

    def coupling(self) -> tuple[Irreps, Tensor]:
        """The irreps of a block and the orthogonal matrix [P^2, P^2] float64 from them to its elements, row-major."""
        first = np.concatenate([[0], np.cumsum([2 * l + 1 for l in self.slots])])
        kinds: list[list[list[tuple[int, int]]]] = [[[], []] for _ in range(2 * self.l_max + 1)]
        for a, la in enumerate(self.slots):
            for b, lb in enumerate(self.slots):
                for l in range(abs(la - lb), la + lb + 1):
                    kinds[l][(la + lb + l) % 2].append((a, b))
        irreps = Irreps(tuple(len(k[0]) for k in kinds), tuple(len(k[1]) for k in kinds))
        matrix = np.zeros((irreps.dim, self.size, self.size))
        for l, start, c in irreps.blocks():
            for channel, (a, b) in enumerate(kinds[l][0] + kinds[l][1]):
                cg = so3.clebsch_gordan(self.slots[a], self.slots[b], l)
                rows = start + np.arange(2 * l + 1) * c + channel
                matrix[rows, first[a] : first[a + 1], first[b] : first[b + 1]] = cg.transpose(2, 0, 1)
        return irreps, torch.from_numpy(matrix.reshape(irreps.dim, -1))


def flatten_frame(features: Frame) -> Tensor:
    """[edges, dim]: m = 0 even, odd, then for each m both rows."""
    return torch.cat([features[0], *(y.flatten(1) for y in features[1:])], 1)


def frame_coupling(irreps: Irreps, coupling: Tensor) -> Tensor:
    """The matrix [P^2, P^2] from flat O(2) features to the elements of a block in the bond's frame."""
    eye = torch.eye(irreps.dim, dtype=coupling.dtype)
    identity = [
        torch.eye(2 * l + 1, dtype=coupling.dtype).expand(irreps.dim, -1, -1) for l in range(1, irreps.l_max + 1)
    ]
    return flatten_frame(into_frame(irreps, eye, identity)).T @ coupling


class RadialTable(nn.Module):
    """A vector of functions of a distance for each ordered pair of elements: cubic B-splines from 0 to `reach` [Bohr].

    Constant beyond. coefficients: [pairs of elements, knots, functions], the first knot one step before 0.
    """

    STEP = 0.25  # about [Bohr]
    coefficients: Tensor

    def __init__(self, pairs: int, reach: float, functions: int) -> None:
        super().__init__()
        self.knots = max(1, ceil(reach / self.STEP)) + 3
        self.step = reach / (self.knots - 3)
        self.register_buffer("coefficients", torch.zeros(pairs, self.knots, functions))

    def weights(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The four splines that are not zero at r [n]: first index [n] and values [n, 4]."""
        x = (r.double() / self.step).clamp(0, self.knots - 3)
        index = x.floor().clamp(max=self.knots - 4).long()
        t = x - index
        values = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
        return index, (torch.stack(values, -1) / 6)

    def forward(self, r: Tensor, pair: Tensor) -> Tensor:
        """[n, functions] at the distances r [n] of the element pairs `pair` [n]."""
        index, weights = self.weights(r)
        result = self.coefficients.new_zeros(len(r), self.coefficients.shape[2])
        for k in range(4):
            result += weights[:, k, None].to(result) * self.coefficients[pair, index + k]
        return result


class BlockReadout(nn.Module):
    """Features of atoms and edges -> the elements of a hermitian matrix, in the scale that the training data have.

    H = baseline + scale * network.  The baseline is the cluster expansion (see cluster.py).  The scale is the spread of
    the data about it: on-site for each element and irrep; off-site for each pair of elements, pair of shells, L and |m|,
    as a function of the distance.
    """

    coupling: Tensor
    frame_coupling: Tensor
    site_scale: Tensor

    def __init__(self, shells: Mapping[int, Sequence[int]], cutoff: float, reach: float, l_max: int) -> None:
        super().__init__()
        self.slots = OrbitalSlots(shells)
        self.irreps, coupling = self.slots.coupling()
        self.frame = FrameIrreps.of(self.irreps)
        size, elements = self.irreps.dim, len(self.slots.numbers)
        single = torch.get_default_dtype()
        self.register_buffer("coupling", coupling.to(single), persistent=False)
        self.register_buffer("frame_coupling", frame_coupling(self.irreps, coupling).to(single), persistent=False)
        self.register_buffer("site_scale", torch.ones(elements, size))
        self.log_scale = RadialTable(elements**2, reach, size)
        self.cluster = ClusterExpansion(elements, self.irreps, self.frame, cutoff, reach, l_max)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Constants are made anew in float64 before a cast, so that a model made double is exact to double precision."""
        _, coupling = self.slots.coupling()
        result = super()._apply(fn, recurse)
        device, dtype = self.site_scale.device, self.site_scale.dtype
        self.coupling = coupling.to(device, dtype)
        self.frame_coupling = frame_coupling(self.irreps, coupling).to(device, dtype)
        return result

    def prepare(self, graph: Graph) -> Graph:
        """The float64 graph with its baseline and scale, in the precision of the network."""
        pair = graph.species[graph.i] * len(self.slots.numbers) + graph.species[graph.j]
        site, edge = self.cluster(graph)
        baseline = self.assemble(graph, site @ self.coupling.to(site), edge @ self.frame_coupling.to(edge))
        scale = self.log_scale(graph.distance, pair).exp()
        return replace(graph, baseline=baseline, scale=scale).cast(self.site_scale.dtype)

    def assemble(self, graph: Graph, site: Tensor, edge: Tensor) -> Tensor:
        """Elements [size] of the hermitian matrix with these on-site blocks [atoms, P^2] and bond-frame blocks [edges, P^2]."""
        p = self.slots.size
        turn = graph.orbital_frames
        edge = torch.bmm(torch.bmm(turn.transpose(1, 2), edge.view(-1, p, p)), turn)
        flat = torch.cat([site.reshape(-1), edge.reshape(-1)])
        values = flat[graph.block * (p * p) + graph.local]
        return 0.5 * (values + values[graph.transposed])

    def components(self, graph: Graph, values: Tensor) -> tuple[Tensor, Tensor]:
        """The way back: on-site irreps [atoms, P^2] and O(2) components of the edges [edges, P^2] of a matrix."""
        p = self.slots.size
        flat = values.new_zeros((graph.atoms + graph.edges) * p * p)
        flat[graph.block * (p * p) + graph.local] = values
        blocks = flat.view(-1, p, p)
        turn = graph.orbital_frames.to(values)
        edge = turn @ blocks[graph.atoms :] @ turn.transpose(1, 2)
        site = blocks[: graph.atoms].reshape(-1, p * p) @ self.coupling.to(values).T
        return site, edge.reshape(-1, p * p) @ self.frame_coupling.to(values).T

    def forward(self, graph: Graph, site: Tensor, edge: Tensor) -> Tensor:
        """Elements [size], Ha, from on-site features [atoms, irreps.dim] and edge features [edges, frame.dim], of order one."""
        site = (site * self.site_scale[graph.species]) @ self.coupling
        edge = (edge * graph.scale) @ self.frame_coupling
        return graph.baseline + self.assemble(graph, site, edge)

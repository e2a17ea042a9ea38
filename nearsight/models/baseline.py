"""The cluster expansion: what of a Hamiltonian is linear in its surroundings, fitted before any network is trained.

In a potential that is a sum over atoms, an on-site block is a sum of two-centre terms and an off-site block of three-centre
terms <i|V_k|j>, whatever the atoms do. With the neighbour density of atom i,

    A_i[s n, l m] = sum_k delta(s, species_k) R_n(r_ik) Y_lm(r_ik),

an off-site block is a linear function of (A_i, A_j), seen in the frame of the bond, times functions of r_ij; an on-site
block is one of A_i and, for what is not additive (screening, exchange-correlation), of its products A_i x A_i. Both are
equivariant, exact in the limit, and fixed by ridge regression in seconds (statistics.py); the network learns the rest.
Always in float64: the coefficients cancel. Their number grows as the elements cubed, and what they say of surroundings that
were not fitted does not get better with it: for more than SURROUNDED elements only what needs no surroundings is expanded, a
constant of each element, and for each pair of elements a function of the distance.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nearsight.core import so3
from nearsight.models.graph import Graph
from nearsight.models.layers import Irreps, RadialBasis, envelope
from nearsight.models.so2 import FrameIrreps, into_frame

CHUNK = 2000  # edges whose features are in memory at one time
SURROUNDED = 5  # elements, at most, for an expansion in the surroundings


class ClusterExpansion(nn.Module):
    """Coefficients, and the features they multiply.

    elements: how many.  irreps, frame: of the orbital block.  cutoff: of the neighbour density, reach: of the pairs [Bohr].
    site: for each element, l and parity [features, channels]; edge: for each ordered pair of elements and m.
    surroundings: whether neighbours enter; else only what an element, and a pair at its distance, has always.
    """

    radial_weight: Tensor
    across_weight: Tensor

    def __init__(
        self,
        elements: int,
        irreps: Irreps,
        frame: FrameIrreps,
        cutoff: float,
        reach: float,
        l_max: int,
        surroundings: bool = True,
    ) -> None:
        super().__init__()
        self.elements, self.irreps, self.frame, self.cutoff = elements, irreps, frame, cutoff
        self.surroundings, self.l_max = surroundings, l_max if surroundings else 0
        radial = max(2, min(6, 12 // elements))
        self.products = max(1, min(4, 6 // elements))  # radial functions that enter products
        across = 8 if not surroundings else 5 if elements == 1 else 4
        self.radial, self.across = RadialBasis(radial, cutoff), RadialBasis(across, max(cutoff, 1.05 * reach))
        self.register_buffer("radial_weight", 1 / torch.arange(1, radial + 1).double(), persistent=False)
        self.register_buffer("across_weight", 1 / torch.arange(1, across + 1).double(), persistent=False)
        self.density = Irreps((elements * radial,) * (l_max + 1), (0,) * (l_max + 1))
        for name, (features, channels) in self._shapes().items():
            count = elements if name.startswith("site") else elements**2
            self.register_buffer(name, torch.zeros(count, features, channels, dtype=torch.float64))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Follows the device, never the precision."""
        device = fn(self.radial_weight.new_zeros(1)).device  # a cast to another precision names no device
        for module in self.modules():  # the radial functions too
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else value.to(device)
        return self

    def _shapes(self) -> dict[str, tuple[int, int]]:
        c, p = self.density.true[0], len(self.across_weight)
        if not self.surroundings:
            return {"site_0_0": (1, self.irreps.true[0]), "edge_0": (p, self.frame.even)}
        shapes = {}
        for l, true, pseudo in self._site_channels():
            for parity, channels in enumerate((true, pseudo)):
                shapes[f"site_{l}_{parity}"] = (self._site_count(l, parity), channels)
        for m in range(min(self.l_max, len(self.frame.pairs)) + 1):
            channels = self.frame.even if m == 0 else self.frame.pairs[m - 1]
            shapes[f"edge_{m}"] = ((2 * c * (self.l_max + 1 - m) + (m == 0)) * p, channels)
        return {k: v for k, v in shapes.items() if min(v) > 0}

    def _site_channels(self) -> Iterator[tuple[int, int, int]]:
        for l in range(min(self.l_max, self.irreps.l_max) + 1):
            yield l, self.irreps.true[l], self.irreps.pseudo[l]

    def _paths(self, l: int, parity: int) -> list[tuple[int, int]]:
        """(l1, l2), l1 <= l2, whose product has an l of this parity (0 true, 1 pseudo)."""
        every = [(a, b) for a in range(self.l_max + 1) for b in range(a, self.l_max + 1)]
        return [(a, b) for a, b in every if b - a <= l <= a + b and (a + b + l) % 2 == parity]

    def _site_count(self, l: int, parity: int) -> int:
        n = self.elements * self.products
        products = sum(n * n if a != b else n * (n + 1) // 2 for a, b in self._paths(l, parity))
        return products + (self.density.true[0] + (l == 0) if parity == 0 else 0)

    def densities(self, graph: Graph) -> list[Tensor]:
        """A_i for each l [atoms, 2l+1, elements * radial], radial fastest; each l and n weighted by how rough it is.

        Without surroundings [atoms, 1, 0].
        """
        if not self.surroundings:
            return [graph.edges.distance.new_zeros(graph.edges.atoms, 1, 0)]
        n, c = graph.edges.messages, self.density.true[0]
        r = graph.edges.distance[:n]
        radial = self.radial(r) * envelope(r, self.cutoff)[:, None] * self.radial_weight
        weights = radial.new_zeros(n, self.elements, radial.shape[1])
        weights[torch.arange(n, device=r.device), graph.edges.species[graph.edges.j[:n]]] = radial
        weights = weights.view(n, c)
        result = []
        for l in range(self.l_max + 1):
            harmonics = graph.wigner[l - 1][:n, l, :] if l else r.new_ones(n, 1)
            terms = harmonics[:, :, None] * weights[:, None, :] / (2 * l + 1) ** 0.5
            result.append(terms.new_zeros(graph.edges.atoms, 2 * l + 1, c).index_add(0, graph.edges.i[:n], terms))
        return result

    def site_features(self, densities: list[Tensor], l: int, parity: int) -> Tensor:
        """[atoms, 2l+1, features]: the density, its products, and 1 (l = 0)."""
        if not self.surroundings:
            return densities[0].new_ones(len(densities[0]), 1, 1)
        parts = [densities[l]] if parity == 0 else []
        n = len(densities[0])
        few = [d.view(n, d.shape[1], self.elements, -1)[..., : self.products].flatten(2) for d in densities]
        upper = torch.triu_indices(few[0].shape[2], few[0].shape[2], device=few[0].device)
        for a, b in self._paths(l, parity):
            cg = torch.as_tensor(so3.clebsch_gordan(a, b, l), device=few[0].device)
            product = torch.einsum("xyz,nxp,nyq->nzpq", cg, few[a], few[b])
            parts.append(product[:, :, upper[0], upper[1]] if a == b else product.flatten(2))
        if l == 0 and parity == 0:
            parts.append(densities[0].new_ones(n, 1, 1))
        if not parts:
            return densities[0].new_zeros(n, 2 * l + 1, 0)
        return torch.cat(parts, 2)

    def edge_features(self, graph: Graph, densities: list[Tensor], edges: Tensor) -> list[Tensor]:
        """m = 0: [edges, features]; m > 0: [edges, 2, features]."""
        across = self.across(graph.edges.distance[edges]) * self.across_weight
        if not self.surroundings:
            return [across]
        flat = torch.cat([d.flatten(1) for d in densities], 1)
        wigner = [w[edges] for w in graph.wigner[: self.l_max]]
        ends = [into_frame(self.density, flat[index[edges]], wigner) for index in (graph.edges.i, graph.edges.j)]
        result = []
        for m in range(min(self.l_max, len(self.frame.pairs)) + 1):
            both = torch.cat([ends[0][m], ends[1][m]], -1)
            if m == 0:
                both = torch.cat([both, both.new_ones(len(both), 1)], 1)
                result.append((both[:, :, None] * across[:, None, :]).flatten(1))
            else:
                result.append((both[:, :, :, None] * across[:, None, None, :]).flatten(2))
        return result

    def forward(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """On-site irreps [atoms, irreps.dim] and bond-frame components [edges, frame.dim] of a float64 graph."""
        densities = self.densities(graph)
        site = graph.edges.distance.new_zeros(graph.edges.atoms, self.irreps.dim)
        for l, parity, columns in self.site_blocks():
            columns = columns.to(site.device)
            weight = getattr(self, f"site_{l}_{parity}")[graph.edges.species]
            values = self.site_features(densities, l, parity) @ weight
            site[:, columns] = values.flatten(1)
        pair = graph.edges.kinds(self.elements)
        edge = graph.edges.distance.new_zeros(len(graph.edges), self.frame.dim)
        for p in torch.unique(pair).tolist():
            for chunk in (pair == p).nonzero()[:, 0].split(CHUNK):
                features = self.edge_features(graph, densities, chunk)
                for m, columns in self.edge_blocks():
                    values = features[m] @ getattr(self, f"edge_{m}")[p]
                    edge[chunk[:, None], columns.to(edge.device)] = values.flatten(1)
        return site, edge

    def site_blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """(l, parity, columns of the flat on-site irreps [(2l+1) * channels]) of what is expanded."""
        starts = {l: start for l, start, _ in self.irreps.blocks()}
        for l, true, pseudo in self._site_channels():
            rows = torch.arange(2 * l + 1)[:, None] * (true + pseudo)
            for parity, channels in enumerate((torch.arange(true), true + torch.arange(pseudo))):
                if f"site_{l}_{parity}" in self._buffers:
                    yield l, parity, (starts[l] + rows + channels).flatten()

    def edge_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(m, columns of the flat O(2) components): m = 0 even, then both rows of each m."""
        start = self.frame.even + self.frame.odd
        yield 0, torch.arange(self.frame.even)
        for m, c in enumerate(self.frame.pairs, start=1):
            if f"edge_{m}" in self._buffers:
                yield m, start + torch.arange(2 * c)
            start += 2 * c

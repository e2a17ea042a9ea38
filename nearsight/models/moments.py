"""Atoms' magnetic moments as inputs: axial vectors that time reversal turns, and what a network makes of them.

What of the moments enters is of three kinds: invariants (|m_i|, m_i.m_j), which no turn of the spins alone changes; tensors of
two moments of an edge, which time reversal leaves (m_i x m_j, and the symmetric m_i m_i, m_j m_j, m_i m_j of l = 2); and the
moments themselves, which it turns. Vectors stand in the order y, z, x of Y_1m.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nearsight.core import so3
from nearsight.models.blockmap import OrbitalSlots
from nearsight.models.edges import Edges
from nearsight.models.graph import Graph
from nearsight.models.layers import MLP, Irreps, join_irreps
from nearsight.models.readout import RadialTable, frame_basis
from nearsight.models.so2 import Frame, FrameIrreps, into_frame

TENSORS = Irreps((0, 0, 3), (0, 1, 0))  # of two moments of an edge
WIDEST = 6.0  # mu_B; Gaussians of |m| begin evenly from 0 to this
SMALLEST = 1e-12  # mu_B^2, below which |m| has no slope


def yzx(vectors: Tensor) -> Tensor:
    """Vectors [..., 3] in the order of Y_1m."""
    return vectors[..., [1, 2, 0]]


def cross(a: Tensor, b: Tensor) -> Tensor:
    """The vector product of vectors in any cyclic order of their components [..., 3]."""
    return torch.linalg.cross(a, b)


class MomentInputs(nn.Module):
    """Features of atoms' moments.

    elements: how many.  count: trainable Gaussians of |m|.  width: of the invariants.
    """

    def __init__(self, elements: int, count: int, width: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(0, WIDEST, count))
        self.log_width = nn.Parameter(torch.full((count,), WIDEST / max(count - 1, 1)).log())
        self.embedding = nn.Parameter(torch.randn(elements, width) / 2)
        self.of_atom = MLP(count + 1 + width, width, width)
        self.of_edge = MLP(3 * width + 2, width, width)

    def atoms(self, moments: Tensor, species: Tensor) -> Tensor:
        """Invariants of each atom's moment [atoms, 3] and element [atoms] -> [atoms, width]."""
        square = moments.square().sum(1, keepdim=True)
        size = (square + SMALLEST).sqrt()
        gaussians = torch.exp(-0.5 * ((size - self.centres) / self.log_width.exp()) ** 2)
        return self.of_atom(torch.cat([gaussians, square / (1 + square), self.embedding[species]], 1))

    def edges(self, moments: Tensor, invariants: Tensor, radial: Tensor, edges: Edges) -> Tensor:
        """Invariants of each edge: its distance and elements (radial [edges, width]), both sizes, m_i.m_j -> [edges, width]."""
        a, b = moments[edges.i], moments[edges.j]
        dot = (a * b).sum(1, keepdim=True) / (1 + (a.square().sum(1) * b.square().sum(1) + SMALLEST).sqrt())[:, None]
        return radial + self.of_edge(
            torch.cat([radial, invariants[edges.i], invariants[edges.j], dot, dot.square()], 1)
        )


def edge_tensors(moments: Tensor, edges: Edges, wigner: Sequence[Tensor]) -> Frame:
    """The tensors of two moments [atoms, 3] (y, z, x) of each edge, in its frame: features of TENSORS."""
    a, b = moments[edges.i], moments[edges.j]
    two = torch.as_tensor(so3.clebsch_gordan(1, 1, 2)).to(a)
    quadrupoles = torch.stack([torch.einsum("xyz,ex,ey->ez", two, p, q) for p, q in ((a, a), (b, b), (a, b))], 2)
    scale = 1 + (a.square().sum(1) * b.square().sum(1) + SMALLEST).sqrt()
    flat = torch.cat([cross(a, b), quadrupoles.flatten(1)], 1) / scale[:, None]
    return into_frame(TENSORS, flat, wigner)


def as_vectors(weights: Tensor, moments: Tensor, node: Irreps) -> Tensor:
    """Features of atoms [atoms, node.dim] that are the moments [atoms, 3] times weights [atoms, pseudo channels of l = 1]."""
    result = moments.new_zeros(len(moments), node.dim)
    start = node.channels[0]
    own = torch.zeros(len(moments), 3, node.channels[1], dtype=moments.dtype, device=moments.device)
    own[:, :, node.true[1] :] = moments[:, :, None] * weights[:, None, :]
    result[:, start : start + 3 * node.channels[1]] = own.flatten(1)
    return result


class FieldReadout(nn.Module):
    """Orbital blocks times vectors of spin: sum_q B_q v_q, the form that H has where nothing ties spins to space.

    B_q are blocks without spin, made of invariants alone, and v_q axial vectors, of atoms and of edges: an exchange field b of
    symmetric blocks with moments, or the spin currents a of antisymmetric ones with products of two moments.  A turn of all
    moments turns the result, whatever the weights are.

    sites, edges: how many vectors there are.  sign: of M_ij(R) = sign M_ji(-R).  The scales are those of the data, see
    BlockReadout.
    """

    site_scale: Tensor

    def __init__(self, slots: OrbitalSlots, reach: float, sites: int, edges: int, sign: int) -> None:
        super().__init__()
        self.slots, self.sites, self.edges, self.sign = slots, sites, edges, sign
        one, coupling = slots.coupling()
        self.irreps, self._columns = join_irreps([one] * sites)
        joint, columns = join_irreps([one] * edges)
        self.frame, basis = FrameIrreps.of(joint), frame_basis(joint)
        frames = [basis[c].abs().sum(0).nonzero()[:, 0] for c in columns]
        own = basis[columns[0]][:, frames[0]]
        self._frames, self._of_site, self._of_frame = frames, coupling, own.T @ coupling
        count = len(slots.numbers)
        self.register_buffer("site_scale", torch.ones(count, one.dim))
        self.log_scale = RadialTable(count**2, reach, one.dim)

    def forward(self, graph: Graph, site: Tensor, edge: Tensor, at_sites: Tensor, at_edges: Tensor) -> Tensor:
        """Channels y, z, x [3, size], Ha, of features [atoms, irreps.dim] and [edges, frame.dim] of order one, and vectors
        [atoms, sites, 3] and [edges, edges, 3]."""
        p, turn = self.slots.size, graph.orbital_frames[:, None]
        species, columns = graph.edges.species, [c.to(site.device) for c in self._columns]
        frames = [c.to(edge.device) for c in self._frames]
        sites = torch.stack([site[:, c] for c in columns], 1) * self.site_scale[species][:, None]
        scale = self.log_scale(graph.edges.distance, graph.edges.kinds(len(self.slots.numbers))).exp()
        bonds = torch.stack([edge[:, c] for c in frames], 1) * scale[:, None]
        blocks = (sites @ self._of_site.to(sites), (bonds @ self._of_frame.to(bonds)).view(-1, self.edges, p, p))
        on_site = torch.einsum("nqx,nqc->cnx", blocks[0], at_sites)
        turned = turn.transpose(2, 3) @ torch.einsum("eqxy,eqc->ecxy", blocks[1], at_edges) @ turn
        return graph.blocks.elements(on_site, turned.transpose(0, 1).flatten(2), self.sign)

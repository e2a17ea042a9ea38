"""Tensor products of features with the harmonics of edges: what DeepH-E3 is made of, and other networks of E(3).

A feature x_l1 of an atom and Y_l2 of an edge have parts of every l3 = |l1 - l2| .. l1 + l2 in common,

    (x (x) Y)_l3m3 = sum_m1m2 C_l1m1,l2m2^l3m3 x_l1m1 Y_l2m2,

channel by channel, each with a weight of its own that depends on the edge's length and elements. The parity of the product is
that of its factors: a true tensor (core/layers) stays true where l1 + l2 + l3 is even and becomes pseudo where it is odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from nearsight.core.so3 import clebsch_gordan
from nearsight.models.layers import Irreps


class EdgeProduct(nn.Module):
    """x [edges, source.dim] and Y_l of the edges, l <= l_edge -> features of `product` [edges, product.dim].

    Of every l3 <= l_max, for each path (l1, l2) as many channels as x has of l1; no path leads to a parity that `kept` has not.
    weights: how many numbers scale the channels of all paths.
    """

    def __init__(self, source: Irreps, l_edge: int, kept: Irreps) -> None:
        super().__init__()
        self.source, self.l_edge = source, l_edge
        paths: list[tuple[int, int, int, int]] = []  # l1, parity of x, l2, l3
        for l1 in range(source.l_max + 1):
            for parity, channels in enumerate((source.true[l1], source.pseudo[l1])):
                for l2 in range(l_edge + 1):
                    for l3 in range(abs(l1 - l2), min(l1 + l2, kept.l_max) + 1):
                        out = (parity + l1 + l2 + l3) % 2
                        if channels and (kept.true, kept.pseudo)[out][l3]:
                            paths.append((l1, parity, l2, l3))
        self.paths = paths
        true, pseudo = ([0] * (kept.l_max + 1) for _ in range(2))
        for l1, parity, l2, l3 in paths:
            (true, pseudo)[(parity + l1 + l2 + l3) % 2][l3] += (source.true, source.pseudo)[parity][l1]
        self.product = Irreps(tuple(true), tuple(pseudo))
        self.weights = sum((source.true, source.pseudo)[p][l1] for l1, p, _, _ in paths)
        self._cast: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def coupling(self, l1: int, l2: int, like: Tensor) -> Tensor:
        """Of x_l1 and Y_l2 to all l3 of the paths, side by side [2 l1 + 1, 2 l2 + 1, sum of 2 l3 + 1]; of order one."""
        key = l1, l2, like.device, like.dtype
        if key not in self._cast:
            c = [torch.as_tensor(clebsch_gordan(l1, l2, l3)) * sqrt(2 * l2 + 1) for l3 in self._thirds(l1, l2)]
            self._cast[key] = torch.cat(c, 2).to(like)
        return self._cast[key]

    def _thirds(self, l1: int, l2: int) -> list[int]:
        return sorted({c for a, _, b, c in self.paths if (a, b) == (l1, l2)})

    def forward(self, x: Tensor, harmonics: Sequence[Tensor], weights: Tensor) -> Tensor:
        """harmonics: Y_l [edges, 2l+1] from l = 0.  weights [edges, self.weights]."""
        first = {l: (start, c) for l, start, c in self.source.blocks()}
        parts: dict[tuple[int, int], list[Tensor]] = {}
        place = 0
        products: dict[tuple[int, int], Tensor] = {}
        starts: dict[tuple[int, int], dict[int, int]] = {}
        for l1, parity, l2, l3 in self.paths:
            start, count = first[l1]
            if (l1, l2) not in products:
                block = x[:, start : start + (2 * l1 + 1) * count].view(len(x), 2 * l1 + 1, count)
                turn = torch.einsum("eb,abk->eka", harmonics[l2], self.coupling(l1, l2, x))
                products[l1, l2] = turn @ block  # [edges, sum of 2 l3 + 1, channels]
                ends = [0]
                for third in (thirds := self._thirds(l1, l2)):
                    ends.append(ends[-1] + 2 * third + 1)
                starts[l1, l2] = dict(zip(thirds, ends, strict=False))
            row = starts[l1, l2][l3]
            true = self.source.true[l1]
            channels = slice(0, true) if parity == 0 else slice(true, count)
            part = products[l1, l2][:, row : row + 2 * l3 + 1, channels]
            scale = weights[:, None, place : place + part.shape[2]]
            place += part.shape[2]
            parts.setdefault((l3, (parity + l1 + l2 + l3) % 2), []).append(part * scale)
        columns = []
        for l3 in range(self.product.l_max + 1):
            both = [y for out in (0, 1) for y in parts.get((l3, out), [])]
            if both:
                columns.append(torch.cat(both, 2).flatten(1))
        return torch.cat(columns, 1)

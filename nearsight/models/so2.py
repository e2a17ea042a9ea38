"""The edge frame: where equivariant maps are plain matrix products.

A rotation R takes the edge onto z. What is left of O(3) there is O(2), the rotations about z and the mirrors through it,
whose irreps are m = 0 even under the mirror y -> -y, m = 0 odd, and pairs m = 1, 2, ... An O(2)-equivariant linear map
mixes the channels of one irrep. For a pair (c, s) = (m, -m) of a true tensor and (c', s') of a pseudo tensor, the mirror
makes (c, s') even and (s, -c') odd, and an SO(2) map z -> (A + iB) z, with A between channels of one kind and B between
kinds as parity demands, is the *same* real matrix on both rows:

    [c]    [A_tt  -B_tp] [c]          [ s ]   [A_tt  -B_tp] [ s ]
    [s'] = [B_pt   A_pp] [s']   and   [-c'] = [B_pt   A_pp] [-c']

so that O(3) costs half of SO(2). The gauge (a turn of the frame about z, or a mirror) cancels between in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nearsight.core import so3
from nearsight.models.contract import Features
from nearsight.models.layers import Irreps, parity_mask

Frame = list[Tensor]  # features in the edge frame: [edges, even + odd], then for m = 1, 2, ...: [edges, 2, channels]


def edge_rotations(vectors: Tensor) -> Tensor:
    """A proper rotation R with R v = |v| z for each of the vectors [n, 3] -> [n, 3, 3]; no pole is singular.

    Lower half space: turned by pi about x first, so that the shortest arc to z never exceeds pi / 2.
    """
    x, y, z = (vectors / vectors.norm(dim=-1, keepdim=True)).unbind(-1)
    flip = torch.where(z < 0, -torch.ones_like(z), torch.ones_like(z))
    y, z = y * flip, z * flip
    a = 1 / (1 + z)
    rows = torch.stack(
        [
            torch.stack([1 - a * x * x, -a * x * y, -x], -1),
            torch.stack([-a * x * y, 1 - a * y * y, -y], -1),
            torch.stack([x, y, z], -1),
        ],
        -2,
    )
    return rows * torch.stack([torch.ones_like(flip), flip, flip], -1)[:, None, :]


def wigner_matrices(l_max: int, rotations: Tensor) -> tuple[Tensor, ...]:
    """D^l, l = 1..l_max, each [n, 2l+1, 2l+1]."""
    return tuple(so3.wigner(l, rotations).contiguous() for l in range(1, l_max + 1))


@dataclass(frozen=True)
class FrameIrreps:
    """Channels in the edge frame: m = 0 even and odd under the mirror, and pairs m = 1, 2, ..."""

    even: int
    odd: int
    pairs: tuple[int, ...]

    @staticmethod
    def of(irreps: Irreps) -> FrameIrreps:
        """What O(3) features are in the frame: m takes its channels from every l >= m."""
        pairs = tuple(sum(irreps.channels[m:]) for m in range(1, irreps.l_max + 1))
        return FrameIrreps(sum(irreps.true), sum(irreps.pseudo), pairs)

    @property
    def channels(self) -> int:
        """Channels of all m, a pair counted once."""
        return self.even + self.odd + sum(self.pairs)

    @property
    def dim(self) -> int:
        """Numbers an edge has: two for each channel of a pair."""
        return self.even + self.odd + 2 * sum(self.pairs)


@cache
def _places(irreps: Irreps) -> tuple[Tensor, Tensor, Tensor | None]:
    """For each number of an edge in the frame, m by m, the column of the turned features that it is, and its sign.

    Also the other way round; the sign is that of (l, m) and (l, -m) of pseudo tensors [dim], None where there are none.
    """
    frame = FrameIrreps.of(irreps)
    even: list[int] = []
    odd: list[int] = []
    rows: list[tuple[list[int], list[int]]] = [([], []) for _ in frame.pairs]
    negative: set[int] = set()
    for l, start, c in irreps.blocks():
        t = irreps.true[l]
        row = [range(start + k * c, start + (k + 1) * c) for k in range(2 * l + 1)]
        even += row[l][:t]
        odd += row[l][t:]
        for m, (first, second) in enumerate(rows[:l], start=1):
            first += [*row[l + m][:t], *row[l - m][t:]]
            second += [*row[l - m][:t], *row[l + m][t:]]
            negative |= set(row[l + m][t:])
    columns = even + odd + [n for both in rows for one in both for n in one]
    place = torch.tensor(columns, device="cpu")  # kept: not on the device that happens to be the default, nor on none
    signs = torch.tensor([-1.0 if n in negative else 1.0 for n in columns], device="cpu")
    return place, place.argsort(), signs if negative else None


class _Reordered(torch.autograd.Function):
    """Columns of x in another order; the order back is that of its derivative, which can be derived again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return _Reordered.apply(gradient, back, order), None, None


def _turned(irreps: Irreps, x: Tensor, wigner: Sequence[Tensor]) -> Tensor:
    """Each l [edges, 2l+1, channels] times its matrix."""
    columns = [x[:, start : start + (2 * l + 1) * c] for l, start, c in irreps.blocks()]
    ls = [(l, c) for l, _, c in irreps.blocks()]
    return torch.cat(
        [
            torch.bmm(wigner[l - 1], y.reshape(len(x), 2 * l + 1, c)).flatten(1) if l else y
            for (l, c), y in zip(ls, columns, strict=True)
        ],
        1,
    )


def into_frame(irreps: Irreps, x: Tensor, wigner: Sequence[Tensor]) -> Frame:
    """Features [edges, irreps.dim] turned into the edge frames (D^l of each edge, l = 1..); differentiable in both."""
    order, back, signs = (t if t is None else t.to(x.device) for t in _places(irreps))
    flat = _Reordered.apply(_turned(irreps, x, wigner), order, back)
    flat = flat if signs is None else flat * signs.to(x.dtype)
    frame = FrameIrreps.of(irreps)
    zero, *rest = flat.split([frame.even + frame.odd, *(2 * c for c in frame.pairs)], 1)
    return [zero, *(y.view(len(x), 2, c) for y, c in zip(rest, frame.pairs, strict=True))]


def out_of_frame(irreps: Irreps, features: Frame, wigner: Sequence[Tensor]) -> Tensor:
    """The inverse (and transpose) of into_frame -> [edges, irreps.dim]."""
    flat = torch.cat([y.flatten(1) for y in features], 1)
    order, back, signs = (t if t is None else t.to(flat.device) for t in _places(irreps))
    flat = flat if signs is None else flat * signs.to(flat.dtype)
    flat = _Reordered.apply(flat, back, order)
    return _turned(irreps, flat, [w.transpose(1, 2) for w in wigner[: irreps.l_max]])


class FrameLinear(nn.Module):
    """The O(2)-equivariant linear map: one matrix for each m; for m = 0 even and odd channels stay apart."""

    def __init__(self, source: FrameIrreps, target: FrameIrreps, scale: float = 1.0) -> None:
        super().__init__()
        self.source, self.target = source, target
        mask = parity_mask((source.even, source.odd), (target.even, target.odd))
        fan = mask.sum(0).clamp(min=1)
        self.weights = nn.ParameterList([scale * torch.randn(mask.shape) * mask / fan.sqrt()])
        for rows, columns in zip(source.pairs, target.pairs, strict=False):
            self.weights.append(scale * torch.randn(rows, columns) / max(1, rows) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(target.even))
        self.register_buffer("mask", mask if target.odd else None, persistent=False)

    def features(self, x: Frame, root: Tensor) -> list[Features]:
        """What each weight multiplies, for inputs x whose edges count by root [edges]."""
        rows = [x[0] * root[:, None], *((y * root[:, None, None]).flatten(0, 1) for y in x[1:])]
        first = [self.source.even, *(y.shape[1] for y in rows[1:])]
        return [Features(f"weights.{m}", y, n) for m, (y, n) in enumerate(zip(rows, first, strict=True))][
            : len(self.weights)
        ]

    def forward(self, x: Frame) -> Frame:
        """y^m = x^m W^m, with a bias on even m = 0 channels; m that the input lacks come out as zero."""
        n = len(x[0])
        weight = self.weights[0] if self.mask is None else self.weights[0] * self.mask
        bias = torch.nn.functional.pad(self.bias, (0, self.target.odd))
        result = [torch.addmm(bias, x[0], weight)]
        for m, width in enumerate(self.target.pairs, start=1):
            if m < len(x):
                y = x[m].reshape(2 * n, x[m].shape[2]) @ self.weights[m]
                result.append(y.view(n, 2, width))
            else:
                result.append(x[0].new_zeros(n, 2, width))
        return result


class FrameGate(nn.Module):
    """Even m = 0 channels go through SiLU, every other channel is multiplied by the sigmoid of an even one of its own.

    Input: `source`, i.e. the irreps with so many further even channels.
    """

    def __init__(self, irreps: FrameIrreps) -> None:
        super().__init__()
        self.irreps = irreps
        self.source = FrameIrreps(irreps.even + irreps.odd + sum(irreps.pairs), irreps.odd, irreps.pairs)

    def forward(self, x: Frame) -> Frame:
        """Features of `source` -> features of `irreps`, m by m."""
        f = self.irreps
        zero = x[0]
        gates = torch.sigmoid(zero[:, f.even : self.source.even]).split([f.odd, *f.pairs], 1)
        scalars = silu(zero[:, : f.even])
        if f.odd:
            scalars = torch.cat([scalars, zero[:, self.source.even :] * gates[0]], 1)
        return [scalars] + [y * g[:, None, :] for y, g in zip(x[1:], gates[1:], strict=True)]


def scaled(x: Frame, weights: Tensor) -> Frame:
    """Each channel of each m times a number: weights [edges, channels], m = 0 (even, odd) first."""
    widths = [x[0].shape[1], *(y.shape[2] for y in x[1:])]
    first, *rest = weights.split(widths, 1)
    return [x[0] * first] + [y * w[:, None, :] for y, w in zip(x[1:], rest, strict=True)]


def joined(a: Frame, b: Frame, first: FrameIrreps, second: FrameIrreps) -> Frame:
    """The channels of both, those of `a` (irreps `first`) before those of `b` (`second`)."""
    even, odd = zip(*((x[0][:, : f.even], x[0][:, f.even :]) for x, f in ((a, first), (b, second))), strict=True)
    result = [torch.cat([*even, *odd], 1)]
    for m in range(1, max(len(a), len(b))):
        both = [x[m] for x in (a, b) if m < len(x)]
        result.append(both[0] if len(both) == 1 else torch.cat(both, 2))
    return result


def joined_irreps(a: FrameIrreps, b: FrameIrreps) -> FrameIrreps:
    """What `joined` makes of both."""
    top = max(len(a.pairs), len(b.pairs))
    pairs = [sum(f.pairs[m] for f in (a, b) if m < len(f.pairs)) for m in range(top)]
    return FrameIrreps(a.even + b.even, a.odd + b.odd, tuple(pairs))

"""Irreducible representations of O(3) as features of atoms, and the layers that act on them.

A feature tensor is flat, [atoms, irreps.dim]: for l = 0, 1, ... a block of shape [2l+1, channels of l], row m = -l..l.
Channels carry a parity. *True* tensors have parity (-1)^l, as Y_l does; *pseudo* tensors have -(-1)^l. Within an l the
true channels come first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nearsight.core.errors import BadInput
from nearsight.models.contract import Features


@dataclass(frozen=True)
class Irreps:
    """How many channels of each l: true[l] with parity (-1)^l, pseudo[l] with the opposite parity."""

    true: tuple[int, ...]
    pseudo: tuple[int, ...]

    @staticmethod
    def parse(text: str) -> Irreps:
        """From the field's notation, e.g. '64x0e+32x1o+16x2e+8x1e'. Raises NearsightError if it is not that."""
        true: dict[int, int] = {}
        pseudo: dict[int, int] = {}
        for term in text.replace(" ", "").split("+"):
            match = re.fullmatch(r"(?:(\d{1,5})x)?(\d{1,3})([eo])", term)
            if match is None:
                raise BadInput(f"irreps {text:.60}: {term:.40} is not of the form 16x2e (channels x l parity)")
            count, l, parity = int(match[1] or 1), int(match[2]), match[3]
            if count > 4096 or l > 16:
                raise BadInput(f"irreps: {term:.40}: at most 4096 channels and l = 16")
            kind = true if (parity == "e") == (l % 2 == 0) else pseudo
            kind[l] = kind.get(l, 0) + count
        l_max = max([*true, *pseudo])
        return Irreps(
            tuple(true.get(l, 0) for l in range(l_max + 1)), tuple(pseudo.get(l, 0) for l in range(l_max + 1))
        )

    @property
    def l_max(self) -> int:
        """Highest l."""
        return len(self.true) - 1

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each l, true and pseudo together."""
        return tuple(t + p for t, p in zip(self.true, self.pseudo, strict=True))

    @property
    def dim(self) -> int:
        """Columns of features, sum_l (2l+1) channels[l]."""
        return sum((2 * l + 1) * c for l, c in enumerate(self.channels))

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(l, first column, channels) of each l that has channels."""
        start = 0
        for l, c in enumerate(self.channels):
            if c:
                yield l, start, c
            start += (2 * l + 1) * c

    def reaching(self, l_max: int) -> Irreps:
        """With as many channels of every further l up to l_max as the highest l has now."""
        more = max(0, l_max - self.l_max)
        return Irreps(self.true + (self.true[-1],) * more, self.pseudo + (self.pseudo[-1],) * more)

    def parities(self, l: int) -> tuple[int, int]:
        """Channels of an l, true and pseudo; none beyond the highest."""
        return (self.true[l], self.pseudo[l]) if l <= self.l_max else (0, 0)

    def with_pseudo(self, count: int) -> Irreps:
        """With at least so many pseudo channels of every l from 1 on."""
        return Irreps(self.true, tuple(max(p, count) if l else p for l, p in enumerate(self.pseudo)))

    def channel_of_column(self) -> Tensor:
        """Index of the (l, channel) of each column [dim], counted over all l."""
        columns, first = [], 0
        for l, c in enumerate(self.channels):
            columns.append((first + torch.arange(c)).repeat(2 * l + 1))
            first += c
        return torch.cat(columns)


def join_irreps(several: Sequence[Irreps]) -> tuple[Irreps, list[Tensor]]:
    """All channels of several, in their order within an l and parity, and the columns that each has among them [its dim]."""
    top = max(f.l_max for f in several) + 1
    counts = [[f.parities(l) for l in range(top)] for f in several]
    joint = Irreps(*(tuple(sum(c[l][p] for c in counts) for l in range(top)) for p in (0, 1)))
    columns: list[list[np.ndarray]] = [[] for _ in several]
    for l, start, width in joint.blocks():
        true, pseudo = 0, joint.true[l]
        for own, count in zip(columns, counts, strict=True):
            t, p = count[l]
            channel = np.concatenate([true + np.arange(t), pseudo + np.arange(p)])
            own.append((start + width * np.arange(2 * l + 1)[:, None] + channel).ravel())
            true, pseudo = true + t, pseudo + p
    return joint, [torch.from_numpy(np.concatenate(own).astype(np.int64)) for own in columns]


def parity_mask(rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """1 where (true, pseudo) rows and columns agree in parity, 0 elsewhere [sum rows, sum columns]."""
    mask = torch.zeros(sum(rows), sum(columns))
    mask[: rows[0], : columns[0]] = 1
    mask[rows[0] :, columns[0] :] = 1
    return mask


class Linear(nn.Module):
    """y_lm,c = sum_c' x_lm,c' W^l_c'c over channels of equal l and parity; bias on true scalars."""

    def __init__(self, source: Irreps, target: Irreps, scale: float = 1.0) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.weights = nn.ParameterDict()
        for l in range(min(source.l_max, target.l_max) + 1):
            rows, columns = (source.true[l], source.pseudo[l]), (target.true[l], target.pseudo[l])
            mask = parity_mask(rows, columns)
            fan = mask.sum(0).clamp(min=1)
            self.weights[str(l)] = nn.Parameter(scale * torch.randn(mask.shape) * mask / fan.sqrt())
            self.register_buffer(f"mask{l}", None if bool(mask.all()) else mask, persistent=False)
        self.bias = nn.Parameter(torch.zeros(target.true[0]))

    def features(self, x: Tensor, root: Tensor) -> list[Features]:
        """What each weight multiplies, for inputs x [n, source.dim] whose rows count by root [n]."""
        columns = {l: slice(s, s + (2 * l + 1) * c) for l, s, c in self.source.blocks()}
        rows = {l: (x * root[:, None])[:, s].reshape(-1, self.source.channels[l]) for l, s in columns.items()}
        return [Features(f"weights.{l}", rows[int(l)], self.source.true[int(l)]) for l in self.weights]

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, source.dim] -> [n, target.dim]"""
        first = {l: (start, c) for l, start, c in self.source.blocks()}
        result = []
        for l, _, width in self.target.blocks():
            if l not in first or str(l) not in self.weights:
                result.append(x.new_zeros(len(x), (2 * l + 1) * width))
                continue
            start, c = first[l]
            mask = getattr(self, f"mask{l}")
            weight = self.weights[str(l)] if mask is None else self.weights[str(l)] * mask
            y = (x[:, start : start + (2 * l + 1) * c].reshape(-1, c) @ weight).reshape(len(x), (2 * l + 1) * width)
            if l == 0 and len(self.bias):
                y = y + torch.nn.functional.pad(self.bias, (0, width - len(self.bias)))
            result.append(y)
        return torch.cat(result, 1)


class Gate(nn.Module):
    """True scalars go through SiLU; every other channel is multiplied by the sigmoid of a scalar of its own.

    Input: `irreps` with as many further true scalars as there are other channels (`source`), at the end of the scalars.
    """

    column: Tensor

    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        self.irreps = irreps
        self.scalars = irreps.true[0]
        self.gates = sum(irreps.channels) - self.scalars
        self.source = Irreps((self.scalars + self.gates, *irreps.true[1:]), irreps.pseudo)
        self.register_buffer("column", irreps.channel_of_column()[self.scalars :] - self.scalars, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, source.dim] -> [n, irreps.dim]."""
        s, g = self.scalars, self.gates
        gates = torch.sigmoid(x[:, s : s + g])
        return torch.cat([silu(x[:, :s]), x[:, s + g :] * gates[:, self.column]], 1)


def envelope(r: Tensor, cutoff: float) -> Tensor:
    """1 at r = 0, 0 beyond the cutoff with two continuous derivatives (DimeNet's polynomial, p = 5)."""
    x = (r / cutoff).clamp(max=1)
    return 1 - 21 * x**5 + 35 * x**6 - 15 * x**7


class RadialBasis(nn.Module):
    """sqrt(2/c) sin(n pi r/c)/r, n = 1..count: smooth functions of a distance below c [Bohr], of order one in size."""

    n: Tensor

    def __init__(self, count: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("n", torch.arange(1, count + 1), persistent=False)

    def forward(self, r: Tensor) -> Tensor:
        """r: [n] -> [n, count]"""
        argument = self.n.to(r) * (pi / self.cutoff) * r[:, None]
        return sqrt(2) * torch.sinc(argument / pi) * self.n.to(r).sqrt()


class MLP(nn.Sequential):
    """Linear layers with SiLU between them."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(a, b), nn.SiLU()]
        super().__init__(*layers[:-1])

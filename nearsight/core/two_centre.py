"""The law that every overlap keeps, whatever the structure: between two atoms S depends on the line that joins them alone.

Seen in a frame with z along r = r_j + R - r_i, <l m|S|l' m'> vanishes unless m = m', and is the same for m and -m.  It proves
the order and signs of the orbitals, the sense of R, and that S belongs to the structure, without any symmetry of the crystal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearsight.core import so3
from nearsight.core.blocks import BlockMatrix
from nearsight.core.structure import Structure

STRONGEST = 400  # pairs that are looked at
S_AXIAL = 0.01  # of S that may break the law: sound sets have 1e-13 to 2e-3, wrong orders 0.2 to 1


def axial_violation(overlap: BlockMatrix, structure: Structure) -> float | None:
    """The share of S (by norm, between 0 and 1) that breaks the law, over the pairs with the largest blocks.

    None where no pair of different sites has an orbital beyond s, so that the law says nothing.
    """
    total = broken = 0.0
    for frame, shells in _in_bond_frames(overlap, structure):
        first = 0
        for l, n in _shells(shells[0]):
            second = 0
            for k, m in _shells(shells[1]):
                if l or k:
                    block = frame[:, first : first + n, second : second + m]
                    total += float(block.square().sum())
                    broken += float((block - _axial(block, l, k)).square().sum())
                second += m
            first += n
    return None if total == 0 else (broken / total) ** 0.5


def _shells(shells: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(l, 2 * l + 1) for l in shells]


def _axial(block: Tensor, l: int, k: int) -> Tensor:
    """The nearest block that keeps the law: the mean of m and -m on the diagonal, zero off it."""
    kept = torch.zeros_like(block)
    for m in range(min(l, k) + 1):
        mean = 0.5 * (block[:, l + m, k + m] + block[:, l - m, k - m])
        kept[:, l + m, k + m] = kept[:, l - m, k - m] = mean
    return kept


def _in_bond_frames(
    overlap: BlockMatrix, structure: Structure
) -> list[tuple[Tensor, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Blocks [pairs, a, b] of each two elements, in frames with z along the pair, and the shells of both."""
    layout = overlap.layout.to("cpu")
    pairs, basis, values = layout.pairs, layout.basis, overlap.values[0].detach().cpu().double()
    size = torch.zeros(len(pairs), dtype=torch.float64).index_add(0, layout.pair, values.square())
    vectors = pairs.vectors(structure.to(device="cpu", dtype=torch.float64))
    size = torch.where((vectors.norm(dim=1) > 1e-3) & pairs.half, size, 0.0)
    chosen = torch.topk(size, min(STRONGEST, len(size)))
    kept = chosen.indices[chosen.values > 1e-8]
    numbers = torch.tensor(basis.numbers)
    found = []
    for za, one in basis.shells.items():
        for zb, other in basis.shells.items():
            which = kept[(numbers[pairs.i[kept]] == za) & (numbers[pairs.j[kept]] == zb)]
            if not len(which):
                continue
            turn = _to_z(vectors[which])
            D = [_turned(shells, turn) for shells in (one, other)]
            a, b = D[0].shape[-1], D[1].shape[-1]
            blocks = values[layout.boundaries[which][:, None] + torch.arange(a * b)].reshape(-1, a, b)
            found.append((D[0] @ blocks @ D[1].mT, (one, other)))
    return found


def _turned(shells: tuple[int, ...], turn: Tensor) -> Tensor:
    """Wigner matrices of all shells, block-diagonal [pairs, orbitals, orbitals]."""
    size = sum(2 * l + 1 for l in shells)
    D, first = turn.new_zeros(len(turn), size, size), 0
    of = {l: so3.wigner(l, turn) for l in set(shells)}
    for l in shells:
        D[:, first : first + 2 * l + 1, first : first + 2 * l + 1] = of[l]
        first += 2 * l + 1
    return D


def _to_z(vectors: Tensor) -> Tensor:
    """Rotations [pairs, 3, 3] that take each vector to +z."""
    z = vectors / vectors.norm(dim=1, keepdim=True)
    least = torch.nn.functional.one_hot(z.abs().argmin(1), 3).to(z)
    x = torch.linalg.cross(least, z)
    x = x / x.norm(dim=1, keepdim=True)
    return torch.stack([x, torch.linalg.cross(z, x), z], 1)

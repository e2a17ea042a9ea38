"""Which convention went wrong: matrices as they would be had they been read otherwise, and what each law says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.structure import Structure
from nearsight.core.two_centre import axial_violation
from nearsight.formats.orders import OPENMX, ORDERS, OURS, SIESTA, OrbitalOrder

_WORDS = {
    OPENMX.name: "{shells} orbitals stand in OpenMX's order: convert with --from openmx or deeph-old, not as they are",
    SIESTA.name: "sign (-1)^m missing: {shells} orbitals have SIESTA's signs",
}


@dataclass(frozen=True, eq=False)
class Reading:
    """One way in which a matrix could have been read: what it is called, and the matrix and structure that it makes."""

    name: str
    matrix: BlockMatrix
    structure: Structure

    __repr__ = one_line


def other_readings(matrix: BlockMatrix, structure: Structure) -> Iterator[Reading]:
    """The matrix with the orbital order of each known program undone (or put back), and with R negated."""
    largest = max(l for shells in matrix.basis.shells.values() for l in shells)
    if largest > 0:
        letters = " and ".join("spdfghi"[l] for l in range(1, min(largest, 6) + 1))
        for order in ORDERS:
            if order is OURS or largest > order.largest:
                continue
            words = _WORDS.get(order.name, "{shells} orbitals stand in " + order.name + "'s order and signs")
            yield Reading(words.format(shells=letters), reordered(matrix, order), structure)
            if order.index:
                back = f"{letters} orbitals were taken for {order.name}'s, which they are not: read them without --from"
                yield Reading(back, reordered(matrix, order, back=True), structure)
    if bool(matrix.pairs.R.any()):
        mirrored = replace(structure, cell=-structure.cell)  # r_j - R - r_i
        yield Reading("R looks negated: H_ij(R) = <i, 0|H|j, R> is wanted, not <i, R|H|j, 0>", matrix, mirrored)


def reordered(matrix: BlockMatrix, order: OrbitalOrder, back: bool = False) -> BlockMatrix:
    """Its rows and columns taken from a program's order into ours; back: from ours into the program's."""
    layout = matrix.layout.to("cpu")
    basis, pairs = layout.basis, layout.pairs
    index, sign = order.rows(basis)
    if back:
        place = torch.argsort(index)
        index, sign = place, sign[place]
    row, column = index[layout.row], index[layout.column]
    where = (
        layout.boundaries[layout.pair]
        + (row - basis.offsets[pairs.i[layout.pair]]) * layout.shapes[layout.pair, 1]
        + column
        - basis.offsets[pairs.j[layout.pair]]
    )
    values: Tensor = matrix.values.detach().cpu()[:, where]
    return BlockMatrix(layout, values * (sign[layout.row] * sign[layout.column]).to(values.real.dtype), matrix.spin)


def best_reading(matrix: BlockMatrix, structure: Structure) -> tuple[str, float] | None:
    """The other reading that breaks the two-centre law least: its words, and by what share. None where there is none.

    Where no program's convention mends it, signs of single orbitals are tried one after another.
    """
    shares = []
    for reading in other_readings(matrix, structure):
        share = axial_violation(reading.matrix, reading.structure)
        if share is not None:
            shares.append((share, reading.name))
    best = min(shares, default=None)
    own = axial_violation(matrix, structure)
    if own is not None and (best is None or best[0] > 0.05 * own):
        signs = _flipped_signs(matrix, structure, own)
        best = min([signs, *([best] if best else [])])
    return None if best is None else (best[1], best[0])


def _flipped_signs(matrix: BlockMatrix, structure: Structure, share: float) -> tuple[float, str]:
    """Flip the sign of that kind of orbital (l, m) which lowers the share that breaks the law most, again and again."""
    names: list[str] = []
    largest = max(l for shells in matrix.basis.shells.values() for l in shells)
    kinds = [(l, m) for l in range(1, largest + 1) for m in range(-l, l + 1)]
    while kinds:
        tried = [(axial_violation(_with_sign(matrix, l, m), structure) or 0.0, l, m) for l, m in kinds]
        best, l, m = min(tried)
        if best > share - 1e-6:
            break
        matrix, share = _with_sign(matrix, l, m), best
        names.append(f"{'spdfghi'[l]} m={m}")
        kinds.remove((l, m))
    return share, f"the sign of {', '.join(names) or 'no orbital'} is opposite"


def _with_sign(matrix: BlockMatrix, l: int, m: int) -> BlockMatrix:
    signs = []
    for z in matrix.basis.numbers:
        for own in matrix.basis.shells[z]:
            signs += [-1.0 if own == l and n == m else 1.0 for n in range(-own, own + 1)]
    sign = torch.tensor(signs, dtype=torch.float64, device=matrix.values.device)
    return matrix.with_values(matrix.values * sign[matrix.layout.row] * sign[matrix.layout.column])


def spin_exchanged(matrix: BlockMatrix) -> BlockMatrix:
    """Up and down exchanged: collinear components, or a spinor turned by pi about x."""
    return matrix.with_values(matrix.values.flip(0))

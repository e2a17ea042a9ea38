"""What spin makes of a hermitian matrix between real orbitals: a few real matrices, each with symmetries of its own.

Without spin H is one real symmetric matrix. With collinear spin H = a0 + b up, a0 - b down. Between spinors

    H = (a0 + i b0) 1 + (b + i a).sigma,    a0, b symmetric, b0, a antisymmetric (M_ij(R) = +-M_ji(-R)), all real.

Time reversal turns the signs of b0 and b (currents, exchange field) and leaves a0 and a (charge, spin-orbit coupling). Vectors
a and b are axial and stand in the order y, z, x of Y_1m, so that a turn of space turns them by the Wigner matrix of l = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin

_ONE = ((1, 0), (0, 1))
_SIGMA = (((0, -1j), (1j, 0)), ((1, 0), (0, -1)), ((0, 1), (1, 0)))  # y, z, x


@dataclass(frozen=True)
class SpinPart:
    """One of these matrices.

    rank: 0, a scalar of spin, or 1, an axial vector.  sign: of M_ij(R) = sign M_ji(-R).  odd: whether time reversal turns it.
    blocks: what each of its 2 rank + 1 components multiplies, by the component of the matrix's values.
    """

    name: str
    rank: int
    sign: int
    odd: bool
    blocks: tuple[tuple[complex, ...], ...]

    @property
    def width(self) -> int:
        """Components, 2 rank + 1."""
        return len(self.blocks)


def _spinor(
    name: str, sign: int, odd: bool, factor: complex, matrices: Sequence[Sequence[Sequence[complex]]]
) -> SpinPart:
    blocks = tuple(tuple(factor * m[s][t] for s, t in SPINOR.blocks) for m in matrices)
    return SpinPart(name, (len(matrices) - 1) // 2, sign, odd, blocks)


#: all parts of each kind of spin; those of matrices without spin, or of one axis, are real
PARTS: Mapping[Spin, tuple[SpinPart, ...]] = {
    NONE: (SpinPart("charge", 0, 1, False, ((1,),)),),
    COLLINEAR: (SpinPart("charge", 0, 1, False, ((1, 1),)), SpinPart("exchange", 0, 1, True, ((1, -1),))),
    SPINOR: (
        _spinor("charge", 1, False, 1, (_ONE,)),
        _spinor("spin-orbit", -1, False, 1j, _SIGMA),
        _spinor("current", -1, True, 1j, (_ONE,)),
        _spinor("exchange", 1, True, 1, _SIGMA),
    ),
}


@dataclass(frozen=True)
class SpinParts:
    """Some of the parts of a kind of spin, as channels of real numbers [channels, ...], one part after the other."""

    spin: Spin
    parts: tuple[SpinPart, ...]

    @staticmethod
    def of(spin: Spin) -> SpinParts:
        """All of them."""
        return SpinParts(spin, PARTS[spin])

    @staticmethod
    def without_moments(spin: Spin) -> SpinParts:
        """Those that a network learns which is told no moments.

        Along one axis all, as a ferromagnet chooses its axis itself; of spinors those that time reversal leaves.
        """
        every = PARTS[spin]
        return SpinParts(spin, every if spin.size_factor == 1 else tuple(p for p in every if not p.odd))

    @property
    def channels(self) -> int:
        """Real numbers for each pair of orbitals."""
        return sum(p.width for p in self.parts)

    @property
    def is_real(self) -> bool:
        """Whether matrices of these parts have real elements."""
        return self.spin.size_factor == 1

    def _blocks(self, like: Tensor) -> Tensor:
        every = torch.tensor([b for p in self.parts for b in p.blocks], dtype=torch.complex128)
        dtype = like.real.dtype if self.is_real else like.real.dtype.to_complex()
        return (every.real if self.is_real else every).to(like.device, dtype)

    def values(self, channels: Tensor) -> Tensor:
        """Elements [components, ...] of the matrix with these channels [channels, ...]."""
        blocks = self._blocks(channels)
        return torch.tensordot(blocks.T, channels.to(blocks.dtype), 1)

    def of_values(self, values: Tensor) -> Tensor:
        """The way back, without what these parts cannot hold: channels [channels, ...]."""
        blocks = self._blocks(values)
        weight = blocks.abs().square().sum(1)
        found = torch.tensordot(
            blocks.conj() / weight[:, None], values.to(values.dtype if self.is_real else blocks.dtype), 1
        )
        return found.real if found.is_complex() else found

    def rest(self, values: Tensor) -> Tensor:
        """What of a matrix's values [components, ...] these parts do not hold."""
        return values - self.values(self.of_values(values)).to(values.dtype)


def as_vectors(moments: Tensor) -> Tensor:
    """Moments of atoms [atoms, 3], of those along one axis [atoms] with the axis along z."""
    return torch.nn.functional.pad(moments[:, None], (2, 0)) if moments.ndim == 1 else moments


def alike(a: BlockMatrix, b: BlockMatrix) -> tuple[BlockMatrix, BlockMatrix]:
    """Two matrices in the richer spin of both: without spin counts for up and down, an axis stands along z."""
    if a.spin is b.spin:
        return a, b
    if SPINOR in (a.spin, b.spin):
        return as_spinor(a), as_spinor(b)
    return a.embed(COLLINEAR), b.embed(COLLINEAR)


def as_spinor(matrix: BlockMatrix) -> BlockMatrix:
    """A matrix of any spin between spinors; of collinear spin with its axis along z."""
    if matrix.spin is not COLLINEAR:
        return matrix.embed(SPINOR)
    up, down = matrix.values
    zero = torch.zeros_like(up)
    return BlockMatrix(matrix.layout, torch.stack([up, zero, zero, down]) + 0j, SPINOR)

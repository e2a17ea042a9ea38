"""Spin: what a matrix or a density says of it, as an object. Nobody else counts components.

A spinor block M_st, s, t in (up, down), stands in the order uu, ud, du, dd.  The one-electron density matrix is
D_st = sum f c_s c_t^*, so that n = D_uu + D_dd and, by m = Tr[sigma D],
m_x = D_ud + D_du,  m_y = i (D_ud - D_du),  m_z = D_uu - D_dd.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nearsight.core.errors import BadInput
from nearsight.core.so3 import spin_half

UP, DOWN = 0, 1
ROUNDING = 1e-10  # of the density, that moments may have by rounding
OPPOSITE = 1e-6  # of the largest moment, that the largest of the other direction has at least
FAINT = 1e-3  # of the density: moments below lose their direction, smoothly; the energy moves by 1e-6 eV an electron
ONE_AXIS = 1e-12  # share of the squares of moments that lie across an axis: they turn by less than 1e-6 radians


class Spin(ABC):
    """How spin enters matrices and densities. The three kinds are the objects NONE, COLLINEAR and SPINOR.

    name: none, collinear or spinor.  components: of a matrix's values.  blocks: (s, t) of each component.
    electrons_per_level: that a full level holds.  channels: of the density on a mesh: n; n_up, n_down; n, m_x, m_y, m_z.
    matrices: independent matrices H(k) to diagonalise.  size_factor: rows of H(k) for each orbital.
    dagger: where each component of M^dagger comes from.  diagonal: components between equal spins.
    turns: whether moments may have another direction at each point.
    """

    name: ClassVar[str]
    components: ClassVar[int]
    blocks: ClassVar[tuple[tuple[int, int], ...]]
    electrons_per_level: ClassVar[float]
    channels: ClassVar[int]
    matrices: ClassVar[int]
    size_factor: ClassVar[int] = 1
    dagger: ClassVar[tuple[int, ...]]
    diagonal: ClassVar[tuple[int, ...]]
    turns: ClassVar[bool] = False

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return spin, (self.name,)

    @abstractmethod
    def embed(self, overlap: Tensor) -> Tensor:
        """A spin-independent matrix, [1, ...] or [...] of one component, as one of this spin [components, ...]."""

    @abstractmethod
    def time_reversed(self, values: Tensor) -> Tensor:
        """T M T^-1 of a matrix's values [components, ...] between real orbitals, on the same pairs."""

    @abstractmethod
    def turned(self, values: Tensor, unitary: Tensor) -> Tensor:
        """U M U^dagger of values [components, ...] for U [2, 2] in SU(2), or of [components, n, ...] for U [n, 2, 2].

        The axis of collinear spin is no direction in space, and does not turn.
        """

    def rotated(self, values: Tensor, rotation: Tensor) -> Tensor:
        """The components [components, ...] after a rotation [3, 3] of spin space: spinors by D(1/2).

        Spin is even under inversion, so an improper rotation counts without it.
        """
        return self.turned(values, spin_half(rotation).to(values.device))

    def at_minus_k(self, values: Tensor) -> Tensor:
        """The share of M(-k) in the elements M(R) [components, ...] where M(k) has this one: M(R) that are real (none,
        collinear), or have time reversal (spinors), need only one of k and -k."""
        return values.conj()

    @abstractmethod
    def charge(self, values: Tensor) -> Tensor:
        """Of a density matrix, what makes n [...]: D; D_up + D_down; Re (D_uu + D_dd)."""

    @abstractmethod
    def densities(self, values: Tensor) -> Tensor:
        """Of a density matrix D [components, ...], real matrices that make the channels of the density [channels, ...].

        Symmetric real orbitals see the real part alone: for hermitian D the imaginary one is antisymmetric.
        """

    @abstractmethod
    def potentials(self, values: Tensor) -> Tensor:
        """The way back: matrices of potentials conjugate to the density's channels [channels, ...] as [components, ...]."""

    def trace(self, values: Tensor) -> Tensor:
        """Sum of the spin-diagonal components [...]."""
        return values[list(self.diagonal)].sum(0)

    def contraction(self, values: Tensor, other: Spin, transposed: Tensor) -> Tensor:
        """Re sum_st A_st B_ts, summed over all elements too, of A [components, ...] and the transposed elements of B.

        Spins that differ have in common what stands between equal spins; one without spin is the same for both.
        """
        if other is not self:
            values, transposed = values[list(self.diagonal)], transposed[list(other.diagonal)]
        elif self.components > 2:
            transposed = transposed[list(self.dagger)]
        product = values * transposed
        return (product.real if product.is_complex() else product).sum()

    def to_dense(self, parts: Tensor) -> Tensor:
        """Components [components, k, n, n] of M(k) as the matrices that are diagonalised [matrices, k, N, N]."""
        return parts

    def from_dense(self, dense: Tensor) -> Tensor:
        """[matrices, k, N, N] -> [components, k, n, n]"""
        return dense

    def moment(self, values: Tensor) -> Tensor:
        """(m_x, m_y, m_z) [3, ...] of a density matrix's values or of populations [components, ...]; zero without spin."""
        channels = self.densities(values)
        return self.channel_moment(channels)

    def channel_moment(self, channels: Tensor) -> Tensor:
        """(m_x, m_y, m_z) [3, ...] of density channels [channels, ...]."""
        zero = torch.zeros_like(channels[0])
        return torch.stack([zero, zero, zero])

    def channel_charge(self, channels: Tensor) -> Tensor:
        """n [...] of density channels [channels, ...]."""
        return channels[0]

    @abstractmethod
    def charge_potential(self, potential: Tensor) -> Tensor:
        """A potential [...] that acts on n alone, for each channel of the density [channels, ...]."""

    def charge_part(self, potentials: Tensor) -> Tensor:
        """The part [...] that acts on n of potentials conjugate to the channels [channels, ...]."""
        return potentials[0]

    @abstractmethod
    def of_moment(self, charge: Tensor, moment: Tensor) -> Tensor:
        """A density matrix's elements [components, ...] of a charge [...] and a moment [3, ...]: (n + m.sigma) / 2, and what
        of it this spin knows."""

    @abstractmethod
    def of_charge(self, density: Tensor) -> Tensor:
        """The channels [channels, ...] of a density [...] without moments."""

    def majority_minority(self, channels: Tensor) -> Tensor:
        """Densities along the local axis of the moment: n; n_up, n_down; (n + |m|) / 2, (n - |m|) / 2  [1 or 2, ...].

        Of spinors whose moments all lie along one axis u, (n + u.m) / 2 and (n - u.m) / 2; else |m| is made smooth where it is
        less than FAINT n.
        """
        return channels

    def along_moment(self, potentials: Tensor, channels: Callable[[], Tensor]) -> Tensor:
        """The way back: from potentials conjugate to `majority_minority` [1 or 2, ...] to those of the channels.

        channels: gives the density's, where the direction of the moment is needed.
        """
        return potentials


class _None(Spin):
    name, components, blocks, electrons_per_level, channels, matrices = "none", 1, ((0, 0),), 2.0, 1, 1
    dagger, diagonal = (0,), (0,)

    def embed(self, overlap: Tensor) -> Tensor:
        return overlap.reshape(1, *overlap.shape[-1:]) if overlap.ndim == 1 else overlap

    def time_reversed(self, values: Tensor) -> Tensor:
        return values.conj()

    def turned(self, values: Tensor, unitary: Tensor) -> Tensor:
        return values

    def charge(self, values: Tensor) -> Tensor:
        return values[0].real if values.is_complex() else values[0]

    def densities(self, values: Tensor) -> Tensor:
        return values.real if values.is_complex() else values

    def potentials(self, values: Tensor) -> Tensor:
        return values

    def charge_potential(self, potential: Tensor) -> Tensor:
        return potential[None]

    def of_moment(self, charge: Tensor, moment: Tensor) -> Tensor:
        return charge[None]

    def of_charge(self, density: Tensor) -> Tensor:
        return density[None]


class _Collinear(Spin):
    name, components, blocks = "collinear", 2, ((UP, UP), (DOWN, DOWN))
    electrons_per_level, channels, matrices = 1.0, 2, 2
    dagger, diagonal = (0, 1), (0, 1)

    def embed(self, overlap: Tensor) -> Tensor:
        one = overlap[None] if overlap.ndim == 1 else overlap
        return one.expand(2, *one.shape[1:])

    def time_reversed(self, values: Tensor) -> Tensor:
        return values.flip(0).conj()

    def turned(self, values: Tensor, unitary: Tensor) -> Tensor:
        return values

    def charge(self, values: Tensor) -> Tensor:
        total = values[0] + values[1]
        return total.real if total.is_complex() else total

    def densities(self, values: Tensor) -> Tensor:
        return values.real if values.is_complex() else values

    def potentials(self, values: Tensor) -> Tensor:
        return values

    def channel_moment(self, channels: Tensor) -> Tensor:
        zero = torch.zeros_like(channels[0])
        return torch.stack([zero, zero, channels[0] - channels[1]])

    def channel_charge(self, channels: Tensor) -> Tensor:
        return channels.sum(0)

    def charge_potential(self, potential: Tensor) -> Tensor:
        return potential.expand(2, *potential.shape)

    def of_moment(self, charge: Tensor, moment: Tensor) -> Tensor:
        return torch.stack([0.5 * (charge + moment[2]), 0.5 * (charge - moment[2])])

    def of_charge(self, density: Tensor) -> Tensor:
        return (0.5 * density).expand(2, *density.shape)

    def charge_part(self, potentials: Tensor) -> Tensor:
        return potentials.mean(0)


class _Spinor(Spin):
    name, components, blocks = "spinor", 4, ((UP, UP), (UP, DOWN), (DOWN, UP), (DOWN, DOWN))
    electrons_per_level, channels, matrices = 1.0, 4, 1
    size_factor = 2
    turns = True
    dagger, diagonal = (0, 2, 1, 3), (0, 3)

    def embed(self, overlap: Tensor) -> Tensor:
        one = overlap if overlap.ndim == 1 else overlap[0]
        zero = torch.zeros_like(one)
        return torch.stack([one, zero, zero, one])

    def time_reversed(self, values: Tensor) -> Tensor:
        uu, ud, du, dd = values.conj()
        return torch.stack([dd, -du, -ud, uu])

    def at_minus_k(self, values: Tensor) -> Tensor:
        return self.time_reversed(values)

    def turned(self, values: Tensor, unitary: Tensor) -> Tensor:
        v = values.to(values.dtype.to_complex()).reshape(2, 2, *values.shape[1:])
        u = unitary.to(v.dtype)
        rule = "as,st...,bt->ab..." if u.ndim == 2 else "nas,stn...,nbt->abn..."
        return torch.einsum(rule, u, v, u.conj()).reshape(values.shape)

    def charge(self, values: Tensor) -> Tensor:
        total = values[0] + values[3]
        return total.real if total.is_complex() else total

    def densities(self, values: Tensor) -> Tensor:
        uu, ud, du, dd = values
        channels = torch.stack([uu + dd, ud + du, 1j * (ud - du), uu - dd])
        return channels.real

    def potentials(self, values: Tensor) -> Tensor:
        v, x, y, z = values
        return torch.stack([v + z + 0j, x - 1j * y, x + 1j * y, v - z + 0j])

    def to_dense(self, parts: Tensor) -> Tensor:
        uu, ud, du, dd = parts
        return torch.cat([torch.cat([uu, ud], -1), torch.cat([du, dd], -1)], -2)[None]

    def from_dense(self, dense: Tensor) -> Tensor:
        n = dense.shape[-1] // 2
        d = dense[0]
        return torch.stack([d[..., :n, :n], d[..., :n, n:], d[..., n:, :n], d[..., n:, n:]])

    def channel_moment(self, channels: Tensor) -> Tensor:
        return channels[1:]

    def charge_potential(self, potential: Tensor) -> Tensor:
        zero = torch.zeros_like(potential)
        return torch.stack([potential, zero, zero, zero])

    def of_moment(self, charge: Tensor, moment: Tensor) -> Tensor:
        return self.potentials(0.5 * torch.cat([charge[None], moment]))

    def of_charge(self, density: Tensor) -> Tensor:
        return self.charge_potential(density)

    def majority_minority(self, channels: Tensor) -> Tensor:
        n, m = channels[0], channels[1:]
        axis, one = _common_axis(m, n)
        along = torch.where(one, (axis @ m.flatten(1)).reshape(n.shape), _smooth_length(m, n))
        return 0.5 * torch.stack([n + along, n - along])

    def along_moment(self, potentials: Tensor, channels: Callable[[], Tensor]) -> Tensor:
        n, moment = (found := channels())[0], found[1:]
        common, one = _common_axis(moment, n)
        faint, x = _faint(moment, n)
        length, safe = _length(moment), torch.where(faint, FAINT * n, 1.0)
        inverse = torch.where(faint, (1.5 - 0.5 * x) / safe, 1 / torch.where(length > 0, length, 1.0))
        axis = torch.where(one, common.reshape(3, *[1] * n.ndim), moment * inverse)
        by_charge = torch.where(faint & ~one, 0.375 * FAINT * (1 - x).square(), 0.0)
        both, half = 0.5 * (potentials[0] + potentials[1]), 0.5 * (potentials[0] - potentials[1])
        return torch.cat([(both + half * by_charge)[None], half * axis])


def _common_axis(m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """The axis [3] along which vectors [3, ...] have most of their squares, and whether they are to be counted along it (a
    boolean): where all lie along it and some are opposite to others, or where there are none but for the rounding of n [...].

    Counted as up and down of that axis, opposite ones have no kinks, as |m| has, that differences on a mesh would smooth.
    """
    flat = m.detach().flatten(1)
    squares, axes = torch.linalg.eigh(flat @ flat.T)
    axis, rounding = axes[:, 2], (ROUNDING * n.detach()).square().sum()
    along = axis @ flat
    opposite = along.max().clamp(min=0) * -along.min().clamp(max=0) > OPPOSITE * along.square().max()
    one = squares[:2].clamp(min=0).sum() <= ONE_AXIS * squares[2] + rounding
    return axis, one & (opposite | (squares[2] <= rounding))


def _faint(m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Where |m| < FAINT n, and (|m| / FAINT n)^2 there, zero elsewhere [...]."""
    squared, limit = m.square().sum(0), FAINT * n
    faint = (n > 0) & (squared < limit.square())
    return faint, torch.where(faint, squared, 0.0) / torch.where(faint, limit.square(), 1.0)


def _smooth_length(m: Tensor, n: Tensor) -> Tensor:
    """|m|, and where it is faint FAINT n (3 + 6 x^2 - x^4) / 8 of x = |m| / FAINT n, with two continuous derivatives."""
    faint, x = _faint(m, n)
    return torch.where(faint, FAINT * n * (0.375 + 0.75 * x - 0.125 * x.square()), _length(m))


def _length(m: Tensor) -> Tensor:
    """|m| [...] of vectors [3, ...], differentiable where it is zero (with no slope there)."""
    squared = m.square().sum(0)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


NONE, COLLINEAR, SPINOR = _None(), _Collinear(), _Spinor()
SPINS: dict[str, Spin] = {s.name: s for s in (NONE, COLLINEAR, SPINOR)}
NON_COLLINEAR = "non-collinear"  # another word for spinors, which says that there are moments


def spin(name: str | Spin) -> Spin:
    """The object of a name. Raises BadInput for another word."""
    if isinstance(name, Spin):
        return name
    if name == NON_COLLINEAR:
        return SPINOR
    if name not in SPINS:
        raise BadInput(f"spin {name!r} is not known: take one of {', '.join(SPINS)}")
    return SPINS[name]


def by_components(count: int) -> Spin:
    """The spin of a matrix with so many components, for files that say no more. Raises BadInput for another number."""
    found: Sequence[Spin] = [s for s in SPINS.values() if s.components == count]
    if not found:
        raise BadInput(f"a matrix of {count} spin components is none that is known (1, 2 and 4 are)")
    return found[0]


def by_channels(count: int) -> Spin:
    """The spin whose density has so many channels. Raises BadInput for another number."""
    found = [s for s in SPINS.values() if s.channels == count]
    if not found:
        raise BadInput(f"a density of {count} channels is none that is known (1, 2 and 4 are)")
    return found[0]

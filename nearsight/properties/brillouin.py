"""Integrals over the Brillouin zone of quantities that depend on energy: how a zone is sampled, and how levels are spread.

A way of spreading (Gaussian, Tetrahedra) gives weights W_k(E) of the k-points, so that sum_nk W_k(E; e_n) A_nk is the integral
of A over all states below E.  Densities of states are its differences over energy bins, and so integrate exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import cast

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.electrons.kpoints import mesh_points, vacuum_axes
from nearsight.electrons.smearing import FERMI_DIRAC

Size = tuple[int, int, int]


def periodic_axes(structure: Structure, *matrices: BlockMatrix | None) -> list[int]:
    """Lattice directions along which states depend on k: no vacuum of more than 10 Bohr, and pairs that reach other cells."""
    empty = vacuum_axes(structure)
    given = [m for m in matrices if m is not None]
    return [
        x for x in range(3) if x not in empty and (not given or any(bool((m.pairs.R[:, x] != 0).any()) for m in given))
    ]


@dataclass(frozen=True, eq=False)
class Sampling:
    """A uniform Gamma-centred k-mesh, reduced by k -> -k where states at both are alike.

    k: fractional [n, 3].  weights: [n], sum 1.  index: which of them each point of the full mesh is [N1 N2 N3].
    """

    size: Size
    k: Tensor
    weights: Tensor
    index: Tensor

    __repr__ = one_line

    @staticmethod
    def of(size: Size, time_reversal: bool) -> Sampling:
        """time_reversal: whether k and -k have the same levels and populations: those of real H(R)."""
        points = mesh_points(size, (0.0, 0.0, 0.0))
        own = torch.arange(len(points))
        if time_reversal:
            n = torch.tensor(size)
            minus = (-torch.round(points * n).long()) % n
            own = torch.minimum(own, (minus[:, 0] * size[1] + minus[:, 1]) * size[2] + minus[:, 2])
        kept, index, counts = torch.unique(own, return_inverse=True, return_counts=True)
        return Sampling(size, points[kept], counts.double() / len(points), index)


def sampling_size(structure: Structure, spacing: float, axes: list[int]) -> Size:
    """The smallest mesh with steps below `spacing` [1/angstrom] along each reciprocal vector; one point along other axes."""
    lengths = (structure.reciprocal.norm(dim=1) / BOHR_ANG).tolist()
    return cast(Size, tuple(max(1, ceil(b / spacing - 1e-6)) if x in axes else 1 for x, b in enumerate(lengths)))


def sampling(structure: Structure, hamiltonian: BlockMatrix, kmesh: Size | None, spacing: float) -> Sampling:
    """The mesh that was asked for, or one with steps below `spacing` [1/angstrom] where there is something between cells."""
    size = kmesh or sampling_size(structure, spacing, periodic_axes(structure, hamiltonian))
    return Sampling.of(size, time_reversal=not hamiltonian.values.is_complex())


class Spreading(ABC):
    """How a level at a k-point is spread over energy."""

    @abstractmethod
    def below(self, energies: Tensor, levels: Tensor) -> Tensor:
        """W_k(E) [E, k] for one band e_k [k]: the zone's part below each ascending energy [E], as weights of k-points."""

    @abstractmethod
    def margin(self) -> float:
        """How far below and above its levels a band still changes [Ha]."""


@dataclass(frozen=True, eq=False)
class Gaussian(Spreading):
    """W_k(E) = w_k erfc((e_k - E) / (sqrt 2 sigma)) / 2.  weights: w_k.  sigma: standard deviation [Ha]."""

    weights: Tensor
    sigma: float

    __repr__ = one_line

    def below(self, energies: Tensor, levels: Tensor) -> Tensor:
        """W_k(E) of the class [E, k]."""
        return 0.5 * torch.erfc((levels - energies[:, None]) / (sqrt(2) * self.sigma)) * self.weights

    def margin(self) -> float:
        """8 sigma, where erfc is 0 to rounding."""
        return 8 * self.sigma


@dataclass(frozen=True, eq=False)
class Thermal(Spreading):
    """W_k(E) = w_k f((e_k - E) / kT), Fermi and Dirac's.  weights: w_k.  kT: [Ha]."""

    weights: Tensor
    kT: float

    __repr__ = one_line

    def below(self, energies: Tensor, levels: Tensor) -> Tensor:
        """W_k(E) of the class [E, k]."""
        return FERMI_DIRAC.occupation((levels - energies[:, None]) / self.kT) * self.weights

    def margin(self) -> float:
        """40 kT, where f is 0 to rounding."""
        return 40 * self.kT


@dataclass(frozen=True, eq=False)
class Tetrahedra(Spreading):
    """The linear tetrahedron method: P. E. Bloechl, O. Jepsen, O. K. Andersen, Phys. Rev. B 49, 16223 (1994), without the
    correction of curvature.  corners: of each tetrahedron, as k-points of the reduced mesh [t, 4]; all have one volume.
    """

    corners: Tensor
    points: int

    __repr__ = one_line

    @staticmethod
    def of(mesh: Sampling, structure: Structure) -> Tetrahedra:
        """Each cell of the mesh cut into six along its shortest diagonal."""
        n = torch.tensor(mesh.size)
        steps = structure.reciprocal.detach().cpu().double() / n[:, None]
        signs = [(a, b, 1) for a in (1, -1) for b in (1, -1)]
        a, b, _ = min(signs, key=lambda s: float((torch.tensor(s, dtype=torch.float64) @ steps).norm()))
        # walk from one end of the diagonal to the other along the axes, in all six orders
        direction = torch.tensor([a, b, 1])
        start = (direction < 0).long()
        orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
        walks = []
        for order in orders:
            place = start.clone()
            walk = [place.clone()]
            for axis in order:
                place[axis] += direction[axis]
                walk.append(place.clone())
            walks.append(torch.stack(walk))
        offsets = torch.stack(walks)  # [6, 4, 3]
        grid = torch.cartesian_prod(*(torch.arange(m) for m in mesh.size)).reshape(-1, 3)
        at = (grid[:, None, None] + offsets) % n
        flat = (at[..., 0] * mesh.size[1] + at[..., 1]) * mesh.size[2] + at[..., 2]
        return Tetrahedra(mesh.index[flat].reshape(-1, 4), len(mesh.k))

    def margin(self) -> float:
        """0: a band begins and ends with its levels."""
        return 0.0

    def below(self, energies: Tensor, levels: Tensor) -> Tensor:
        """W_k(E) [E, k]: the part below E of each tetrahedron, shared linearly among its corners."""
        e, order = levels[self.corners].sort(1)
        corners = torch.gather(self.corners, 1, order)
        first = torch.searchsorted(
            energies, e[:, 0].contiguous(), right=True
        )  # the first energy above the lowest corner
        last = torch.searchsorted(energies, e[:, 3].contiguous())  # the first that has all of it below
        volume = 1.0 / len(e)
        total = torch.zeros(len(energies) + 1, self.points, dtype=torch.float64)
        flat = total.flatten()
        share = torch.full((len(e),), 0.25 * volume, dtype=torch.float64)
        for c in range(4):  # whole tetrahedra: set where they begin to be whole, summed up below
            flat.index_add_(0, last * self.points + corners[:, c], share)
        whole = flat.reshape(total.shape)[:-1].cumsum(0)
        count = (last - first).clamp(min=0)
        which = torch.repeat_interleave(torch.arange(len(e)), count)
        if len(which):
            begin = count.cumsum(0) - count
            step = torch.arange(len(which)) - begin[which] + first[which]
            weights = _cut(energies[step], e[which]) * volume
            part = whole.flatten()
            for c in range(4):
                part.index_add_(0, step * self.points + corners[which, c], weights[:, c])
            whole = part.reshape(whole.shape)
        return whole


def _cut(E: Tensor, e: Tensor) -> Tensor:
    """Weights of the corners [n, 4] of tetrahedra of volume 1 cut by E [n], at ascending e [n, 4]: appendix B there."""
    e1, e2, e3, e4 = e.unbind(1)
    tiny = torch.finfo(e.dtype).tiny

    def over(a: Tensor, b: Tensor) -> Tensor:
        return a / torch.where(b > 0, b, torch.full_like(b, tiny)) * (b > 0)

    low = E <= e2
    high = (E > e3) & ~low
    # E between e1 and e2: a small tetrahedron at the first corner
    t2, t3, t4 = over(E - e1, e2 - e1), over(E - e1, e3 - e1), over(E - e1, e4 - e1)
    c = t2 * t3 * t4 / 4
    first = torch.stack([c * (4 - t2 - t3 - t4), c * t2, c * t3, c * t4], 1)
    # between e3 and e4: all but a small tetrahedron at the last
    u1, u2, u3 = over(e4 - E, e4 - e1), over(e4 - E, e4 - e2), over(e4 - E, e4 - e3)
    d = u1 * u2 * u3 / 4
    third = 0.25 - torch.stack([d * u1, d * u2, d * u3, d * (4 - u1 - u2 - u3)], 1)
    # between e2 and e3
    a31, a41 = over(E - e1, e3 - e1), over(E - e1, e4 - e1)
    b32, b42 = over(E - e2, e3 - e2), over(E - e2, e4 - e2)
    c1 = a41 * a31 / 4
    c2 = a41 * b32 * (1 - a31) / 4
    c3 = b42 * b32 * (1 - a41) / 4
    second = torch.stack(
        [
            c1 + (c1 + c2) * (1 - a31) + (c1 + c2 + c3) * (1 - a41),
            c1 + c2 + c3 + (c2 + c3) * (1 - b32) + c3 * (1 - b42),
            (c1 + c2) * a31 + (c2 + c3) * b32,
            (c1 + c2 + c3) * a41 + c3 * b42,
        ],
        1,
    )
    return torch.where(low[:, None], first, torch.where(high[:, None], third, second))


def fermi_energy(levels: Tensor, spreading: Spreading, electrons: float, per_level: float) -> float:
    """The energy below which the states [s, k, n] hold so many electrons; in the middle of a gap [Ha].

    per_level: electrons that a full level holds.  Raises BadInput where the states cannot hold them.
    """
    s, _, n = levels.shape
    if not 0 <= electrons <= s * n * per_level + 1e-9:
        raise BadInput(f"{electrons:g} electrons do not fit into {s * n * per_level:g} states: choose a larger basis")
    bottom, top = levels.amin(1).flatten(), levels.amax(1).flatten()  # of each band
    bands = levels.transpose(1, 2).reshape(s * n, -1)
    margin = spreading.margin()

    def count(E: float) -> float:
        filled = top + margin <= E
        cut = ~filled & (bottom - margin < E)
        at = torch.tensor([E], dtype=torch.float64)
        partial = sum(float(spreading.below(at, band).sum()) for band in bands[cut])
        return per_level * (float(filled.sum()) + partial)

    ends = float(bottom.min()) - margin - 1e-6, float(top.max()) + margin + 1e-6
    slack = 1e-10 * max(1.0, electrons)
    # a stretch of energies may hold as many electrons, between its lower and its upper end
    lower = _first(lambda E: count(E) >= electrons - slack, *ends)
    upper = _first(lambda E: count(E) > electrons + slack, lower, ends[1])
    return 0.5 * (lower + upper)


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The lowest energy at which a condition holds that holds from there on, by bisection."""
    while high - low > 1e-12:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def electrons_below(
    edges: Tensor, levels: Tensor, mesh: Sampling, spreading: Spreading, per_level: float, shares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Electrons that states below each of ascending energies hold: of each spin [s, E], and of groups of orbitals [groups, E].

    levels: [s, k, n] on the reduced mesh.  shares: of the groups in each state [s, k, groups, n]; None: no groups.
    """
    spins, _, n = levels.shape
    total = torch.zeros(spins, len(edges), dtype=torch.float64)
    grouped = torch.zeros(0 if shares is None else shares.shape[2], len(edges), dtype=torch.float64)
    margin = spreading.margin()
    chunk = max(1, 10_000_000 // len(mesh.k))
    for s in range(spins):
        for band in range(n):
            e = levels[s, :, band].contiguous()
            own = None if shares is None else shares[s, :, :, band]
            ends = torch.stack([e.min() - margin, e.max() + margin])
            first, last = torch.searchsorted(edges, ends, right=True).tolist()
            for a in range(first, last, chunk):
                b = min(last, a + chunk)
                weights = spreading.below(edges[a:b], e)
                total[s, a:b] += per_level * weights.sum(1)
                if own is not None:
                    grouped[:, a:b] += per_level * (weights @ own).T
            total[s, last:] += per_level
            if own is not None:
                grouped[:, last:] += per_level * (mesh.weights @ own)[:, None]
    return total, grouped

"""Which atoms see each other: ordered pairs with the cells they stand in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, pi

import numpy as np
import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.memory import check_room
from nearsight.core.structure import Structure

_LEAST = 1e-5  # Bohr: a cutoff below which nothing is searched
_BYTES = 100  # that a pair takes while a list is made


@dataclass(frozen=True, eq=False)
class Pairs:
    """Ordered pairs (i in cell 0, j in cell R); for each pair its reverse (j, i, -R) is in the list too.

    i, j: [pairs] atoms.  R: [pairs, 3] integer cells.  Sorted by i, then j, then R; on-site pairs (i, i, 0) included.
    """

    i: Tensor
    j: Tensor
    R: Tensor
    atoms: int

    __repr__ = one_line

    def __len__(self) -> int:
        return len(self.i)

    @staticmethod
    def of(i: Tensor, j: Tensor, R: Tensor, atoms: int) -> Pairs:
        """Pairs from any order, with repetitions dropped, reverse pairs and on-site pairs added, sorted."""
        on_site = torch.arange(atoms, device=i.device)
        i, j = torch.cat([i, j, on_site]), torch.cat([j, i, on_site])
        R = torch.cat([R, -R, R.new_zeros(atoms, 3)])
        unique = torch.unique(torch.cat([i[:, None], j[:, None], R], 1), dim=0)
        return Pairs(unique[:, 0].contiguous(), unique[:, 1].contiguous(), unique[:, 2:].contiguous(), atoms)

    @staticmethod
    def within(structure: Structure, radii: Tensor | float) -> Pairs:
        """All pairs whose atoms' spheres touch: |r_j + R - r_i| < radii_i + radii_j; one float means that cutoff [Bohr]."""
        radii = torch.as_tensor(radii, dtype=torch.float64)
        per_atom = radii.cpu().expand(len(structure)) if radii.ndim else (radii / 2).cpu().expand(len(structure))
        reach = 2 * float(per_atom.max())
        expected = len(structure) ** 2 * 4 / 3 * pi * reach**3 / float(structure.volume)
        check_room(
            expected * _BYTES,
            f"the list of about {expected:.2g} pairs of {len(structure)} atoms",
            "take fewer atoms, or shorter orbitals (a larger energy shift)",
        )
        i, j, R = neighbours(structure, reach)
        positions, cell = structure.positions.detach().cpu().double(), structure.cell.detach().cpu().double()
        distance = (positions[j] + R.double() @ cell - positions[i]).norm(dim=-1)
        keep = distance < per_atom[i] + per_atom[j]
        device = structure.cell.device
        return Pairs.of(i[keep].to(device), j[keep].to(device), R[keep].to(device), len(structure))

    def vectors(self, structure: Structure) -> Tensor:
        """r_j + R - r_i [pairs, 3], Bohr; differentiable in positions and cell."""
        shift = self.R.to(structure.cell) @ structure.cell
        return structure.positions[self.j] + shift - structure.positions[self.i]

    @cached_property
    def _encoding(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sorted keys, the lowest R and the spans, so that a pair is found by a binary search."""
        low = self.R.amin(0) if len(self) else self.R.new_zeros(3)
        span = (self.R.amax(0) - low + 1) if len(self) else self.R.new_ones(3)
        return _encode(self.i, self.j, self.R, low, span, self.atoms), low, span

    def find(self, i: Tensor, j: Tensor, R: Tensor) -> Tensor:
        """Index of each pair (i, j, R) in this list, or len(self) where it is not in it."""
        keys, low, span = self._encoding
        inside = ((R >= low) & (R < low + span)).all(-1)
        wanted = _encode(i, j, torch.where(inside[..., None], R, low), low, span, self.atoms)
        index = torch.searchsorted(keys, wanted).clamp(max=len(self) - 1)
        found = inside & (keys[index] == wanted)
        return torch.where(found, index, torch.full_like(index, len(self)))

    @cached_property
    def reverse(self) -> Tensor:
        """Index of the pair (j, i, -R) for each pair."""
        return self.find(self.j, self.i, -self.R)

    @cached_property
    def half(self) -> Tensor:
        """Boolean: one of each pair and its reverse; on-site pairs included."""
        own = torch.arange(len(self), device=self.i.device)
        return own <= self.reverse

    @cached_property
    def on_site(self) -> Tensor:
        """Index of the on-site pair of each atom [atoms]."""
        atom = torch.arange(self.atoms, device=self.i.device)
        return self.find(atom, atom, self.R.new_zeros(self.atoms, 3))

    def union(self, other: Pairs) -> Pairs:
        """Every pair that is in either list, in the one order; both of the same atoms."""
        return Pairs.of(
            torch.cat([self.i, other.i]), torch.cat([self.j, other.j]), torch.cat([self.R, other.R]), self.atoms
        )

    def to(self, device: torch.device | str) -> Pairs:
        """The same pairs on a device."""
        return Pairs(self.i.to(device), self.j.to(device), self.R.to(device), self.atoms)


def _encode(i: Tensor, j: Tensor, R: Tensor, low: Tensor, span: Tensor, atoms: int) -> Tensor:
    """One integer a pair, increasing in the order (i, j, R)."""
    x = R - low
    return (((i * atoms + j) * span[0] + x[..., 0]) * span[1] + x[..., 1]) * span[2] + x[..., 2]


def neighbours(structure: Structure, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs (i, j, R) with |r_j + R - r_i| <= cutoff [Bohr], without the atom itself: i, j [n], R [n, 3], on the CPU.

    Raises BadInput for a cutoff that is none.
    """
    from vesin import NeighborList

    if not _LEAST <= cutoff < inf:
        raise BadInput(f"a cutoff of {cutoff:.1e} Bohr is none: give one that reaches the neighbours of an atom")
    cell = structure.cell.detach().cpu().double().numpy()
    positions = structure.positions.detach().cpu().double().numpy()
    i, j, shifts = NeighborList(cutoff=cutoff, full_list=True).compute(
        points=positions, box=cell, periodic=True, quantities="ijS"
    )
    index = [torch.as_tensor(np.asarray(a).astype(np.int64)) for a in (i, j, shifts)]
    return index[0], index[1], index[2].reshape(-1, 3)

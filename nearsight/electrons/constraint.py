"""What is held of the moments of atoms: linear conditions on the density matrix, each with a field of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import acos, degrees
from typing import Literal

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.spin import Spin
from nearsight.electrons.populations import moments

Hold = Literal["direction", "moment"]
MOMENT, ANGLE = 1e-3, 0.1  # mu_B and degrees, to which moments are held


@dataclass(frozen=True, eq=False)
class MomentConstraint:
    """Conditions u_c . M_a(c) = t_c on Mulliken's moments M_a = sum over i of a, sum_j, Tr[sigma D_ij] S_ij.

    They are linear in D, so that E[D] - T S has one minimum under them at a given H, with one field b_a = sum_c lambda_c u_c
    on each atom as the multiplier: dOmega/dM_a = -b_a.

    wanted: the moments [atoms, 3] (mu_B).  held: which atoms.  atoms: of each condition [conditions].  axes: u
    [conditions, 3].  targets: t [conditions] (mu_B).
    """

    hold: Hold
    wanted: Tensor
    held: tuple[bool, ...]
    atoms: Tensor
    axes: Tensor
    targets: Tensor

    __repr__ = one_line

    @staticmethod
    def of(hold: Hold, wanted: Tensor, held: Sequence[bool], names: Sequence[str], spin: Spin) -> MomentConstraint:
        """hold: direction keeps the two components across `wanted` at zero; moment all three, of collinear spin the one.

        names: of the atoms, for messages.
        Raises BadInput for spin without moments, the direction of collinear spin, an atom whose moment is zero, or none held.
        """
        if spin.channels == 1:
            raise BadInput("moments are held but spin is none: take --spin non-collinear, or leave --constrain out")
        if hold == "direction" and not spin.turns:
            raise BadInput(
                f"moments of spin {spin} have no direction that could be held: take --constrain moment, or --spin non-collinear"
            )
        if not any(held):
            raise BadInput("a constraint that holds no atom: name some, or leave --constrain out")
        atoms: list[int] = []
        axes, targets = [], []
        for a, (m, is_held) in enumerate(zip(wanted, held, strict=True)):
            if not is_held:
                continue
            size = float(m.norm())
            if size == 0:
                raise BadInput(
                    f"atom {a} ({names[a]}) has no moment that could be held: give it one with --moments, or name the atoms to "
                    f"hold, such as --constrain {hold}:0,1"
                )
            own = torch.eye(3, dtype=wanted.dtype) if spin.turns else torch.eye(3, dtype=wanted.dtype)[2:]
            if hold == "direction":
                own = _across(m / size)
            atoms += [a] * len(own)
            axes.append(own)
            targets.append(own @ m if hold == "moment" else m.new_zeros(len(own)))
        return MomentConstraint(hold, wanted, tuple(held), torch.tensor(atoms), torch.cat(axes), torch.cat(targets))

    def to(self, device: torch.device) -> MomentConstraint:
        """The same on a device."""
        tensors = (x.to(device) for x in (self.atoms, self.axes, self.targets))
        return MomentConstraint(self.hold, self.wanted, self.held, *tensors)

    def __len__(self) -> int:
        """Conditions."""
        return len(self.targets)

    def along(self, m: Tensor) -> Tensor:
        """u_c . m_a(c) [conditions] of vectors on the atoms [atoms, 3]."""
        return (self.axes * m[self.atoms]).sum(1)

    def fields(self, multipliers: Tensor) -> Tensor:
        """b_a = sum_c lambda_c u_c [atoms, 3]."""
        zero = multipliers.new_zeros(len(self.held), 3)
        return zero.index_add(0, self.atoms, multipliers[:, None] * self.axes)

    def off(self, density_matrix: BlockMatrix, overlap: BlockMatrix) -> Tensor:
        """u_c . M_a(c) - t_c [conditions] (mu_B)."""
        return self.along(moments(density_matrix, overlap)) - self.targets

    def deviation(self, found: Tensor) -> tuple[float, float]:
        """How far moments [atoms, 3] are from those held: mu_B (of sizes, where these are held) and degrees, at most."""
        sizes, angles = [0.0], [0.0]
        for m, w, held in zip(found.cpu().double(), self.wanted, self.held, strict=True):
            if held:
                length = float(m.norm())
                cosine = float(m @ w) / (length * float(w.norm())) if length else -1.0
                angles.append(degrees(acos(min(1.0, max(-1.0, cosine)))))
                sizes.append(float((m - w).norm()) if self.hold == "moment" else 0.0)
        return max(sizes), max(angles)

    def vanished(self, found: Tensor) -> int | None:
        """The first atom held whose moment among these [atoms, 3] is below MOMENT; None: none is."""
        small = (found.norm(dim=1) < MOMENT).tolist()
        return next((n for n, (held, gone) in enumerate(zip(self.held, small, strict=True)) if held and gone), None)

    def keeps(self, found: Tensor) -> bool:
        """Whether moments [atoms, 3] are those held, within MOMENT and ANGLE."""
        size, angle = self.deviation(found)
        return size <= MOMENT and angle <= ANGLE


def _across(unit: Tensor) -> Tensor:
    """Two unit vectors [2, 3] at right angles to one [3] and to each other."""
    least = torch.zeros_like(unit)
    least[int(unit.abs().argmin())] = 1.0
    first = torch.linalg.cross(unit, least)
    first = first / first.norm()
    return torch.stack([first, torch.linalg.cross(unit, first)])

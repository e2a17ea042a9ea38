"""The Hamiltonian to begin a cycle with, from those of the places before: H0(new) + sum_k c_k (H - H0)(k).

H0 is of superposed atoms, made anew at every place; what self-consistency changed is carried along. The weights, of sum 1, are
those with which H0 itself would come out best from its own past,
    min |H0(new) - sum_k c_k H0(k)|^2 + n e^2 sum_k c_k^2,
n elements, e the error that each H was left with: along a smooth path this extrapolates to as high an order as that error
allows, from places in any order (several images at once, a relaxation's steps) it takes what is near. The fit on a matrix of
the geometry follows Polack, Dusson, Stamm and Lipparini, J. Chem. Theory Comput. 17, 6965 (2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix, real_parts
from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.reading import MEBIBYTE
from nearsight.core.spin import by_components

LARGEST = 512 * MEBIBYTE


@dataclass(frozen=True, eq=False)
class Place:
    """superposed: H0 at a place.  change: H - H0 there, of the cycle's spin [Ha]."""

    superposed: BlockMatrix
    change: BlockMatrix

    __repr__ = one_line

    @staticmethod
    def of(hamiltonian: BlockMatrix, superposed: BlockMatrix) -> Place:
        """H is brought onto the layout of H0."""
        h = hamiltonian.on(superposed.layout)
        return Place(superposed, h.with_values(h.values - superposed.embed(h.spin).values))


class History:
    """The last places of a path (mutable), the newest one last.

    most: how many are kept, while they take no more than `LARGEST` bytes.
    error: that the elements of each H were left with [Ha].
    """

    def __init__(self, most: int = 8, error: float = 1e-8) -> None:
        self.most, self.error = most, error
        self.places: list[Place] = []

    def add(self, place: Place) -> None:
        """Keep a place; all before are forgotten where its orbitals are others, the oldest where there are too many."""
        if self.places and not self.places[-1].change.basis.same_as(place.change.basis):
            self.places = []
        size = sum(x.values.numel() * x.values.element_size() for x in (place.superposed, place.change))
        room = max(1, LARGEST // max(1, size))
        self.places = [*self.places, place][-min(self.most, room) :] if self.most else []

    def start(self, superposed: BlockMatrix) -> BlockMatrix | None:
        """The Hamiltonian to begin with where H0 is `superposed` [Ha]; None without a past of the same orbitals."""
        if not self.places or not self.places[-1].change.basis.same_as(superposed.basis):
            return None
        layout = superposed.layout
        moved = torch.stack([p.change.on(layout).values for p in self.places])
        weights = self.weights(superposed).to(moved)
        change = (weights[:, None, None] * moved).sum(0)
        spin = self.places[-1].change.spin
        return BlockMatrix(layout, superposed.embed(spin).values + change, spin)

    def weights(self, superposed: BlockMatrix) -> Tensor:
        """c [places], of sum 1."""
        layout = superposed.layout
        past = torch.stack([real_parts(p.superposed.on(layout).values).flatten() for p in self.places])
        steps, wanted = past[:-1] - past[-1], real_parts(superposed.values).flatten() - past[-1]
        if not len(steps):
            return torch.ones(1, dtype=past.dtype)
        # in a = c of all but the last: |wanted - a steps|^2 + n e^2 (|a|^2 + (1 - sum a)^2)
        noise = past.shape[1] * self.error**2
        ones = torch.ones(len(steps), dtype=past.dtype, device=past.device)
        matrix = steps @ steps.T + noise * (torch.diag(ones) + torch.outer(ones, ones))
        a = torch.linalg.solve(matrix, steps @ wanted + noise * ones)
        return torch.cat([a, 1 - a.sum()[None]])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything, as arrays by name: see `of_arrays`."""
        found: dict[str, np.ndarray] = {}
        for n, place in enumerate(self.places):
            for name, matrix in (("superposed", place.superposed), ("change", place.change)):
                found[f"{n}.{name}"] = matrix.values.cpu().numpy()
            pairs = place.superposed.pairs
            found[f"{n}.pairs"] = torch.cat([pairs.i[:, None], pairs.j[:, None], pairs.R], 1).cpu().numpy()
        return found

    @property
    def orbitals(self) -> dict[str, Any]:
        """Atoms, shells and spin of the matrices, as JSON has them; empty without a past."""
        if not self.places:
            return {}
        basis = self.places[-1].change.basis
        shells = {str(z): list(s) for z, s in basis.shells.items()}
        return {"numbers": list(basis.numbers), "shells": shells, "spin": self.places[-1].change.spin.name}

    def recall(self, arrays: Mapping[str, np.ndarray], orbitals: Mapping[str, Any], device: str) -> None:
        """Take the past that `to_arrays` and `orbitals` told, exactly."""
        self.places = []
        if not orbitals:
            return
        numbers = torch.tensor(orbitals["numbers"])
        basis = Basis.of(numbers, {int(z): tuple(s) for z, s in orbitals["shells"].items()})
        n = 0
        while f"{n}.pairs" in arrays:
            rows = torch.from_numpy(arrays[f"{n}.pairs"]).to(device)
            layout = BlockLayout(basis, Pairs.of(rows[:, 0], rows[:, 1], rows[:, 2:], len(numbers)))
            values = [torch.from_numpy(arrays[f"{n}.{name}"]).to(device) for name in ("superposed", "change")]
            superposed = BlockMatrix(layout, values[0], by_components(len(values[0])))
            self.places.append(Place(superposed, BlockMatrix(layout, values[1], orbitals["spin"])))
            n += 1

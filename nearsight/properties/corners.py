"""Names of k-points: the corners of the Brillouin zone, and the lines between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import NearsightError
from nearsight.core.structure import Structure
from nearsight.electrons.symmetry import SpaceGroup

SAME = 2e-4  # of a reciprocal vector: k-points nearer than this have one name


@dataclass(frozen=True, eq=False)
class Corners:
    """Special points of a crystal by the names of Hinuma et al. (see electrons.kpoints.band_path), fractional.

    points: of each name [3].  segments: lines of the standard path.  operations: k -> k W for all W of the space group and
    time reversal [g, 3, 3].  reciprocal: rows [3, 3], 1/Bohr.  axes: lattice directions that have k.
    """

    points: dict[str, Tensor]
    segments: tuple[tuple[str, str], ...]
    operations: Tensor
    reciprocal: Tensor
    axes: tuple[int, ...]

    __repr__ = one_line

    @staticmethod
    def of(structure: Structure, axes: list[int]) -> Corners:
        """axes: lattice directions that have k; corners off their plane or line are left out."""
        import seekpath

        cell = structure.cell.detach().cpu().double().numpy()
        fractional = structure.positions.detach().cpu().double().numpy() @ np.linalg.inv(cell)
        found = seekpath.get_path_orig_cell((cell, fractional, structure.numbers.cpu().numpy()))
        flat = [x for x in range(3) if x not in axes]
        points = {
            name: torch.tensor(k, dtype=torch.float64)
            for name, k in found["point_coords"].items()
            if all(abs(k[x]) < 1e-9 for x in flat)
        }
        segments = tuple((a, b) for a, b in found["path"] if a in points and b in points)
        try:
            turns = SpaceGroup.of(structure).rotations.double()
        except NearsightError:
            turns = torch.eye(3, dtype=torch.float64)[None]
        return Corners(
            points, segments, torch.cat([turns, -turns]), structure.reciprocal.detach().cpu().double(), tuple(axes)
        )

    def images(self, k: Tensor) -> Tensor:
        """All k-points [n, 3] in and around the first cell that are alike to k [3] by symmetry."""
        turned = torch.einsum("a,gab->gb", k, self.operations)
        turned = turned - torch.floor(turned + 0.5)
        reach = [(-1, 0, 1) if x in self.axes else (0,) for x in range(3)]
        shifts = torch.tensor(list(product(*reach)), dtype=torch.float64)
        return (turned[:, None] + shifts).reshape(-1, 3)

    def label(self, k: Tensor) -> str | None:
        """The corner that k is, or where it is on a line between two: `0.85 GAMMA-X`; None elsewhere."""
        images = self.images(k)
        for name, point in self.points.items():
            if bool(((images - point).abs().amax(1) < SAME).any()):
                return name
        for a, b in self.segments:
            start, line = self.points[a] @ self.reciprocal, (self.points[b] - self.points[a]) @ self.reciprocal
            away = images @ self.reciprocal - start
            t = (away @ line) / (line @ line)
            off = (away - t[:, None] * line).norm(dim=1)
            on = (off < SAME * float(self.reciprocal.norm(dim=1).min())) & (t > 0) & (t < 1)
            if bool(on.any()):
                return f"{float(t[on][0]):.3f} {a}-{b}"
        return None

    def directions(self, k: Tensor, most: int = 4) -> list[tuple[str, Tensor]]:
        """Unit vectors [3] from k to the nearest corner of each name, the nearest first, no two of them parallel."""
        ways = []
        for name, point in self.points.items():
            vectors = (self.images(point) - k) @ self.reciprocal
            lengths = vectors.norm(dim=1)
            lengths = torch.where(lengths > 1e-6, lengths, torch.inf)
            nearest = int(lengths.argmin())
            if bool(torch.isfinite(lengths[nearest])):
                ways.append((float(lengths[nearest]), name, vectors[nearest] / lengths[nearest]))
        kept: list[tuple[str, Tensor]] = []
        for _, name, vector in sorted(ways, key=lambda w: w[0]):
            if all(abs(float(vector @ other)) < 0.999 for _, other in kept):
                kept.append((name, vector))
        return kept[:most]

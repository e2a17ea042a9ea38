"""Points of the Brillouin zone: uniform meshes for integrals, paths for band structures. Fractional coordinates throughout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.memory import check_room
from nearsight.core.structure import Structure

_FARTHEST = 100  # steps, of a shifted mesh: a whole step is none
GAP = 10.0  # Bohr
_BYTES = 120  # that a point of a mesh takes while it is made


class Operations(Protocol):
    """Operations that leave a crystal unchanged (a `SpaceGroup`)."""

    @property
    def symbol(self) -> str:
        """International symbol of the space group."""

    def __len__(self) -> int: ...

    def symmetric_vectors(self, vectors: Tensor) -> Tensor:
        """Vectors of the atoms [atoms, 3], averaged over the operations."""

    def symmetric_tensor(self, tensor: Tensor) -> Tensor:
        """A Cartesian tensor [3, 3], averaged over the operations."""


class Projection(Protocol):
    """P M, the part of a matrix that some operations leave unchanged (a `Symmetrisation`)."""

    @property
    def group(self) -> Operations:
        """The operations."""

    def __call__(self, matrix: BlockMatrix) -> BlockMatrix:
        """P M, on the layout of M."""

    def to(self, device: torch.device | str) -> Projection:
        """The same projection for matrices on a device."""


@dataclass(frozen=True, eq=False)
class KPoints:
    """k [n, 3] in units of the reciprocal lattice vectors, weights [n] that sum to 1.

    symmetry: the operations by which the points were reduced beyond time reversal (`symmetry.reduced_mesh`); None: no others.
    time_reversal: one of k and -k stands for both, as M(R) that are real allow, or those of spinors with time reversal.
    """

    k: Tensor
    weights: Tensor
    symmetry: Projection | None = None
    time_reversal: bool = True

    __repr__ = one_line

    def __len__(self) -> int:
        return len(self.weights)

    def to(self, device: torch.device | str) -> KPoints:
        """The same points on a device, with their symmetry."""
        symmetry = None if self.symmetry is None else self.symmetry.to(device)
        return KPoints(self.k.to(device), self.weights.to(device), symmetry, self.time_reversal)

    def integrate(self, dense: Tensor, like: BlockMatrix) -> BlockMatrix:
        """M(R) = sum_k w_k exp(-2 pi i k.R) M(k) over the whole zone, for M(k) [spin.matrices, k, N, N] at these points."""
        return self.closed(like.from_k(dense, self.k, self.weights))

    def closed(self, matrix: BlockMatrix) -> BlockMatrix:
        """The sum over the whole zone, of the sum over these points alone: their images under time reversal and symmetry."""
        if self.time_reversal and matrix.values.is_complex():
            matrix = matrix.with_values(0.5 * (matrix.values + matrix.spin.at_minus_k(matrix.values)))
        return self.symmetric(matrix)

    def symmetric(self, matrix: BlockMatrix) -> BlockMatrix:
        """The part of a matrix that has the symmetry by which the points were reduced; the matrix itself without any."""
        return matrix if self.symmetry is None else self.symmetry(matrix)


def mesh_points(size: tuple[int, int, int], shift: tuple[float, float, float]) -> Tensor:
    """All points k_i = (n_i + shift_i) / N_i in (-1/2, 1/2], the last index fastest [N, 3].

    Raises NearsightError for a size below 1.
    """
    if any(n < 1 for n in size):
        raise BadInput(f"k-mesh {tuple(size)}: every number must be at least 1 (1 1 1 is Gamma alone)")
    if not all(abs(s) <= _FARTHEST for s in shift):
        raise BadInput(
            f"a k-mesh shifted by {tuple(shift)} steps: 0 and 0.5 are usual, {_FARTHEST} the most that is taken"
        )
    count = prod(size)
    check_room(
        count * _BYTES,
        f"a k-mesh of {'x'.join(map(str, size))} ({count:.3g} points)",
        "take fewer, or a larger kspacing",
    )
    axes = [(np.arange(n) + s) / n for n, s in zip(size, shift, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return torch.as_tensor(points - np.floor(points + 0.5 - 1e-9))


def mesh(
    size: tuple[int, int, int], shift: tuple[float, float, float] = (0.0, 0.0, 0.0), time_reversal: bool = True
) -> KPoints:
    """Uniform Gamma-centred mesh k_i = (n_i + shift_i) / N_i, reduced by time reversal (k and -k count once, weight 2).

    shift: in units of the mesh step, as SIESTA's displacements (0.5 gives Monkhorst and Pack's even meshes).
    time_reversal: False keeps all points, as spinors with moments need.
    Raises NearsightError for a size below 1.
    """
    if not time_reversal:
        k = mesh_points(size, shift)
        return KPoints(k, torch.full((len(k),), 1 / len(k), dtype=torch.float64), time_reversal=False)
    points, own = mesh_points(size, shift), torch.arange(prod(size))
    minus = _minus(size, shift, own)
    kept = own <= minus
    weights = torch.where(minus == own, 1.0, 2.0).double()[kept]
    return KPoints(points[kept], weights / weights.sum())


def _minus(size: tuple[int, int, int], shift: tuple[float, float, float], own: Tensor) -> Tensor:
    """Index of -k in the mesh for each point; the point's own where -k is not in it."""
    doubled = [2 * s for s in shift]
    if any(abs(d - round(d)) > 1e-6 for d in doubled):
        return own
    _, b, c = size
    axes = (own // (b * c), own // c % b, own % c)
    x, y, z = ((-n - round(d)) % count for n, d, count in zip(axes, doubled, size, strict=True))
    return (x * b + y) * c + z


@dataclass(frozen=True, eq=False)
class BandPath:
    """k [n, 3] along straight segments; distance [n] in 1/Bohr; labels: (index into k, name) of the corners."""

    k: Tensor
    distance: Tensor
    labels: tuple[tuple[int, str], ...]

    __repr__ = one_line


def band_path(structure: Structure, points: int = 200, labels: str | None = None) -> BandPath:
    """The standard path of Hinuma et al. (Comput. Mater. Sci. 128, 140 (2017)) from seekpath, for the cell as it is given.

    points: about how many k in all, at least 2.  labels: corners to visit instead, e.g. "GAMMA-M-K" (seekpath's names).
    A sheet or wire (vacuum along an axis of more than 10 Bohr) keeps only the part of the path with k = 0 along that axis.
    Raises BadInput for an unknown label, a path of fewer than two corners or from a corner to itself, fewer than two points.
    """
    import seekpath

    if points < 2:
        raise BadInput(f"a band path of {points} points: give at least 2")
    check_room(points * _BYTES, f"a band path of {points:.3g} points", "take fewer")

    cell = structure.cell.detach().cpu().double().numpy()
    fractional = structure.positions.detach().cpu().double().numpy() @ np.linalg.inv(cell)
    found = seekpath.get_path_orig_cell((cell, fractional, structure.numbers.cpu().numpy()))
    corners = {name: np.array(k) for name, k in found["point_coords"].items()}
    if labels is not None:
        names = labels.replace(",", "-").split("-")
        names = ["GAMMA" if n in ("G", "Γ", "Gamma", "gamma") else n for n in names]
        unknown = [n for n in names if n not in corners]
        if unknown:
            named = f"no point is named {unknown[0]:.40}" if unknown[0] else "a corner has no name"
            raise BadInput(f"band path {labels:.80}: {named}; this lattice has {', '.join(sorted(corners))}")
        segments = list(zip(names[:-1], names[1:], strict=True))
        if not segments or any(a == b for a, b in segments):
            raise BadInput(
                f"band path {labels}: it has no length; name at least two corners, each other than the one before, such as "
                f"{'-'.join(list(corners)[:2])}"
            )
    else:
        empty = vacuum_axes(structure)
        segments = [
            (a, b)
            for a, b in found["path"]
            if all(abs(corners[a][x]) < 1e-9 and abs(corners[b][x]) < 1e-9 for x in empty)
        ]
    if not segments:
        corners["X"] = np.array([0.5, 0.0, 0.0])
        segments = [("GAMMA", "X")]
    reciprocal = structure.reciprocal.detach().cpu().double().numpy()
    lengths = [float(np.linalg.norm((corners[b] - corners[a]) @ reciprocal)) for a, b in segments]
    total = sum(lengths)
    ks: list[np.ndarray] = []
    distances: list[float] = []
    marks: list[tuple[int, str]] = []
    travelled = 0.0
    for n, ((a, b), length) in enumerate(zip(segments, lengths, strict=True)):
        count = max(2, round(points * length / total) + 1)
        start = 1 if n and segments[n - 1][1] == a else 0
        t = np.linspace(0, 1, count)[start:]
        if start == 0:
            marks.append((len(ks), a))
        ks.extend(corners[a] + x * (corners[b] - corners[a]) for x in t)
        distances.extend(travelled + x * length for x in t)
        travelled += length
        marks.append((len(ks) - 1, b))
    return BandPath(torch.as_tensor(np.array(ks)), torch.as_tensor(distances), tuple(marks))


def path_in(path: BandPath, structure: Structure, other: Structure, fold: bool = False) -> BandPath:
    """A path through the zone of a structure, in the reciprocal vectors of another: the same k where both have one lattice.

    Where both cells have the same shape, up to a turn and a strain of 10 % (the same crystal relaxed), k is kept in fractions.
    fold: also where the vectors of one cell are in integers those of the other (a supercell and its primitive cell); k is kept
    in space then. Along axes on which k is 0 everywhere, such as the height of a sheet, cells may differ.
    Raises BadInput for any other pair of cells: the path means nothing in the other's zone.
    """
    a, b = (x.cell.detach().cpu().double() for x in (structure, other))
    used = (path.k.abs() > 1e-9).any(0)
    if _same_shape(a[used], b[used]):
        return path
    change = b @ torch.linalg.inv(a)  # of cell vectors, so that k in space is kept by k' = k change^T
    k = path.k @ change.T
    both = used | (k.abs() > 1e-9).any(0)
    there, back = change[:, used], torch.linalg.inv(change)[both][:, both]
    if not any(bool(((m - m.round()).abs() <= 0.03 * m.round().abs().clamp(min=1)).all()) for m in (there, back)):
        raise BadInput(
            f"{structure.formula} and {other.formula} have different cells, neither of which is a supercell of the other: a "
            "path of one means nothing in the other; draw their bands apart"
        )
    if not fold:
        raise BadInput(
            f"{structure.formula} and {other.formula} have different cells, one a supercell of the other: its bands are "
            "folded; draw them apart, or over each other with --fold (fold=True)"
        )
    whole = there.round()
    strained = bool(((there - whole).abs() <= 0.03 * whole.abs().clamp(min=1)).all())
    return replace(path, k=path.k[:, used] @ whole.T if strained else k)


def _same_shape(a: Tensor, b: Tensor) -> bool:
    """Whether two sets of vectors (rows) are the same up to a turn and a strain of 10 %."""
    (x, y), (cos_a, cos_b) = (a.norm(dim=1), b.norm(dim=1)), (_cosines(a), _cosines(b))
    return bool(((x / y - 1).abs() < 0.1).all() and ((cos_a - cos_b).abs() < 0.1).all())


def _cosines(vectors: Tensor) -> Tensor:
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    return unit @ unit.T


def vacuum_axes(structure: Structure) -> list[int]:
    """Lattice directions along which states hardly depend on k: the atoms leave more than 10 Bohr (5.3 angstrom) empty, which
    orbitals do not bridge, or the input says that the structure does not go on."""
    cell = structure.cell.detach().cpu().double().numpy()
    normals = np.linalg.inv(cell)
    fractional = structure.positions.detach().cpu().double().numpy() @ normals
    axes = []
    for x in range(3):
        height = 1 / np.linalg.norm(normals[:, x])
        f = np.sort(fractional[:, x] % 1.0)
        largest = max(np.diff(np.append(f, f[0] + 1.0)))
        if largest * height > GAP or not structure.periodic[x]:
            axes.append(x)
    return axes

"""Two-dimensional crystals: their plane lattice, atoms within it and heights above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, sin
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
LEAST_GAP_ANG = 4.0  # empty height of a cell that holds a sheet
EQUAL = 1e-4  # relative: how well the vectors of a hexagonal or square lattice agree


@dataclass(frozen=True, eq=False)
class Sheet:
    """A 2D crystal.

    vectors: of its lattice as rows [2, 2], right-handed, a hexagonal lattice's at 60 degrees [angstrom].
    positions: in the plane [atoms, 2].  heights: along the normal, the middle between highest and lowest at 0 [atoms].
    """

    vectors: Array
    positions: Array
    heights: Array
    numbers: Integers
    name: str

    def __len__(self) -> int:
        return len(self.numbers)

    @staticmethod
    def of(atoms: Atoms) -> Sheet:
        """The sheet in a cell, across whichever vector leads through empty space.

        Raises BadInput for a crystal or molecule, whose cell has not exactly one such vector, or a lattice that leans.
        """
        name = atoms.get_chemical_formula()
        normals = np.linalg.inv(atoms.cell.array).T
        fractions, scale = atoms.get_scaled_positions(), 1 / np.linalg.norm(normals, axis=1)
        gaps, starts = zip(*(_gap(x) for x in fractions.T), strict=True)
        wide = [k for k in range(3) if gaps[k] * scale[k] >= LEAST_GAP_ANG]
        if len(wide) != 1:
            told = ", ".join(f"{g * h:.1f}" for g, h in zip(gaps, scale, strict=True))
            raise BadInput(
                f"{name} is no sheet: its cell must be empty for {LEAST_GAP_ANG:g} angstrom along one vector "
                f"alone (it is for {told})"
            )
        [k] = wide
        a, b = atoms.cell.array[(k + 1) % 3], atoms.cell.array[(k + 2) % 3]
        normal = np.cross(a, b)
        normal /= np.linalg.norm(normal)
        if normal @ atoms.cell.array[k] < 0:
            a, b, normal = b, a, -normal
        x = a / np.linalg.norm(a)
        frame = np.array([x, np.cross(normal, x)]).T
        fractions = fractions.copy()
        fractions[:, k] = (fractions[:, k] - starts[k]) % 1.0
        places = fractions @ atoms.cell.array
        heights = places @ normal
        heights -= (heights.max() + heights.min()) / 2
        vectors = reduced(np.array([a, b]) @ frame)
        return Sheet(vectors, places @ frame, heights, atoms.numbers.astype(np.int64), name)

    @property
    def area(self) -> float:
        """Of the cell [angstrom^2]."""
        return float(np.linalg.det(self.vectors))

    @property
    def thickness(self) -> float:
        """Between the highest and the lowest atom [angstrom]."""
        return float(np.ptp(self.heights))

    @property
    def lattice(self) -> Literal["hexagonal", "square"] | None:
        """hexagonal or square; None for any other."""
        a, b = np.linalg.norm(self.vectors, axis=1)
        angle = float(self.vectors[0] @ self.vectors[1] / (a * b))
        if abs(a / b - 1) > EQUAL:
            return None
        return "hexagonal" if abs(angle - 0.5) < EQUAL else "square" if abs(angle) < EQUAL else None

    def require_lattice(self, what: str) -> Literal["hexagonal", "square"]:
        """hexagonal or square. Raises BadInput for any other.  what: is asked, for the message."""
        if (found := self.lattice) is None:
            raise BadInput(
                f"{what}: the lattice of {self.name} is neither hexagonal nor square: take its primitive cell, or "
                "give angle_deg"
            )
        return found

    def mapped(self, matrix: Array) -> Sheet:
        """Vectors and positions v -> v matrix, in the plane."""
        return replace(self, vectors=self.vectors @ matrix, positions=self.positions @ matrix)

    def shifted(self, by: Array) -> Sheet:
        """Positions moved by a vector of the plane [angstrom]."""
        return replace(self, positions=self.positions + by)

    def raised(self, by: float | Array) -> Sheet:
        """Heights raised [angstrom]."""
        return replace(self, heights=self.heights + by)

    def supercell(self, matrix: Integers) -> Sheet:
        """The sheet with the vectors M a, M an integer matrix [2, 2] of positive determinant; atoms stand in the cell."""
        cells = points(matrix) @ self.vectors
        vectors = matrix @ self.vectors
        places = (self.positions[None] + cells[:, None]).reshape(-1, 2)
        fractions = places @ np.linalg.inv(vectors)
        fractions -= np.floor(fractions + 1e-9)
        return replace(
            self,
            vectors=vectors,
            positions=fractions @ vectors,
            heights=np.tile(self.heights, len(cells)),
            numbers=np.tile(self.numbers, len(cells)),
        )

    def rotation_of(self, steps: Integers) -> Integers:
        """A lattice vector, in integers [2], turned by 60 degrees (hexagonal) or 90 (square)."""
        m, n = (int(x) for x in steps)
        return np.array([-n, m + n] if self.lattice == "hexagonal" else [-n, m])


def _gap(fractions: Array) -> tuple[float, float]:
    """The widest empty stretch between neighbours on a circle of length 1, and where it ends."""
    x = np.sort(fractions % 1.0)
    steps = np.diff(np.append(x, x[0] + 1))
    k = int(steps.argmax())
    return float(steps[k]), float(x[(k + 1) % len(x)])


def reduced(vectors: Array) -> Array:
    """The shortest basis of a plane lattice, right-handed; of a hexagonal one the two vectors at 60 degrees."""
    a, b = vectors
    for _ in range(100):
        if b @ b < a @ a * (1 - 1e-9):
            a, b = b, a
        n = round(float(a @ b / (a @ a)))
        if n == 0 or abs(a @ b) <= 0.5 * (a @ a) * (1 + 1e-6):
            break
        b = b - n * a
    if a[0] * b[1] - a[1] * b[0] < 0:
        b = -b
    if abs(a @ b / (a @ a) + 0.5) < EQUAL:  # 120 degrees, or as long as a
        b = b + a
    return np.array([a, b])


def points(matrix: Integers) -> Integers:
    """The lattice points of a cell of the superlattice M [2, 2], one for each class: |det M| rows of integers."""
    (a, b), (c, d) = matrix.tolist()
    while c:  # Hermite's form by row operations
        q = a // c
        a, b, c, d = c, d, a - q * c, b - q * d
    i, j = np.meshgrid(np.arange(abs(a)), np.arange(abs(d)), indexing="ij")
    return np.stack([i.ravel(), j.ravel()], axis=1)


def superlattice(sheet: Sheet, indices: Sequence[int]) -> Integers:
    """The integer matrix of the superlattice spanned by m a1 + n a2 and its turn by 60 or 90 degrees."""
    first = np.array(indices, dtype=np.int64)
    return np.array([first, sheet.rotation_of(first)])


def perpendicular(sheet: Sheet, steps: Integers, tolerance: float) -> Integers:
    """The shortest lattice vector at a right angle to a given one, to its left: integers [2].

    tolerance: largest cosine between the two.  Raises BadInput where none is found.
    """
    along = steps @ sheet.vectors
    reach = int(4 * np.abs(steps).max() + 40)
    grid = np.arange(-reach, reach + 1)
    p, q = (x.ravel() for x in np.meshgrid(grid, grid, indexing="ij"))
    found = np.stack([p, q], axis=1)
    vectors = found @ sheet.vectors
    lengths = np.linalg.norm(vectors, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.abs(vectors @ along) / (lengths * np.linalg.norm(along))
    left = along[0] * vectors[:, 1] - along[1] * vectors[:, 0] > 0
    fitting = np.flatnonzero(left & (cosines <= tolerance + 1e-9))
    if not len(fitting):
        raise BadInput(
            f"{sheet.name}: no lattice vector within {reach} cells is at a right angle to {tuple(steps.tolist())} to within "
            f"{tolerance:g}: take other indices, or a larger tolerance"
        )
    return found[fitting[lengths[fitting].argmin()]]


def check_steps(kind: str, indices: Sequence[int], most: int = 1000) -> Integers:
    """Indices (n, m) of a lattice vector. Raises BadInput for the zero vector, or integers beyond reason."""
    if max(abs(x) for x in indices) == 0 or max(abs(x) for x in indices) > most:
        raise BadInput(
            f"{kind}: indices {' '.join(map(str, indices))}: give two integers, not both 0, of at most {most}"
        )
    return np.array(indices, dtype=np.int64)


def in_box(layers: Sequence[Sheet], vacuum: float) -> Atoms:
    """Sheets of one lattice as Atoms: first vector along x, third along z, `vacuum` on both sides [angstrom]."""
    from ase import Atoms as Made

    a = layers[0].vectors[0]
    x = a / np.linalg.norm(a)
    frame = np.array([x, [-x[1], x[0]]]).T
    heights = np.concatenate([s.heights for s in layers])
    places = np.concatenate([s.positions @ frame for s in layers])
    cell = np.zeros((3, 3))
    cell[:2, :2] = layers[0].vectors @ frame
    cell[2, 2] = np.ptp(heights) + 2 * vacuum
    positions = np.column_stack([places, heights - heights.min() + vacuum])
    return Made(np.concatenate([s.numbers for s in layers]), positions=positions, cell=cell, pbc=True)


def turn(angle: float) -> Array:
    """The matrix Q [2, 2] with v Q the vector v turned by an angle [radians]."""
    return np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])

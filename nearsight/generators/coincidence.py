"""Lattices that two sheets share when one is turned on the other: commensurate cells, and how much they strain the second.

Of two equal hexagonal lattices (a1, a2 at 60 degrees), m a1 + n a2 of one falls on n a1 + m a2 of the other when they are
turned by the angle between these, cos(angle) = (m^2 + 4 m n + n^2) / (2 (m^2 + m n + n^2)); the cell has m^2 + m n + n^2 cells
of each layer, a third of it where m - n is a multiple of 3 (Mele, Phys. Rev. B 81, 161405; Lopes dos Santos, Phys. Rev. B 86,
155449, who write r = m - n). Of square ones m^2 + n^2, half of it where both are odd. Any other pair is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, degrees, gcd, isqrt, pi, radians, sqrt

import numpy as np

from nearsight.core.errors import BadInput
from nearsight.generators.sheets import Array, Integers, Sheet, superlattice, turn

_CANDIDATES = 400  # shortest vectors of the search, of which all pairs are tried
_POINTS = 4_000_000


@dataclass(frozen=True, eq=False)
class Commensurate:
    """One shared cell.

    matrices: integers [2, 2] of the first and the second sheet's superlattice.  angle: of the second to the first [radians].
    strain: F [2, 2] with (M2 a2) turned, times F, equal to M1 a1.  atoms: of both sheets.  indices: (m, n), if any.
    """

    matrices: tuple[Integers, Integers]
    angle: float
    strain: Array
    atoms: int
    indices: tuple[int, int] | None = None

    @property
    def angle_deg(self) -> float:
        """[degrees]"""
        return degrees(self.angle)

    @property
    def largest_strain(self) -> float:
        """Largest stretch of the second sheet, as a fraction."""
        return float(np.abs(np.linalg.svd(self.strain, compute_uv=False) - 1).max())


def by_indices(first: Sheet, second: Sheet, indices: Sequence[int], tolerance: float) -> Commensurate:
    """The cell of (m, n) of two sheets of one type of lattice, hexagonal or square.

    Raises BadInput: indices that are none, or are a multiple of others; lattices of other types, or whose constants differ
    by more than `tolerance`.
    """
    m, n = (int(x) for x in indices)
    kind, other = first.require_lattice("twist"), second.require_lattice("twist")
    if kind != other:
        raise BadInput(f"twist: {first.name} is {kind}, {second.name} {other}: give angle_deg, and they are searched")
    if m < n or n < 0 or m < 1 or m > 5000:
        raise BadInput(
            f"twist: indices ({m}, {n}): give m >= n >= 0, such as 2 1 (21.79 degrees of a hexagonal lattice)"
        )
    if (g := gcd(m, n)) > 1:
        raise BadInput(f"twist: indices ({m}, {n}) are the cell of ({m // g}, {n // g}) repeated: give those")
    own, theirs = superlattice(first, (n, m)), superlattice(second, (m, n))
    share = 3 if kind == "hexagonal" else 2
    if m != n and not (own.sum(0) % share).any() and not (theirs.sum(0) % share).any():  # the shared lattice is finer
        own, theirs = (_finer(x, share) for x in (own, theirs))
    return _of(first, second, own, theirs, tolerance, (m, n))


def _finer(matrix: Integers, share: int) -> Integers:
    a, b = matrix
    return np.array([(a + b) // 3, (2 * b - a) // 3]) if share == 3 else np.array([(a + b) // 2, (b - a) // 2])


def _of(
    first: Sheet,
    second: Sheet,
    own: Integers,
    theirs: Integers,
    tolerance: float,
    indices: tuple[int, int] | None = None,
) -> Commensurate:
    """The cell of two matrices, with the angle and strain that they mean. Raises BadInput for more strain than allowed."""
    maps = np.linalg.inv(theirs @ second.vectors) @ (own @ first.vectors)  # v maps: second's vectors onto the first's
    left, _, right = np.linalg.svd(maps)
    rotation = left @ right
    angle = atan2(rotation[0, 1], rotation[0, 0])  # before that both lattices stand as they were given
    angle = 0.0 if abs(angle) < 1e-12 else angle
    atoms = round(abs(np.linalg.det(own))) * len(first) + round(abs(np.linalg.det(theirs))) * len(second)
    found = Commensurate((own, theirs), angle, rotation.T @ maps, atoms, indices)
    if found.largest_strain > tolerance + 1e-9:
        raise BadInput(
            f"twist: {second.name} would be strained by {found.largest_strain:.4f} to lie on {first.name}, strain allows "
            f"{tolerance:g}: allow more, or give angle_deg for a cell with less"
        )
    return found


def equal_lattices(first: Sheet, second: Sheet, tolerance: float) -> bool:
    """Whether both are hexagonal, or both square, with lattice constants equal to within a relative tolerance."""
    ratio = float(np.linalg.norm(second.vectors[0]) / np.linalg.norm(first.vectors[0]))
    return first.lattice is not None and first.lattice == second.lattice and abs(1 / ratio - 1) <= tolerance + 1e-9


def commensurate_cells(first: Sheet, second: Sheet, most_atoms: int, tolerance: float) -> list[Commensurate]:
    """All cells (m, n) of two equal lattices with at most so many atoms, by the number of atoms.

    Raises BadInput for lattices of other or unequal types.
    """
    if not equal_lattices(first, second, tolerance):
        raise BadInput(
            f"twist: the lattices of {first.name} and {second.name} are not both hexagonal or both square, with constants "
            f"equal to within {tolerance:g}: give angle_deg, and the cell is searched"
        )
    pairs, _ = _pairs(first, most_atoms // (len(first) + len(second)))
    found = [by_indices(first, second, pair, tolerance) for pair in pairs.tolist()]
    return sorted((c for c in found if c.atoms <= most_atoms), key=lambda c: (c.atoms, c.angle))


def _pairs(sheet: Sheet, most: int) -> tuple[Integers, Array]:
    """All (m, n), m > n, whose cell has at most so many cells of a layer [n, 2], and their angles [degrees]."""
    hexagonal = sheet.lattice == "hexagonal"
    m, n = np.tril_indices(isqrt(3 * most) + 2, -1)
    square = m * m + m * n + n * n if hexagonal else m * m + n * n
    finer = (m - n) % 3 == 0 if hexagonal else (m + n) % 2 == 0
    keep = (np.gcd(m, n) == 1) & (m > 1) & (square <= most * np.where(finer, 3 if hexagonal else 2, 1))
    m, n, square = m[keep], n[keep], square[keep]
    cosines = (m * m + 4 * m * n + n * n) / (2 * square) if hexagonal else 2 * m * n / square
    return np.stack([m, n], 1).astype(np.int64), np.degrees(np.arccos(cosines))


def by_angle(
    first: Sheet, second: Sheet, angle_deg: float, within_deg: float, tolerance: float, most_atoms: int
) -> Commensurate:
    """The smallest cell whose angle is within `within_deg` of the one asked for, and whose strain within the tolerance.

    Of two equal lattices it is one of the exact cells, where there is one.
    Raises BadInput where none has at most so many atoms, with the nearest angle that was found.
    """
    found = _exact(first, second, angle_deg, within_deg, tolerance, most_atoms)
    found += _searched(first, second, angle_deg, within_deg, tolerance, most_atoms) if not found else []
    off = [abs((c.angle_deg - angle_deg + 180) % 360 - 180) for c in found]
    near = [c for c, x in zip(found, off, strict=True) if x <= within_deg + 1e-9]
    if not near:
        told = f"; the nearest found is {found[int(np.argmin(off))].angle_deg:.3f}" if found else ""
        raise BadInput(
            f"twist: no cell of at most {most_atoms} atoms has an angle within {within_deg:g} of {angle_deg:g} degrees and a "
            f"strain of at most {tolerance:g}{told}: allow more of one of these"
        )
    return min(near, key=lambda c: c.atoms)


def _exact(
    first: Sheet, second: Sheet, angle_deg: float, within_deg: float, tolerance: float, most_atoms: int
) -> list[Commensurate]:
    """Of the cells (m, n) of two equal lattices, those near an angle, or the nearest; none for an angle they cannot have."""
    turns = 60.0 if first.lattice == "hexagonal" else 90.0
    if not equal_lattices(first, second, tolerance) or not 0 <= angle_deg <= turns:
        return []
    pairs, angles = _pairs(first, most_atoms // (len(first) + len(second)))
    pairs, angles = np.concatenate([[[0, 0], [1, 0]], pairs]), np.concatenate([[0.0, turns], angles])
    near = np.flatnonzero(np.abs(angles - angle_deg) <= within_deg + 1e-9)
    if not len(near):
        near = np.abs(angles - angle_deg).argsort()[:1]
    one = np.eye(2, dtype=np.int64)
    return [
        by_indices(first, second, pair, tolerance) if any(pair) else _of(first, second, one, one, tolerance)
        for pair in pairs[near].tolist()
    ]


def _searched(
    first: Sheet, second: Sheet, angle_deg: float, within_deg: float, tolerance: float, most_atoms: int
) -> list[Commensurate]:
    """Cells from pairs of short lattice vectors that fall on each other when the second sheet is turned and strained.

    A pair of vectors u of the first sheet, v of the second belongs to a strain within the tolerance and an angle within that
    asked for only if |u - v turned| <= (tolerance + angle) |u|.
    """
    density = len(first) / first.area + len(second) / second.area
    reach = sqrt(most_atoms / density * 2 / sqrt(3)) * 1.05
    count = int(pi * reach**2 / first.area)
    if count > _POINTS:
        raise BadInput(f"twist: a search among {count:.2g} lattice vectors: take a smaller most_atoms")
    target, wide = radians(angle_deg), radians(within_deg)
    steps = _within(first, reach)
    own = steps @ first.vectors
    lengths = np.linalg.norm(own, axis=1)
    keep = (steps[:, 0] > 0) | ((steps[:, 0] == 0) & (steps[:, 1] > 0))
    steps, own, lengths = steps[keep], own[keep], lengths[keep]
    theirs = np.round(own @ turn(-target) @ np.linalg.inv(second.vectors)).astype(np.int64)
    apart = np.linalg.norm(theirs @ second.vectors @ turn(target) - own, axis=1)
    fits = np.flatnonzero(apart <= (tolerance + wide + 1e-6) * lengths)
    fits = fits[np.argsort(lengths[fits], kind="stable")][:_CANDIDATES]
    u, v = steps[fits], theirs[fits]
    i, j = np.triu_indices(len(fits), 1)
    flip = _areas(u[i], u[j]) < 0
    i, j = np.where(flip, j, i), np.where(flip, i, j)
    cells, others = _areas(u[i], u[j]), _areas(v[i], v[j])
    atoms = cells * len(first) + others * len(second)
    sound = np.flatnonzero((cells > 0) & (others > 0) & (atoms <= most_atoms))
    i, j, atoms = i[sound], j[sound], atoms[sound]
    onto = np.linalg.inv(np.stack([v[i], v[j]], 1) @ second.vectors) @ (np.stack([u[i], u[j]], 1) @ first.vectors)
    left, stretches, right = np.linalg.svd(onto)
    small = np.abs(stretches - 1).max(1) <= tolerance + 1e-9
    turned = left @ right
    off = np.abs((np.arctan2(turned[:, 0, 1], turned[:, 0, 0]) - target + pi) % (2 * pi) - pi)
    good = np.flatnonzero(small & (off <= wide + 1e-9))
    best = good[np.lexsort((np.abs(stretches[good] - 1).max(1).round(9), atoms[good]))][:1]
    if not len(best):
        best = np.flatnonzero(small)[np.argsort(off[small])][:1]
    return [_of(first, second, u[[i[k], j[k]]], v[[i[k], j[k]]], tolerance) for k in best]


def _areas(a: Integers, b: Integers) -> Integers:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _within(sheet: Sheet, reach: float) -> Integers:
    """Integers of all lattice vectors no longer than `reach` [n, 2]."""
    heights = abs(sheet.area) / np.linalg.norm(sheet.vectors[::-1], axis=1)
    n = np.ceil(reach / heights).astype(int)
    i, j = np.meshgrid(np.arange(-n[0], n[0] + 1), np.arange(-n[1], n[1] + 1), indexing="ij")
    steps = np.stack([i.ravel(), j.ravel()], axis=1)
    return steps[np.linalg.norm(steps @ sheet.vectors, axis=1) <= reach]

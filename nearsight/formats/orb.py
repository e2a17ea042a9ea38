"""ABACUS's files of numerical orbitals (`.orb`): R_l(r) on a uniform grid from 0, a few of each l. Bohr.

Functions stand by l, those of one l in order; ABACUS scales each to unit norm before it uses it, and so does this reader.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.core.reading import read_bytes
from nearsight.core.species import AtomicBasis, Orbital, RadialFunction
from nearsight.core.structure import SYMBOLS
from nearsight.formats.basis_files import HIGHEST_L, LARGEST, BasisFormat
from nearsight.formats.orders import LETTERS

_MOST_POINTS, _MOST_FUNCTIONS = 20_000, 100
_INNER = 0.05  # Bohr: nearer to the nucleus the file's digits are too few for R / r^l
_NORM = 0.2  # what a sound file may be off before it is scaled
_ROUGH = 5e-3  # largest fourth difference over the largest value; sound files: 1e-4


class ORB(BasisFormat):
    """`.orb`: see the file's head."""

    name = "ABACUS's .orb"
    endings = ("orb",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the words of its head."""
        return path.suffix.lower() == ".orb" or (b"Radius Cutoff(a.u.)" in head and b"Number of Sorbital" in head)

    def read(self, path: Path, symbol: str | None = None, shells: str | None = None) -> AtomicBasis:
        """All functions of the file, of unit norm.

        shells: as in OpenMX's names, to be compared with the file's own.  Raises BadInput for a truncated file, numbers of
        functions that are not those announced, a grid that is none, a norm far from 1.
        """
        raw = read_bytes(path, LARGEST, "file of orbitals (.orb)")
        text = raw.decode("utf-8", errors="replace")
        element = _word(text, r"Element\s+(\S+)", "Element", path)
        if element not in SYMBOLS[1:]:
            raise BadInput(f"{path}: Element {element:.20} is none; it is no file of orbitals of ABACUS")
        lmax = _count(text, r"Lmax\s+(\d+)", "Lmax", path, HIGHEST_L)
        counts = []
        for l in range(lmax + 1):
            letter = LETTERS[l].upper()
            counts.append(
                _count(text, rf"Number of {letter}orbital-->\s+(\d+)", f"{letter}orbital", path, _MOST_FUNCTIONS)
            )
        points = _count(text, r"Mesh\s+(\d+)", "Mesh", path, _MOST_POINTS)
        spacing = _spacing(text, path)
        radius = _positive(text, r"Radius Cutoff\(a\.u\.\)\s+(\S+)", "Radius Cutoff", path)
        if abs((points - 1) * spacing - radius) > 2.5 * spacing:
            raise BadInput(
                f"{path}: {points} points in steps of {spacing:g} do not end at its Radius Cutoff, {radius:g} Bohr; copy "
                "it again"
            )
        told = "".join(f"{LETTERS[l]}{n}" for l, n in enumerate(counts) if n)
        if shells is not None and shells != told:
            raise BadInput(f"{path} holds {told}, not {shells}: an .orb file is taken as it is, or another one is")
        if points < 20 or not any(counts):
            raise BadInput(f"{path}: {points} points and {told or 'no orbitals'}; it is damaged, copy it again")
        orbitals = []
        for l, k, values in _functions(text, counts, points, path):
            orbitals.append(
                Orbital(_radial(l, values, spacing, f"{path}: function {k + 1} of l = {l}"), l + 1, k + 1, 0.0)
            )
        provenance = {"file": path.name, "sha256": hashlib.sha256(raw).hexdigest()}
        return AtomicBasis(element, SYMBOLS.index(element), tuple(orbitals), None, provenance)


def _functions(text: str, counts: list[int], points: int, path: Path) -> list[tuple[int, int, NDArray[np.float64]]]:
    """(l, index, R) of each, by l and index. Raises BadInput where they are not those that the head announces."""
    parts = re.split(r"Type\s+L\s+N\s*\n", text)[1:]
    wanted = [(l, k) for l, n in enumerate(counts) for k in range(n)]
    found: dict[tuple[int, int], NDArray[np.float64]] = {}
    for part in parts:
        words = part.split()
        if len(words) != 3 + points:
            raise BadInput(
                f"{path}: a function of {len(words) - 3} values where Mesh announces {points}: the file is truncated or "
                "damaged, copy it again"
            )
        try:
            key = (int(words[1]), int(words[2]))
            values = np.array(words[3:], dtype=np.float64)
        except ValueError:
            raise BadInput(f"{path} holds something that is not a number; copy it again") from None
        if key not in wanted or key in found or not np.abs(values).max() < 1e6:
            raise BadInput(
                f"{path}: function {key[1] + 1} of l = {key[0]} is not announced, stands twice or is not finite"
            )
        found[key] = values
    lost = [key for key in wanted if key not in found]
    if lost:
        l, k = lost[0]
        raise BadInput(f"{path}: function {k + 1} of l = {l} is missing: the file is truncated, copy it again")
    return [(l, k, found[l, k]) for l, k in wanted]


def _radial(l: int, values: NDArray[np.float64], spacing: float, what: str) -> RadialFunction:
    """R/r^l of unit norm on the file's grid."""
    r = spacing * np.arange(len(values), dtype=np.float64)
    largest = np.abs(values).max()
    if not np.abs(np.diff(values, 4)).max() < _ROUGH * max(largest, 1e-30):
        raise BadInput(f"{what} has a jump or spike, or is zero; the file is damaged, copy it again")
    if abs(values[-1]) > 1e-2 * largest:
        raise BadInput(f"{what} is not zero at its end, {r[-1]:g} Bohr: the file was cut, copy it again")
    norm = float(np.trapezoid((r * values) ** 2, r))
    if not abs(norm - 1) < _NORM:
        raise BadInput(f"{what} has the norm {norm:.4f}, not 1: its table was cut, stretched or scaled, copy it again")
    inside = r < _INNER
    around = ~inside & (r < 6 * _INNER)
    powers = np.arange(0, 7, 2)
    reduced = np.empty_like(values)
    reduced[~inside] = values[~inside] / r[~inside] ** l
    a = np.linalg.lstsq(r[around, None] ** powers, reduced[around], rcond=None)[0]
    reduced[inside] = values[inside] if l == 0 else r[inside, None] ** powers @ a
    return RadialFunction(l, reduced / np.sqrt(norm), spacing)


def _word(text: str, pattern: str, key: str, path: Path) -> str:
    told = re.search(rf"^\s*{pattern}", text, re.MULTILINE)
    if told is None:
        raise BadInput(f"{path}: says no {key}; it is no file of orbitals of ABACUS, or not all of it: copy it again")
    return told.group(1)


def _count(text: str, pattern: str, key: str, path: Path, most: int) -> int:
    value = int(_word(text, pattern, key, path)[:12])
    if value > most:
        raise BadInput(f"{path}: {key} {value} is more than the {most} that can be computed; take another file")
    return value


def _spacing(text: str, path: Path) -> float:
    value = _positive(text, r"dr\s+(\S+)", "dr", path)
    if not 1e-4 <= value <= 0.1:
        raise BadInput(f"{path}: dr {value:g} is no spacing of a grid [Bohr]; copy it again")
    return value


def _positive(text: str, pattern: str, key: str, path: Path) -> float:
    word = _word(text, pattern, key, path)
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1e6:
        raise BadInput(f"{path}: {key} {word:.20} is no length that can be meant; copy it again")
    return value

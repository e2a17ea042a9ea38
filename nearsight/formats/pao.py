"""OpenMX's files of pseudo-atomic orbitals (`.pao`, made by ADPACK): R_l(r) on a logarithmic grid, some 15 of each l.

A basis is named as in OpenMX's input, C6.0-s2p2d1: the file C6.0.pao, and of its functions the first 2 of l = 0, the first
2 of l = 1 and the first of l = 2. In files with optimised orbitals (those of 2013 and later) they are the first columns
already; the contraction coefficients in the head say how they were made. OpenMX takes the functions as they stand, so that
norms and overlaps on one atom are what the file has.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput, MissingData
from nearsight.core.reading import read_bytes
from nearsight.core.species import AtomicBasis, Orbital
from nearsight.core.structure import SYMBOLS
from nearsight.formats.basis_files import HIGHEST_L, LARGEST, BasisFormat, tabulated
from nearsight.formats.orders import LETTERS

_MOST_ROWS, _MOST_COLUMNS = 100_000, 200
_INNER = 0.06  # Bohr: nearer to the nucleus the file's 15 decimals are too few for R / r^3
_ROUGH = 0.3  # largest fourth difference over the largest value; sound first columns: 0.02


class PAO(BasisFormat):
    """`.pao`: see the file's head."""

    name = "OpenMX's .pao"
    endings = ("pao",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """By its name: the tables stand far from the head."""
        return path.suffix.lower() == ".pao"

    def read(self, path: Path, symbol: str | None = None, shells: str | None = None) -> AtomicBasis:
        """The first functions of each l that `shells` asks for, such as s2p2d1.

        Raises MissingData without it: the file has more functions than any basis; BadInput for a contraction (s2>1), a
        function that the file has not got, a truncated table, a grid that does not rise.
        """
        if shells is None:
            raise MissingData(
                f"{path} has many functions of each l: say how many are taken, as OpenMX does, by --orbitals "
                f"{path.stem}-s2p2d1"
            )
        counts = shell_counts(shells, path)
        raw = read_bytes(path, LARGEST, "file of orbitals (.pao)")
        text = raw.decode("ascii", errors="replace")
        number = _number(text, "AtomSpecies", path)
        if number == 0 or number != int(number) or not 0 < number < len(SYMBOLS):
            raise BadInput(f"{path}: AtomSpecies {number:g} is no element (an empty or mixed atom); take another file")
        cutoff = _number(text, "radial.cutoff.pao", path)
        orbitals = list[Orbital]()
        for l, count in counts:
            table = _table(text, l, path)
            if count > table.shape[1] - 2:
                raise BadInput(
                    f"{path} has {table.shape[1] - 2} functions of l = {l}, not {count}: ask for fewer in {shells}"
                )
            r = _grid(table[:, 0], table[:, 1], cutoff, path)
            for k in range(count):
                values = table[:, 2 + k]
                rough = np.abs(np.diff(values, 4)).max()
                if not rough < _ROUGH * np.abs(values).max():
                    raise BadInput(f"{path}: function {k + 1} of l = {l} has a jump or spike; copy the file again")
                orbitals.append(Orbital(tabulated(l, r, values, cutoff, _INNER), n=l + 1, zeta=k + 1, population=0.0))
        return AtomicBasis(
            SYMBOLS[int(number)],
            int(number),
            tuple(orbitals),
            _number(text, "valence.electron", path) if "valence.electron" in text else None,
            {"file": path.name, "shells": shells, "sha256": hashlib.sha256(raw).hexdigest()},
        )


def shell_counts(shells: str, path: Path) -> list[tuple[int, int]]:
    """(l, how many) of OpenMX's words s2p2d1, by l. Raises BadInput for words that say something else."""
    if ">" in shells:
        raise BadInput(
            f"{path}: {shells} contracts functions within a run of OpenMX, which the file does not hold; take the optimised "
            "functions themselves (s2p2d1)"
        )
    words = re.findall(r"([a-z])(\d+)", shells)
    if "".join(l + n for l, n in words) != shells or len({l for l, _ in words}) != len(words) or not words:
        raise BadInput(f"{path}: {shells!r} says no shells; write them as OpenMX does, such as s2p2d1")
    found = []
    for letter, count in words:
        if letter not in LETTERS[: HIGHEST_L + 1] or not 0 < int(count) <= _MOST_COLUMNS:
            raise BadInput(f"{path}: {letter}{count} in {shells} is no number of shells of s, p, d, f, ...")
        found.append((LETTERS.index(letter), int(count)))
    return sorted(found)


def _number(text: str, key: str, path: Path) -> float:
    told = re.search(rf"^\s*{re.escape(key)}\s+([-+.\w]+)", text, re.MULTILINE)
    try:
        value = float(told.group(1)) if told else float("nan")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise BadInput(f"{path}: says no {key}; it is no file of orbitals of OpenMX, or not all of it: copy it again")
    return value


def _table(text: str, l: int, path: Path) -> NDArray[np.float64]:
    """Rows ln r, r, R_1, R_2, ... of one l."""
    mark = f"pseudo.atomic.orbitals.L={l}"
    begin = re.search(rf"<{re.escape(mark)}\s*\n", text)
    end = text.find(f"{mark}>")
    if begin is None:
        raise BadInput(f"{path} has no functions of l = {l} (<{mark}): ask for others, or take another file")
    if end < begin.end():
        raise BadInput(f"{path} ends before {mark}>: it is truncated, copy it again")
    body = text[begin.end() : end]
    lines = body.count("\n")
    words = body.split()
    columns = len(words) // max(lines, 1)
    if not 20 <= lines <= _MOST_ROWS or not 3 <= columns <= _MOST_COLUMNS or len(words) != lines * columns:
        raise BadInput(
            f"{path}: <{mark} is no table of equal rows ({len(words)} numbers in {lines} lines); copy it again"
        )
    try:
        table = np.array(words, dtype=np.float64).reshape(lines, columns)
    except ValueError:
        raise BadInput(f"{path}: <{mark} holds something that is not a number; copy it again") from None
    if not np.isfinite(table).all() or not np.abs(table).max() < 1e6:
        raise BadInput(f"{path}: <{mark} holds numbers that are not finite, or beyond all bounds; copy it again")
    return table


def _grid(x: NDArray[np.float64], r: NDArray[np.float64], cutoff: float, path: Path) -> NDArray[np.float64]:
    """The radii exp(x), if they rise from the nucleus to beyond the cutoff."""
    if not (0 < r[0] < 0.5 * _INNER and (np.diff(r) > 0).all()):
        raise BadInput(f"{path}: its radii do not rise from the nucleus outwards; copy it again")
    if np.abs(x - np.log(r)).max() > 1e-6:  # 15 decimals of a radius of 1e-4
        raise BadInput(f"{path}: its radii are not the exponentials of the first column; copy it again")
    if not 1.0 < cutoff <= 100 or r[-1] < cutoff:
        raise BadInput(
            f"{path}: radial.cutoff.pao {cutoff:g} Bohr is not within its grid, which ends at {r[-1]:g}; copy it again"
        )
    return r

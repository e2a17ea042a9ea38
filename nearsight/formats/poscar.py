"""VASP's POSCAR: a structure in a file of text, in angstrom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.core.order import grouped_order
from nearsight.core.reading import MEBIBYTE, read_text
from nearsight.core.structure import Structure, atomic_number, check_bounds
from nearsight.core.units import BOHR_ANG
from nearsight.formats.files import first_line, whole_file

LARGEST = 256 * MEBIBYTE  # three million atoms


def read_poscar(path: Path | str) -> Structure:
    """A VASP 5 POSCAR: Cartesian or direct, with a scaling factor (negative: the volume) or three, and selective dynamics.

    Raises BadInput for a missing file, one that is none, or one whose numbers are those of no structure: see `check_bounds`.
    """
    lines = read_text(path, LARGEST, "POSCAR").splitlines()
    try:
        scale, cell = np.array(lines[1].split()[:3], dtype=float), _vectors(lines[2:5])
        symbols, counts = [s.split("/")[0].split("_")[0] for s in lines[5].split()], [int(x) for x in lines[6].split()]
        total = sum(counts)
        if min(counts, default=0) < 1 or total > len(lines):
            raise ValueError(f"{total} atoms are announced, the file has {len(lines)} lines")
        if len(scale) not in (1, 3) or not scale.all() or (len(scale) == 3 and (scale < 0).any()):
            raise ValueError("its scaling factor is one number (negative: the volume), or three positive ones")
        numbers = [atomic_number(s) for s, n in zip(symbols, counts, strict=True) for _ in range(n)]
        mode = 8 if lines[7].strip()[:1] in "sS" else 7
        positions = _vectors(lines[mode + 1 : mode + 1 + total])
        if positions.shape != (total, 3) or cell.shape != (3, 3):
            raise ValueError(f"{total} atoms are announced, {len(positions)} are there")
    except (IndexError, ValueError, OverflowError, BadInput) as error:
        raise BadInput(f"{path} is not a VASP 5 POSCAR: {first_line(error):.160}") from error
    cartesian = lines[mode].strip()[:1] in ("c", "C", "k", "K")
    with np.errstate(all="ignore"):  # what is not finite then is refused below
        if scale[0] < 0:
            scale = (-scale / abs(np.linalg.det(cell))) ** (1 / 3)
        cell = cell * scale
        positions = positions * scale if cartesian else positions @ cell
        cell, positions = cell / BOHR_ANG, positions / BOHR_ANG
    structure = Structure(
        torch.from_numpy(cell),
        torch.from_numpy(positions),
        torch.tensor(numbers, dtype=torch.int64),
    )
    return check_bounds(structure, str(path))


def _vectors(lines: list[str]) -> NDArray[np.float64]:
    return np.array([[float(x) for x in line.split()[:3]] for line in lines])


def write_poscar(path: Path | str, structure: Structure) -> None:
    """Cartesian, to the last bit of the coordinates in angstrom, atoms grouped by element (see `grouped_order`)."""
    grouped = structure.reordered(grouped_order(structure.numbers))
    symbols = grouped.symbols
    elements = list(dict.fromkeys(symbols))
    cell, positions = (x.detach().cpu().double() * BOHR_ANG for x in (grouped.cell, grouped.positions))
    rows = ["  ".join(f"{x!r:>22}" for x in row) for row in cell.tolist()]
    atoms = ["  ".join(f"{x!r:>22}" for x in row) for row in positions.tolist()]
    counts = " ".join(str(symbols.count(e)) for e in elements)
    text = [
        "".join(f"{e}{symbols.count(e)}" for e in elements),
        "1.0",
        *rows,
        " ".join(elements),
        counts,
        "Cartesian",
        *atoms,
    ]
    with whole_file(path) as part:
        part.write_text("\n".join(text) + "\n")

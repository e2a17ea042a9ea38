"""VASP's POSCAR: a structure in a file of text, in angstrom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nearsight.core.errors import BadInput
from nearsight.core.order import grouped_order
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG
from nearsight.formats.files import first_line, whole_file


def read_poscar(path: Path | str) -> Structure:
    """A VASP 5 POSCAR: Cartesian or direct, with a scaling factor (negative: the volume) and selective dynamics.

    Raises BadInput for a missing file or one that is none.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from error
    try:
        scale = float(lines[1].split()[0])
        cell = np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
        symbols, counts = lines[5].split(), [int(x) for x in lines[6].split()]
        if min(counts, default=0) < 1 or sum(counts) > len(lines):
            raise ValueError(f"{sum(counts)} atoms are announced, the file has {len(lines)} lines")
        numbers = [SYMBOLS.index(s) for s, n in zip(symbols, counts, strict=True) for _ in range(n)]
        mode = 8 if lines[7].strip()[:1] in "sS" else 7
        rows = lines[mode + 1 : mode + 1 + len(numbers)]
        positions = np.array([[float(x) for x in line.split()[:3]] for line in rows])
        if positions.shape != (len(numbers), 3) or cell.shape != (3, 3):
            raise ValueError(f"{len(numbers)} atoms are announced, {len(positions)} are there")
    except (IndexError, ValueError) as error:
        raise BadInput(f"{path} is not a VASP 5 POSCAR: {first_line(error)}") from error
    if scale < 0:
        scale = float((-scale / abs(np.linalg.det(cell))) ** (1 / 3))
    cartesian = lines[mode].strip()[:1] in ("c", "C", "k", "K")
    cell = cell * scale
    positions = positions * scale if cartesian else positions @ cell
    return Structure(
        torch.from_numpy(cell / BOHR_ANG),
        torch.from_numpy(positions / BOHR_ANG),
        torch.tensor(numbers, dtype=torch.int64),
    )


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

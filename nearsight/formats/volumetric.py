"""Fields on the real-space mesh as Gaussian cube and XSF files, for VESTA, XCrySDen, Jmol, ...

A field is f[x, y, z] with point m at (m / shape) @ cell, periodic. Cube: Bohr, z fastest, each point once. XSF: angstrom,
x fastest, and its "general grid", in which the last point along each vector repeats the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.reading import MEBIBYTE, read_text
from nearsight.core.structure import SYMBOLS, Structure, atomic_number, check_bounds
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats.files import first_line, whole_file

_LARGEST = 8192 * MEBIBYTE

Quantity = Literal["density", "energy", "amplitude", "plain"]


@dataclass(frozen=True, eq=False)
class Volume:
    """A structure with a field values[x, y, z] on its periodic mesh, and what the file says of it."""

    structure: Structure
    values: Tensor
    comment: str = ""

    __repr__ = one_line


def write_volume(path: Path | str, volume: Volume, quantity: Quantity = "plain") -> None:
    """Write a field as the file's name asks: .cube or .xsf; whole or not at all.

    quantity: what the values are, in atomic units: a density [1/Bohr^3], an energy [Ha], an orbital's
    amplitude [1/Bohr^1.5], or plain numbers. A cube file
    keeps atomic units; an XSF file, which is in angstrom, takes 1/angstrom^3 and eV.
    Raises NearsightError for another name, a field that is not finite, or a place that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise BadInput(f"{path}: name the file .cube or .xsf to say which form it shall have")
    units = {
        "density": (1 / BOHR_ANG**3, "1/Bohr^3", "1/Angstrom^3"),
        "energy": (HARTREE_EV, "Ha", "eV"),
        "amplitude": (BOHR_ANG**-1.5, "1/Bohr^1.5", "1/Angstrom^1.5"),
    }
    factor, atomic, other = units.get(quantity, (1.0, "", ""))
    scaled = suffix == ".xsf"
    unit = other if scaled else atomic
    comment = volume.comment + (f" [{unit}]" if unit else "")
    values = volume.values * factor if scaled else volume.values
    _WRITERS[suffix](path, Volume(volume.structure, values, comment))


def write_cube(path: Path | str, volume: Volume) -> None:
    """A Gaussian cube file: lengths in Bohr, values as they are, with six digits.

    Raises NearsightError for a field that is not three-dimensional and finite, or a place that cannot be written.
    """
    values, structure = _checked(path, volume)
    steps = structure.cell / structure.cell.new_tensor(values.shape)[:, None]
    with whole_file(path) as part, part.open("w") as file:
        file.write(f"{' '.join(volume.comment.split())}\nwritten by nearsight; z fastest, lengths in Bohr\n")
        file.write(_cube_row(len(structure), [0.0, 0.0, 0.0]))
        for n, step in zip(values.shape, steps.tolist(), strict=True):
            file.write(_cube_row(n, step))
        for z, position in zip(structure.numbers.tolist(), structure.positions.tolist(), strict=True):
            file.write(_cube_row(z, [float(z), *position]))
        _write_rows(file, values.reshape(-1, values.shape[2]), "%13.5E")


def read_cube(path: Path | str) -> Volume:
    """The structure and field of a cube file whose mesh begins at the origin and spans its cell.

    Raises NearsightError: missing, truncated or not a cube file; several fields; a shifted origin; angstrom.
    """
    lines = _lines(path)
    try:
        head = [[float(x) for x in line.split()] for line in lines[2:6]]
        atoms, *shape = (_whole(row[0]) for row in head)
        if atoms < 0 or min(shape) < 1 or (len(head[0]) > 4 and head[0][4] != 1):
            raise ValueError("several fields, or a mesh in angstrom")
        if any(head[0][1:4]):
            raise ValueError("a mesh that does not begin at the origin")
        steps = torch.tensor([row[1:4] for row in head[1:]], dtype=torch.float64)
        rows = [[float(x) for x in line.split()] for line in lines[6 : 6 + atoms]]
        numbers, positions = [_whole(row[0]) for row in rows], [row[2:5] for row in rows]
        if not all(0 < n < len(SYMBOLS) for n in numbers):
            raise ValueError("an atom of no known element")
        if any(len(row) != 5 for row in rows) or any(len(row) != 4 for row in head[1:]):
            raise ValueError("a line of an atom or an axis has too few numbers, or too many")
        values = _numbers(lines[6 + atoms :], shape[0] * shape[1] * shape[2])
    except (ValueError, IndexError, OverflowError) as error:
        raise BadInput(f"{path} is not a whole cube file that is understood here: {first_line(error):.120}") from error
    cell = steps * steps.new_tensor(shape)[:, None]
    structure = Structure(
        cell, torch.tensor(positions, dtype=torch.float64).reshape(-1, 3), torch.tensor(numbers, dtype=torch.int64)
    )
    return Volume(check_bounds(structure, str(path)), values.reshape(shape), lines[0].strip())


def write_xsf(path: Path | str, volume: Volume) -> None:
    """An XSF file of a crystal with one 3D data grid: lengths in angstrom, values as they are, with nine digits.

    Raises NearsightError for a field that is not three-dimensional and finite, or a place that cannot be written.
    """
    values, structure = _checked(path, volume)
    closed = np.pad(values, ((0, 1), (0, 1), (0, 1)), mode="wrap")
    cell = structure.cell.tolist()
    vectors = "".join("".join(f"{x * BOHR_ANG:18.10f}" for x in row) + "\n" for row in cell)
    name = "_".join(volume.comment.split()) or "field"
    with whole_file(path) as part, part.open("w") as file:
        file.write(f"# {' '.join(volume.comment.split())}\nCRYSTAL\nPRIMVEC\n{vectors}PRIMCOORD\n{len(structure)} 1\n")
        for z, position in zip(structure.numbers.tolist(), structure.positions.tolist(), strict=True):
            file.write(f"{SYMBOLS[z]:3s}" + "".join(f"{x * BOHR_ANG:18.10f}" for x in position) + "\n")
        file.write(f"BEGIN_BLOCK_DATAGRID_3D\n{name}\nBEGIN_DATAGRID_3D_{name}\n")
        file.write("".join(f"{n:8d}" for n in closed.shape) + "\n" + "  0.0  0.0  0.0\n" + vectors)
        _write_rows(file, closed.transpose(2, 1, 0).reshape(-1, closed.shape[0]), "%17.8E")
        file.write("END_DATAGRID_3D\nEND_BLOCK_DATAGRID_3D\n")


def read_xsf(path: Path | str) -> Volume:
    """The structure and first 3D data grid of an XSF file of a crystal; the repeated end points are left out.

    Raises NearsightError: missing, truncated or no crystal with a grid; a grid that does not span the cell from the
    origin; end points that do not repeat the first.
    """
    lines = [line.strip() for line in _lines(path)]
    try:
        comment = lines[0].removeprefix("#").strip() if lines and lines[0].startswith("#") else ""
        place = lines.index("PRIMVEC")
        cell = _numbers(lines[place + 1 : place + 4], 9).reshape(3, 3)
        place = lines.index("PRIMCOORD")
        atoms = int(lines[place + 1].split()[0])
        rows = [line.split() for line in lines[place + 2 : place + 2 + atoms]]
        numbers = [int(row[0]) if row[0].isdigit() else atomic_number(row[0]) for row in rows]
        positions = _numbers((" ".join(row[1:4]) for row in rows), 3 * atoms).reshape(atoms, 3)
        place = next(n for n, line in enumerate(lines) if line.startswith(("BEGIN_DATAGRID_3D", "DATAGRID_3D")))
        shape = [int(x) for x in lines[place + 1].split()]
        if atoms < 1 or len(shape) != 3 or min(shape) < 2:
            raise ValueError("no atoms, or a grid of fewer than two points an axis")
        origin, span = _numbers([lines[place + 2]], 3), _numbers(lines[place + 3 : place + 6], 9).reshape(3, 3)
        if origin.abs().max() > 1e-6 or not torch.allclose(span, cell, atol=1e-6):
            raise ValueError("its grid does not span the cell from the origin")
        end = next(n for n, line in enumerate(lines) if line.startswith("END_DATAGRID_3D"))
        closed = _numbers(lines[place + 6 : end], shape[0] * shape[1] * shape[2]).reshape(shape[::-1]).permute(2, 1, 0)
        for axis in range(3):
            if not torch.allclose(closed.select(axis, 0), closed.select(axis, -1), rtol=1e-5, atol=1e-10):
                raise ValueError("its last points do not repeat the first: not a periodic general grid")
    except StopIteration:
        raise BadInput(f"{path} is not a whole XSF file that is understood here: no whole 3D data grid") from None
    except (ValueError, IndexError, OverflowError) as error:
        raise BadInput(f"{path} is not a whole XSF file that is understood here: {first_line(error):.120}") from error
    structure = Structure(cell / BOHR_ANG, positions / BOHR_ANG, torch.tensor(numbers, dtype=torch.int64))
    return Volume(check_bounds(structure, str(path)), closed[:-1, :-1, :-1].contiguous(), comment)


_WRITERS: dict[str, Callable[[Path, Volume], None]] = {
    ".cube": write_cube,
    ".cub": write_cube,
    ".xsf": write_xsf,
}


def _checked(path: Path | str, volume: Volume) -> tuple[np.ndarray, Structure]:
    values = volume.values.detach().cpu().double()
    if values.ndim != 3 or values.numel() == 0:
        raise BadInput(f"{path}: a field [x, y, z] is needed, this one has the shape {list(values.shape)}")
    if not torch.isfinite(values).all():
        raise BadInput(f"{path}: the field holds values that are not finite")
    return values.numpy(), volume.structure.to("cpu")


def _cube_row(count: int, numbers: list[float]) -> str:
    return f"{count:5d}" + "".join(f"{x:15.8f}" for x in numbers) + "\n"


def _write_rows(file: TextIO, rows: np.ndarray, form: str) -> None:
    """Six numbers a line, a new line after each row."""
    width = rows.shape[1]
    line = "".join(form + ("\n" if (n + 1) % 6 == 0 or n + 1 == width else "") for n in range(width))
    for row in rows:
        file.write(line % tuple(row))


def _lines(path: Path | str) -> list[str]:
    return read_text(path, _LARGEST, "field on a mesh").splitlines()


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError(f"{number:g} where a whole number belongs")
    return int(number)


def _numbers(lines: Iterable[str] | Iterator[str], count: int) -> Tensor:
    values = np.array(" ".join(lines).split(), dtype=np.float64)
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers where {count} are needed")
    if not np.isfinite(values).all():
        raise ValueError("it holds numbers that are not finite")
    return torch.from_numpy(values)

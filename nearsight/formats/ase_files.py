"""Files that ASE reads, kept from what they may do to a reader that believes them: hang, or take all memory.

A count in a file is a number like any other, which a slip or a flipped bit makes 10^11; ASE's readers then read on, or make
lists of that length. So a file must be one that ends, unpack to a bounded size, hold the lines that it announces, and may take
a bounded multiple of its size while it is read.
"""

from __future__ import annotations

import lzma
import re
import tempfile
import warnings
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nearsight.core.errors import BadInput, Notice
from nearsight.core.memory import limited
from nearsight.core.reading import MEBIBYTE, regular_file

if TYPE_CHECKING:
    from ase import Atoms

LARGEST = 2048 * MEBIBYTE  # 800 frames of 1,000 atoms have 60
_PACKED = (".gz", ".bz2", ".xz")  # which ASE opens by itself
_MOST_UNPACKED = 512 * MEBIBYTE
_OWN, _TIMES = 256 * MEBIBYTE, 100  # memory that reading may take: so much, and so many times the file


def stream(path: Path) -> Iterator[Atoms]:
    """All frames of a file, one after the other as they are read. Raises BadInput for what ASE cannot read."""
    import ase.io

    room = _check_file(path)
    with _without_mark(path) as plain:
        frames = ase.io.iread(plain, index=":", do_not_split_by_at_sign=True)
        yield from _each(frames, path, room)


def _each(frames: Iterator[Atoms], path: Path, room: float) -> Iterator[Atoms]:
    while True:
        try:
            with limited(room), _sites_kept(path):
                atoms = next(frames, None)
        except BadInput:
            raise
        except Exception as error:  # ASE's readers raise whatever a broken file makes them stumble over
            raise _unreadable(path, error) from error
        if atoms is None:
            return
        yield _with_column(atoms)


def last_frame(path: Path) -> Atoms:
    """The last frame of a file; a Notice where there are more. Raises BadInput as `stream`."""
    import ase.io
    from ase.io.formats import filetype, ioformats

    room = _check_file(path)
    try:
        with limited(room), _sites_kept(path), _without_mark(path) as plain:
            single = ioformats[filetype(str(plain))].single
            found = ase.io.read(plain, index=-1 if single else "-2:", do_not_split_by_at_sign=True)
    except BadInput:
        raise
    except Exception as error:  # as in `stream`
        raise _unreadable(path, error) from error
    frames = found if isinstance(found, list) else [found]
    if not frames:
        raise _unreadable(path, ValueError("no structure in it"))
    if len(frames) > 1:
        warnings.warn(
            f"{path} has several structures: the last one is taken ({path / '0'} names the first)", Notice, stacklevel=2
        )
    return _with_column(frames[-1])


def _with_column(atoms: Atoms) -> Atoms:
    """The Atoms with a column `magmom` of an extended xyz file, which ASE takes for a result."""
    told = getattr(atoms.calc, "results", {}).get("magmom")
    if getattr(told, "shape", ())[:1] == (len(atoms),):
        atoms.set_array("magmom", told)
    return atoms


@contextmanager
def _without_mark(path: Path) -> Iterator[Path]:
    """The file, or a copy without the byte order mark that some editors put before text. Raises BadInput for UTF-16."""
    with open(path, "rb") as file:
        head = file.read(3)
    if head[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
        raise BadInput(f"{path} is text in UTF-16: save it as UTF-8")
    if head != BOM_UTF8:
        yield path
        return
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place, path.name)
        plain.write_bytes(path.read_bytes()[len(BOM_UTF8) :])
        yield plain


@contextmanager
def _sites_kept(path: Path) -> Iterator[None]:
    """Raises BadInput where ASE takes two sites of a file for one, and drops the second."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for w in told:
        said = str(w.message)
        if sites := re.fullmatch(r"scaled_positions (\d+) and (\d+) are equivalent", said):
            raise BadInput(
                f"{path}: sites {sites[1]} and {sites[2]} are at one place by symmetry, as of disorder: keep one of them"
            )
        warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


def _check_file(path: Path) -> float:
    """Memory that reading may take [bytes]. Raises BadInput for what never ends, is too large, or lacks what it announces."""
    from ase.io.formats import open_with_compression

    size, packed = regular_file(path, LARGEST, "file of structures"), path.suffix.lower() in _PACKED
    kind = (path.with_suffix("") if packed else path).name.lower()
    try:
        if packed:
            with open_with_compression(str(path), "rb") as file:
                size = _unpacked_size(path, file)
        counts = _xyz_counts if kind.endswith((".xyz", ".extxyz")) else _vasp_counts if _is_vasp(kind) else _any_counts
        with open_with_compression(str(path), "rb") as file:
            counts(path, file)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise _unreadable(path, error) from error
    return _OWN + _TIMES * float(size)


def _unpacked_size(path: Path, file: IO[Any]) -> int:
    total = 0
    while part := file.read(MEBIBYTE):
        total += len(part)
        if total > _MOST_UNPACKED:
            raise BadInput(
                f"{path} unpacks to more than {_MOST_UNPACKED // MEBIBYTE} MiB: unpack it, and give what is needed of it"
            )
    return total


def _is_vasp(name: str) -> bool:
    return "poscar" in name or "xdatcar" in name or "contcar" in name or name.endswith(".vasp")


def _xyz_counts(path: Path, file: IO[Any]) -> None:
    """Each frame: a count, a line of words, as many lines as counted; lines of VEC may follow."""
    line = file.readline(_LINE)
    while line.strip():
        while line.startswith(b"VEC"):
            line = file.readline(_LINE)
        if not line.strip().isdigit():
            return  # ASE says what it thinks of that
        count = int(line.strip()[:18])
        comment, first = next(file, b""), next(file, b"") if count else b""
        columns = sum(int(n[:18]) for n in re.findall(rb":[RISL]:(\d+)", comment))
        if columns > max(_COLUMNS, len(first.split())):
            raise BadInput(
                f"{path} is not a whole file: {columns} columns are announced, {len(first.split())} are there"
            )
        there = sum(1 for _ in islice(file, max(0, count - 1))) + bool(first)
        if there < count:
            raise BadInput(f"{path} is not a whole file: {count} atoms are announced, {max(there, 0)} are there")
        line = file.readline(_LINE)


def _vasp_counts(path: Path, file: IO[Any]) -> None:
    """The counts of the head, which follow its symbols if it has a line of them; and of every head of a trajectory."""
    lines = [file.readline(_LINE) for _ in range(7)]
    trajectory = "xdatcar" in path.name.lower()
    rest, later, symbols = 0, list[tuple[int, int]](), list[bytes]()
    for line in file:
        rest += 1
        if trajectory:
            words = line[:_LINE].split()
            if b"".join(words).isdigit() and b"".join(symbols).isalpha():
                later.append((rest, _sum(words)))
            symbols = words
    for line in lines[5:7]:  # without a line of symbols, the counts come first
        words = line.split(b"!")[0].split()
        if words and all(w.isdigit() for w in words):
            _hold(path, _sum(words), rest)
            break
    for at, total in later:
        _hold(path, total, rest - at)


def _sum(words: list[bytes]) -> int:
    return sum(int(w[:18]) for w in words)


def _hold(path: Path, total: int, rest: int) -> None:
    if total > rest + 1:
        raise BadInput(f"{path} is not a whole file: {total} atoms are announced, {rest} lines follow")


def _any_counts(path: Path, file: IO[Any]) -> None:
    """Of any other form: lines of whole numbers alone near its beginning, which count something."""
    before = b""
    for _ in range(_HEAD):
        line = file.readline(_LINE)
        words = line.split()
        if words and all(w.isdigit() for w in words) and b"TIMESTEP" not in before.upper():
            largest = max(len(w.lstrip(b"0")) for w in words)
            if largest > _DIGITS:
                raise BadInput(f"{path} is not a whole file: it counts a number of {largest} digits")
        before = line


_HEAD, _DIGITS = 200, 10  # lines that are looked at; digits of a count of what a file can hold
_COLUMNS = 64  # of a line of an xyz file, fewer than which are not counted
_LINE = 65536  # bytes of a line that are looked at


def _unreadable(path: Path, error: Exception) -> BadInput:
    if isinstance(error, MemoryError):
        return BadInput(f"{path} wants more memory than a file of its size can need: a number in it is wrong")
    said = " ".join(str(error).split())
    reason = said or "it does not have the form its name promises"
    if isinstance(error, KeyError) and re.fullmatch(r"'[A-Z][a-z]?'", said):
        reason = f"{said} is no element" + (": write deuterium and tritium as H" if said in ("'D'", "'T'") else "")
    if "*setting* or *symbol* must be given" in said:
        reason = "it has symmetry operations and no space group: name it, or write all atoms of the cell in P1"
    return BadInput(f"{path} cannot be read as a structure ({reason:.120}); cif, xyz, POSCAR, xsf, ... are known")

"""The packed cache of a data set: overlaps and Hamiltonians as flat arrays that are mapped, not parsed. Disposable.

`SET/.packed/` has `index.json` and shards of raw numbers: of each entry float64 cell, positions and matrices [Ha], int64
atomic numbers and pairs. An entry whose files changed since is read from its folder again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import NONE
from nearsight.core.structure import Structure
from nearsight.formats.files import whole_folder
from nearsight.formats.registry import read
from nearsight.formats.sets.entry import stamp_of

FOLDER, INDEX = ".packed", "index.json"
SCHEMA = 1
SHARD = 1 << 28  # bytes after which the next file begins
_WORD = 8  # bytes of a number


def write_pack(
    folder: Path, names: Sequence[str], report: Callable[[str, str | None, int, int], None]
) -> tuple[int, int]:
    """Pack entries of a data set, whole or not at all. Returns how many, and their bytes.

    report: told each name, with what is wrong where it cannot be packed.  Raises Unavailable where nothing can be written.
    """
    place = folder / FOLDER
    owned = [p.name for p in place.iterdir()] if place.is_dir() else []
    entries: dict[str, Any] = {}
    total = 0
    with whole_folder(place, owned) as part:
        shard, at = 0, 0
        file = (part / f"{shard:04d}.bin").open("wb")
        try:
            for done, name in enumerate(names):
                stamp, said = stamp_of(folder / name), None
                try:
                    row, floats, ints = _flat(read(folder / name))
                except NearsightError as error:
                    said = " ".join(str(error).split())
                else:
                    if at > SHARD:
                        file.close()
                        shard, at = shard + 1, 0
                        file = (part / f"{shard:04d}.bin").open("wb")
                    entries[name] = {"stamp": stamp, "shard": shard, "at": at, **row}
                    for array in (floats, ints):
                        at += file.write(array.tobytes())
                        total += array.nbytes
                report(name, said, done + 1, len(names))
        finally:
            file.close()
        (part / INDEX).write_text(json.dumps({"schema": SCHEMA, "entries": entries}))
    return len(entries), total


def _flat(c: Calculation) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What is told of a calculation, its float64 and its int64 numbers."""
    s, h = c.structure, c.require_hamiltonian()
    overlap = c.require_overlap()
    layouts = [overlap.layout] if h.layout is overlap.layout else [overlap.layout, h.layout]
    floats = [s.cell, s.positions, overlap.values, torch.view_as_real(h.values) if h.values.is_complex() else h.values]
    ints = [s.numbers, *(x for y in layouts for x in (y.pairs.i, y.pairs.j, y.pairs.R))]
    row = {
        "spin": h.spin.name,
        "complex": h.values.is_complex(),
        "shells": [[z, list(shells)] for z, shells in overlap.basis.shells.items()],
        "atoms": len(s),
        "pairs": [len(y.pairs) for y in layouts],
        "sizes": [m.values.numel() for m in (overlap, h)],
        "fermi": c.fermi_level,
        "electrons": c.electrons,
        "converged": c.converged,
        "energies": dict(c.energies),
    }
    together = (np.concatenate([x.detach().cpu().numpy().ravel() for x in part]) for part in (floats, ints))
    first, second = together
    return row, first.astype(np.float64), second.astype(np.int64)


class Pack:
    """A packed data set, open for reading. Calculations share its mapped memory, which is copied where they are changed."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError, ValueError or KeyError for what is none."""
        self.folder = folder
        table = json.loads((folder / FOLDER / INDEX).read_text())
        self.entries: dict[str, Any] = table["entries"] if table.get("schema") == SCHEMA else {}
        self._shards: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, name: str) -> Calculation | None:
        """Structure, S and H of an entry; None where it is not packed, or was changed since."""
        row = self.entries.get(name)
        path = self.folder / name
        if row is None or row["stamp"] != stamp_of(path):
            return None
        try:
            return _calculation(row, self._numbers(row), path)
        except (OSError, ValueError, IndexError, KeyError, TypeError, RuntimeError, NearsightError):
            return None  # a damaged cache is none

    def _numbers(self, row: dict[str, Any]) -> Iterator[Tensor]:
        """The arrays of an entry, one after another."""
        shard = row["shard"]
        if shard not in self._shards:
            self._shards[shard] = np.memmap(self.folder / FOLDER / f"{shard:04d}.bin", np.uint8, "c")
        data, at, atoms = self._shards[shard], row["at"], row["atoms"]
        width = 2 if row["complex"] else 1
        floats = [9, 3 * atoms, row["sizes"][0], row["sizes"][1] * width]
        for kind, counts in (
            (np.float64, floats),
            (np.int64, [atoms, *(n * m for n in row["pairs"] for m in (1, 1, 3))]),
        ):
            for count in counts:
                piece = data[at : at + count * _WORD]
                if len(piece) < count * _WORD:
                    raise ValueError("the shard is cut")
                at += count * _WORD
                yield torch.from_numpy(piece.view(kind).view(np.ndarray))


def _calculation(row: dict[str, Any], numbers: Iterator[Tensor], path: Path) -> Calculation:
    cell, positions, s, h, atomic, *pairs = numbers
    structure = Structure(cell.reshape(3, 3), positions.reshape(-1, 3), atomic)
    shells = {int(z): tuple(ls) for z, ls in row["shells"]}
    basis = Basis(tuple(atomic.tolist()), shells)
    layouts = [
        BlockLayout(basis, Pairs(i, j, R.reshape(-1, 3), len(structure)))
        for i, j, R in zip(pairs[::3], pairs[1::3], pairs[2::3], strict=True)
    ]
    values = torch.view_as_complex(h.reshape(-1, 2)) if row["complex"] else h
    components = row["sizes"][1] // layouts[-1].size
    overlap = BlockMatrix(layouts[0], s.reshape(1, -1), NONE)
    hamiltonian = BlockMatrix(layouts[-1], values.reshape(components, -1), row["spin"])
    return Calculation(
        structure,
        overlap,
        hamiltonian,
        fermi_level=row["fermi"],
        electrons=row["electrons"],
        converged=row["converged"],
        energies=row["energies"],
        provenance=Provenance(path=path),
    )


def packed(path: Path) -> Calculation | None:
    """The calculation of a folder in a data set that is packed; None where it is not, or was changed since."""
    folder = path.parent
    try:
        changed = (folder / FOLDER / INDEX).stat().st_mtime_ns
        return _open(folder, changed).read(path.name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@lru_cache(maxsize=8)
def _open(folder: Path, changed: int) -> Pack:
    return Pack(folder)

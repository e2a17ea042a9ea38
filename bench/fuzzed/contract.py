"""What a reader is to the fuzz bench: sound originals, ways to alter them, how they are read, what an accepted one must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzed import mutations
from fuzzed.mutations import Random, pick

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "tests" / "formats" / "data" / "version1"


class Unsound(Exception):  # noqa: N818
    """What a reader accepted and must not have."""


@dataclass(frozen=True)
class Fuzzed:
    """One reader.

    originals(folder): writes sound files there.  alter(path, random): spoils a copy of one.  read(path): the reader; what it
    raises besides NearsightError is a fault.  judge(read, original path): raises Unsound.  work: memory [MiB] for what the
    reader goes on to compute with the file.
    """

    originals: Callable[[Path], list[Path]]
    alter: Callable[[Path, Random], None]
    read: Callable[[Path], Any]
    judge: Callable[[Any, Path], None]
    work: int = 0


def require(holds: bool, what: str) -> None:
    """Raises Unsound where it does not hold."""
    if not holds:
        raise Unsound(what)


def textual(*ways: mutations.Mutation) -> Callable[[Path, Random], None]:
    """One of the ways, at times two."""

    def alter(path: Path, random: Random) -> None:
        raw = path.read_bytes()
        for _ in range(1 if random.random() < 0.7 else 2):
            raw = pick(random, ways)(raw, random)
        path.write_bytes(raw)

    return alter


text = textual(*mutations.TEXT)
table = textual(mutations.yaml_tree, mutations.yaml_tree, *mutations.TEXT)
binary = textual(mutations.flipped, mutations.overwritten, mutations.cut, mutations.moved)


def replaced(path: Path, random: Random) -> None:
    """In place of the file something that is none: empty, a folder, a pipe, a link to itself or to nothing, a device."""
    import os

    path.unlink()
    how = int(random.integers(6))
    if how == 0:
        path.touch()
    elif how == 1:
        path.mkdir()
    elif how == 2:
        os.mkfifo(path)
    elif how == 3:
        path.symlink_to("/dev/zero")
    elif how == 4:
        path.symlink_to(path.name)


def altered(path: Path, random: Random) -> None:
    """A file in a folder, or the file itself, spoilt as its kind can be."""
    file = path if path.is_file() else pick(random, sorted(p for p in path.rglob("*") if p.is_file()))
    if random.random() < 0.04:
        replaced(file, random)
    elif file.suffix in (".h5", ".chk", ".nc"):
        (mutations.hdf5 if random.random() < 0.6 else textual(mutations.flipped, mutations.overwritten, mutations.cut))(
            file, random
        )
    elif file.suffix in (".scfout", ".HSX", ".TSHS", ".DM", ".pt", ".npy", ".npz", ".sqlite", ".safetensors"):
        (binary if random.random() < 0.7 else textual(mutations.integer))(file, random)
    elif file.suffix in (".json", ".jsonl") and random.random() < 0.6:
        textual(mutations.json_tree)(file, random)
    elif file.suffix in (".yaml", ".yml") and random.random() < 0.6:
        textual(mutations.yaml_tree)(file, random)
    else:
        text(file, random)

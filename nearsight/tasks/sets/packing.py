"""`dataset pack`: the disposable cache that training reads in place of the folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nearsight.core.errors import MissingData
from nearsight.formats.outputs import can_write
from nearsight.formats.sets.pack import FOLDER, write_pack
from nearsight.tasks.sets.listing import list_set


@dataclass(frozen=True)
class Packed:
    """entries: that are packed, in so many bytes.  refused: (name, why) of those that cannot be."""

    place: Path
    entries: int
    nbytes: int
    refused: tuple[tuple[str, str], ...]


def pack(
    folder: Path | str,
    report: Callable[[str, str | None, int, int], None] = lambda name, error, done, total: None,
) -> Packed:
    """Write `SET/.packed`, which training reads in place of the folders that have not changed since; it may be deleted.

    report: told each name with what was wrong, how many are done and how many there are.
    Raises MissingData for a set without Hamiltonians, Unavailable where nothing can be written.
    """
    folder = Path(folder)
    found = list_set(folder)
    refused = list(found.broken)
    names = [e.name for e in found.entries if "hamiltonian" in e.matrices]
    if not names:
        raise MissingData(f"{folder} has no entry with a Hamiltonian: there is nothing to pack for a training")
    can_write(folder / FOLDER, str(folder))

    def told(name: str, error: str | None, done: int, total: int) -> None:
        if error is not None:
            refused.append((name, error))
        report(name, error, done, total)

    entries, nbytes = write_pack(folder, names, told)
    return Packed(folder / FOLDER, entries, nbytes, tuple(refused))

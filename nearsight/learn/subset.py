"""The part of a data set that a training is told to take: `data.where` and `data.split`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nearsight.core.errors import BadInput
from nearsight.formats.registry import find
from nearsight.formats.sets.entry import describe
from nearsight.formats.sets.manifest import Manifest
from nearsight.formats.sets.split import Split
from nearsight.formats.sets.where import Where


def those(paths: Sequence[Path], given: str | list[str], where: str | None) -> list[Path]:
    """The paths that a condition means.

    paths: of calculations.  given: as the configuration named them: data sets, or calculations themselves.
    Raises BadInput where none is left, or for structure files, of which no manifest tells; MissingData for gaps that are not
    known yet.
    """
    if where is None:
        return list(paths)
    condition = Where.parse(where, "data.where")
    meant: set[Path] = set()
    for place in map(Path, [given] if isinstance(given, str) else given):
        if place.is_file() and find(place) is None:
            raise BadInput(f"data.where is a condition on entries of data sets; {place} is a file of structures")
        if find(place) is not None:
            meant |= {place} if condition(describe(place)) else set()
            continue
        with Manifest.of(place) as manifest:
            manifest.refresh()
            meant |= {place / e.name for e in manifest.entries(condition)}
    found = [p for p in paths if p in meant]
    if not found:
        raise BadInput(f"data.where: {where!r} holds for none of the {len(paths)} structures of {given}")
    return found


def parts_of(paths: Sequence[Path], given: str | list[str], file: Path) -> tuple[list[Path], list[Path]]:
    """The paths to train on and to validate on that a split names; entries in none of its parts are left out.

    Raises BadInput for a split that names what the set does not hold, or of several sets at once.
    """
    split = Split.read(file)
    if not isinstance(given, str) and len(given) != 1:
        raise BadInput("data.split divides one data set: name one in data.train (dataset add makes one of several)")
    held = {p.name: p for p in paths}
    train, validation = split.parts["train"], split.parts["validation"]
    missing = [n for n in (*train, *validation) if n not in held]
    if missing and (everything := set(_names(given))) and (gone := [n for n in missing if n not in everything]):
        raise BadInput(
            f"{file} names {len(gone)} entries that {given} does not hold ({gone[0]:.80}): split the set again"
        )
    return [held[n] for n in train if n in held], [held[n] for n in validation if n in held]


def _names(given: str | list[str]) -> list[str]:
    place = Path(given if isinstance(given, str) else given[0])
    return [p.name for p in place.iterdir()] if place.is_dir() else []

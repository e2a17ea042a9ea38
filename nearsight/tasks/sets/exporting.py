"""`dataset export`: the entries of a set in any format that is written, a folder each, with its split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nearsight.core.errors import BadInput
from nearsight.formats import registry
from nearsight.formats.sets.split import Split
from nearsight.tasks.convert import Converted, convert
from nearsight.tasks.ledger import Outcome
from nearsight.tasks.sets.listing import Told, list_set

SPLIT = "split.json"


def export(
    folder: Path | str,
    target: Path | str,
    write_as: str,
    where: str | None = None,
    split: Path | str | None = None,
    workers: int | None = None,
    report: Callable[[Outcome, int, int], None] = lambda outcome, done, total: None,
    told: Told = lambda what, done, total: None,
) -> Converted:
    """Write entries in another format into a folder, in parallel; what is written already stays, so that it can go on.

    where: a condition on entries.  split: file that is written beside them, without what is not exported; the set's own
    split.json is taken if there is one.  report, told: see `convert` and `list_set`.
    Raises BadInput for a set without such entries, or a format that is not known.
    """
    registry.load(write_as)
    folder, target = Path(folder), Path(target)
    chosen = split if split is not None else (folder / SPLIT if (folder / SPLIT).is_file() else None)
    divided = None if chosen is None else Split.read(chosen)
    found = list_set(folder, where, told=told)
    names = [e.name for e in found.entries]
    if not names:
        raise BadInput(f"{folder} holds no entry to export" + (f" for which {where}" if where else ""))
    made = convert(folder, target, None, write_as, workers, report, names)
    if divided is not None:
        there = set(names)
        parts = {name: tuple(n for n in part if n in there) for name, part in divided.parts.items()}
        Split(parts, str(folder), divided.by, where=where).write(target / SPLIT)
    return made

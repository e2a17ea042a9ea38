"""`dataset split`: what belongs together stays on one side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nearsight.core.configuration import near_miss
from nearsight.core.errors import BadInput
from nearsight.formats.registry import read_structure
from nearsight.formats.sets.entry import Entry
from nearsight.formats.sets.manifest import Manifest
from nearsight.formats.sets.split import PARTS, Split
from nearsight.tasks.sets.listing import Told, find_gaps
from nearsight.tasks.sets.prototypes import bonding, prototype

_WAYS = {
    "structure": "copies of one parent, and structures bonded alike of the same elements",
    "composition": "the same reduced formula (polymorphs), and copies of one parent",
    "prototype": "the same kind of crystal of whatever elements, the same reduced formula, and copies of one parent",
    "entry": "nothing: each entry for itself, copies of one parent on both sides",
}


def split_set(
    folder: Path | str,
    by: str = "structure",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    where: str | None = None,
    out: Path | str | None = None,
    told: Told = lambda what, done, total: None,
) -> Split:
    """Divide the entries of a data set into those to train on, to validate on and to test on.

    by: what stays on one side: structure, composition, prototype, or entry (nothing does).  fractions: of the entries, for
    train, validation and test; a part of fraction 0 is empty.  where: a condition on what is divided at all.
    out: file to write.  told: what is done, how far, of how much.
    Raises BadInput for fractions that do not add to 1, or a part that would be empty because too much belongs together.
    """
    if by not in _WAYS:
        raise BadInput(f"--by {by!r} is not known{near_miss(by, _WAYS)} (known: {', '.join(_WAYS)})")
    if len(fractions) not in (2, 3) or not all(0 <= f <= 1 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise BadInput(
            f"--fractions {' '.join(map(str, fractions))}: give shares of train, validation, test that add to 1"
        )
    if not fractions[0]:
        raise BadInput("--fractions: nothing would be left to train on")
    if not 0 <= seed < 2**63:
        raise BadInput(f"--seed {seed}: give a whole number from 0 on")
    folder = Path(folder)
    with Manifest.of(folder) as manifest:
        manifest.refresh(lambda done, total: told("folders", done, total))
        if where is not None and "gap" in where:
            find_gaps(manifest, lambda done, total: told("gaps", done, total))
        entries = manifest.entries(where)
    if not entries:
        raise BadInput(f"{folder} holds no entry to divide" + (f" for which {where}" if where else ""))
    groups = grouped(folder, entries, by, lambda done, total: told("structures", done, total))
    parts = dealt(groups, fractions, seed)
    wanted = [name for name, f in zip(PARTS, fractions, strict=False) if f > 0]
    if empty := [name for name in wanted if not parts[name]]:
        raise BadInput(
            f"{' and '.join(empty)} would be empty: the {len(entries)} entries are {len(groups)} "
            f"{'group' if len(groups) == 1 else 'groups'} by {by} ({_WAYS[by]}): add more kinds, give fewer parts, "
            "or divide --by entry"
        )
    found = Split(parts, str(folder), by, seed, tuple(fractions), where, len(groups))
    if out is not None:
        found.write(out)
    return found


def grouped(
    folder: Path, entries: Sequence[Entry], by: str, told: Callable[[int, int], None] = lambda done, total: None
) -> list[list[str]]:
    """Names of entries that stay on one side, group after group in the order of their first."""
    root = list(range(len(entries)))

    def first(n: int) -> int:
        while root[n] != n:
            root[n] = root[root[n]]
            n = root[n]
        return n

    seen: dict[tuple[str, str], int] = {}
    for n, entry in enumerate(entries):
        told(n, len(entries))
        for key in _keys(folder, entry, by):
            a, b = sorted((first(n), first(seen.setdefault(key, n))))
            root[b] = a
    told(len(entries), len(entries))
    found: dict[int, list[str]] = {}
    for n, entry in enumerate(entries):
        found.setdefault(first(n), []).append(entry.name)
    return list(found.values())


def _keys(folder: Path, entry: Entry, by: str) -> list[tuple[str, str]]:
    """Entries that share one of these belong together."""
    if by == "entry":
        return []
    keys = [("content", entry.sha256)]
    if entry.parent is not None:
        keys.append(("parent", entry.parent))
    if by in ("composition", "prototype"):
        keys.append(("composition", entry.composition or ""))
    if by == "composition":
        return keys
    structure = read_structure(folder / entry.name)
    keys.append(("bonds", bonding(structure, anonymous=by == "prototype")))
    if by == "prototype" and (kind := entry.prototype or prototype(structure)) is not None:
        keys.append(("prototype", kind))
    return keys


def dealt(groups: Sequence[Sequence[str]], fractions: Sequence[float], seed: int) -> dict[str, tuple[str, ...]]:
    """Groups, in an order drawn by the seed, each to the part that lacks most; no wanted part is empty if it need not be."""
    total = sum(map(len, groups))
    order = np.random.default_rng(seed).permutation(len(groups))
    parts: list[list[Sequence[str]]] = [[] for _ in fractions]
    lacks = [f * total for f in fractions]
    for n in order:
        k = max(range(len(fractions)), key=lambda k: lacks[k])
        parts[k].append(groups[n])
        lacks[k] -= len(groups[n])
    for k, f in enumerate(fractions):
        rich = [p for p in parts if len(p) > 1]
        if f > 0 and not parts[k] and rich:
            giver = max(rich, key=len)
            smallest = min(giver, key=len)
            giver.remove(smallest)
            parts[k].append(smallest)
    named = {name: tuple(sorted(n for g in part for n in g)) for name, part in zip(PARTS, parts, strict=False)}
    return {name: named.get(name, ()) for name in PARTS}

"""Deliberate damage to every real set of other programs: is it found, and is it named?

    python bench/damage.py /path/to/external [/path/to/reference/siesta]

Eight kinds (tests/formats/damage.py): orbital order permuted, a sign flipped, R negated, units off by 27.2 either way, a block
lost, spins swapped, S of another structure.  What is no damage to a set is not counted: the same numbers (no spin to swap), or
the same crystal in other words (R negated with one atom a cell).  A table by kind of set and kind of damage, `named of done`;
what is missed is told for each set.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from formats import runs

from nearsight.core.calculation import Calculation
from nearsight.core.spin import SPINOR
from nearsight.formats import registry
from nearsight.properties.check import check

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.formats.damage import DAMAGES, changes_nothing


def main(*roots: str) -> None:
    sets = [one(path, Path(root)) for root in roots for path in runs(Path(root))]
    kinds = sorted({s["kind"] for s in sets})
    table = {kind: counted([s for s in sets if s["kind"] == kind]) for kind in kinds}
    place = Path(__file__).parent / "results" / "damage.json"
    place.write_text(json.dumps({"kinds": table, "sets": sets}, indent=1) + "\n")
    print(f"\n| set | number | {' | '.join(DAMAGES)} | sound as it is |")
    for kind, row in table.items():
        cells = [f"{row[d]['named']} of {row[d]['done']}" if row[d]["done"] else "none there" for d in DAMAGES]
        print(f"| {kind} | {row['sets']} | {' | '.join(cells)} | {row['sound']} |")
    print(f"written to {place}")


def counted(sets: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"sets": len(sets), "sound": sum(not s["broken"] for s in sets)}
    for d in DAMAGES:
        done = [s for s in sets if d not in s["no_damage"]]
        row[d] = {"done": len(done), "named": sum(d not in s["missed"] for s in done)}
    return row


def one(path: Path, root: Path) -> dict[str, Any]:
    c = registry.read(path)
    name = str(path.relative_to(root)) if path != root else path.name
    group = "" if root.name == "external" else f" ({root.name})"
    found = {
        "set": name,
        "kind": f"{registry.find(path).name}{group}, {'spinors' if c.spin is SPINOR else f'spin {c.spin.name}'}",  # type: ignore[union-attr]
        "broken": [f"{f.law}: {f.found}" for f in check(c) if not f.holds],
        **damage(c),
    }
    print(f"{name:<38} named {found['named']} of {found['done']}, missed {found['missed'] or 'none'}", flush=True)
    return found


def damage(c: Calculation) -> dict[str, Any]:
    """named: of done, with the sentence that names each; what is no damage is not counted."""
    missed, nothing, words_of = [], [], {}
    for name, (change, words) in DAMAGES.items():
        damaged = change(c)
        broken = [f.found for f in check(damaged) if not f.holds]
        said = next((text for text in broken if any(w in text for w in words)), None)
        if said is None:
            (nothing if changes_nothing(c, damaged) else missed).append(name)
        else:
            words_of[name] = said
    done = len(DAMAGES) - len(nothing)
    return {"done": done, "named": done - len(missed), "missed": missed, "no_damage": nothing, "said": words_of}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])

"""split.json: which entries of a data set are trained on, validated on and tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearsight.core.errors import BadInput
from nearsight.core.versions import checked_version
from nearsight.formats.files import read_json, write_json

PARTS = ("train", "validation", "test")
VERSION = 1


@dataclass(frozen=True)
class Split:
    """parts: names of entries by part.  by, seed, fractions, where: how it was made.  folder: of the set, as it was named."""

    parts: Mapping[str, tuple[str, ...]]
    folder: str = ""
    by: str = ""
    seed: int = 0
    fractions: tuple[float, ...] = ()
    where: str | None = None
    groups: int = 0

    def write(self, path: Path | str) -> None:
        """Whole or not at all. Raises Unavailable where it cannot be written."""
        told: dict[str, Any] = {"set": self.folder, "by": self.by, "seed": self.seed, "fractions": list(self.fractions)}
        parts = {name: list(self.parts.get(name, ())) for name in PARTS}
        write_json(path, {"schema_version": VERSION, **told, "where": self.where, "groups": self.groups, **parts})

    @staticmethod
    def read(path: Path | str) -> Split:
        """Raises BadInput for what is no split, or names an entry in two parts."""
        table = read_json(path)
        if not isinstance(table, dict) or "train" not in table:
            raise BadInput(
                f"{path} is no split of a data set: `nearsight dataset split SET -o {Path(path).name}` writes one"
            )
        checked_version(table.get("schema_version"), VERSION, path)
        parts: dict[str, tuple[str, ...]] = {}
        for name in PARTS:
            listed = table.get(name, [])
            if not isinstance(listed, list) or not all(isinstance(n, str) for n in listed):
                raise BadInput(f"{path}: {name} is no list of names of entries")
            parts[name] = tuple(listed)
        everything = [n for names in parts.values() for n in names]
        if len(set(everything)) < len(everything):
            double = next(n for n in everything if everything.count(n) > 1)
            raise BadInput(f"{path} names {double:.80} twice: an entry is in one part")
        return Split(parts, str(table.get("set", "")), str(table.get("by", "")))

"""`dataset stats`: what a set consists of, how its numbers spread, and what in it deserves a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from nearsight.formats.sets.database import FILE
from nearsight.formats.sets.entry import Entry
from nearsight.tasks.sets.listing import Told, failures, list_set

RANGES = ("energy_per_atom", "residual", "max_h", "shortest", "reach", "gap", "n_atoms", "n_orbitals")
UNITS = {"energy_per_atom": "eV", "residual": "eV", "max_h": "eV", "shortest": "Å", "reach": "Å", "gap": "eV"}
COUNTED = ("composition", "spin", "functional", "basis", "charge", "program", "n_atoms", "parent")


@dataclass(frozen=True)
class Statistics:
    """elements: entries that hold each.  counts: entries by the values of a column.  ranges: (least, median, largest, known).

    pairs: of elements within reach of each other, in all entries.  unconverged, unlabelled: names.  duplicates: names of the
    same content.  broken: (name, why) of folders that cannot be read.  failed: jobs without a result.
    """

    folder: str
    entries: int
    atoms: int
    elements: dict[str, int]
    counts: dict[str, dict[str, int]]
    ranges: dict[str, tuple[float, float, float, int]]
    pairs: dict[str, int]
    unconverged: list[str]
    unlabelled: list[str]
    duplicates: list[list[str]]
    broken: list[tuple[str, str]] = field(default_factory=list)
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Everything; ranges by name."""
        names = ("least", "median", "largest", "known")
        ranges = {k: dict(zip(names, v, strict=True)) for k, v in self.ranges.items()}
        return {**asdict(self), "ranges": ranges}

    def summary(self) -> list[str]:
        """In lines."""
        lines = [f"{self.entries} entries of {self.atoms} atoms in all"]
        lines += [f"{'elements':16s} {_counted(self.elements)}"]
        lines += [f"{name:16s} {_counted(c)}" for name, c in self.counts.items() if c]
        lines += [f"{'pairs in reach':16s} {_counted(self.pairs)}"]
        for name, (least, middle, largest, known) in self.ranges.items():
            unit = f" {UNITS[name]}" if name in UNITS else ""
            some = "" if known == self.entries else f" (of {known})"
            lines.append(f"{name:16s} {least:.5g} to {largest:.5g}{unit}, median {middle:.5g}{some}")
        lines += [f"{what:16s} {len(names)}: {_some(names)}" for what, names in self._looks() if names]
        return lines + ([f"{'failed jobs':16s} {self.failed} (nearsight dataset list --failed)"] if self.failed else [])

    def _looks(self) -> Iterable[tuple[str, Sequence[str]]]:
        yield "not converged", self.unconverged
        yield "no Hamiltonian", self.unlabelled
        yield "same content", [" = ".join(names) for names in self.duplicates]
        yield "cannot be read", [name for name, _ in self.broken]


def statistics(folder: Path | str, where: str | None = None, told: Told = lambda what, done, total: None) -> Statistics:
    """Of the entries of a set that a condition means. told: what is done, how far, of how much.

    Raises BadInput as `list_set`.
    """
    found = list_set(folder, where, told=told)
    entries, pairs = found.entries, Counter[str]()
    for e in entries:
        pairs.update(e.pairs)
    by_content: dict[str, list[str]] = {}
    for e in entries:
        by_content.setdefault(e.sha256, []).append(e.name)
    return Statistics(
        str(folder),
        len(entries),
        sum(e.n_atoms or 0 for e in entries),
        _sorted(Counter(s for e in entries for s in e.elements)),
        {name: _sorted(Counter(_word(getattr(e, name)) for e in entries)) for name in COUNTED},
        {name: r for name in RANGES if (r := _range(entries, name)) is not None},
        _sorted(pairs),
        [e.name for e in entries if e.converged is False],
        [e.name for e in entries if "hamiltonian" not in e.matrices],
        [names for names in by_content.values() if len(names) > 1],
        list(found.broken),
        len(failures(folder)) if (Path(folder) / FILE).is_file() else 0,
    )


def _word(value: Any) -> str:
    return "not known" if value is None else str(value)


def _range(entries: Sequence[Entry], name: str) -> tuple[float, float, float, int] | None:
    known = [float(v) for e in entries if (v := getattr(e, name)) is not None]
    return (min(known), median(known), max(known), len(known)) if known else None


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _counted(counts: dict[str, int], most: int = 12) -> str:
    said = [f"{k}: {n}" for k, n in list(counts.items())[:most]]
    return ", ".join(said) + (f", and {len(counts) - most} more" if len(counts) > most else "")


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")

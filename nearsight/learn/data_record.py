"""Which structures a training learns from and which it holds out, by their content: what it may be gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearsight.core.errors import BadInput
from nearsight.formats.files import read_json, write_json

FILE = "data.json"
_TOLD = 3  # structures in a message


@dataclass(frozen=True)
class DataRecord:
    """train, validation: name and digest of each structure, in order.  orbitals: digest of what H0 and S are made of."""

    train: tuple[tuple[str, str], ...]
    validation: tuple[tuple[str, str], ...]
    orbitals: str = ""

    def write(self, folder: Path) -> None:
        """data.json in a model's folder."""
        table = {"train": self.train, "validation": self.validation, "orbitals": self.orbitals}
        write_json(folder / FILE, table)

    @staticmethod
    def read(folder: Path) -> DataRecord | None:
        """That of a model's folder; None of an earlier version. Raises BadInput for a file that is damaged."""
        return _read(folder / FILE)

    def require_same(self, folder: Path) -> None:
        """Refuse to go on in a model's folder with data or a split that are not those that it began with.

        Raises BadInput, naming what changed and the remedy. A folder of an earlier version, which has no record, passes.
        """
        before = _read(folder / FILE)
        if before is None or before._content == self._content:
            return
        raise BadInput(
            f"the data have changed since {folder} was trained on them: {self._changes(before)}. Bring them back, train into "
            f"a new folder (init_from: {folder} begins with these weights), or begin again with --set trainer.resume=false"
        )

    @property
    def _content(self) -> tuple[Any, ...]:
        return [d for _, d in self.train], [d for _, d in self.validation], self.orbitals

    def _changes(self, before: DataRecord) -> str:
        now, then = (dict((*r.train, *r.validation)) for r in (self, before))
        kinds = {
            "new": [n for n in now if n not in then],
            "missing": [n for n in then if n not in now],
            "changed": [n for n in now if n in then and now[n] != then[n]],
        }
        said = [f"{len(names)} {what} ({_listed(names)})" for what, names in kinds.items() if names]
        moved = {n for n, _ in self.train} & {n for n, _ in before.validation}
        if moved:
            said.append(f"{len(moved)} that were held out would be trained on ({_listed(sorted(moved))})")
        if not said and self.orbitals != before.orbitals:
            said.append("other orbitals or another functional for H0")
        return "; ".join(said) or "their order or their split"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")


def _read(path: Path) -> DataRecord | None:
    if not path.exists():
        return None
    try:
        table = read_json(path)
        train, validation = (tuple((str(n), str(d)) for n, d in table[k]) for k in ("train", "validation"))
        return DataRecord(train, validation, str(table["orbitals"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{path} is damaged, so that nothing tells what was trained on: remove it to go on with the data as they are"
        ) from error

"""One job of `dataset build`: a structure for an engine, the ladder of what is tried, and its folder in its place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput, NearsightError, NotConverged
from nearsight.core.structure import Structure
from nearsight.dft.settings import Settings
from nearsight.formats.files import read_json, replace_folder, write_json
from nearsight.formats.sets.entry import read_provenance, sha256_of_file, write_provenance
from nearsight.tasks.engines.contract import Engine, EngineTable, engine_of

Rung = str | dict[str, Any]


@dataclass(frozen=True)
class Task:
    """root, name: of the folder.  engine, scf: tables, as they were given.  retry: rungs of the ladder after the first try.

    told: for its provenance.json.
    """

    root: str
    name: str
    structure: Structure
    engine: Mapping[str, Any]
    scf: Mapping[str, Any]
    retry: Sequence[Rung] = ()
    told: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """To the last bit."""
        s = self.structure
        atoms: dict[str, Any] = {k: getattr(s, k).tolist() for k in ("cell", "positions", "numbers")}
        for key in ("moments", "charges"):
            atoms[key] = None if getattr(s, key) is None else getattr(s, key).tolist()
        rest = {"engine": dict(self.engine), "scf": dict(self.scf), "retry": list(self.retry), "told": dict(self.told)}
        structure = {**atoms, "periodic": list(s.periodic), "provenance": dict(s.provenance)}
        return {"root": self.root, "name": self.name, "structure": structure, **rest}

    @staticmethod
    def of_json(table: Mapping[str, Any]) -> Task:
        """Raises BadInput for what is no task."""
        try:
            atoms = table["structure"]
            cell, positions, moments, charges = (
                None if atoms[k] is None else torch.tensor(atoms[k], dtype=torch.float64)
                for k in ("cell", "positions", "moments", "charges")
            )
            assert cell is not None and positions is not None
            numbers = torch.tensor(atoms["numbers"], dtype=torch.int64)
            a, b, c = (bool(x) for x in atoms.get("periodic", (True, True, True)))
            s = Structure(cell, positions, numbers, moments, charges, atoms["provenance"], (a, b, c))
            return Task(table["root"], table["name"], s, *(table[k] for k in ("engine", "scf", "retry", "told")))
        except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise BadInput(f"a task in the list of jobs is damaged ({error}): submit them again") from error

    @property
    def made_by(self) -> Engine:
        """The engine of its tables. Raises NearsightError for tables that are none."""
        return engine_of(EngineTable.told(self.engine), validated(Settings, self.scf, "scf"))


def compute(task: Task) -> str:
    """Climb the ladder: the calculation, first under a hidden name, then, if it converged, in its place.

    Returns the sha256 of hamiltonian.h5.  What is not converged stays under `.work/` for the next try; every try, with its
    settings and what came of it, stands in `.work/NAME.tries.json` until the last, then in the folder's provenance.json.
    Raises NearsightError where no rung leads to a result.
    """
    place, hidden = Path(task.root) / task.name, Path(task.root) / ".work" / task.name
    engine = task.made_by
    if (place / "info.json").exists():
        if engine.is_complete(place):
            return sha256_of_file(place / "hamiltonian.h5")
        if not (hidden / "hamiltonian.h5").exists():  # the run that computes what is missing begins with it
            shutil.copytree(place, hidden, dirs_exist_ok=True)
    hidden.mkdir(parents=True, exist_ok=True)
    tries: list[dict[str, Any]] = []
    begun = time.time()
    for n, rung in enumerate((None, *task.retry)):
        began = time.perf_counter()
        try:
            if rung is not None:
                engine = engine.changed(engine.rung(rung) if isinstance(rung, str) else rung)
            engine.compute(task.structure, hidden)
        except NearsightError as error:
            said = " ".join(str(error).split())
            tries.append({"rung": rung, "error": said, "seconds": time.perf_counter() - began})
            write_json(tries_of(task.root, task.name), tries)
            if not isinstance(error, NotConverged) or n == len(task.retry):
                raise
        else:
            tries.append({"rung": rung, "error": None, "seconds": time.perf_counter() - began})
            break
    told = {
        "program": engine.name,
        "version": engine.version,
        **task.told,
        "time": begun,
        "engine": engine.name,
        "tries": len(tries),
        "ladder": tries if len(tries) > 1 else None,
    }
    write_provenance(hidden, {**task.structure.provenance, **read_provenance(hidden), **told})
    replace_folder(hidden, place)
    tries_of(task.root, task.name).unlink(missing_ok=True)
    return sha256_of_file(place / "hamiltonian.h5")


def tries_of(root: Path | str, name: str) -> Path:
    """Where the tries of a job stand that has no result."""
    return Path(root) / ".work" / f"{name}.tries.json"


def read_tries(root: Path | str, name: str) -> list[dict[str, Any]]:
    """Of a job without a result: rung, error and seconds of each; empty where nothing is known."""
    path = tries_of(root, name)
    try:
        found = read_json(path) if path.is_file() else []
    except NearsightError:
        return []
    return [t for t in found if isinstance(t, dict)] if isinstance(found, list) else []

"""What readers make of results: digests of numbers, without the times of the clock; they raise for what is not whole."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: name of a part of the result -> what tells it from another, None of one that is absent
Content = Mapping[str, Any]


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        for x in part if isinstance(part, list) else [part]:
            found.update(x.tobytes() if isinstance(x, np.ndarray) else repr(x).encode())
    return found.hexdigest()


def calculation(place: Path) -> str | None:
    """Structure, matrices, energies and charge; the residual of a run is not compared."""
    from nearsight.formats import registry

    if not place.exists():
        return None
    c = registry.read(place)
    numbers = [np.round(m.values.numpy(), 7) + 0.0 for m in c.matrices.values()]
    total = c.energies.get("total")
    return _digest(sorted(c.matrices), numbers, None if total is None else round(total, 7), c.electrons)


def of_folder(*names: str) -> Callable[[Path], Content]:
    return lambda folder: {name: calculation(folder / name) for name in names}


def _bytes(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def of_files(*names: str) -> Callable[[Path], Content]:
    """Pictures, tables or fields, each whole for itself: its bytes are those of one that is."""
    return lambda folder: {name: _bytes(folder / name) for name in names}


def of_tree(name: str) -> Callable[[Path], Content]:
    """A folder of another program's layout: all of its files, or none."""

    def content(folder: Path) -> Content:
        place = folder / name
        if not place.exists():
            return {name: None}
        found = sorted(p for p in place.rglob("*") if p.is_file())
        return {name: [(str(p.relative_to(place)), p.stat().st_size) for p in found]}

    return content


def _numbers(value: Any) -> Any:
    """A table without the times of the clock and the paths of this machine, its numbers to nine places."""
    if isinstance(value, dict):
        left = {k: v for k, v in value.items() if not any(w in k.lower() for w in ("second", "time_s", "wall", "path"))}
        return {k: _numbers(v) for k, v in left.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return round(value, 9) + 0.0 if isinstance(value, float) else value


def table_of(path: Path) -> str | None:
    return _digest(json.dumps(_numbers(json.loads(path.read_text())), sort_keys=True)) if path.exists() else None


def trace_of(folder: Path) -> Content:
    """The trace, a line a step, is whole or absent, as its picture is; a run that goes on has fewer."""
    path = folder / "t.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None
    steps = None if lines is None else round(lines[-1]["total_eV"], 5)
    picture = folder / "t.png"
    ends = None if not picture.exists() else picture.read_bytes()[-8:] == b"IEND\xaeB`\x82"
    return {"out": calculation(folder / "out"), "t.jsonl": steps, "t.png": ends}


def model_weights(folder: Path) -> Content:
    """The weights, the report, and a checkpoint that loads."""
    import torch

    from nearsight.learn.model import TrainedModel

    place = folder / "model"
    weights, step = None, None
    if (place / "model.safetensors").exists():
        loaded = TrainedModel.load(place)
        weights = _digest([w.detach().numpy() for w in loaded.network.state_dict().values()])
    if (place / "checkpoint.pt").exists():
        step = torch.load(place / "checkpoint.pt", weights_only=True, map_location="cpu").get("step")
    return {"weights": weights, "report": _report(place / "report.json"), "checkpoint": step}


def _report(path: Path) -> str | None:
    if not path.exists():
        return None
    told = json.loads(path.read_text())
    return _digest(told["best"], told["validation_mae_meV"], told["last"]["train_loss"])


def set_built(folder: Path) -> Content:
    """Every calculation of a set, and that the ledger takes none for done which is not there."""
    from nearsight.formats import registry

    place = folder / "set"
    found: dict[str, Any] = {}
    for name in ("0000", "0001"):
        at = place / name
        bare = (at / "POSCAR").exists() and not (at / "info.json").exists()
        found[name] = _digest(registry.read_structure(at).positions.numpy()) if bare else calculation(at)
    if (place / "ledger.sqlite").exists():
        with tempfile.TemporaryDirectory() as aside:  # whoever opens a ledger alters its files
            for file in place.glob("ledger.sqlite*"):
                shutil.copy(file, aside)
            ledger = sqlite3.connect(Path(aside, "ledger.sqlite"))
            tables = {row[0] for row in ledger.execute("select name from sqlite_master where type='table'")}
            done = ledger.execute("select name from job where state='done'").fetchall() if "job" in tables else []
            ledger.close()
        missing = [name for (name,) in done if found.get(name) is None]
        if missing:
            raise ValueError(f"the ledger takes {missing} for done, and they are not there")
    failures = place / "failures.json"
    found["failures"] = json.loads(failures.read_text()) if failures.exists() else None
    return found


def many(*names: str) -> Callable[[Path], Content]:
    """Calculations of a folder `out`, and its table of failures."""

    def content(folder: Path) -> Content:
        failures = folder / "out" / "failures.json"
        told = json.loads(failures.read_text()) if failures.exists() else None
        return {**{n: calculation(folder / "out" / n) for n in names}, "failures": told}

    return content


def members(name: str) -> Callable[[Path], Content]:
    """What a set lists, and whether the list is kept; it is made anew where it is not whole."""

    def content(folder: Path) -> Content:
        from nearsight.formats.sets.manifest import FILE
        from nearsight.tasks.sets.listing import list_set

        place = folder / name
        if not place.exists():
            return {"entries": None, "kept": None}
        kept = (place / FILE).exists()
        with tempfile.TemporaryDirectory() as aside:  # whoever lists a set keeps what it found
            shutil.copytree(place, Path(aside, name))
            found = list_set(Path(aside, name))
        if found.broken:
            raise ValueError(f"broken: {found.broken}")
        return {"entries": [(e.name, e.formula) for e in found.entries] or None, "kept": kept or None}

    return content


def packed_set(folder: Path) -> Content:
    place = folder / "set" / ".packed"
    if not place.exists():
        return {"index": None, "shard": None}
    index = json.loads((place / "index.json").read_text())
    return {"index": sorted(index["entries"]), "shard": _bytes(place / "0000.bin")}


def motion_of(kind: str) -> Callable[[Path], Content]:
    """The result and the trajectory of a run, and a state from which it can go on."""

    def content(folder: Path) -> Content:
        from ase.io import read

        place = folder / "out"
        if not place.exists():
            return {"result": None, "frames": None}
        state = place / f"{kind}.npz"
        if state.exists():
            with np.load(state, allow_pickle=False) as file:
                json.loads(str(file["table"]))
        told = table_of(place / "result.json")
        frames = read(place / "trajectory.extxyz", ":") if told is not None else []
        last = None if not frames else [round(float(x), 6) for x in frames[-1].positions.ravel()]
        return {"result": told, "frames": None if told is None else (len(frames), last)}

    return content


def frames_of(folder: Path) -> Content:
    from ase.io import read

    place = folder / "many"
    if not place.exists():
        return {"many": None}
    index = json.loads((place / "structures.json").read_text())["structures"]
    return {"many": [[round(float(x), 9) for x in read(place / row["file"]).positions.ravel()] for row in index]}

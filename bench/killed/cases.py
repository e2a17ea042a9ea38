"""The commands that bench/kills.py kills: what is there before, and what a reader makes of the result.

Every command that writes stands here, into a new place and over an old result. `demo` is made of `dataset build`, `train`,
`predict` and `bands`; `compare`, `settings`, `structures angles`, `dataset stats` write nothing but what `dataset list` does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "tests" / "formats" / "data" / "version1"

#: name of a part of the result -> what tells it from another, None of one that is absent
Content = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A command in a folder of its own.

    words: of the command line.  prepare(folder): what is there before.  content(folder): the parts of the result, each of which
    is the old one or the new one; it raises for one that is not whole.
    needs: the case whose folder, after an undisturbed run, it begins with, before `prepare`.
    grows: parts that a run which was cut off may leave on their way, whole as far as they are; the next run goes on with them.
    stays: the next run need not succeed once the result is there: it refuses to write over it.
    varies: names of files of which there may be more or fewer from run to run.
    """

    words: list[str]
    prepare: Callable[[Path], None]
    content: Callable[[Path], Content]
    needs: str | None = None
    grows: tuple[str, ...] = ()
    stays: bool = False
    varies: tuple[str, ...] = ()


# --- what readers make of results: digests of numbers, without the times of the clock


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


def _of_folder(*names: str) -> Callable[[Path], Content]:
    return lambda folder: {name: calculation(folder / name) for name in names}


def _bytes(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _of_files(*names: str) -> Callable[[Path], Content]:
    """Pictures, tables or fields, each whole for itself: its bytes are those of one that is."""
    return lambda folder: {name: _bytes(folder / name) for name in names}


def _of_tree(name: str) -> Callable[[Path], Content]:
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


def _table(path: Path) -> str | None:
    return _digest(json.dumps(_numbers(json.loads(path.read_text())), sort_keys=True)) if path.exists() else None


def _trace(folder: Path) -> Content:
    """The trace, a line a step, is whole or absent, and so is its picture."""
    path = folder / "t.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None
    steps = None if lines is None else _digest(json.dumps(_numbers(lines), sort_keys=True))
    picture = folder / "t.png"
    ends = None if not picture.exists() else picture.read_bytes()[-8:] == b"IEND\xaeB`\x82"
    return {"out": calculation(folder / "out"), "t.jsonl": steps, "t.png": ends}


def _model(folder: Path) -> Content:
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


def _set(folder: Path) -> Content:
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


def _many(*names: str) -> Callable[[Path], Content]:
    """Calculations of a folder `out`, and its table of failures."""

    def content(folder: Path) -> Content:
        failures = folder / "out" / "failures.json"
        told = json.loads(failures.read_text()) if failures.exists() else None
        return {**{n: calculation(folder / "out" / n) for n in names}, "failures": told}

    return content


def _members(name: str) -> Callable[[Path], Content]:
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


def _packed(folder: Path) -> Content:
    place = folder / "set" / ".packed"
    if not place.exists():
        return {"index": None, "shard": None}
    index = json.loads((place / "index.json").read_text())
    return {"index": sorted(index["entries"]), "shard": _bytes(place / "0000.bin")}


def _motion(kind: str) -> Callable[[Path], Content]:
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
        told = _table(place / "result.json")
        frames = read(place / "trajectory.extxyz", ":") if told is not None else []
        last = None if not frames else [round(float(x), 6) for x in frames[-1].positions.ravel()]
        return {"result": told, "frames": None if told is None else (len(frames), last)}

    return content


def _structures(folder: Path) -> Content:
    from ase.io import read

    place = folder / "many"
    if not place.exists():
        return {"many": None}
    index = json.loads((place / "structures.json").read_text())["structures"]
    return {"many": [[round(float(x), 9) for x in read(place / row["file"]).positions.ravel()] for row in index]}


# --- what is there before

H2 = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nH 0 0 0\nH 0 0 0.8\n'
SCF = ["--basis", "sz", "--mesh-cutoff", "60", "--kmesh", "1", "1", "1"]
MADE = "scf: {basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}\nworkers: 1\n"


def nothing(folder: Path) -> None:
    """An empty folder."""


def together(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    """One after another."""

    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def stored(what: str, name: str) -> Callable[[Path], None]:
    """A folder of the stored ones, under a name."""
    return lambda folder: shutil.copytree(STORED / what, folder / name) and None


def written(name: str, text: str) -> Callable[[Path], None]:
    """A file."""
    return lambda folder: (folder / name).write_text(text) and None


h2 = written("h2.xyz", H2)
OLD = stored("calculation", "out")


def _two(folder: Path) -> None:
    (folder / "two.xyz").write_text(H2 + H2.replace("0.8", "0.9"))


def _model_yaml(folder: Path) -> None:
    shutil.copytree(STORED / "set", folder / "data")
    (folder / "model.yaml").write_text(
        "data: {train: [data/0000, data/0001], validation: data/0002, cache: cache, workers: 1}\n"
        "model: {preset: small, target: total, irreps: 4x0e+2x1o+1x2e, edge: [4, 2, 2], hidden: [4, 2, 2], layers: 1}\n"
        "trainer: {max_epochs: 3, max_minutes: null, validations: 3, dtype: float64, schedule: constant}\n"
    )


DISTORT = written(
    "set.yaml",
    f"structure: h2.xyz\ndistort: {{count: 2, sigma_ang: 0.02, clip_ang: 0.1, seed: 1}}\nlabels: true\n{MADE}",
)
BARE = written(
    "set.yaml",
    f"structure: h2.xyz\ndistort: {{count: 2, sigma_ang: 0.02, clip_ang: 0.1, seed: 1}}\nlabels: false\n{MADE}",
)
MODES = written(
    "set.yaml",
    "structure: h2.xyz\nmodes: {count: 2, temperature_K: [300, 300], molecule: true, relax_ev_per_ang: null}\n"
    f"labels: false\n{MADE}",
)
STRETCHED = ["--calculator", "ase.calculators.emt:EMT"]
SPLIT = ["--by", "entry", "--fractions", "0.34", "0.33", "0.33"]
CALCULATION = _of_folder("out")
ENTRIES = ("0000", "0001", "failures")


def _picture(command: str, *more: str) -> dict[str, Case]:
    """A property's picture and its numbers, new and over old ones."""
    words, content = [command, "out", "-o", "p.png", "--json", "p.json", *more], _of_files("p.png", "p.json")
    old = together(OLD, written("p.png", "an old result"), written("p.json", "{}"))
    return {command: Case(words, OLD, content), f"{command} over old": Case(words, old, content)}


CASES: dict[str, Case] = {
    "example": Case(["example", "graphene"], nothing, _of_files("graphene.cif"), stays=True),
    "scf": Case(["scf", "h2.xyz", "-o", "out", *SCF], h2, CALCULATION),
    "scf over old": Case(["scf", "h2.xyz", "-o", "out", *SCF], together(h2, OLD), CALCULATION),
    "scf --restart out -o out": Case(
        ["scf", "h2.xyz", "-o", "out", "--restart", "out", "--smearing", "3", *SCF], nothing, CALCULATION, "scf"
    ),
    "scf --forces --trace": Case(["scf", "h2.xyz", "-o", "out", "--forces", "--trace", "t.jsonl", *SCF], h2, _trace),
    "scf --trace over old": Case(
        ["scf", "h2.xyz", "-o", "out", "--trace", "t.jsonl", "--smearing", "2", *SCF],
        nothing,
        _trace,
        "scf --forces --trace",
    ),
    "relax": Case(["relax", "h2.xyz", "-o", "out", *STRETCHED], h2, _motion("relaxation"), grows=("result", "frames")),
    "relax, ours": Case(
        ["relax", "h2.xyz", "-o", "out", "--fmax", "1", *SCF], h2, _motion("relaxation"), grows=("result", "frames")
    ),
    "md": Case(
        ["md", "h2.xyz", "-o", "out", "--temperature", "300", "--steps", "4", *STRETCHED],
        h2,
        _motion("dynamics"),
        grows=("result", "frames"),
    ),
    "md, ours": Case(
        ["md", "h2.xyz", "-o", "out", "--temperature", "300", "--steps", "3", *SCF],
        h2,
        _motion("dynamics"),
        grows=("result", "frames"),
    ),
    "md, more steps": Case(
        ["md", "h2.xyz", "-o", "out", "--temperature", "300", "--steps", "8", *STRETCHED],
        nothing,
        _motion("dynamics"),
        "md",
        grows=("result", "frames"),
    ),
    "overlap": Case(["overlap", "h2.xyz", "-o", "out", "--basis", "sz"], h2, CALCULATION),
    "overlap over old": Case(["overlap", "h2.xyz", "-o", "out", "--basis", "dz"], nothing, CALCULATION, "overlap"),
    "overlap --gaussian over old": Case(
        ["overlap", "h2.xyz", "--gaussian", "sto-3g", "-o", "out"], nothing, CALCULATION, "overlap"
    ),
    "overlap of many": Case(
        ["overlap", "two.xyz", "-o", "out", "--basis", "sz", "--workers", "1"],
        _two,
        _many("two_0000", "two_0001"),
        grows=("two_0000", "two_0001", "failures"),
    ),
    "convert": Case(["convert", "in", "out"], stored("calculation", "in"), CALCULATION),
    "convert over old": Case(
        ["convert", "in", "out"], together(stored("calculation", "in"), stored("predicted", "out")), CALCULATION
    ),
    "convert to deeph-old": Case(
        ["convert", "in", "out", "--to", "deeph-old"], stored("calculation", "in"), _of_tree("out")
    ),
    "convert to wannier90": Case(
        ["convert", "in", "out", "--to", "wannier90"], stored("calculation", "in"), _of_tree("out")
    ),
    "convert a folder of many": Case(
        ["convert", "in", "out", "--workers", "1"],
        stored("set", "in"),
        _many("0000", "0001", "0002"),
        grows=("0000", "0001", "0002", "failures"),
    ),
    "predict": Case(
        ["predict", "model", "in", "-o", "out"],
        together(stored("model", "model"), stored("calculation", "in")),
        CALCULATION,
    ),
    "predict over old": Case(
        ["predict", "model", "in", "-o", "out"],
        together(stored("model", "model"), stored("calculation", "in"), stored("predicted", "out")),
        CALCULATION,
    ),
    **_picture("bands"),
    **_picture("dos"),
    **_picture("gap"),
    **_picture("charges"),
    "density": Case(["density", "out", "-o", "n.cube"], OLD, _of_files("n.cube")),
    "density over old": Case(
        ["density", "out", "-o", "n.cube"], together(OLD, written("n.cube", "an old result")), _of_files("n.cube")
    ),
    "density of an orbital": Case(
        ["density", "out", "-o", "o.xsf", "--what", "orbital", "--band", "0"], OLD, _of_files("o.xsf")
    ),
    "check --html": Case(["check", "out", "--html", "page.html"], OLD, _of_files("page.html")),
    "check --html over old": Case(
        ["check", "out", "--html", "page.html"],
        together(OLD, written("page.html", "an old page")),
        _of_files("page.html"),
    ),
    "structures to a file": Case(
        ["structures", "strain", "h2.xyz", "-o", "s.extxyz"], h2, _of_files("s.extxyz"), stays=True
    ),
    "structures to a .vasp": Case(
        ["structures", "supercell", "h2.xyz", "--repeat", "1,1,2", "-o", "s.vasp"],
        h2,
        _of_files("s.vasp", "s.vasp.provenance.json"),
        stays=True,
    ),
    "structures to a folder": Case(
        ["structures", "rattle", "h2.xyz", "--count", "3", "-o", "many"], h2, _structures, stays=True
    ),
    "train": Case(
        ["train", "model.yaml", "-o", "model"], _model_yaml, _model, grows=("weights", "report", "checkpoint")
    ),
    "train anew over old": Case(
        ["train", "model.yaml", "-o", "model", "--set", "trainer.resume=false"],
        nothing,
        _model,
        "train",
        ("weights", "report", "checkpoint"),
    ),
    "dataset build": Case(["dataset", "build", "set.yaml", "-o", "set"], together(h2, DISTORT), _set, grows=ENTRIES),
    "dataset build, no labels": Case(
        ["dataset", "build", "set.yaml", "-o", "set"], together(h2, BARE), _set, grows=ENTRIES
    ),
    "dataset build, modes": Case(
        ["dataset", "build", "set.yaml", "-o", "set"], together(h2, MODES), _set, grows=ENTRIES
    ),
    "dataset add": Case(
        ["dataset", "add", "set", "in"],
        together(stored("set", "set"), stored("calculation", "in")),
        _members("set"),
        stays=True,
    ),
    "dataset add, a new set": Case(
        ["dataset", "add", "new", "set"], stored("set", "set"), _members("new"), grows=("entries", "kept")
    ),
    "dataset list": Case(["dataset", "list", "set"], stored("set", "set"), _members("set")),
    "dataset split": Case(
        ["dataset", "split", "set", *SPLIT],
        stored("set", "set"),
        lambda folder: {"split": _table(folder / "set" / "split.json")},
    ),
    "dataset split over old": Case(
        ["dataset", "split", "set", "--seed", "5", *SPLIT],
        nothing,
        lambda folder: {"split": _table(folder / "set" / "split.json")},
        "dataset split",
    ),
    "dataset pack": Case(["dataset", "pack", "set"], stored("set", "set"), _packed),
    "dataset pack over old": Case(
        ["dataset", "pack", "set"], lambda folder: shutil.rmtree(folder / "set" / "0002"), _packed, "dataset pack"
    ),
    "dataset export": Case(
        ["dataset", "export", "set", "-o", "out", "--to", "deeph", "--workers", "1"],
        stored("set", "set"),
        _many("0000", "0001", "0002"),
        grows=("0000", "0001", "0002", "failures"),
    ),
}

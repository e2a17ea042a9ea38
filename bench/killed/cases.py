"""What is killed: every command that writes, in a folder of its own, and what a reader makes of its result."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
STORED = ROOT / "tests" / "formats" / "data" / "version1"
Content = Any

#: the folder of each case's undisturbed run, for cases that begin with it
KEPT: dict[str, Path] = {}


@dataclass(frozen=True)
class Case:
    """A command in a folder of its own.

    words: of the command line.  prepare(folder): what is there before.  content(folder): what a reader makes of the result, of
    which None is none at all; it raises for one that is not whole.  most: events that are tried, if there are more.
    goes_on: between, a part of the result may stand (each part whole), and the next run goes on with it.
    needs: the case whose result it begins with.
    """

    words: list[str]
    prepare: Callable[[Path], None]
    content: Callable[[Path], Content]
    most: int = 10**6
    goes_on: bool = False
    needs: str | None = None


# --- what readers make of results: digests of numbers, without the times of the clock


def _calculation(name: str) -> Callable[[Path], Content]:
    def content(folder: Path) -> Content:
        from nearsight.formats import registry

        if not (folder / name).exists():
            return None
        c = registry.read(folder / name)
        numbers = [np.round(m.values.numpy(), 7) + 0.0 for m in c.matrices.values()]
        return _digest(
            sorted(c.matrices), numbers, c.energies.get("total") and round(c.energies["total"], 7), c.electrons
        )

    return content


def _file(name: str) -> Callable[[Path], Content]:
    """A picture, a table or a field: it is whole if its bytes are those of one that is."""

    def content(folder: Path) -> Content:
        path = folder / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None

    return content


def _page(name: str) -> Callable[[Path], Content]:
    """A page with pictures: whole if it ends as one does."""

    def content(folder: Path) -> Content:
        path = folder / name
        if not path.exists():
            return None
        text = path.read_text()
        return "a page" if text.rstrip().endswith("</html>") else text[:40]

    return content


def _several(*parts: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """Results of which each is whole for itself."""
    return lambda folder: tuple(part(folder) for part in parts)


def _model(folder: Path) -> Content:
    from nearsight.learn.model import TrainedModel

    place = folder / "model"
    if not (place / "model.safetensors").exists():
        return None
    model = TrainedModel.load(place)
    return _digest([w.detach().numpy() for w in model.network.state_dict().values()])


def _set(folder: Path) -> Content:
    """Every calculation that is there is whole; None until all are."""
    from nearsight.formats import registry

    found = sorted(p for p in (folder / "set").glob("0*") if p.is_dir())
    read = [registry.read(p) if (p / "info.json").exists() else registry.read_structure(p) for p in found]
    return None if len(read) < 2 or not (folder / "set" / "failures.json").exists() else len(read)


def _structures(name: str) -> Callable[[Path], Content]:
    """Every frame of a file of structures."""

    def content(folder: Path) -> Content:
        from ase.io import read

        path = folder / name
        if not path.exists():
            return None
        frames = read(path, ":")
        return _digest([x for f in frames for x in (f.numbers, f.positions.round(9), np.array(f.cell).round(9))])

    return content


def _moved(name: str) -> Callable[[Path], Content]:
    """A relaxation or dynamics: its last frame and what it found; None until it has ended."""

    def content(folder: Path) -> Content:
        from ase.io import read

        place = folder / name
        if not (place / "result.json").exists():
            return None
        found = json.loads((place / "result.json").read_text())
        frames = read(place / "trajectory.extxyz", ":")
        return _digest(found["steps"], len(frames), [frames[-1].positions.round(9)])

    return content


def _members(name: str, many: int) -> Callable[[Path], Content]:
    """Every calculation of a set that is there is whole; None until all are, and listed."""

    def content(folder: Path) -> Content:
        from nearsight.formats import registry
        from nearsight.tasks.sets.listing import list_set

        found = sorted(p for p in (folder / name).glob("*0*") if p.is_dir() and not p.name.startswith("."))
        read = [registry.read(p) for p in found]
        if len(read) < many or len(list_set(folder / name).entries) < many:
            return None
        return _digest([m.values.numpy().round(7) for c in read for m in c.matrices.values()])

    return content


def _packed(folder: Path) -> Content:
    """What the packed cache holds; None without one."""
    from nearsight.formats.sets.pack import FOLDER, INDEX, Pack

    if not (folder / "set" / FOLDER / INDEX).exists():
        return None
    pack = Pack(folder / "set")
    found = [pack.read(name) for name in ("0000", "0001", "0002")]
    return _digest([m.values.numpy() for c in found if c is not None for m in c.matrices.values()])


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        for x in part if isinstance(part, list) else [part]:
            found.update(x.tobytes() if isinstance(x, np.ndarray) else repr(x).encode())
    return found.hexdigest()


# --- the cases

H2 = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nH 0 0 0\nH 0 0 0.8\n'
SCF = ["--basis", "sz", "--mesh-cutoff", "60", "--kmesh", "1", "1", "1"]


def _structure(folder: Path) -> None:
    (folder / "h2.xyz").write_text(H2)


def _with_old(old: str, name: str) -> Callable[[Path], None]:
    """The structure, and a calculation in the result's place: another one."""

    def prepare(folder: Path) -> None:
        _structure(folder)
        shutil.copytree(STORED / old, folder / name)

    return prepare


def _with_scf(folder: Path) -> None:
    _structure(folder)
    shutil.copytree(KEPT["scf"] / "out", folder / "out")


def _with_calculation(folder: Path) -> None:
    shutil.copytree(STORED / "calculation", folder / "out")


def _with_picture(*names: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        _with_calculation(folder)
        for name in names:
            (folder / name).write_bytes(b"an old result")

    return prepare


def _with_model(folder: Path) -> None:
    shutil.copytree(STORED / "model", folder / "model")
    shutil.copytree(STORED / "calculation", folder / "in")


def _set_yaml(folder: Path) -> None:
    _structure(folder)
    (folder / "set.yaml").write_text(
        "structure: h2.xyz\ndistort: {count: 2, sigma_ang: 0.02, clip_ang: 0.1, seed: 1}\nlabels: true\nworkers: 1\n"
        "scf: {basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}\n"
    )


def _bare_yaml(folder: Path) -> None:
    _set_yaml(folder)
    file = folder / "set.yaml"
    file.write_text(file.read_text().replace("labels: true", "labels: false"))


def _model_yaml(folder: Path) -> None:
    sets = STORED / "set"
    (folder / "model.yaml").write_text(
        f"data: {{train: [{sets / '0000'}, {sets / '0001'}], validation: {sets / '0002'}, cache: cache, workers: 1}}\n"
        "model: {preset: small, target: total, irreps: 4x0e+2x1o+1x2e, edge: [4, 2, 2], hidden: [4, 2, 2], layers: 1}\n"
        "trainer: {max_epochs: 3, validations: 3, dtype: float64, schedule: constant}\n"
    )


def _model_again(folder: Path) -> None:
    _model_yaml(folder)
    shutil.copytree(KEPT["train"] / "model", folder / "model")


def _modes_yaml(folder: Path) -> None:
    _structure(folder)
    (folder / "set.yaml").write_text(
        "structure: h2.xyz\nmodes: {count: 2, temperature_K: [300, 300], molecule: true, relax_ev_per_ang: null}\n"
        "labels: false\nworkers: 1\nscf: {basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}\n"
    )


def _with_set(*more: str) -> Callable[[Path], None]:
    """A data set of three; and copies of its first entry."""

    def prepare(folder: Path) -> None:
        shutil.copytree(STORED / "set", folder / "set")
        for name in more:
            shutil.copytree(STORED / "calculation", folder / name)

    return prepare


def _with_overlap(folder: Path) -> None:
    """The overlap of another structure."""
    (folder / "h2.xyz").write_text(H2.replace("0.8", "0.9"))
    shutil.copytree(KEPT["overlap"] / "out", folder / "out")


OUT = _calculation("out")
CASES: dict[str, Case] = {
    "example": Case(["example", "graphene"], lambda folder: None, _file("graphene.cif")),
    "scf": Case(["scf", "h2.xyz", "-o", "out", *SCF], _structure, OUT),
    "scf over old": Case(["scf", "h2.xyz", "-o", "out", *SCF], _with_old("calculation", "out"), OUT),
    "scf --restart out -o out": Case(
        ["scf", "h2.xyz", "-o", "out", "--restart", "out", "--smearing", "3", *SCF], _with_scf, OUT, needs="scf"
    ),
    "scf --trace": Case(["scf", "h2.xyz", "-o", "out", "--trace", "t.jsonl", *SCF], _structure, _several(OUT), most=40),
    "convert": Case(["convert", "in", "out"], _with_old("calculation", "in"), OUT),
    "convert over old": Case(
        ["convert", "in", "out"],
        lambda folder: (_with_old("calculation", "in")(folder), _with_old("predicted", "out")(folder))[0],
        OUT,
    ),
    "convert a folder of many": Case(
        ["convert", "in", "out"],
        lambda folder: shutil.copytree(STORED / "set", folder / "in") and None,
        _several(),
        60,
        True,
    ),
    "predict": Case(["predict", "model", "in", "-o", "out"], _with_model, OUT, most=40),
    "predict over old": Case(
        ["predict", "model", "in", "-o", "out"],
        lambda folder: (_with_model(folder), shutil.copytree(STORED / "calculation", folder / "out"))[0],
        OUT,
        most=40,
    ),
    "bands": Case(["bands", "out", "-o", "b.png"], _with_calculation, _file("b.png")),
    "bands over old": Case(["bands", "out", "-o", "b.png"], _with_picture("b.png"), _file("b.png")),
    "density": Case(["density", "out", "-o", "n.cube"], _with_calculation, _file("n.cube"), most=40),
    "density over old": Case(["density", "out", "-o", "n.cube"], _with_picture("n.cube"), _file("n.cube"), most=40),
    "dos over old": Case(["dos", "out", "-o", "d.png"], _with_picture("d.png"), _file("d.png")),
    "train": Case(["train", "model.yaml", "-o", "model"], _model_yaml, _model, 120, True),
    "train anew over old": Case(
        ["train", "model.yaml", "-o", "model", "--set", "trainer.resume=false"],
        _model_again,
        _model,
        120,
        True,
        "train",
    ),
    "dataset build": Case(["dataset", "build", "set.yaml", "-o", "set"], _set_yaml, _set, 40, True),
    "dataset build, no labels": Case(["dataset", "build", "set.yaml", "-o", "set"], _bare_yaml, _set, 40, True),
    "dataset build, modes": Case(["dataset", "build", "set.yaml", "-o", "set"], _modes_yaml, _set, 30, True),
    "structures rattle": Case(
        ["structures", "rattle", "h2.xyz", "-o", "r.extxyz", "--count", "3"], _structure, _structures("r.extxyz")
    ),
    "overlap": Case(["overlap", "h2.xyz", "--gaussian", "sto-3g", "-o", "out"], _structure, OUT),
    "overlap over old": Case(
        ["overlap", "h2.xyz", "--gaussian", "sto-3g", "-o", "out"],
        _with_overlap,
        OUT,
        needs="overlap",
    ),
    "relax": Case(["relax", "h2.xyz", "-o", "out", *SCF], _structure, _moved("out"), 40, True),
    "md": Case(
        ["md", "h2.xyz", "-o", "out", "--temperature", "300", "--steps", "3", *SCF],
        _structure,
        _moved("out"),
        40,
        True,
    ),
    "dataset add": Case(["dataset", "add", "new", "set"], _with_set(), _members("new", 3), 60, True),
    "dataset split": Case(
        ["dataset", "split", "set", "--by", "entry", "--fractions", "0.4", "0.3", "0.3"],
        _with_set(),
        _file("set/split.json"),
    ),
    "dataset pack": Case(["dataset", "pack", "set"], _with_set(), _packed, 60, True),
    "dataset export": Case(
        ["dataset", "export", "set", "-o", "new", "--to", "deeph", "--workers", "1"],
        _with_set(),
        _members("new", 3),
        60,
        True,
    ),
    "check --html over old": Case(
        ["check", "out", "--html", "page.html"], _with_picture("page.html"), _page("page.html")
    ),
    "gap over old": Case(["gap", "out", "-o", "g.png"], _with_picture("g.png"), _file("g.png")),
    "charges over old": Case(["charges", "out", "-o", "c.png"], _with_picture("c.png"), _file("c.png")),
}

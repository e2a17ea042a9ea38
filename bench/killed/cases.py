"""The commands that bench/kills.py kills: what is there before, and what a reader makes of the result.

Every command that writes stands here, into a new place and over an old result. `demo` is made of `dataset build`, `train`,
`predict` and `bands`; `compare`, `settings` and `structures angles` write nothing, `dataset list` and `dataset stats` nothing
but a manifest that is made anew at will.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killed.contents import (
    Content,
    frames_of,
    many,
    members,
    model_weights,
    motion_of,
    of_files,
    of_folder,
    of_tree,
    packed_set,
    set_built,
    table_of,
    trace_of,
)

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "tests" / "formats" / "data" / "version1"


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
CALCULATION = of_folder("out")
ENTRIES = ("0000", "0001", "failures")


def _picture(command: str, *more: str) -> dict[str, Case]:
    """A property's picture and its numbers, new and over old ones."""
    words, content = [command, "out", "-o", "p.png", "--json", "p.json", *more], of_files("p.png", "p.json")
    old = together(OLD, written("p.png", "an old result"), written("p.json", "{}"))
    return {command: Case(words, OLD, content), f"{command} over old": Case(words, old, content)}


CASES: dict[str, Case] = {
    "example": Case(["example", "graphene"], nothing, of_files("graphene.cif"), stays=True),
    "scf": Case(["scf", "h2.xyz", "-o", "out", *SCF], h2, CALCULATION),
    "scf over old": Case(["scf", "h2.xyz", "-o", "out", *SCF], together(h2, OLD), CALCULATION),
    "scf --restart out -o out": Case(
        ["scf", "h2.xyz", "-o", "out", "--restart", "out", "--smearing", "3", *SCF], nothing, CALCULATION, "scf"
    ),
    "scf --forces --trace": Case(["scf", "h2.xyz", "-o", "out", "--forces", "--trace", "t.jsonl", *SCF], h2, trace_of),
    "scf --trace over old": Case(
        ["scf", "h2.xyz", "-o", "out", "--trace", "t.jsonl", *SCF[:2], "--mesh-cutoff", "80", *SCF[4:]],
        nothing,
        trace_of,
        "scf --forces --trace",
    ),
    "relax": Case(
        ["relax", "h2.xyz", "-o", "out", *STRETCHED], h2, motion_of("relaxation"), grows=("result", "frames")
    ),
    "relax, ours": Case(
        ["relax", "h2.xyz", "-o", "out", "--fmax", "1", *SCF], h2, motion_of("relaxation"), grows=("result", "frames")
    ),
    "md": Case(
        ["md", "h2.xyz", "-o", "out", "--temperature", "300", "--steps", "4", *STRETCHED],
        h2,
        motion_of("dynamics"),
        grows=("result", "frames"),
    ),
    "md, ours": Case(
        ["md", "h2.xyz", "-o", "out", "--temperature", "300", "--steps", "3", *SCF],
        h2,
        motion_of("dynamics"),
        grows=("result", "frames"),
    ),
    "md, more steps": Case(
        ["md", "h2.xyz", "-o", "out", "--temperature", "300", "--steps", "8", *STRETCHED],
        nothing,
        motion_of("dynamics"),
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
        many("two_0000", "two_0001"),
        grows=("two_0000", "two_0001", "failures"),
    ),
    "convert": Case(["convert", "in", "out"], stored("calculation", "in"), CALCULATION),
    "convert over old": Case(
        ["convert", "in", "out"], together(stored("calculation", "in"), stored("predicted", "out")), CALCULATION
    ),
    "convert to deeph-old": Case(
        ["convert", "in", "out", "--to", "deeph-old"], stored("calculation", "in"), of_tree("out")
    ),
    "convert to wannier90": Case(
        ["convert", "in", "out", "--to", "wannier90"], stored("calculation", "in"), of_tree("out")
    ),
    "convert a folder of many": Case(
        ["convert", "in", "out", "--workers", "1"],
        stored("set", "in"),
        many("0000", "0001", "0002"),
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
    "density": Case(["density", "out", "-o", "n.cube"], OLD, of_files("n.cube")),
    "density over old": Case(
        ["density", "out", "-o", "n.cube"], together(OLD, written("n.cube", "an old result")), of_files("n.cube")
    ),
    "density of an orbital": Case(
        ["density", "out", "-o", "o.xsf", "--what", "orbital", "--band", "0"], OLD, of_files("o.xsf")
    ),
    "check --html": Case(["check", "out", "--html", "page.html"], OLD, of_files("page.html")),
    "check --html over old": Case(
        ["check", "out", "--html", "page.html"],
        together(OLD, written("page.html", "an old page")),
        of_files("page.html"),
    ),
    "structures to a file": Case(
        ["structures", "strain", "h2.xyz", "-o", "s.extxyz"], h2, of_files("s.extxyz"), stays=True
    ),
    "structures to a .vasp": Case(
        ["structures", "supercell", "h2.xyz", "--repeat", "1,1,2", "-o", "s.vasp"],
        h2,
        of_files("s.vasp", "s.vasp.provenance.json"),
        stays=True,
    ),
    "structures to a folder": Case(
        ["structures", "rattle", "h2.xyz", "--count", "3", "-o", "many"], h2, frames_of, stays=True
    ),
    "train": Case(
        ["train", "model.yaml", "-o", "model"], _model_yaml, model_weights, grows=("weights", "report", "checkpoint")
    ),
    "train anew over old": Case(
        ["train", "model.yaml", "-o", "model", "--set", "trainer.resume=false", "--set", "trainer.learning_rate=0.01"],
        nothing,
        model_weights,
        "train",
        ("weights", "report", "checkpoint"),
    ),
    "dataset build": Case(
        ["dataset", "build", "set.yaml", "-o", "set"], together(h2, DISTORT), set_built, grows=ENTRIES
    ),
    "dataset build, no labels": Case(
        ["dataset", "build", "set.yaml", "-o", "set"], together(h2, BARE), set_built, grows=ENTRIES
    ),
    "dataset build, modes": Case(
        ["dataset", "build", "set.yaml", "-o", "set"], together(h2, MODES), set_built, grows=ENTRIES
    ),
    "dataset add": Case(
        ["dataset", "add", "set", "in"],
        together(stored("set", "set"), stored("calculation", "in")),
        members("set"),
        stays=True,
    ),
    "dataset add, a new set": Case(
        ["dataset", "add", "new", "set"], stored("set", "set"), members("new"), grows=("entries", "kept")
    ),
    "dataset split": Case(
        ["dataset", "split", "set", *SPLIT],
        stored("set", "set"),
        lambda folder: {"split": table_of(folder / "set" / "split.json")},
    ),
    "dataset split over old": Case(
        ["dataset", "split", "set", "--seed", "5", *SPLIT],
        nothing,
        lambda folder: {"split": table_of(folder / "set" / "split.json")},
        "dataset split",
    ),
    "dataset pack": Case(["dataset", "pack", "set"], stored("set", "set"), packed_set),
    "dataset pack over old": Case(
        ["dataset", "pack", "set"], lambda folder: shutil.rmtree(folder / "set" / "0002"), packed_set, "dataset pack"
    ),
    "dataset export": Case(
        ["dataset", "export", "set", "-o", "out", "--to", "deeph", "--workers", "1"],
        stored("set", "set"),
        many("0000", "0001", "0002"),
        grows=("0000", "0001", "0002", "failures"),
    ),
}

"""What the studies of neural-network DFT share: the reference, the training on the energy, the figures, the picture."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure

from nearsight.core.configuration import override, read_table, validated
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.formats.files import read_json, write_json
from nearsight.formats.registry import read_structure
from nearsight.learn.validation import evaluate
from nearsight.report.plot import COLOURS, STYLE, save

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE_EV = 1e-9  # of the reference; the error of its energy is of second order in it
TRAIN = "import sys; from nearsight.learn.train import train_from_config as t; t(sys.argv[1], sys.argv[2])"
ROUNDING_UEV = 1e-7  # energies closer than this differ by rounding, and are drawn here


@dataclass(frozen=True)
class Run:
    """One trained network. figures: EnergyFigures of the kept weights against the reference.  lines: metrics.jsonl.

    wall_seconds: of the whole process that trains: Python, orbitals, functional, steps, validations, files.
    """

    figures: dict[str, Any]
    report: dict[str, Any]
    wall_seconds: float
    lines: list[dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """The command line of a study: its folder, where references and models go, key=value words for its configuration."""

    folder: Path
    out: Path
    words: tuple[str, ...]

    @staticmethod
    def of(folder: Path, what: str) -> Asked:
        parser = argparse.ArgumentParser(description=what)
        parser.add_argument("--out", type=Path, default=folder / "out", help="for the reference and the models")
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="change the configuration; results go to OUT",
        )
        found = parser.parse_args()
        return Asked(folder, found.out.resolve(), tuple(found.set))

    def result(self) -> Path:
        """A study as it stands in the repository overwrites the figures there, a variation does not."""
        return (self.out if self.words else self.folder) / "result.json"

    def picture(self) -> Path:
        name = f"nn-dft-{self.folder.name}.png"
        return self.out / name if self.words else ROOT / "docs/images" / name

    def configuration(self, name: str = "train.yaml") -> dict[str, Any]:
        """The study's training file, with the words put in."""
        return override(read_table(self.folder / name), self.words)


def from_here(table: dict[str, Any], out: Path) -> dict[str, Any]:
    """The configuration of a study of one structure, paths from anywhere; the reference is OUT/reference."""
    data = {**table["data"], "train": str(ROOT / table["data"]["train"]), "validation": str(out / "reference")}
    return {**table, "data": data}


def reference(config: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The ground state by the engine, in OUT/reference unless it is there; what is worth telling of its result.json."""
    settings = validated(ScfSettings, {**config["loss"]["scf"], "tolerance_ev": TOLERANCE_EV}, "loss.scf")
    path = out / "reference"
    if not (path / "result.json").exists():
        run_scf(read_structure(config["data"]["train"]), settings, path)
    found = read_json(path / "result.json")
    if not found["converged"]:
        raise SystemExit(f"{path} did not converge")
    return {
        "free_eV": found["energy_eV"]["free"],
        "harris_less_total_eV": found["energy_eV"]["harris"] - found["energy_eV"]["total"],
        "residual_eV": found["residual_eV"],
        "iterations": found["iterations"],
        "wall_seconds": found["wall_seconds"],
        "versions": found["versions"],
    }


def trained(config: Mapping[str, Any], out: Path, test: str | list[str]) -> Run:
    """Train from the beginning into `out` and evaluate the kept weights on calculation folders.

    In a process of its own, because this one remembers orbitals and tables of the reference.
    """
    file = out.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({**config, "trainer": {**config["trainer"], "resume": False}}))
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", TRAIN, str(file), str(out)], check=True)
    seconds = time.perf_counter() - start
    report = read_json(out / "report.json")
    found, skipped = evaluate(out, test, config["loss"].get("scf"))
    if skipped:
        raise SystemExit(f"not evaluated: {skipped}")
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    return Run(asdict(found[0].mean(found)), report, seconds, lines)


def told(run: Run) -> dict[str, Any]:
    """A run in result.json: the two figures asked for first, then all."""
    return {
        "hamiltonian_mae_meV": run.figures["hamiltonian_mae_meV"],
        "energy_error_micro_eV": run.figures["energy_error_cell_ueV"],
        "wall_seconds": run.wall_seconds,
        "steps": run.report["steps"],
        "epochs": run.report["epochs"],
        "parameters": run.report["parameters"],
        "figures": run.figures,
    }


def circumstances(table: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """Machine, threads, versions, and the configuration of the training as its file has it."""
    model = next((x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "")
    return {
        "machine": f"{model or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": dict(versions),
        "settings": dict(table),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def draw(
    out: Path,
    curves: Sequence[tuple[str, Run]],
    right: Sequence[tuple[str, str]] = (("hamiltonian_mae_meV", "H"),),
    across: str = "step",
) -> None:
    """A picture: energy above the minimum, and errors of H, at each validation.

    right: which of EnergyFigures to draw, and its label.  across: `step` or `minutes`.
    """
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        left, other = figure.subplots(1, 2)
        for n, (label, run) in enumerate(curves):
            x = [line[across] for line in run.lines]
            style = {"marker": "o", "ms": 2.5, "lw": 1.2}
            energy = [max(abs(line["energy"]["energy_error_cell_ueV"]), ROUNDING_UEV) for line in run.lines]
            left.semilogy(x, energy, color=COLOURS[n], label=label or None, **style)
            for m, (key, part) in enumerate(right):
                y = [line["energy"][key] for line in run.lines]
                dashes = ("-", "--", ":")[n if len(curves) > 1 else 0]
                colour = COLOURS[m if len(right) > 1 else n]
                text = ", ".join(t for t in (part, label) if t)
                other.semilogy(x, y, color=colour, ls=dashes, label=text, **style)
        left.set_ylabel("energy above the minimum, $\\mu$eV per cell")
        other.set_ylabel("mean error, meV")
        for axes in (left, other):
            axes.set_xlabel(across)
            axes.grid(lw=0.3, alpha=0.5)
            entries = len(axes.get_legend_handles_labels()[0])
            if entries > 3:  # no room among the curves
                axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
            elif entries:
                axes.legend(fontsize=7)
        save(figure, out)


def single(name: str) -> None:
    """A study of one structure, start to end: reference, training, result.json, picture."""
    asked = Asked.of(ROOT / "studies" / name, f"Neural-network DFT of one structure: {name}")
    table, out = asked.configuration(), asked.out
    config = from_here(table, out)
    ground = reference(config, out)
    run = trained(config, out / "model", str(out / "reference"))
    versions = ground.pop("versions")
    result = {**told(run), "reference": ground, **circumstances(table, versions)}
    write_json(asked.result(), result)
    draw(asked.picture(), [("", run)], (("hamiltonian_mae_meV", "H"), ("residual_mae_meV", "|F - H|")))
    print(
        f"{name}: H MAE {result['hamiltonian_mae_meV']:.2e} meV, energy {result['energy_error_micro_eV']:+.2e} micro-eV "
        f"above the minimum (cell), {result['steps']} steps, {result['wall_seconds']:.1f} s"
    )

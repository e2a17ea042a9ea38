"""What the studies of neural-network DFT share: the reference, the training on the energy, the figures, the picture."""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.io.atomic import read_json, write_json
from nearsight.io.configuration import read_table, validated
from nearsight.io.structures import read_structure
from nearsight.learn.train import train
from nearsight.learn.validation import evaluate
from nearsight.plot import COLOURS, STYLE, save

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE_EV = 1e-9  # of the reference; the error of its energy is of second order in it
ROUNDING_UEV = 1e-9  # energies closer than this differ by rounding, and are drawn here


@dataclass(frozen=True)
class Run:
    """One trained network. figures: EnergyFigures of the kept weights against the reference.  lines: metrics.jsonl.

    wall_seconds: of the whole call of `train`: orbitals, functional, steps, validations, files.
    """

    figures: dict[str, Any]
    report: dict[str, Any]
    wall_seconds: float
    lines: list[dict[str, Any]]


def asked_out(folder: Path, what: str) -> Path:
    """The folder for results that the command line gives, by default `out` in the study's."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, default=folder / "out", help="for the reference and the models")
    return parser.parse_args().out


def configuration(folder: Path, out: Path) -> dict[str, Any]:
    """train.yaml of a study, paths from anywhere; the reference is OUT/reference."""
    table = read_table(folder / "train.yaml")
    table["data"] |= {"train": str(ROOT / table["data"]["train"]), "validation": str(out / "reference")}
    return table


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
    """Train from the beginning into `out` and evaluate the kept weights on calculation folders."""
    config = copy.deepcopy(dict(config))
    config["trainer"] = {**config["trainer"], "resume": False}
    start = time.perf_counter()
    report = train(config, out)
    seconds = time.perf_counter() - start
    found, skipped = evaluate(out, test, config["loss"]["scf"])
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


def circumstances(folder: Path, versions: Mapping[str, str]) -> dict[str, Any]:
    """Machine, threads, versions, and the settings as train.yaml has them."""
    model = next((x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "")
    return {
        "machine": f"{model or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": dict(versions),
        "settings": read_table(folder / "train.yaml"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def draw(
    name: str,
    curves: Sequence[tuple[str, Run]],
    right: Sequence[tuple[str, str]] = (("hamiltonian_mae_meV", "H"),),
    across: str = "step",
) -> None:
    """docs/images/nn-dft-NAME.png: energy above the minimum, and errors of H, at each validation.

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
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7)
        save(figure, ROOT / f"docs/images/nn-dft-{name}.png")


def single(name: str) -> None:
    """A study of one structure, start to end: reference, training, result.json, picture."""
    folder = ROOT / "studies" / name
    out = asked_out(folder, f"Neural-network DFT of one structure: {name}").resolve()
    config = configuration(folder, out)
    ground = reference(config, out)
    run = trained(config, out / "model", str(out / "reference"))
    versions = ground.pop("versions")
    result = {**told(run), "reference": ground, **circumstances(folder, versions)}
    write_json(folder / "result.json", result)
    draw(name, [("", run)])
    print(
        f"{name}: H MAE {result['hamiltonian_mae_meV']:.2e} meV, energy {result['energy_error_micro_eV']:+.2e} micro-eV "
        f"above the minimum (cell), {result['steps']} steps, {result['wall_seconds']:.1f} s"
    )

"""How well networks predict Hamiltonians of structures they never saw, after a fixed time on one thread.

    OMP_NUM_THREADS=1 python bench/network_accuracy.py --reference REFERENCE [--only graphene3x3] [--target total] [--scale 0.1]
        [--kind deeph2|deeph_e3|deeph]

REFERENCE is a folder with datasets/graphene3x3 and datasets/h2o (calculation folders made with SIESTA, PBE, DZP).
Graphene: 30 cells to train, 6 unseen, 20 minutes. Water: 50 to train, 10 unseen, 8 minutes. `--scale` shortens both.
Minutes are of CPU time. Errors are those of `nearsight predict` against the files, over all stored elements.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nearsight.formats.registry import list_folders, read
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.train import train
from nearsight.properties.compare import compare

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Task:
    name: str
    training: int
    minutes: float
    goal: float  # meV


@dataclass(frozen=True)
class Figure:
    data: str
    target: str
    preset: str
    minutes: float
    threads: int
    epochs: int
    steps: int
    parameters: int
    expansion_mae: float  # meV, before the first step
    hamiltonian_mae: float  # meV, mean over unseen structures
    on_site_mae: float
    off_site_mae: float
    gauge_mae: float
    bands_mae: float  # meV, within 5 eV of the Fermi level
    overlap_max: float
    wall_seconds: float
    goal: float


TASKS = (Task("graphene3x3", 30, 20.0, 1.5), Task("h2o", 50, 8.0, 4.0))


def measure(task: Task, target: str, preset: str, reference: Path, scale: float, kind: str = "deeph2") -> Figure:
    started = time.perf_counter()
    source = reference / "datasets" / task.name
    folders = [str(p) for p in list_folders(source)]
    seen, unseen = folders[: task.training], folders[task.training :]
    config = {
        "data": {"train": seen, "validation": unseen, "species": str(source / "species")},
        "model": {"kind": kind, "preset": preset, "target": target},
        "trainer": {"max_minutes": task.minutes * scale, "clock": "cpu"},
    }
    with tempfile.TemporaryDirectory() as scratch:
        report = train(config, Path(scratch) / "model")
        model = TrainedModel.load(Path(scratch) / "model")
        differences, expansion = [], []
        for k, folder in enumerate(unseen):
            out = Path(scratch) / f"{k:04d}"
            expected = read(folder)
            predict(model, expected.structure, out)
            differences.append(compare(expected, read(out)))
            expansion.append(expansion_error(model, folder))
    mean = lambda name: sum(getattr(d, name) or 0.0 for d in differences) / len(differences)  # noqa: E731
    return Figure(
        task.name,
        target,
        preset,
        report["minutes"],
        torch.get_num_threads(),
        report["epochs"],
        report["steps"],
        report["parameters"],
        sum(expansion) / len(expansion),
        mean("hamiltonian_mae_meV"),
        mean("on_site_mae_meV"),
        mean("off_site_mae_meV"),
        mean("gauge_mae_meV"),
        mean("bands_mae_meV"),
        max(d.overlap_max for d in differences),
        time.perf_counter() - started,
        task.goal,
    )


def expansion_error(model: TrainedModel, folder: str) -> float:
    """MAE [meV] of the cluster expansion alone, without the network."""
    found = read(folder)
    hamiltonian = found.require_hamiltonian()
    inputs = model.inputs(found.structure, hamiltonian.layout)
    baseline = model.network.prepare(found.structure, hamiltonian.layout, inputs).baseline
    values = model.network.target.matrix(baseline[None], inputs)
    return 27211.386 * float((values - hamiltonian.values).abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=Path("../shared/reference"))
    parser.add_argument("--only", choices=[t.name for t in TASKS])
    parser.add_argument("--target", choices=["total", "delta"])
    parser.add_argument("--preset", default="base", choices=["small", "base", "large"])
    parser.add_argument("--kind", default="deeph2", choices=["deeph2", "deeph_e3", "deeph"])
    parser.add_argument("--scale", type=float, default=1.0)
    asked = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for task in TASKS:
        for target in ("total", "delta"):
            if (asked.only or task.name) != task.name or (asked.target or target) != target:
                continue
            figure = measure(task, target, asked.preset, asked.reference, asked.scale, asked.kind)
            print(
                f"{figure.data:12s} {figure.target:6s} {figure.preset:6s} {figure.minutes:5.1f} min, "
                f"{figure.epochs} epochs: H MAE {figure.hamiltonian_mae:.3f} meV (goal {figure.goal}; on-site "
                f"{figure.on_site_mae:.3f}, off-site {figure.off_site_mae:.3f}, expansion alone "
                f"{figure.expansion_mae:.3f}), bands {figure.bands_mae:.2f} meV",
                flush=True,
            )
            kind = "" if asked.kind == "deeph2" else f"_{asked.kind}"
            path = RESULTS / f"network_accuracy_{figure.data}_{figure.target}_{figure.preset}{kind}.json"
            path.write_text(json.dumps(asdict(figure), indent=1) + "\n")


if __name__ == "__main__":
    main()

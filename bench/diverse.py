"""Networks on many materials: errors on copies of compositions that were trained on, and on compositions that were not.

    python bench/diverse.py ../shared/structures/diverse --out OUT [--minutes 4] [--runs delta density ...] [--workers 2]

170 cells of ten elements, 1 to 5 atoms: ground states by our own DFT (PBE DZP, 200 Ry; about 20 minutes on two cores, resumed
where they are in OUT/data). A quarter of the compounds' compositions (drawn with a seed) is never seen; of the others, those of
split.json are validated on. Each run is a training of its own on one thread, its minutes those of a core; runs and evaluations
share the processes. Beside each the figures of H0 alone (superposed atoms).

mean: over structures, of the mean |dH| of a structure [meV]: all elements, on-site, off-site, and those with S != 0.  bands:
median over structures of the mean error of levels from the lowest to 5 eV above the Fermi level, at 2x2x2 points, Fermi levels
aligned [meV].  worse: structures whose error is more than 1.1 of H0's.

A run "with response" is not local: its density begins with that of the first step of self-consistency, at the cost of one
diagonalisation a structure. Beside it stands that step alone (`response`), what no network had a part in; worse_than_response
counts structures whose error is more than 1.1 of that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import scipy.linalg
import torch
import yaml

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.units import HARTREE_EV
from nearsight.dft.response import density_response
from nearsight.formats.registry import read
from nearsight.learn.model import TrainedModel

BASELINE = "baseline"
MEV = 1000 * HARTREE_EV
SCF = {"xc": "pbe", "basis": "dzp", "kspacing": 0.45, "mesh_cutoff_ry": 200}
RUNS: dict[str, dict[str, Any]] = {
    "delta": {"model": {"target": "delta"}},
    "total": {"model": {"target": "total"}},
    "density": {"model": {"target": "density"}},
    "density base": {"model": {"target": "density", "preset": "base"}},
    "density on cuda": {"model": {"target": "density"}, "trainer": {"device": "cuda"}},
    "density, one member": {"model": {"target": "density", "members": 1}},
    "density with potential": {"model": {"target": "density", "inputs": ["potential"]}},
    "density with response": {"model": {"target": "density", "baseline": "response"}},
    "density by potentials": {"model": {"target": "density", "metric": "potential"}},
    "deeph2": {"model": {"kind": "deeph2", "preset": "small", "target": "delta"}},
    "deeph": {"model": {"kind": "deeph", "preset": "small", "target": "delta"}},
    "deeph_e3": {"model": {"kind": "deeph_e3", "preset": "small", "target": "delta"}},
}
DEFAULT = ["delta", "total", "density", "density base", "density, one member"]


def formula(path: Path) -> str:
    """Reduced, of a POSCAR."""
    lines = path.read_text().splitlines()
    counts = [int(x) for x in lines[6].split()]
    g = int(np.gcd.reduce(counts))
    return "".join(f"{s}{n // g}" for s, n in sorted(zip(lines[5].split(), counts, strict=True)))


def split(structures: Path, data: Path, seed: int = 0) -> dict[str, list[str]]:
    """Folders to train on, to validate on (copies of compositions seen), and those of compositions never seen."""
    files = sorted(structures.glob("*.vasp"))
    held = set(json.loads((structures / "split.json").read_text())["validation"])
    groups: dict[str, list[int]] = defaultdict(list)
    for k, file in enumerate(files):
        groups[formula(file)].append(k)
    order = sorted(g for g in groups if sum(c.isupper() for c in g) > 1)  # an element alone stays
    np.random.default_rng(seed).shuffle(order)
    never = {k for g in order[: len(order) // 4] for k in groups[g]}
    seen = {k for k, f in enumerate(files) if f.name in held} - never
    seen = {k for k in seen if any(j not in seen | never for j in groups[formula(files[k])])}
    folder = [str(data / f"{k:04d}") for k in range(len(files))]
    train = [folder[k] for k in range(len(files)) if k not in seen | never]
    return {"train": train, "seen": [folder[k] for k in sorted(seen)], "never": [folder[k] for k in sorted(never)]}


def build(structures: Path, data: Path, workers: int) -> None:
    table = {"structure": [str(f.resolve()) for f in sorted(structures.glob("*.vasp"))], "scf": SCF, "workers": workers}
    data.parent.mkdir(parents=True, exist_ok=True)
    (data.parent / "set.yaml").write_text(yaml.safe_dump(table))
    command = [
        sys.executable,
        "-m",
        "nearsight.cli",
        "dataset",
        "build",
        str(data.parent / "set.yaml"),
        "-o",
        str(data),
    ]
    subprocess.run(command, env=one_thread(), check=True)


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def train(name: str, parts: dict[str, list[str]], out: Path, minutes: float, workers: int) -> float:
    """Trains into out/NAME; seconds of the whole process."""
    table = {
        "data": {"train": parts["train"], "validation": parts["seen"], "cache": str(out / "cache"), "workers": workers},
        "model": RUNS[name]["model"],
        "trainer": {"max_minutes": minutes, "clock": "cpu", "validations": 8, **RUNS[name].get("trainer", {})},
    }
    folder = out / name.replace(" ", "-").replace(",", "")
    config = out / f"{folder.name}.yaml"
    config.write_text(yaml.safe_dump(table))
    started = time.perf_counter()
    command = [sys.executable, "-m", "nearsight.cli", "train", str(config), "-o", str(folder)]
    with open(out / f"{folder.name}.log", "w") as log:
        subprocess.run(command, env=one_thread(), check=True, stdout=log, stderr=log)
    return time.perf_counter() - started


def levels(calculation: Calculation, hamiltonian: BlockMatrix) -> tuple[np.ndarray, float]:
    """Levels [k, n] at 2x2x2 points and the Fermi level [eV], by the electrons of the calculation."""
    axis = torch.tensor([0.25, 0.75], dtype=torch.float64)
    k = torch.cartesian_prod(axis, axis, axis)
    overlap = calculation.require_overlap()
    h, s = hamiltonian.at_k(k)[0].numpy(), overlap.at_k(k)[0].numpy()
    found = np.array([scipy.linalg.eigvalsh(a, b) for a, b in zip(h, s, strict=True)]) * HARTREE_EV
    filled = round(float(calculation.electrons or 0) / 2 * len(k))
    order = np.sort(found.flatten())
    return found, 0.5 * float(order[filled - 1] + order[filled])


RESPONSE = "response"
loaded = lru_cache(maxsize=2)(TrainedModel.load)


def figures(folder: str, model: str | None) -> dict[str, float]:
    """Of one structure, with a model, of H0 (None), or of the first step of self-consistency (RESPONSE)."""
    torch.set_num_threads(1)
    calculation = read(folder)
    truth, overlap = calculation.require_hamiltonian(), calculation.require_overlap()
    some = loaded(os.environ["ANY_MODEL"] if model in (None, RESPONSE) else model)
    assert some.reference is not None
    if model is None:
        found = some.reference.initial_hamiltonian(calculation.structure).on(truth.layout)
    elif model == RESPONSE:
        problem, _ = some.reference.problem_of(calculation)
        functional = problem.functional
        density = functional.system.atomic_density + density_response(problem)[0]
        found = functional.hamiltonian_of_density(density[None], functional.initial_density_matrix()).on(truth.layout)
    else:
        found = some(calculation.structure).on(truth.layout)
    error = (found.values - truth.values)[0].abs() * MEV
    pairs = truth.layout.pairs
    site = ((pairs.i == pairs.j) & (pairs.R == 0).all(1))[truth.layout.pair]
    close = overlap.on(truth.layout).values[0].abs() > 1e-8
    (theirs, fermi), (ours, level) = levels(calculation, truth), levels(calculation, found)
    window = theirs < fermi + 5
    bands = np.abs((ours - level) - (theirs - fermi))[window].mean() * 1000
    return {
        "all": float(error.mean()),
        "on_site": float(error[site].mean()),
        "off_site": float(error[~site].mean()),
        "overlapping": float(error[close].mean()),
        "bands": float(bands),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("structures", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=DEFAULT)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    out, data = arguments.out.resolve(), arguments.out.resolve() / "data"
    build(arguments.structures, data, arguments.workers)
    parts = split(arguments.structures, data)
    print({k: len(v) for k, v in parts.items()}, flush=True)
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        share = max(1, arguments.workers // len(arguments.runs))
        jobs = {n: pool.submit(train, n, parts, out, arguments.minutes, share) for n in arguments.runs}
        seconds = {}
        for name, job in jobs.items():
            try:
                seconds[name] = job.result()
            except subprocess.CalledProcessError:
                print(f"{name}: failed; see its log in {out}", flush=True)
        models = {n: str(out / n.replace(" ", "-").replace(",", "")) for n in seconds}
        os.environ["ANY_MODEL"] = next(iter(models.values()))
        step = {RESPONSE: RESPONSE} if any(BASELINE in RUNS[n]["model"] for n in models) else {}
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [
            (n, m, kind, f)
            for n, m in {"H0": None, **step, **models}.items()
            for kind in ("seen", "never")
            for f in parts[kind]
        ]
        results = list(pool.map(figures, [f for *_, f in asked], [m for _, m, *_ in asked]))
    every: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    for (name, _, kind, folder), found in zip(asked, results, strict=True):
        every[name, kind][folder] = found
    print(f"{'':26s} {'':6s} {'all':>7s} {'on-site':>8s} {'off':>7s} {'S != 0':>7s} {'bands':>8s} {'worse':>6s}   meV")
    for (name, kind), found in every.items():
        row: dict[str, Any] = {
            k: mean(f[k] for f in found.values()) for k in ("all", "on_site", "off_site", "overlapping")
        }
        row["bands"] = median(f["bands"] for f in found.values())
        row["worse"] = sum(f["all"] > 1.1 * every["H0", kind][k]["all"] for k, f in found.items())
        if BASELINE in RUNS.get(name, {"model": {}})["model"]:
            row["worse_than_response"] = sum(f["all"] > 1.1 * every[RESPONSE, kind][k]["all"] for k, f in found.items())
        rows.append({"run": name, "compositions": kind, "structures": len(found), "seconds": seconds.get(name), **row})
        print(
            f"{name:26s} {kind:6s} {row['all']:7.3f} {row['on_site']:8.2f} {row['off_site']:7.3f} {row['overlapping']:7.2f} "
            f"{row['bands']:8.1f} {row['worse']:6d}",
            flush=True,
        )
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    file, about = (
        folder / "diverse.json",
        {"minutes": arguments.minutes, "sizes": {k: len(v) for k, v in parts.items()}},
    )
    before = json.loads(file.read_text()) if file.exists() else {}
    if {k: before.get(k) for k in about} == about:  # runs of other calls stay
        rows = [r for r in before["rows"] if r["run"] not in {x["run"] for x in rows}] + rows
    file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

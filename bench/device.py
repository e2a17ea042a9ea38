"""The CPU beside a CUDA device, in one run: self-consistency with forces, steps of the network, and the same numbers from both.

    python bench/device.py [--threads 8] [--large]

Self-consistent field (own DZP, 300 Ry): one untimed run first, which loads kernels and species; then the wall seconds of
set-up, cycle, forces and stress, and how far the numbers of both devices lie apart. Network: preset base on graphene sheets,
forward, and forward + backward, float32 weights. Prints a table, writes results/device.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import time
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from nearsight.core.basis import Basis
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup
from nearsight.models.deeph2 import PRESETS, DeepH2

RESULTS = Path(__file__).parent / "results"
SHELLS = {6: (0, 0, 1, 1, 2)}
CUTOFF, REACH = 8.0, 10.2  # Bohr


def sheet(n: int) -> Atoms:
    """n x n cells of graphene, rattled by 0.05 Angstrom."""
    a = 2.46
    flat = Atoms(
        "C2",
        positions=[[0, a / sqrt(3), 7.5], [a / 2, a / sqrt(3) / 2, 7.5]],
        cell=[[a, 0, 0], [-a / 2, a * sqrt(3) / 2, 0], [0, 0, 15]],
        pbc=True,
    ).repeat((n, n, 1))
    flat.rattle(0.05, seed=0)
    return flat


def cases(large: bool) -> dict[str, tuple[Atoms, dict]]:
    water = Atoms("OH2", positions=[[5, 5, 5], [5.757, 5, 5.587], [4.243, 5, 5.587]], cell=[10, 10, 10], pbc=True)
    nickel = bulk("Ni", "fcc", a=3.52, cubic=True)
    silicon = bulk("Si", "diamond", a=5.43, cubic=True).repeat((2, 2, 2))
    silicon.rattle(0.05, seed=0)
    found: dict[str, tuple[Atoms, dict]] = {
        "H2O": (water, {"kmesh": (1, 1, 1)}),
        "graphene": (sheet(1), {"kmesh": (12, 12, 1)}),
        "Ni fcc, two spins": (
            nickel,
            {"kmesh": (6, 6, 6), "spin": "collinear", "moments": [0.7] * 4, "smearing_ev": 0.1},
        ),
        "graphene 5x5": (sheet(5), {"kmesh": (2, 2, 1)}),
        "Si 64": (silicon, {"kmesh": (2, 2, 2)}),
    }
    if large:
        found["graphene 10x10"] = (sheet(10), {"kmesh": (1, 1, 1)})
    return found


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def self_consistency(atoms: Atoms, keys: dict, device: str) -> tuple[dict, dict]:
    """Seconds of set-up, of the cycle, of forces and stress; and energy [Ha], forces and stress (atomic units)."""
    structure = Structure.from_ase(atoms)
    settings = Settings.model_validate(
        {"xc": "pbe", "mesh_cutoff_ry": 300.0, "tolerance_ev": 1e-6, "device": device} | keys
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [clock(device)]
    setup = Setup.of(structure, settings)
    times.append(clock(device))
    state = setup.ground_state()
    times.append(clock(device))
    found = forces_and_stress(state)
    times.append(clock(device))
    spans = [b - a for a, b in itertools.pairwise(times)]
    row = dict(zip(("setup_s", "scf_s", "forces_s"), spans, strict=True)) | {"iterations": len(state.steps)}
    if device == "cuda":
        row["device_peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
    numbers = {"energy": state.total, "forces": found.forces.cpu().numpy(), "stress": found.stress.cpu().numpy()}
    return row, numbers


def least(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    work()
    times = []
    for _ in range(repeats):
        started = clock(device)
        work()
        times.append(clock(device) - started)
    return min(times)


def network(n: int, device: str) -> dict[str, float]:
    structure = Structure.from_ase(sheet(n)).to(device)
    layout = BlockLayout(Basis.of(structure.numbers, SHELLS), Pairs.within(structure, REACH))
    torch.manual_seed(0)
    model = DeepH2(SHELLS, cutoff=CUTOFF, reach=REACH, radial=8, neighbours=18.0, **PRESETS["base"]).to(device)
    started = clock(device)
    graph = model.prepare(structure, layout)
    prepare = clock(device) - started

    def forward() -> None:
        with torch.no_grad():
            model(graph)

    def both() -> None:
        model.zero_grad()
        model(graph).values.abs().mean().backward()

    return {
        "atoms": len(structure),
        "prepare_s": prepare,
        "forward_s": least(forward, device),
        "forward_backward_s": least(both, device),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--only", choices=("scf", "network"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    card = torch.cuda.get_device_name() if len(devices) == 2 else "none"
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads; {card}; torch {torch.__version__}"
    )
    rows = []
    if arguments.only != "network":
        print(
            f"{'SCF':20s} {'atoms':>5s} {'device':>6s} {'set-up':>8s} {'cycle':>8s} {'its':>4s} "
            f"{'forces':>8s} {'dE Ha':>9s} {'dF a.u.':>9s}"
        )
        first = True
        for name, (atoms, keys) in cases(arguments.large).items():
            seen: dict[str, dict] = {}
            for device in devices:
                if first:
                    self_consistency(atoms, keys, device)  # loads kernels and species
                row, seen[device] = self_consistency(atoms, keys, device)
                apart = [np.abs(seen[device][k] - seen["cpu"][k]).max() for k in ("energy", "forces", "stress")]
                row |= {"case": name, "atoms": len(atoms), "device": device}
                row |= dict(zip(("energy_apart", "forces_apart", "stress_apart"), map(float, apart), strict=True))
                rows.append(row)
                print(
                    f"{name:20s} {len(atoms):5d} {device:>6s} {row['setup_s']:8.2f} {row['scf_s']:8.2f} {row['iterations']:4d} "
                    f"{row['forces_s']:8.2f} {apart[0]:9.1e} {apart[1]:9.1e}",
                    flush=True,
                )
            first = False
    if arguments.only != "scf":
        print(f"{'network base':20s} {'atoms':>5s} {'device':>6s} {'prepare':>8s} {'forward':>8s} {'+ back':>8s}")
        for n in (3, 5, 8, *((16,) if arguments.large else ())):
            for device in devices:
                row = network(n, device) | {"case": f"graphene {n}x{n}", "device": device}
                rows.append(row)
                print(
                    f"{row['case']:20s} {row['atoms']:5.0f} {device:>6s} {row['prepare_s']:8.3f} {row['forward_s']:8.3f} "
                    f"{row['forward_backward_s']:8.3f}",
                    flush=True,
                )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.1f} GiB")
    RESULTS.mkdir(exist_ok=True)
    head = {"threads": arguments.threads, "device": card, "torch": torch.__version__, "peak_GiB": peak}
    (RESULTS / "device.json").write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How the cost grows with the number of atoms: n x n graphene, slightly distorted, one k-point, one step of the SCF by part.

    OMP_NUM_THREADS=1 python bench/scaling.py [--sizes 1 2 3 4 5 6 8]

Own DZP orbitals, PBE, 200 Ry. Times are seconds of CPU, which other work on the machine disturbs least.
Every size runs in a process of its own, whose peak memory is reported.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from variational import structure_of, systems

from nearsight.core.units import HARTREE_EV
from nearsight.dft.problem import Problem
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import functional_for, load_species
from nearsight.electrons import kpoints
from nearsight.formats.files import write_json

PARTS = ("diagonalisation", "density", "potential", "matrix")


def supercell(n: int) -> Atoms:
    atoms = systems()["graphene"][0].repeat((n, n, 1))
    atoms.rattle(0.03, seed=n)
    return atoms


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.process_time()
    result = work()
    seconds[name] = min(seconds.get(name, float("inf")), time.process_time() - start)
    return result


@torch.no_grad()
def measure(n: int, repeat: int) -> dict:
    """CPU seconds of each part (the best of `repeat`) and peak memory of this process."""
    structure = structure_of(supercell(n))
    settings = ScfSettings(kmesh=(1, 1, 1), mesh_cutoff_ry=200.0)
    seconds: dict[str, float] = {}
    species = timed(seconds, "species", lambda: load_species(structure.numbers.tolist(), settings))
    functional = timed(seconds, "functional", lambda: functional_for(structure, settings, species))
    k = kpoints.mesh((1, 1, 1))
    problem = timed(
        seconds, "factorisation", lambda: Problem.of(functional, k, settings.electrons.width_ev / HARTREE_EV)
    )
    hamiltonian = functional.initial_hamiltonian()
    for _ in range(repeat):
        _, d = timed(seconds, "diagonalisation", lambda: problem.solver.solve(hamiltonian).density_matrix)
        density = timed(seconds, "density", lambda: functional.grid.density(d))  # noqa: B023  called at once
        state = functional.state(d)
        v = timed(seconds, "potential", lambda: functional.potential(state))  # noqa: B023
        timed(seconds, "matrix", lambda: functional.grid.matrix(v))  # noqa: B023
        del density, state, v
        state = timed(seconds, "step", lambda: problem(hamiltonian))
        del state, d
    return {
        "atoms": len(structure),
        "orbitals": functional.layout.basis.size,
        "mesh": list(functional.mesh.shape),
        "seconds": seconds,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
    }


def exponent(rows: list[dict], part: str) -> float:
    """Of the power law through the times of the sizes from 18 atoms on."""
    large = [r for r in rows if r["atoms"] >= 18]
    if len(large) < 2:
        return float("nan")
    return float(np.polyfit(*np.log([[r["atoms"], r["seconds"][part]] for r in large]).T, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 8])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", type=int, help="measure this size in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.repeat)))
        return
    rows: list[dict] = []
    print(
        f"{'atoms':>5s} {'orbitals':>8s} {'set-up':>7s} "
        + " ".join(f"{p:>15s}" for p in PARTS)
        + f" {'step':>7s} {'peak MiB':>9s}   (seconds)"
    )
    for n in arguments.sizes:
        command = [sys.executable, __file__, "--one", str(n), "--repeat", str(arguments.repeat)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        s = row["seconds"]
        row["setup_seconds"] = s["functional"] + s["factorisation"]
        rows.append(row)
        print(
            f"{row['atoms']:5d} {row['orbitals']:8d} {row['setup_seconds']:7.2f} "
            + " ".join(f"{s[p]:15.3f}" for p in PARTS)
            + f" {s['step']:7.3f} {row['peak_MiB']:9.0f}",
            flush=True,
        )
        powers = {p: exponent(rows, p) for p in (*PARTS, "functional")}
        write_json(Path(__file__).parent / "results/scaling.json", {"exponents": powers, "rows": rows})
    print("seconds grow as atoms to the power of " + ", ".join(f"{p} {x:.2f}" for p, x in powers.items()))


if __name__ == "__main__":
    main()

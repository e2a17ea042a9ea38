"""Peak memory of a ground state, and of its forces and stress: n x n graphene, slightly distorted, one k-point.

    OMP_NUM_THREADS=1 python bench/memory.py [--sizes 2 4 6 8]

Own DZP orbitals, PBE, 200 Ry. Every size runs in a process of its own; figures are the high-water mark of its resident memory
in MiB: after the species, after the functional is built, after the self-consistent field, after forces and stress.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scaling import supercell
from variational import structure_of

from nearsight.core.units import HARTREE_EV
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.ground_state import ground_state
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import functional_for, load_species
from nearsight.electrons import kpoints
from nearsight.formats.files import write_json

STAGES = ("species", "functional", "scf", "forces")
ASKED = {32: {"forces": 1000.0}, 128: {"scf": 1500.0}}


def peak() -> float:
    """[MiB]"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n: int) -> dict[str, Any]:
    """Peaks and CPU seconds by stage of n x n graphene, in this process."""
    structure = structure_of(supercell(n))
    settings = ScfSettings(kmesh=(1, 1, 1), mesh_cutoff_ry=200.0)
    peaks, seconds = {}, {}
    began = time.process_time()

    def done(stage: str) -> None:
        nonlocal began
        peaks[stage], seconds[stage] = peak(), time.process_time() - began
        began = time.process_time()

    species = load_species(structure.numbers.tolist(), settings)
    done("species")
    functional = functional_for(structure, settings, species)
    done("functional")
    gs = ground_state(functional, kpoints.mesh((1, 1, 1)), settings.electrons.width_ev / HARTREE_EV)
    done("scf")
    forces_and_stress(gs)
    done("forces")
    return {"atoms": len(structure), "iterations": len(gs.steps), "peak_MiB": peaks, "cpu_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--one", type=int, help="measure this size in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    rows: list[dict[str, Any]] = []
    print(f"{'atoms':>5s} " + " ".join(f"{s:>10s}" for s in STAGES) + "   peak, MiB        seconds of CPU")
    for n in arguments.sizes:
        command = [sys.executable, __file__, "--one", str(n)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        row["asked_MiB"] = ASKED.get(row["atoms"], {})
        rows.append(row)
        print(
            f"{row['atoms']:5d} "
            + " ".join(f"{row['peak_MiB'][s]:10.0f}" for s in STAGES)
            + "             "
            + " ".join(f"{row['cpu_seconds'][s]:.1f}" for s in STAGES),
            flush=True,
        )
        atoms = [r["atoms"] for r in rows]
        slopes = {
            s: float(np.polyfit(atoms, [r["peak_MiB"][s] for r in rows], 1)[0]) if len(rows) > 1 else None
            for s in STAGES
        }
        write_json(Path(__file__).parent / "results/memory.json", {"MiB_per_atom": slopes, "rows": rows})
    print("MiB an atom: " + ", ".join(f"{s} {x:.1f}" for s, x in slopes.items() if x is not None))


if __name__ == "__main__":
    main()

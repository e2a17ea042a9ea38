"""Own orbitals against plane waves with the same pseudopotentials: total energies per atom above the plane-wave limit.

    python bench/planewave.py [--basis sz dzp tzp] [--energy-shift 0.01]

Plane-wave figures: Quantum ESPRESSO 6.7 with the same files averaged to scalar-relativistic (tests/reference/planewave.json).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from nearsight.core.structure import Structure
from nearsight.core.units import RYDBERG_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings

HERE = Path(__file__).parent
CASES = json.loads((HERE.parent / "tests/reference/planewave.json").read_text())


def structure_of(case: dict) -> Structure:
    return Structure(
        torch.tensor(case["cell_bohr"], dtype=torch.float64),
        torch.tensor(case["positions_bohr"], dtype=torch.float64),
        torch.tensor(case["numbers"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--basis", nargs="+", default=["dzp", "tzp"])
    parser.add_argument("--energy-shift", type=float, default=0.01)
    parser.add_argument("--mesh-cutoff", type=float, default=300.0)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'system':14s} {'basis':5s} {'energy (Ry)':>15s} {'plane waves':>15s} {'above, mHa/atom':>16s} {'seconds':>8s}"
    )
    for name in arguments.cases:
        case = CASES[name]
        for basis in arguments.basis:
            settings = ScfSettings(
                xc=case["xc"],
                kmesh=tuple(case["kmesh"]),
                basis=basis,
                smearing_ev=case["smearing_ry"] * RYDBERG_EV,
                energy_shift_ry=arguments.energy_shift,
                mesh_cutoff_ry=arguments.mesh_cutoff,
            )
            start = time.perf_counter()
            result = run_scf(structure_of(case), settings)
            energy = 2 * (result.free if case["free_energy"] else result.total)
            above = (energy - case["energy_ry"]) / 2 / len(case["numbers"]) * 1000
            seconds = time.perf_counter() - start
            rows.append(
                {
                    "case": name,
                    "basis": basis,
                    "energy_ry": energy,
                    "planewave_ry": case["energy_ry"],
                    "above_mha_per_atom": above,
                    "converged": result.converged,
                    "seconds": seconds,
                }
            )
            print(
                f"{name:14s} {basis:5s} {energy:15.6f} {case['energy_ry']:15.6f} {above:16.2f} {seconds:8.1f}",
                flush=True,
            )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/planewave.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Cost of one step of the variational problem: the energy of a Hamiltonian and its derivative in that Hamiltonian.

    OMP_NUM_THREADS=1 python bench/step_cost.py

H2O in a 10 Angstrom box and graphene with 12x12 k-points, own DZP orbitals, PBE, 300 Ry; medians, set-up not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from variational import structure_of, systems

from nearsight.core.units import HARTREE_EV
from nearsight.dft.problem import Problem
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import chosen_kmesh, functional_for
from nearsight.electrons import kpoints
from nearsight.formats.files import write_json

ASKED_SECONDS = {"H2O": 0.15, "graphene": 0.25}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'system':10s} {'energy s':>9s} {'derivative s':>12s} {'together':>9s} {'of CPU':>7s} {'asked':>6s}"
        f"   threads: {torch.get_num_threads()}"
    )
    for name, asked in ASKED_SECONDS.items():
        atoms, choices = systems()[name]
        structure, settings = structure_of(atoms), ScfSettings(mesh_cutoff_ry=300.0, **choices)
        functional = functional_for(structure, settings)
        k = kpoints.mesh(chosen_kmesh(structure, settings))
        with torch.no_grad():
            problem = Problem.of(functional, k, settings.electrons.width_ev / HARTREE_EV)
            start = functional.initial_hamiltonian()
            energy, derivative, cpu = [], [], []
            for _ in range(arguments.repeat + 1):
                began, began_cpu = time.perf_counter(), time.process_time()
                state = problem(start)
                middle = time.perf_counter()
                problem.gradient(state)
                energy.append(middle - began)
                derivative.append(time.perf_counter() - middle)
                cpu.append(time.process_time() - began_cpu)
        both = statistics.median(e + d for e, d in zip(energy[1:], derivative[1:], strict=True))
        rows.append(
            {
                "system": name,
                "energy_seconds": statistics.median(energy[1:]),
                "derivative_seconds": statistics.median(derivative[1:]),
                "step_seconds": both,
                "step_cpu_seconds": statistics.median(cpu[1:]),
                "fastest_step_seconds": min(e + d for e, d in zip(energy[1:], derivative[1:], strict=True)),
                "asked_seconds": asked,
                "threads": torch.get_num_threads(),
                "k_points": len(k),
                "mesh": list(functional.mesh.shape),
            }
        )
        r = rows[-1]
        print(
            f"{name:10s} {r['energy_seconds']:9.3f} {r['derivative_seconds']:12.3f} {both:9.3f}"
            f" {r['step_cpu_seconds']:7.3f} {asked:6.2f}",
            flush=True,
        )
    write_json(Path(__file__).parent / "results/step_cost.json", rows)


if __name__ == "__main__":
    main()

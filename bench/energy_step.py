"""Cost of a step of energy training without the network against an iteration of self-consistency.

    python bench/energy_step.py [--repeat 15] [--only H2O]

Step: a call of `EnergyLoss` that evaluates (reuse 1): density matrix, functional, gradient.  Iteration: the evaluation and
what the mixer makes of it, with the dielectric preconditioner (default) and without (plain Pulay); the history is full.  The
three are interleaved, each from the same Hamiltonian; medians, set-up not counted. Each system and number of threads is a
process of its own, whose peak memory is told before (functional and screening) and after.  At most 1.3 was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from variational import structure_of, systems

from nearsight.core.blocks import BlockMatrix
from nearsight.core.units import HARTREE_EV
from nearsight.dft.dielectric import Dielectric, Screening
from nearsight.dft.mixing import Pulay, PulayState
from nearsight.dft.problem import Problem
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import load_species
from nearsight.formats.files import write_json
from nearsight.learn.energy import EnergyLoss, ProblemCache

HERE = Path(__file__).parent
ASKED = 1.3
NAMES = ("H2O", "graphene", "Na (bcc)")
PARTS = ("energy_step", "scf_iteration", "plain_iteration")


def plain_iteration(problem: Problem, hamiltonian: BlockMatrix, mixer: PulayState) -> None:
    state = problem(hamiltonian)
    mixer.next(hamiltonian.values, state.difference)


def scf_iteration(problem: Problem, hamiltonian: BlockMatrix, mixer: PulayState, screening: Screening) -> None:
    state = problem(hamiltonian)
    mixer.next(hamiltonian.values, state.difference, partial(screening, problem, state))


def some_way(problem: Problem, mixer: PulayState, steps: int) -> BlockMatrix:
    """The Hamiltonian after a few plain iterations from superposed atoms, the mixer's history filled on the way."""
    h = problem.kpoints.symmetric(problem.functional.initial_hamiltonian())
    for _ in range(steps):
        h = h.with_values(mixer.next(h.values, problem(h).difference))
    return h


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def measure(name: str, repeat: int) -> dict[str, Any]:
    """One system on the threads of this process."""
    atoms, choices = systems()[name]
    structure, settings = structure_of(atoms), ScfSettings(mesh_cutoff_ry=300.0, **choices)
    problems = ProblemCache(settings, load_species(structure.numbers.tolist(), settings))
    problem, screening = problems(name, structure), problems.screening(name, structure)
    loss = EnergyLoss(problems, residual_weight=1.0, reuse=1)
    plain = PulayState(Pulay())
    h = some_way(problem, plain, plain.settings.history + 1)
    screened = PulayState(Pulay(weight=1.0, dielectric=Dielectric()), list(plain.inputs), list(plain.residuals))

    def history(mixer: PulayState) -> PulayState:
        return replace(mixer, inputs=list(mixer.inputs), residuals=list(mixer.residuals))

    calls = (
        lambda: loss(name, structure, h.values),
        lambda: scf_iteration(problem, h, history(screened), screening),
        lambda: plain_iteration(problem, h, history(plain)),
    )
    before = peak_mib()
    memory, rows = [], []
    for call in calls:  # the first of each is not counted
        call()
        memory.append(peak_mib())
    for n in range(repeat):
        order = [(n + m) % 3 for m in range(3)]
        found = {m: seconds(calls[m]) for m in order}
        rows.append([found[m] for m in range(3)])
    times = {f"{part}_seconds": statistics.median(r[m] for r in rows) for m, part in enumerate(PARTS)}
    return {
        "system": name,
        "threads": torch.get_num_threads(),
        **times,
        "to_scf_iteration": statistics.median(r[0] / r[1] for r in rows),
        "to_plain_iteration": statistics.median(r[0] / r[2] for r in rows),
        "asked": ASKED,
        "peak_mib_before": before,
        "peak_mib_energy_step": memory[0],
        "peak_mib": memory[-1],
        "repeat": repeat,
        "k_points": len(problem.kpoints),
        "mesh": list(problem.functional.mesh.shape),
        "kT_eV": problem.kT * HARTREE_EV,
    }


def apart(name: str, threads: int, repeat: int) -> dict[str, Any]:
    """`measure` in a process with so many threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--only", name, "--repeat", str(repeat), "--here"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--here", action="store_true", help="in this process; print JSON")
    asked = parser.parse_args()
    if asked.here:
        print(json.dumps(measure(asked.only, asked.repeat)))
        return
    print(
        f"{'system':10s} {'threads':>7s} {'energy step s':>13s} {'SCF s':>7s} {'plain s':>7s} {'to SCF':>6s}"
        f" {'to plain':>8s} {'asked':>5s} {'peak MiB':>8s}"
    )
    rows = []
    for threads in (1, 2):
        for name in NAMES if asked.only is None else (asked.only,):
            r = apart(name, threads, asked.repeat)
            rows.append(r)
            print(
                f"{name:10s} {threads:7d} {r['energy_step_seconds']:13.4f} {r['scf_iteration_seconds']:7.4f}"
                f" {r['plain_iteration_seconds']:7.4f} {r['to_scf_iteration']:6.2f} {r['to_plain_iteration']:8.2f}"
                f" {ASKED:5.1f} {r['peak_mib']:8.0f}",
                flush=True,
            )
    if asked.only is None:
        write_json(HERE / "results/energy_step.json", rows)


if __name__ == "__main__":
    main()

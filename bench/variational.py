"""Direct minimisation against mixing for the four systems of the AI2DFT paper: H2O, graphene, a MoS2 sheet and bcc sodium.

    python bench/variational.py

Own orbitals (DZP), PBE. The energies must agree to 1e-6 eV. The picture is docs/images/variational.png.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk, mx2

from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import load_species
from nearsight.dft.trace import Trace
from nearsight.formats.files import write_json
from nearsight.report.plot import plot_trace

HERE = Path(__file__).parent


def systems() -> dict[str, tuple[Atoms, dict]]:
    """Structures and their settings; 300 Ry if nothing is said."""
    a = 2.46
    graphene = Atoms(
        "C2",
        positions=[[0, a / 3**0.5, 7.5], [a / 2, a / 3**0.5 / 2, 7.5]],
        cell=[[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 15]],
        pbc=True,
    )
    water = Atoms("OH2", positions=[[5, 5, 5], [5.757, 5, 5.587], [4.243, 5, 5.587]], cell=[10, 10, 10], pbc=True)
    sheet = mx2("MoS2", a=3.19, thickness=3.13, vacuum=7.5)
    sheet.pbc = True
    return {
        "H2O": (water, {"kmesh": (1, 1, 1)}),
        "graphene": (graphene, {"kmesh": (12, 12, 1)}),
        "MoS2": (sheet, {"kmesh": (6, 6, 1)}),
        "Na (bcc)": (bulk("Na", "bcc", a=4.23), {"kmesh": (10, 10, 10), "smearing_ev": 0.1}),
    }


def structure_of(atoms: Atoms) -> Structure:
    cell, positions = (torch.tensor(x / BOHR_ANG, dtype=torch.float64) for x in (atoms.cell.array, atoms.positions))
    return Structure(cell, positions, torch.tensor(atoms.numbers))


def measure(structure: Structure, settings: ScfSettings, method: str) -> dict:
    """Energies [eV], steps and seconds of one run, and its trace."""
    settings = settings.model_copy(update={"method": method})
    species = load_species(structure.numbers.tolist(), settings)
    trace = Trace()
    trials = 0

    def observe(state: object) -> None:
        nonlocal trials
        trials += 1
        trace.observe(state)  # type: ignore[arg-type]

    start = time.perf_counter()
    state = run_scf(structure, settings, progress=trace.step, species=species, observe=observe)
    return {
        "method": method,
        "converged": state.converged,
        "total_eV": state.total * HARTREE_EV,
        "free_eV": state.free * HARTREE_EV,
        "steps": len(state.steps),
        "evaluations": trials,
        "seconds": time.perf_counter() - start,
        "trace": trace.steps(state),
    }


def main() -> None:
    rows, drawn = [], []
    print(
        f"{'system':10s} {'free energy (eV)':>17s} {'difference':>11s} {'SCF':>4s} {'s':>6s}   {'steps':>5s}"
        f" {'trials':>6s} {'s':>6s} {'to 1 micro-eV':>13s}"
    )
    for name, (atoms, choices) in systems().items():
        # a tight end, so that the exponential is seen; both methods stop at the same |F - H|
        settings = ScfSettings(tolerance_ev=1e-6, max_iterations=200, **choices)
        structure = structure_of(atoms)
        mixed = measure(structure, settings, "scf")
        minimised = measure(structure, settings, "variational")
        difference = minimised["free_eV"] - mixed["free_eV"]
        end = minimised["free_eV"]
        within = next(s.iteration for s in minimised["trace"] if s.free_eV - end < 1e-6)
        drawn.append((name, minimised["trace"]))
        for run in (mixed, minimised):
            run["trace"] = [asdict(s) for s in run["trace"]]
        rows.append(
            {
                "system": name,
                "difference_eV": difference,
                "steps_to_micro_eV": within,
                "scf": mixed,
                "variational": minimised,
            }
        )
        print(
            f"{name:10s} {end:17.6f} {difference:11.1e} {mixed['steps']:4d} {mixed['seconds']:6.1f}"
            f"   {minimised['steps']:5d} {minimised['evaluations']:6d} {minimised['seconds']:6.1f} {within:13d}",
            flush=True,
        )
        write_json(HERE / "results/variational.json", rows)
    plot_trace(drawn, HERE.parent / "docs/images/variational.png")
    worst = max(abs(r["difference_eV"]) for r in rows)
    print(f"largest difference {worst:.1e} eV: {'within' if worst <= 1e-6 else 'NOT within'} 1e-6 eV")


if __name__ == "__main__":
    main()

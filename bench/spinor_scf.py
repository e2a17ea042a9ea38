"""Spinors, self-consistently: our Hamiltonian, energy, levels, moments and forces against SIESTA's with the same orbitals.

    python bench/spinor_scf.py ../shared/reference/siesta [CASE ...] [--cost]

A case is a calculation folder with reference.json, siesta.EIG, siesta.KP and species/. --cost: also the time of an iteration
without spin, on the same mesh and k-points.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from spinors import printed_levels

from nearsight import read
from nearsight.core.calculation import Calculation
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.ground_state import GroundState
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup
from nearsight.electrons.eigen import eigenvalues

SPINS = {"non-collinear": "non-collinear", "spin-orbit": "spinor"}


def starting_moments(folder: Path, atoms: int) -> list[list[float]] | None:
    """Of the input's block DM.InitSpin: atom, size, theta and phi in degrees; None without one."""
    text = next(folder.glob("*.fdf")).read_text()
    if "%block DM.InitSpin" not in text:
        return None
    found = [[0.0, 0.0, 0.0] for _ in range(atoms)]
    for line in text.split("%block DM.InitSpin")[1].split("%endblock")[0].strip().splitlines():
        atom, size, theta, phi = (float(word) for word in line.split())
        t, p = torch.deg2rad(torch.tensor([theta, phi], dtype=torch.float64))
        direction = torch.stack([t.sin() * p.cos(), t.sin() * p.sin(), t.cos()])
        found[int(atom) - 1] = (size * direction).tolist()
    return found


def settings_of(folder: Path, about: dict, atoms: int, spin: str) -> Settings:
    """What SIESTA was run with."""
    spinors = spin in SPINS.values()
    return Settings(
        species=folder / "species",
        xc=about["xc"],
        mesh=about["mesh"],
        kmesh=about["kmesh"],
        smearing_ev=about["kT_eV"],
        spin=spin,
        spin_orbit="file" if spinors and about["spin"] == "spin-orbit" else "none",
        moments=starting_moments(folder, atoms) if spinors else None,
        tolerance_ev=1e-6,
        max_iterations=300,
    )


def solved(c: Calculation, settings: Settings) -> tuple[GroundState, float]:
    """A ground state, and the seconds of an iteration."""
    setup = Setup.of(c.structure, settings)
    began = time.perf_counter()
    state = setup.ground_state()
    return state, (time.perf_counter() - began) / len(state.steps)


def row(folder: Path, cost: bool) -> dict[str, object]:
    """What is compared of one case."""
    about, c = json.loads((folder / "reference.json").read_text()), read(folder)
    assert c.hamiltonian is not None
    began = time.perf_counter()
    state, seconds = solved(c, settings_of(folder, about, len(c.structure), SPINS[about["spin"]]))
    wall = time.perf_counter() - began
    theirs = c.hamiltonian.on(state.functional.layout)
    there = (theirs.values != 0).any(0)
    apart = (state.hamiltonian - theirs).values[:, there].abs() * HARTREE_EV * 1e3
    k, printed = printed_levels(folder, c.structure.reciprocal)
    ours = eigenvalues(state.hamiltonian, state.functional.overlap, k)[0] * HARTREE_EV
    low = printed < printed.min() + 60
    forces = forces_and_stress(state).forces * HARTREE_EV / BOHR_ANG
    occupied = round(about["electrons"])
    near = printed < printed[:, :occupied].max() + 5
    found: dict[str, object] = {
        "case": folder.name,
        "converged": state.converged,
        "iterations": len(state.steps),
        "k_points": len(state.kpoints),
        "hamiltonian_mean_meV": float(apart.mean()),
        "hamiltonian_max_meV": float(apart.max()),
        "energy_meV_per_atom": (state.total * HARTREE_EV - about["energy_eV"]["Etot"]) / len(c.structure) * 1e3,
        "levels_max_meV": float((ours - printed)[low].abs().max()) * 1e3,
        "levels_near_gap_max_meV": float((ours - printed)[near].abs().max()) * 1e3,
        "moments_max_mu_B": float((state.moments - torch.tensor(about["moments_muB"])).abs().max()),
        "forces_max_meV_per_Ang": float((forces - torch.tensor(about["forces_eV_per_Ang"])).abs().max()) * 1e3,
        "wall_s": wall,
        "iteration_s": seconds,
    }
    if cost:
        _, plain = solved(c, settings_of(folder, about, len(c.structure), "none"))
        found["times_spinless"] = seconds / plain
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", type=Path)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(__file__).parent / "results" / "spinor_scf.json"
    out.parent.mkdir(exist_ok=True)
    rows = []
    print(
        f"{'case':24s} {'steps':>5s} {'k':>4s} {'H mean meV':>10s} {'max':>8s} {'E meV/at':>9s} {'levels':>8s} "
        f"{'m mu_B':>8s} {'F meV/A':>8s} {'s':>7s} {'x none':>6s}"
    )
    for folder in sorted(arguments.reference.iterdir()):
        path = folder / "reference.json"
        if not path.exists() or json.loads(path.read_text()).get("spin") not in SPINS:
            continue
        if arguments.cases and folder.name not in arguments.cases:
            continue
        rows.append(r := row(folder, arguments.cost))
        print(
            f"{r['case']:24s} {r['iterations']:5d} {r['k_points']:4d} {r['hamiltonian_mean_meV']:10.5f} "
            f"{r['hamiltonian_max_meV']:8.4f} {r['energy_meV_per_atom']:9.4f} {r['levels_near_gap_max_meV']:8.4f} "
            f"{r['moments_max_mu_B']:8.5f} {r['forces_max_meV_per_Ang']:8.4f} {r['wall_s']:7.1f} "
            f"{r.get('times_spinless', float('nan')):6.2f}{'' if r['converged'] else '  NOT converged'}",
            flush=True,
        )
        out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

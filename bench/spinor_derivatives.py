"""Forces, stress and torques of spinor ground states against finite differences of whole runs.

    python bench/spinor_derivatives.py [--only CASE ...]

Own SZ orbitals of the installed PBE pseudopotentials, which are fully relativistic; cycles to 1e-7 eV. Central differences of
the free energy: atoms moved by 0.01 Bohr along directions at random, cells strained by 0.2 %, held directions turned by 0.02
radians.

h3      a triangle of H without symmetry, moments that turn, none held
h3-held the same with moments held in directions at random, sizes free: forces at held directions, torques -dE/dtheta
te2     cells of two Te atoms with spin-orbit coupling, no moments
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from ase import Atoms
from torch import Tensor

from nearsight.core.species import Species
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_BOHR3_GPA, HARTREE_EV
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.ground_state import GroundState
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup, load_species, resolved

FORCE = HARTREE_EV / BOHR_ANG
MOVE, STRAIN, TURN = 0.01, 0.002, 0.02
OPEN = {"basis": "sz", "tolerance_ev": 1e-7, "smearing_ev": 0.1, "kmesh": (1, 1, 1)}


def h3() -> Atoms:
    place = [[2.9, 3.9, 2.6], [2.1, 2.35, 2.4], [3.9, 2.4, 2.5]]
    return Atoms("H3", place, cell=[6.0, 6.2, 5.0], pbc=True)


CASES: dict[str, tuple[Callable[[], Atoms], dict[str, object]]] = {
    "h3": (
        h3,
        {
            **OPEN,
            "mesh_cutoff_ry": 120,
            "moments": ((0.1, 0.8, 0), (-0.7, -0.4, 0.1), (0.7, -0.4, 0)),
            "smearing_ev": 0.025,
        },
    ),
    "h3-held": (
        h3,
        {
            **OPEN,
            "mesh_cutoff_ry": 120,
            "moments": ((0.1, 0.6, 0.3), (-0.5, 0.2, 0.1), (0.2, -0.4, 0.5)),
            "smearing_ev": 0.025,
            "constrain": "direction",
        },
    ),
    "te2": (
        lambda: Atoms(
            "Te2", [[0.1, 0, 0], [1.9, 1.7, 1.8]], cell=[[3.9, 0, 0], [0.2, 3.7, 0], [0, 0.3, 3.8]], pbc=True
        ),
        {**OPEN, "mesh_cutoff_ry": 100, "kmesh": (2, 2, 2), "spin_orbit": True, "spin": "spinor"},
    ),
}


def solved(s: Structure, settings: Settings, species: dict[int, Species]) -> GroundState:
    gs = Setup.of(s, settings, species).ground_state()
    assert gs.converged, gs.why_not()
    return gs


def turned(settings: Settings, atom: int, axis: Tensor, angle: float) -> Settings:
    """The settings with the moment of one atom turned about an axis."""
    moments = torch.tensor(settings.electrons.moments_mu_b, dtype=torch.float64)
    m, angle_ = moments[atom], torch.tensor(angle, dtype=torch.float64)
    along = axis * (axis @ m)
    moments[atom] = along + (m - along) * angle_.cos() + torch.linalg.cross(axis, m) * angle_.sin()
    return settings.model_copy(update={"electrons": {"moments_mu_b": moments.tolist()}})


def row(name: str) -> dict[str, object]:
    """Largest deviations of one case."""
    make, keys = CASES[name]
    s = Structure.from_ase(make())
    settings = resolved(s, Settings(**{"spin": "non-collinear", **keys}))
    species = load_species(s.numbers.tolist(), settings)
    began = time.process_time()
    gs = solved(s, settings, species)
    found = forces_and_stress(gs)
    g = torch.Generator().manual_seed(0)
    f_errors, s_errors, t_errors, torques = [], [], [], []
    for _ in range(2):
        move = torch.randn(len(s), 3, generator=g, dtype=torch.float64)
        move = move / move.norm()
        up, down = (solved(replace(s, positions=s.positions + x * MOVE * move), settings, species) for x in (1, -1))
        f_errors.append(abs((up.free - down.free) / (2 * MOVE) + float((found.forces * move).sum())) * FORCE * 1e3)
    strain = torch.randn(3, 3, generator=g, dtype=torch.float64)
    strain = (strain + strain.T) / (strain + strain.T).norm()
    if name != "te2":  # the mesh moves with the cell, boxes of vacuum are strained with it
        strain = 0.5 * strain
    eye = torch.eye(3, dtype=torch.float64)
    up, down = (
        solved(
            replace(s, cell=s.cell @ (eye + x * STRAIN * strain), positions=s.positions @ (eye + x * STRAIN * strain)),
            settings,
            species,
        )
        for x in (1, -1)
    )
    numeric = (up.free - down.free) / (2 * STRAIN) / float(s.volume)
    s_errors.append(abs(numeric - float((found.stress * strain).sum())) * HARTREE_BOHR3_GPA)
    if gs.fields is not None:
        for atom in range(len(s)):
            axis = torch.randn(3, generator=g, dtype=torch.float64)
            axis = axis / axis.norm()
            up, down = (solved(s, turned(settings, atom, axis, x * TURN), species) for x in (1, -1))
            exact = -float(axis @ torch.linalg.cross(gs.moments[atom], gs.fields[atom])) * HARTREE_EV
            t_errors.append(abs((up.free - down.free) / (2 * TURN) * HARTREE_EV - exact))
            torques.append(abs(exact))
    return {
        "case": name,
        "iterations": len(gs.steps),
        "forces_meV_per_Ang": max(f_errors),
        "stress_GPa": max(s_errors),
        "torques_eV_per_rad": max(t_errors) if t_errors else None,
        "largest_torque_eV_per_rad": max(torques) if torques else None,
        "largest_moment_mu_B": float(gs.moments.norm(dim=1).max()),
        "cpu_s": time.process_time() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    place = Path(__file__).parent / "results" / "spinor_derivatives.json"
    for name in arguments.only:
        figures = row(name)
        known = {r["case"]: r for r in json.loads(place.read_text())} if place.exists() else {}
        known[name] = figures
        place.write_text(json.dumps(list(known.values()), indent=1) + "\n")
        print({k: v for k, v in figures.items() if v is not None}, flush=True)


if __name__ == "__main__":
    main()

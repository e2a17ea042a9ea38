"""Forces and stress against finite differences, the egg box, both at 300 Ry, and forces against SIESTA's.

    python bench/derivatives.py [--reference ../shared/reference] [--only egg-box]

Own DZP orbitals. Forces: central differences of the free energy, 0.01 Bohr; stress: 0.2 % strain. The egg box: largest minus
smallest energy an atom over rigid shifts of 0, 1/5, ... 4/5 of a step of the mesh along each axis, along all three, and askew.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_BOHR3_GPA, HARTREE_EV
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import load_species
from nearsight.formats.registry import read_structure
from nearsight.integrals.mesh import mesh_shape

HERE = Path(__file__).parent
FORCE = HARTREE_EV / BOHR_ANG
#: in steps of the mesh along its axes
DIRECTIONS = {
    "a1": (1.0, 0.0, 0.0),
    "a2": (0.0, 1.0, 0.0),
    "a3": (0.0, 0.0, 1.0),
    "diagonal": (1.0, 1.0, 1.0),
    "askew": (0.31, -0.62, 0.45),
}
#: settings beside which the default stands
REMEDIES: dict[str, dict[str, object]] = {"one mesh for all": {"xc_refinement": 1}, "default": {}}


def structures() -> dict[str, tuple[Structure, tuple[int, int, int]]]:
    cases = json.loads((HERE.parent / "tests/reference/planewave.json").read_text())
    found = {}
    for name in ("h2o", "diamond", "graphene", "na_bcc"):
        c = cases[name]
        s = Structure(
            torch.tensor(c["cell_bohr"], dtype=torch.float64),
            torch.tensor(c["positions_bohr"], dtype=torch.float64),
            torch.tensor(c["numbers"]),
        )
        found[name] = s, (1, 1, 1) if name == "h2o" else tuple(min(4, n) for n in c["kmesh"])
    return found


def differences(name: str, s: Structure, kmesh: tuple[int, int, int]) -> dict:
    """Largest deviation of forces [meV/Angstrom] and stress [GPa] from finite differences, atom 0 moved off its place."""
    move = torch.zeros_like(s.positions)
    move[0] = torch.tensor([0.15, -0.08, 0.11])
    s = replace(s, positions=s.positions + move)
    settings = ScfSettings(kmesh=kmesh, mesh_cutoff_ry=300, tolerance_ev=1e-7, smearing_ev=0.05)
    shape = run_scf(s, settings).functional.mesh.shape
    settings = settings.model_copy(update={"mesh": shape})
    species = load_species(s.numbers.tolist(), settings)
    found = forces_and_stress(run_scf(s, settings, species=species))
    worst_force = worst_stress = 0.0
    for axis in range(3):
        free = []
        for sign in (1, -1):
            p = s.positions.clone()
            p[0, axis] += sign * 0.01
            free.append(run_scf(replace(s, positions=p), settings, species=species).free)
        numeric = -(free[0] - free[1]) / 0.02
        worst_force = max(worst_force, abs(numeric - float(found.forces[0, axis])) * FORCE * 1e3)
    for i, j in ((0, 0), (1, 2), (2, 2)):
        free = []
        for sign in (1, -1):
            d = torch.eye(3, dtype=torch.float64)
            d[i, j] += sign * 1e-3
            d[j, i] += sign * 1e-3
            free.append(run_scf(Structure(s.cell @ d, s.positions @ d, s.numbers), settings, species=species).free)
        numeric = (free[0] - free[1]) / 4e-3 / float(s.volume)
        mean = 0.5 * float(found.stress[i, j] + found.stress[j, i])
        worst_stress = max(worst_stress, abs(numeric - mean) * HARTREE_BOHR3_GPA)
    return {"case": name, "force_error_meV_per_Ang": worst_force, "stress_error_GPa": worst_stress}


def egg_box(s: Structure, kmesh: tuple[int, int, int], **remedy: object) -> dict[str, float]:
    """Largest minus smallest energy over the five places of each direction [meV an atom], at the default mesh cutoff."""
    settings = ScfSettings.model_validate({"kmesh": kmesh, "tolerance_ev": 1e-6, **remedy})
    species = load_species(s.numbers.tolist(), settings)

    def energy(move: torch.Tensor) -> float:
        result = run_scf(replace(s, positions=s.positions + move), settings, species=species)
        return result.total * HARTREE_EV * 1e3 / len(s)

    steps = s.cell / s.cell.new_tensor(mesh_shape(s.cell, settings.mesh.cutoff_ry))[:, None]
    still = energy(torch.zeros_like(steps[0]))
    found = {}
    for name, direction in DIRECTIONS.items():
        step = s.cell.new_tensor(direction) @ steps
        energies = [still, *(energy(part * step) for part in (0.2, 0.4, 0.6, 0.8))]
        found[name] = max(energies) - min(energies)
    return found


def against_siesta(reference: Path) -> list[dict]:
    rows = []
    for name in ("h2o/0000", "h2o/0007", "graphene3x3/0003"):
        folder = reference / "datasets" / name
        told = json.loads((folder / "reference.json").read_text())
        s = read_structure(folder)
        settings = ScfSettings(
            xc=told["xc"],
            kmesh=told["kmesh"],
            mesh=told["mesh"],
            smearing_ev=told["kT_eV"],
            species=folder.parent / "species",
        )
        found = forces_and_stress(run_scf(s, settings)).forces * FORCE
        theirs = torch.tensor(told["forces_eV_per_Ang"], dtype=torch.float64)
        rows.append(
            {
                "case": name,
                "largest_force_eV_per_Ang": float(theirs.abs().max()),
                "difference_meV_per_Ang": float((found - theirs).abs().max()) * 1e3,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--only", choices=["egg-box"])
    arguments = parser.parse_args()
    report: dict[str, list] = {"differences": [], "egg_box": [], "siesta": []}
    if arguments.only is None:
        print(f"{'at 300 Ry':12s} {'forces meV/A':>13s} {'stress GPa':>11s}")
        for name, (s, kmesh) in structures().items():
            row = differences(name, s, kmesh)
            report["differences"].append(row)
            print(f"{name:12s} {row['force_error_meV_per_Ang']:13.4f} {row['stress_error_GPa']:11.5f}", flush=True)
    print(f"\n{'egg box, meV an atom':30s}" + "".join(f"{d:>10s}" for d in DIRECTIONS))
    for name, (s, kmesh) in structures().items():
        for remedy, keys in REMEDIES.items():
            found = egg_box(s, kmesh, **keys)
            report["egg_box"].append({"case": name, "mesh": remedy, "meV_per_atom": found})
            print(f"{name + ', ' + remedy:30s}" + "".join(f"{found[d]:10.4f}" for d in DIRECTIONS), flush=True)
    if arguments.reference:
        report["siesta"] = against_siesta(arguments.reference)
        for row in report["siesta"]:
            print(
                f"SIESTA {row['case']:18s} largest force {row['largest_force_eV_per_Ang']:.2f} eV/A, "
                f"largest difference {row['difference_meV_per_Ang']:.3f} meV/A"
            )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/derivatives.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

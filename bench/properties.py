"""Gaps, masses, velocities and a dipole, beside SIESTA's figures and published plane-wave ones.

    python bench/properties.py REFERENCE/reference/siesta [--cases si gaas mos2 mos2_soc graphene water]

mos2, mos2_soc and graphene: SIESTA's own matrices, so that its eigenvalues at its k-points are the figures beside.  si, gaas:
ground states of this code at the experimental lattice constants.  water: the dipole against PySCF, whose figure is made by
bench/pyscf_dipole.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import nearsight
from nearsight.core.structure import Structure
from nearsight.core.units import ATOMIC_VELOCITY_M_S, BOHR_ANG, DEBYE_AU, HARTREE_EV
from nearsight.properties.eigenstates import levels

HERE = Path(__file__).parent
OLD_RY = 13.60580  # 1 Ry in eV of SIESTA before 5.0

PUBLISHED = {
    "si": "PBE, PAW, 5.430 A: gap (to X) 0.71, at Gamma 2.57 (Paier et al., J. Chem. Phys. 124, 154709 (2006)); "
    "measured masses 0.916, 0.190",
    "gaas": "PBE, PAW, 5.648 A: gap 0.56 without spin-orbit coupling (Paier et al.)",
    "mos2": "PBE: 0.43-0.46 and 0.54 at K (Kormanyos et al., 2D Mater. 2, 022001 (2015))",
    "mos2_soc": "the same; valence splitting 148 meV, conduction 3 meV",
    "graphene": "LDA 0.85e6 m/s (Trevisanutto et al., Phys. Rev. Lett. 101, 226405 (2008))",
    "water": "PBE, all electrons, aug-cc-pVQZ, PySCF 2.14.0: 1.7943 Debye (bench/pyscf_dipole.py)",
}


def zincblende(a_ang: float, numbers: tuple[int, int]) -> Structure:
    a = a_ang / BOHR_ANG
    cell = [[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]
    return Structure(
        torch.tensor(cell, dtype=torch.float64),
        torch.tensor([[0, 0, 0], [a / 4] * 3], dtype=torch.float64),
        torch.tensor(numbers),
    )


def water(box_ang: float = 10.0) -> Structure:
    """0.957 angstrom and 104.5 degrees."""
    half = np.radians(104.5) / 2
    x, z = 0.957 * np.sin(half), 0.957 * np.cos(half)
    positions = np.array([[0, 0, 0], [x, 0, z], [-x, 0, z]]) + box_ang / 2
    return Structure(
        torch.eye(3, dtype=torch.float64) * box_ang / BOHR_ANG,
        torch.as_tensor(positions / BOHR_ANG),
        torch.tensor([8, 1, 1]),
    )


def siesta_deviation(folder: Path) -> float:
    """Largest difference between our levels and those of siesta.EIG at the points of siesta.KP [meV]."""
    c = nearsight.read(folder)
    rows = (folder / "siesta.KP").read_text().split("\n")
    k_cart = np.array([[float(x) for x in row.split()[1:4]] for row in rows[1:] if row.strip()])
    size = torch.tensor(json.loads((folder / "reference.json").read_text())["kmesh"])
    k = torch.as_tensor(k_cart) @ c.structure.cell.T / (2 * np.pi)
    k = (k * size).round() / size  # the file has six decimals
    words = (folder / "siesta.EIG").read_text().split()
    points = int(words[3])
    found = levels(c.hamiltonian, c.overlap, k).permute(1, 0, 2).flatten(1) * HARTREE_EV
    wanted = np.array(words[4:], float).reshape(points, -1)[:, 1:] * (HARTREE_EV / 2 / OLD_RY)
    return float(np.abs(found.numpy() - wanted).max() * 1000)


def row(name: str, found, seconds: float, deviation: float | None) -> dict:
    """What one line of the table says."""
    v, c = found.valence, found.conduction
    along = [f"{d.towards} " + "/".join(f"{m:.3f}" for m in d.masses) for d in v.directions if d.masses]
    heavy = [f"{m:.3f}" for m in v.masses] or along
    text = {
        "gap": "metal" if found.metal else f"{found.gap * HARTREE_EV:.4f}",
        "direct": f"{found.direct * HARTREE_EV:.4f} {found.direct_label or ''}",
        "edges": f"{v.label} -> {c.label}",
        "electron masses": " ".join(f"{m:.3f}" for m in c.masses),
        "hole masses": " ".join(heavy),
        "speed": " ".join(f"{s * ATOMIC_VELOCITY_M_S:.3e}" for s in c.cone),
    }
    print(f"\n{name}: {PUBLISHED[name]}")
    for key, value in text.items():
        if value:
            print(f"   {key:16s} {value}")
    if deviation is not None:
        print(f"   {'levels - SIESTA':16s} {deviation:.3f} meV at most")
    about = {"case": name, "seconds": seconds, "siesta_levels_max_meV": deviation, "published": PUBLISHED[name]}
    return about | {"result": found.to_json()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(PUBLISHED))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.cases:
        start = time.perf_counter()
        if name == "water":
            rows.append(dipoles())
            continue
        deviation = None
        if name in ("si", "gaas"):
            structure = zincblende(*{"si": (5.430, (14, 14)), "gaas": (5.648, (31, 33))}[name])
            settings = nearsight.ScfSettings(
                xc="pbe", basis="dzp", kmesh=(6, 6, 6), mesh_cutoff_ry=200 if name == "si" else 350,
                symmetry="space-group", mixing={"dielectric": None},
            )  # fmt: skip
            calculation = nearsight.run_scf(structure, settings)
        else:
            folder = {"mos2": "mos2_pbe_dzp", "mos2_soc": "mos2_pbe_dzp_soc", "graphene": "graphene_pbe_dzp"}[name]
            calculation = nearsight.read(arguments.reference / folder)
            deviation = siesta_deviation(arguments.reference / folder)
        found = nearsight.gap(calculation)
        rows.append(row(name, found, time.perf_counter() - start, deviation))
    path = HERE / "results" / "properties.json"
    known = {r["case"]: r for r in json.loads(path.read_text())} if path.exists() else {}
    known |= {r["case"]: r for r in rows}
    path.write_text(json.dumps([known[n] for n in PUBLISHED if n in known], indent=1) + "\n")


def dipoles() -> dict:
    """Water's dipole in sets of orbitals that grow."""
    found = {}
    print(f"\nwater: {PUBLISHED['water']}")
    for basis, shift in (("dzp", 0.02), ("dzp", 0.01), ("tzp", 0.01), ("tzp", 0.001), ("tzp", 0.0001)):
        settings = nearsight.ScfSettings(
            xc="pbe", basis=basis, energy_shift_ry=shift, kmesh=(1, 1, 1), mesh_cutoff_ry=250
        )
        charges = nearsight.charges(nearsight.run_scf(water(), settings))
        debye = float((charges.dipole / DEBYE_AU).norm())
        found[f"{basis} {shift} Ry"] = debye
        oxygen = {name: float(q[0]) for name, q in charges.charges.items()}
        print(f"   {basis}, energy shift {shift} Ry: {debye:.4f} Debye; oxygen " + json.dumps(oxygen))
    return {"case": "water", "dipole_debye": found, "published": PUBLISHED["water"]}


if __name__ == "__main__":
    main()

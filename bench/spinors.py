"""Spinors: levels, electrons, Fermi level and density matrix from SIESTA's matrices, against what SIESTA itself says of them.

    python bench/spinors.py ../shared/reference/siesta [CASE ...]

A case is a calculation folder with reference.json, siesta.EIG and siesta.KP.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from nearsight import read
from nearsight.core.spin import SPINOR
from nearsight.core.units import HARTREE_EV
from nearsight.electrons import kpoints
from nearsight.electrons.eigen import eigenvalues
from nearsight.electrons.levels import Filling
from nearsight.electrons.solvers.dense import Dense

SIESTA_RYDBERG_EV = 13.60580  # SIESTA before 5.0, in whose eV siesta.EIG is


def printed_levels(folder: Path, reciprocal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fractional k [k, 3] and levels [k, n] in eV (CODATA), as SIESTA printed them."""
    words = (folder / "siesta.KP").read_text().split()
    table = np.array(words[1:], dtype=float).reshape(int(words[0]), 5)[:, 1:4]
    rows = np.array((folder / "siesta.EIG").read_text().split()[4:], dtype=float).reshape(len(table), -1)[:, 1:]
    return torch.as_tensor(table) @ torch.linalg.inv(reciprocal), torch.as_tensor(
        rows
    ) * HARTREE_EV / 2 / SIESTA_RYDBERG_EV


def row(folder: Path) -> dict[str, object]:
    """What is compared of one case."""
    about, c = json.loads((folder / "reference.json").read_text()), read(folder)
    h, s, d = c.hamiltonian, c.overlap, c.density_matrix
    assert h is not None and s is not None and d is not None
    k, printed = printed_levels(folder, c.structure.reciprocal)
    ours = eigenvalues(h, s, k)[0] * HARTREE_EV
    low = printed < printed.min() + 60  # printed to 9 digits
    mesh = kpoints.mesh(tuple(about["kmesh"]), time_reversal=False)
    electrons = round(about["electrons"])
    e = Dense().bind(s.hermitian(), mesh, Filling(electrons, about["kT_eV"] / HARTREE_EV)).solve(h.hermitian())
    levels = e.require_levels().energies * HARTREE_EV
    fermi = about["fermi_energy_eV"]
    occupied = electrons  # of a gap: one electron a level
    gap = float(levels[0, :, occupied].min() - levels[0, :, occupied - 1].max())
    inside = float(levels[0, :, occupied - 1].max()) <= fermi <= float(levels[0, :, occupied].min())
    difference = (e.density_matrix.on(d.layout) - d).values[:, (d.values != 0).any(0)]
    if about["spin"] == "non-collinear":  # SIESTA averages its density matrix over transposition
        difference = torch.cat([difference[[0, 3]].real, difference[1:3].real, difference[1:3].imag])
    return {
        "case": folder.name,
        "spin": about["spin"],
        "orbitals": s.basis.size,
        "k_points": len(k),
        "levels_max_meV": float((ours - printed)[low].abs().max()) * 1e3,
        "electrons": float(d.trace(s)),
        "gap_eV": gap,
        "fermi_difference_meV": None if gap > 0.05 else (float(e.fermi_level) * HARTREE_EV - fermi) * 1e3,
        "printed_fermi_in_the_gap": inside if gap > 0.05 else None,
        "density_matrix_max": float(difference.abs().max()),
        "moment_mu_B": (SPINOR.moment(d.values) * s.on(d.layout).values[0]).sum(1).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", type=Path)
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    rows = []
    print(f"{'case':24s} {'orbitals':>8s} {'k':>4s} {'levels meV':>10s} {'Tr[D S]':>10s} {'E_F meV':>9s} {'D max':>8s}")
    for folder in sorted(arguments.reference.iterdir()):
        path = folder / "reference.json"
        if not path.exists() or json.loads(path.read_text())["spin"] not in ("non-collinear", "spin-orbit"):
            continue
        if arguments.cases and folder.name not in arguments.cases:
            continue
        rows.append(found := row(folder))
        fermi = found["fermi_difference_meV"]
        told = (
            f"{fermi:9.4f}" if fermi is not None else f"{'in gap' if found['printed_fermi_in_the_gap'] else 'no':>9s}"
        )
        print(
            f"{found['case']:24s} {found['orbitals']:8d} {found['k_points']:4d} {found['levels_max_meV']:10.5f} "
            f"{found['electrons']:10.6f} {told} {found['density_matrix_max']:8.1e}",
            flush=True,
        )
    out = Path(__file__).parent / "results"
    out.mkdir(exist_ok=True)
    (out / "spinors.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

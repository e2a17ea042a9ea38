"""Agreement with SIESTA on its own orbitals: energies by term, H, S and eigenvalues of every reference case.

    python bench/siesta.py ../shared/reference/siesta [CASE ...]

A case is a calculation folder with reference.json, species/ and, where eigenvalues are compared, siesta.EIG and siesta.KP.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from nearsight.core.units import HARTREE_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats.registry import read

TERMS = ("Ena", "Ekin", "Enl", "DEna", "DUscf", "Exc", "Eions")
SIESTA_RYDBERG_EV = 13.60580  # SIESTA before 5.0, in whose eV siesta.EIG is


def printed_eigenvalues(folder: Path, reciprocal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fractional k [k, 3] and eigenvalues [components, k, n] in eV (CODATA), as SIESTA printed them."""
    lines = (folder / "siesta.KP").read_text().split()
    count = int(lines[0])
    table = np.array(lines[1:], dtype=float).reshape(count, 5)[:, 1:4]
    k = torch.as_tensor(table) @ torch.linalg.inv(reciprocal)
    words = (folder / "siesta.EIG").read_text().split()
    orbitals, spins = int(words[1]), int(words[2])
    rows = np.array(words[4:], dtype=float).reshape(count, spins * orbitals + 1)[:, 1:]
    levels = torch.as_tensor(rows).reshape(count, spins, orbitals).transpose(0, 1)
    return k, levels * HARTREE_EV / 2 / SIESTA_RYDBERG_EV


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", type=Path)
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    folders = [p for p in sorted(arguments.reference.iterdir()) if (p / "reference.json").exists()]
    rows = []
    head = ("case", "dE meV/at", "worst term", "meV/at", "H mae", "H max", "S max", "bands max", "its", "s")
    print("{:18s} {:>10s} {:>11s} {:>8s} {:>9s} {:>8s} {:>9s} {:>9s} {:>4s} {:>6s}   (meV)".format(*head))
    for folder in folders:
        if arguments.cases and folder.name not in arguments.cases:
            continue
        reference = json.loads((folder / "reference.json").read_text())
        if reference["spin"] not in ("none", "collinear"):
            continue  # spinors: bench/spinors.py
        saved = read(folder)
        settings = {
            "xc": reference["xc"],
            "kmesh": reference["kmesh"],
            "mesh": reference["mesh"],
            "smearing_ev": reference["kT_eV"],
            "species": folder / "species",
        }
        if reference["spin"] != "none":
            settings |= {"spin": reference["spin"], "moments": [1.0] * len(saved.structure)}
        start = time.perf_counter()
        result = run_scf(saved.structure, ScfSettings.model_validate(settings))
        seconds = time.perf_counter() - start
        atoms = len(saved.structure)
        energy = reference["energy_eV"]
        terms = {t: (result.energies[t] * HARTREE_EV - energy[t]) * 1e3 / atoms for t in TERMS}
        worst = max(terms, key=lambda t: abs(terms[t]))
        h = saved.require_hamiltonian()
        dh = (
            (result.hamiltonian.on(h.layout).values - h.values.real).abs() * HARTREE_EV * 1e3
            if h.spin.name == "none"
            else None
        )
        if dh is None:
            dh = (
                (result.hamiltonian.on(h.layout).values - h.values[: len(result.hamiltonian.values)].real).abs()
                * HARTREE_EV
                * 1e3
            )
        ds = float((result.functional.overlap.on(saved.overlap.layout).values - saved.overlap.values).abs().max())
        bands = None
        if (folder / "siesta.KP").exists():
            k, levels = printed_eigenvalues(folder, saved.structure.reciprocal)
            ours = eigenvalues(result.hamiltonian, result.functional.overlap, k) * HARTREE_EV
            low = levels < levels.min() + 60  # printed to 9 digits
            bands = float((ours - levels)[low].abs().max()) * 1e3
        total = (result.total * HARTREE_EV - energy["Etot"]) * 1e3 / atoms
        rows.append(
            {
                "case": folder.name,
                "total_meV_per_atom": total,
                "terms_meV_per_atom": terms,
                "hamiltonian_mae_meV": float(dh.mean()),
                "hamiltonian_max_meV": float(dh.max()),
                "overlap_max": ds,
                "eigenvalues_max_meV": bands,
                "iterations": len(result.steps),
                "seconds": seconds,
            }
        )
        print(
            f"{folder.name:18s} {total:10.4f} {worst:>11s} {terms[worst]:8.4f} {float(dh.mean()):9.5f} {float(dh.max()):8.4f}"
            f" {ds:9.1e} {'-' if bands is None else f'{bands:.4f}':>9s} {len(result.steps):4d} {seconds:6.1f}",
            flush=True,
        )
    out = Path(__file__).parent / "results"
    out.mkdir(exist_ok=True)
    (out / "siesta.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Collinear spin on three kinds of magnets: the O2 molecule, bcc iron, an antiferromagnetic hydrogen chain.

    python bench/magnetism.py

Iron with PBEsol (the PBE file of the installed package binds a ghost state and is refused); experiment and all-electron
calculations give 2.2 mu_B an atom. The chain (H-H 2 angstrom) has no moment in all, and a lower energy than without spin.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings


def structure(cell: list, positions: list, numbers: list) -> Structure:
    """From angstrom."""
    return Structure(
        torch.tensor(cell, dtype=torch.float64) / BOHR_ANG,
        torch.tensor(positions, dtype=torch.float64) / BOHR_ANG,
        torch.tensor(numbers),
    )


def main() -> None:
    box = [[8.0, 0, 0], [0, 8.0, 0], [0, 0, 8.0]]
    a = 2.83
    iron = [[-a / 2, a / 2, a / 2], [a / 2, -a / 2, a / 2], [a / 2, a / 2, -a / 2]]
    cases = {
        "O2, triplet": (structure(box, [[4, 4, 3.4], [4, 4, 4.6]], [8, 8]), {"moments": (1, 1)}),
        "bcc Fe": (
            structure(iron, [[0, 0, 0]], [26]),
            {"xc": "pbesol", "moments": (2.5,), "kmesh": (10, 10, 10), "mesh_cutoff_ry": 400, "smearing_ev": 0.1},
        ),
        "H chain, antiferromagnetic": (
            structure([[8, 0, 0], [0, 8, 0], [0, 0, 4]], [[4, 4, 0], [4, 4, 2]], [1, 1]),
            {"moments": (1, -1), "kmesh": (1, 1, 8)},
        ),
    }
    rows = []
    print(f"{'case':28s} {'moment':>7s} {'on atoms':>16s} {'below no spin, eV':>18s} {'steps':>6s} {'s':>6s}")
    for name, (s, words) in cases.items():
        start = time.perf_counter()
        settings = ScfSettings(**({"kmesh": (1, 1, 1), "mesh_cutoff_ry": 300} | words | {"spin": "collinear"}))
        result = run_scf(s, settings)
        plain = run_scf(s, settings.model_copy(update={"spin": "none", "moments": None}))
        populations = result.populations
        atoms = (populations[0] - populations[1]).tolist()
        gain = (plain.free - result.free) * HARTREE_EV
        seconds = time.perf_counter() - start
        rows.append(
            {
                "case": name,
                "moment": result.magnetic_moment,
                "moments": atoms,
                "below_no_spin_eV": gain,
                "converged": result.converged and plain.converged,
                "steps": len(result.steps),
                "seconds": seconds,
            }
        )
        each = " ".join(f"{m:.3f}" for m in atoms)
        print(
            f"{name:28s} {result.magnetic_moment:7.3f} {each:>16s} {gain:18.4f} {len(result.steps):6d} {seconds:6.1f}"
        )
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "magnetism.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Overlaps without a run, beside those that programs wrote.

    python bench/overlap.py REFERENCE/siesta                                  every folder there that has species/
    python bench/overlap.py RUN --species FOLDER [--orbitals C6.0-s2p2d1]     a run of any program, with its files of orbitals

The largest difference of an element of S, on the pairs of both, and seconds.  With PySCF installed also Gaussians: water and
diamond against its own integrals.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nearsight as ns
from nearsight.formats.orders import PYSCF


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("--species", type=Path)
    parser.add_argument("--orbitals", default="")
    given = parser.parse_args()
    if given.species is not None:
        print(row(given.place.name, given.place, given.species, tuple(filter(None, given.orbitals.split(",")))))
        return
    folders = sorted(p for p in given.place.iterdir() if (p / "species").is_dir())
    rows = [row(p.name, p, p / "species") for p in folders]
    rows += gaussians() if find_spec("pyscf") else []
    for r in rows:
        print(f"{r['case']:<26} {r['difference']:.1e}   {r['pairs']:>6} pairs  {r['seconds']:.2f} s")
    place = Path(__file__).parent / "results" / "overlap.json"
    place.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written to {place}")


def row(name: str, run: Path, species: Path, orbitals: tuple[str, ...] = ()) -> dict[str, Any]:
    reference = ns.read(run)
    begun = time.perf_counter()
    S = ns.overlap(reference.structure, species, orbitals=orbitals).overlap
    seconds, theirs = time.perf_counter() - begun, reference.require_overlap()
    assert S is not None
    one, two = S.on(theirs.layout) - theirs, theirs.on(S.layout) - S
    worst = max(float(x.values.abs().max()) for x in (one, two))
    return {"case": name, "difference": worst, "pairs": len(S.pairs), "seconds": seconds}


def gaussians() -> list[dict[str, Any]]:
    """S(k) against PySCF's, in its order."""
    from pyscf import gto
    from pyscf.pbc import gto as pbc

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests import cases

    found = []
    for basis in ("def2-svp", "cc-pvtz"):
        water = cases.water(60.0)
        mol = gto.M(
            atom=list(zip(water.symbols, water.positions.tolist(), strict=True)), basis=basis, unit="B", verbose=0
        )
        found.append(beside(f"water, {basis}", water, basis, torch.zeros(1, 3).double(), mol.intor("int1e_ovlp")[None]))
    diamond = cases.diamond()
    cell = pbc.Cell(a=diamond.cell.numpy(), unit="B", basis="def2-svp", precision=1e-12, verbose=0)
    cell.atom = list(zip(diamond.symbols, diamond.positions.tolist(), strict=True))
    cell.build()
    k = cell.make_kpts([2, 2, 2])
    theirs = np.array(cell.pbc_intor("int1e_ovlp", kpts=k))
    found.append(beside("diamond, def2-svp", diamond, "def2-svp", torch.as_tensor(cell.get_scaled_kpts(k)), theirs))
    return found


def beside(name: str, structure: Any, basis: str, k: torch.Tensor, theirs: np.ndarray) -> dict[str, Any]:
    begun = time.perf_counter()
    S = ns.overlap(structure, gaussian=basis).overlap
    seconds = time.perf_counter() - begun
    assert S is not None
    index, sign = PYSCF.rows(S.basis)
    ordered = torch.as_tensor(theirs)[:, index][:, :, index] * sign[:, None] * sign
    return {
        "case": name,
        "difference": float((S.at_k(k)[0] - ordered).abs().max()),
        "pairs": len(S.pairs),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()

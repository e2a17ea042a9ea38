"""What forces and stress cost beside the self-consistent field, and where a step's time goes: CPU seconds in one process.

    OMP_NUM_THREADS=1 python bench/step_parts.py [--only h2o]

Own DZP orbitals, PBE, default 300 Ry. Set-up, SCF and forces with stress of the same structure, one after another, `--repeat`
times in turn; medians. The ratio asked: forces and stress at most half of the SCF alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
from ase import Atoms
from ase.build import bulk

from nearsight.core.structure import Structure
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import Setup, load_species

HERE = Path(__file__).parent


def cases() -> dict[str, tuple[Atoms, tuple[int, int, int]]]:
    a = 2.46
    graphene = Atoms(
        "C2",
        positions=[[0, a / 3**0.5, 7.5], [a / 2, a / 3**0.5 / 2, 7.5]],
        cell=[[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 15]],
        pbc=True,
    )
    supercell = graphene.repeat((3, 3, 1))
    supercell.rattle(0.03, seed=1)
    water = Atoms("OH2", positions=[[5, 5, 5], [5.757, 5, 5.587], [4.243, 5, 5.587]], cell=[10, 10, 10], pbc=True)
    diamond = bulk("C", "diamond", 3.57)
    diamond.rattle(0.02, seed=1)
    return {
        "h2o": (water, (1, 1, 1)),
        "diamond": (diamond, (4, 4, 4)),
        "graphene": (graphene, (12, 12, 1)),
        "graphene 3x3": (supercell, (1, 1, 1)),
        "MgO": (bulk("MgO", "rocksalt", 4.26), (4, 4, 4)),
        "Al": (bulk("Al", "fcc", 4.05), (6, 6, 6)),
    }


def seconds(atoms: Atoms, kmesh: tuple[int, int, int], repeat: int) -> dict[str, float]:
    """Medians of CPU seconds: set-up (orbitals at hand), SCF, forces and stress."""
    structure = Structure.from_ase(atoms)
    settings = ScfSettings(kmesh=kmesh)
    species = load_species(structure.numbers.tolist(), settings)
    parts: dict[str, list[float]] = {"setup": [], "scf": [], "forces": []}
    for n in range(repeat + 1):
        clock = [time.process_time()]
        setup = Setup.of(structure, settings, species)
        clock.append(time.process_time())
        found = setup.ground_state()
        clock.append(time.process_time())
        forces_and_stress(found)
        clock.append(time.process_time())
        if n:  # the first one makes tables of pairs of elements
            for name, start, end in zip(parts, clock, clock[1:], strict=False):
                parts[name].append(end - start)
    return {name: median(x) for name, x in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    print(f"{torch.get_num_threads()} thread(s)\n{'':14s}{'set-up':>8s}{'SCF':>8s}{'forces':>8s}{'forces/SCF':>12s}")
    for name, (atoms, kmesh) in cases().items():
        if arguments.only and name not in arguments.only:
            continue
        row = seconds(atoms, kmesh, arguments.repeat)
        ratio = row["forces"] / row["scf"]
        rows.append({"case": name, "cpu_seconds": row, "forces_over_scf": ratio})
        print(f"{name:14s}{row['setup']:8.3f}{row['scf']:8.3f}{row['forces']:8.3f}{ratio:12.2f}", flush=True)
    if not arguments.only:
        (HERE / "results/step_parts.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What validation costs: reading a folder, a species and a model, now and in the release before files were checked.

    OMP_NUM_THREADS=1 python bench/reading.py EARLIER [--rounds N]

EARLIER: a checkout of a commit from before (git worktree add EARLIER 67f1a51). One process of each version reads the same files
in turns; told are the medians of processor time, and of the ratios of neighbouring turns. Results: bench/results/reading.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "reading.json"
STORED = ROOT / "tests" / "formats" / "data" / "version1"
CARBON = [0, 0, 1, 1, 2]
READER = """
import sys, time, json
from pathlib import Path
import nearsight
sys.stdout, told = sys.stderr, sys.stdout
if (Path(nearsight.__file__).parent / "formats").is_dir():
    from nearsight.formats.registry import read
    from nearsight.formats.ion_xml import read_ion_xml
else:
    from nearsight.io.formats import read
    from nearsight.atoms.ion_xml import read_ion_xml
from nearsight.learn.model import TrainedModel
readers = {"folder": read, "species": read_ion_xml, "model": TrainedModel.load}
for line in sys.stdin:
    kind, path, times = json.loads(line)
    begun = time.process_time()
    for _ in range(times):
        readers[kind](Path(path))
    print((time.process_time() - begun) / times, file=told, flush=True)
"""


def large_folder(folder: Path) -> None:
    """A calculation folder of 72 atoms of graphene with random hermitian matrices: three files of 5 MB."""
    from ase.build import graphene
    from ase.neighborlist import neighbor_list

    atoms = graphene(size=(6, 6, 1), vacuum=8)
    folder.mkdir()
    atoms.pbc = True
    atoms.write(folder / "POSCAR", format="vasp")
    size = sum(2 * l + 1 for l in CARBON)
    i, j, R = neighbor_list("ijS", atoms, 6.0)
    keys = [(0, 0, 0, n, n) for n in range(len(atoms))] + [(*r, a, b) for r, a, b in zip(R.tolist(), i, j, strict=True)]
    random = np.random.default_rng(0)
    for name, scale in (("overlap", 0.01), ("hamiltonian", 5.0), ("density_matrix", 0.1)):
        made: dict[tuple[int, ...], np.ndarray] = {}
        for *r, a, b in keys:
            mirror = made.get((*(-x for x in r), b, a))
            block = scale * random.normal(size=(size, size)) if mirror is None else mirror.T
            if a == b and not any(r):
                block = (block + block.T) / 2
                block = np.eye(size) + block - np.diag(np.diag(block)) if name == "overlap" else block
            made[(*r, a, b)] = block
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["atom_pairs"] = np.array(list(made), dtype=np.int64)
            file["chunk_shapes"] = np.full((len(made), 2), size)
            file["chunk_boundaries"] = np.arange(len(made) + 1) * size**2
            file["entries"] = np.concatenate([b.ravel() for b in made.values()])
    info = {"atoms_quantity": len(atoms), "orbits_quantity": size * len(atoms), "orthogonal_basis": False}
    info |= {"spinful": False, "fermi_energy_eV": -4.0, "elements_orbital_map": {"C": CARBON}}
    (folder / "info.json").write_text(json.dumps(info))


class Version:
    """A process that reads with one version of the program."""

    def __init__(self, root: Path) -> None:
        settings = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER],
            env=settings,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, kind: str, path: Path, times: int) -> float:
        """Of one reading, the mean of some."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([kind, str(path), times]), file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        large_folder(Path(place, "large"))
        shutil.copytree(STORED / "calculation", Path(place, "small"))
        cases = {
            "folder of 3 atoms": ("folder", Path(place, "small"), 10),
            "folder of 72 atoms": ("folder", Path(place, "large"), 1),
            "species": ("species", STORED / "model" / "species" / "O.ion.xml", 5),
            "model": ("model", STORED / "model", 3),
        }
        now, before = Version(ROOT), Version(arguments.earlier)
        print(f"{'':20s} {'before':>10s} {'now':>10s} {'ratio':>7s}")
        for name, case in cases.items():
            for version in (before, now):
                version.seconds(*case)  # loads what it needs
            pairs = [(before.seconds(*case), now.seconds(*case)) for _ in range(arguments.rounds)]
            old, new = (statistics.median(p[n] for p in pairs) for n in (0, 1))
            ratio = statistics.median(b / a for a, b in pairs)
            fastest = [min(p[n] for p in pairs) for n in (0, 1)]
            rows[name] = {
                "before_ms": round(1e3 * old, 2),
                "now_ms": round(1e3 * new, 2),
                "ratio": round(ratio, 3),
                "ratio_of_fastest": round(fastest[1] / fastest[0], 3),
            }
            print(
                f"{name:20s} {1e3 * old:7.2f} ms {1e3 * new:7.2f} ms {ratio:7.3f}  fastest {fastest[1] / fastest[0]:.3f}",
                flush=True,
            )
        for version in (now, before):
            version.process.stdin.close()
            version.process.wait()
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

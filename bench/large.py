"""Large structures on a small machine: prediction in tiles, the states about the Fermi level, and how exact they are.

    python bench/large.py MODEL TWISTED.extxyz ... [--processes 2] [--states 50] [--k 0 0 0] [--dense ROWS]
    python bench/large.py none PREDICTED ... --predicted [--states 50] [--k 0 0 0]

For each structure: `nearsight predict` and `nearsight levels` as a user runs them, CPU seconds of all their processes, seconds
by the clock, and the largest resident memory of one process; against dense matrices up to ROWS rows. With --predicted the
structures are calculation folders, and levels alone are computed. JSON in bench/results/large.json, where a row stands in the
place of the earlier one of that structure and k.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "large.json"


def measured(arguments: list[str]) -> dict[str, Any]:
    """Run a command of Nearsight. Raises RuntimeError, with what it said, where it fails."""
    before = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "nearsight.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = child.communicate()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    if child.returncode:
        raise RuntimeError(f"nearsight {' '.join(arguments)}: {err.strip().splitlines()[-1]}")
    return {
        "wall_s": time.perf_counter() - before,
        "cpu_s_so_far": usage.ru_utime + usage.ru_stime,
        "peak_GB_so_far": usage.ru_maxrss / 1024**2,
        "said": out.strip().splitlines(),
    }


def row(model: Path, structure: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Prediction and levels of one structure; run in a process of its own, so that usage is that of its commands alone."""
    from nearsight.formats.registry import read, read_structure

    out = structure if given.predicted else folder / structure.stem
    place = structure / "POSCAR" if given.predicted else structure
    found: dict[str, Any] = {"structure": structure.name, "atoms": len(read_structure(place)), "k": given.k}
    predict = {"cpu_s_so_far": 0.0}
    if not given.predicted:
        more = ["--processes", str(given.processes)] if given.processes > 1 else []
        predict = measured(["predict", str(model), str(structure), "-o", str(out), *more])
        found["predict"] = {
            "cpu_s": predict["cpu_s_so_far"],
            "wall_s": predict["wall_s"],
            "peak_GB": predict["peak_GB_so_far"],
        }
    levels = folder / f"{structure.stem}.json"
    told = ["levels", str(out), "--states", str(given.states), "--json", str(levels), "--k", *map(str, given.k)]
    sparse = measured([*told, "--solver", "sparse"])
    e = json.loads(levels.read_text())
    found["levels"] = {
        "cpu_s": sparse["cpu_s_so_far"] - predict["cpu_s_so_far"],
        "wall_s": sparse["wall_s"],
        "fermi_energy_eV": e["fermi_energy_eV"],
        "first_state": e["first_state"][0],
        "peak_GB" if given.predicted else "peak_GB_of_both": sparse["peak_GB_so_far"],
    }
    if read(out).basis.size <= given.dense:
        found["largest_difference_to_dense_eV"] = against_dense(out, e)
    return found


def against_dense(folder: Path, e: dict[str, Any]) -> float:
    """Of all states found, by index: a state that was missed would shift all others."""
    import torch

    from nearsight.core.units import HARTREE_EV
    from nearsight.formats.registry import read
    from nearsight.properties.eigenstates import levels

    c = read(folder)
    dense = levels(c.require_hamiltonian(), c.require_overlap(), torch.tensor([e["k"]], dtype=torch.float64))
    own = torch.tensor(e["energies_eV"], dtype=torch.float64)
    first = e["first_state"][0]
    return float((dense[:, 0, first : first + own.shape[1]] * HARTREE_EV - own).abs().max())


def main() -> None:
    """Print the table, write the JSON after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("structures", type=Path, nargs="+")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--states", type=int, default=50)
    parser.add_argument("--k", type=float, nargs=3, default=[0.0, 0.0, 0.0])
    parser.add_argument("--dense", type=int, default=5000, help="rows up to which dense matrices are diagonalised too")
    parser.add_argument("--predicted", action="store_true", help="the structures are calculation folders")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(row(given.model, given.structures[0], given.folder, given)))
        return
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        print("atoms  predict: CPU s  wall s  GB   levels: CPU s  wall s  GB   E_F (eV)  to dense (eV)")
        for structure in given.structures:
            words = [str(given.model), str(structure), "--row", "--folder", str(folder), "--dense", str(given.dense)]
            words += ["--predicted"] if given.predicted else []
            words += ["--states", str(given.states), "--processes", str(given.processes), "--k", *map(str, given.k)]
            child = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
            r = json.loads(child.stdout.splitlines()[-1])
            rows = [x for x in rows if (x["structure"], x.get("k")) != (r["structure"], r["k"])] + [r]
            p, l = r.get("predict", {"cpu_s": 0.0, "wall_s": 0.0, "peak_GB": 0.0}), r["levels"]
            held = l["peak_GB" if given.predicted else "peak_GB_of_both"]
            apart = r.get("largest_difference_to_dense_eV")
            print(
                f"{r['atoms']:5d}  {p['cpu_s']:14.1f}  {p['wall_s']:6.1f}  {p['peak_GB']:4.1f}  {l['cpu_s']:13.1f}  "
                f"{l['wall_s']:6.1f}  {held:4.1f}  {l['fermi_energy_eV']:8.4f}  "
                f"{'' if apart is None else f'{apart:.1e}'}",
                flush=True,
            )
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(
                json.dumps({"threads": os.environ.get("OMP_NUM_THREADS"), "rows": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main()

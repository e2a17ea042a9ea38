"""Wall time and peak memory of `nearsight scf`, as whole processes, on one thread and on two.

    python bench/scf_speed.py [--siesta ../shared/reference] [--repeat 3]

Cases: 2-atom graphene (DZP, 12x12 k, 300 Ry), H2O in a 10 Angstrom box (300 Ry). With --siesta also the reference cases with
SIESTA's own orbitals, mesh and k-points, beside SIESTA's CPU seconds on one thread (its table in that folder's README), scaled
by three calibrations that are measured here in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ase import Atoms
from ase.io import write

HERE = Path(__file__).parent

# SIESTA's whole run, one thread, and the three calibrations on the machine it ran on (seconds)
SIESTA_SECONDS = {
    "graphene_pbe_dzp": 3.1,
    "h2o_pbe_dzp": 4.7,
    "h2o_lda_dzp": 4.2,
    "mos2_pbe_dzp": 13.6,
    "na_bcc_pbe_dzp": 3.7,
    "diamond_lda_dzp": 10.1,
    "graphene_lda_sz": 0.8,
    "si_pbe_sz": 1.8,
    "o2_pbe_dzp_spin": 5.5,
    "graphene3x3": 22.5,
    "h2o": 3.2,
}
CALIBRATION = {"eigh_600": 0.042, "matmul_1500": 0.125, "fft_128": 0.105}


def calibrate() -> dict[str, float]:
    """Seconds of the three reference operations, one thread, best of five."""
    code = (
        "import time, numpy as np, scipy.fft as f\n"
        "a = np.random.default_rng(0).normal(size=(1500, 1500)); h = a[:600, :600] + a[:600, :600].T\n"
        "x = np.random.default_rng(1).normal(size=(128,) * 3) + 0j\n"
        "def best(g):\n"
        "    t = []\n"
        "    for _ in range(5):\n"
        "        s = time.perf_counter(); g(); t.append(time.perf_counter() - s)\n"
        "    return min(t)\n"
        "print(best(lambda: np.linalg.eigh(h)), best(lambda: a @ a), best(lambda: f.ifftn(f.fftn(x))))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], env=environment(1), capture_output=True, text=True, check=True)
    return dict(zip(CALIBRATION, map(float, out.stdout.split()), strict=True))


def environment(threads: int) -> dict[str, str]:
    n = str(threads)
    return os.environ | {"OMP_NUM_THREADS": n, "MKL_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n}


def measure(arguments: list[str], threads: int, repeat: int) -> dict:
    """Median wall seconds of the process and of its SCF (setting up included), peak memory in MiB."""
    walls, inner, peaks = [], [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            command = [sys.executable, "-m", "nearsight.cli", "scf", *arguments, "-o", str(out)]
            start = time.perf_counter()
            process = subprocess.Popen(command, env=environment(threads), stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            walls.append(time.perf_counter() - start)
            if status:
                raise SystemExit(f"failed: {' '.join(command)}")
            result = json.loads((out / "result.json").read_text())
            inner.append(result["wall_seconds"])
            peaks.append(usage.ru_maxrss / 1024)
    return {
        "threads": threads,
        "process_seconds": statistics.median(walls),
        "scf_seconds": statistics.median(inner),
        "peak_MiB": max(peaks),
        "iterations": result["iterations"],
    }


def cases(folder: Path, siesta: Path | None) -> dict[str, list[str]]:
    a = 2.46
    graphene = Atoms(
        "C2",
        positions=[[0, a / 3**0.5, 7.5], [a / 2, a / 3**0.5 / 2, 7.5]],
        cell=[[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 15]],
        pbc=True,
    )
    water = Atoms("OH2", positions=[[5, 5, 5], [5.757, 5, 5.587], [4.243, 5, 5.587]], cell=[10, 10, 10], pbc=True)
    write(folder / "graphene.xyz", graphene)
    write(folder / "water.xyz", water)
    found = {
        "graphene, own DZP": [str(folder / "graphene.xyz"), "--kmesh", "12", "12", "1", "--mesh-cutoff", "300"],
        "H2O, own DZP": [str(folder / "water.xyz"), "--kmesh", "1", "1", "1", "--mesh-cutoff", "300"],
    }
    if siesta is None:
        return found
    for name in SIESTA_SECONDS:
        data = siesta / "datasets" / name
        home, species = (data / "0000", data / "species") if data.exists() else (siesta / "siesta" / name,) * 2
        if not data.exists():
            species = home / "species"
        reference = json.loads((home / "reference.json").read_text())
        words = [str(home), "--xc", reference["xc"], "--species", str(species), "--smearing", str(reference["kT_eV"])]
        words += ["--kmesh", *map(str, reference["kmesh"]), "--mesh", *map(str, reference["mesh"])]
        if reference["spin"] != "none":
            words += ["--set", "spin=collinear", "--set", "moments=[1,1]"]
        found[name] = words
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--siesta", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    here = calibrate()
    speed = {k: here[k] / CALIBRATION[k] for k in CALIBRATION}
    scale = statistics.geometric_mean(speed.values())
    print(
        "this machine against SIESTA's, seconds as ratios:",
        {k: round(v, 2) for k, v in speed.items()},
        f"mean {scale:.2f}",
    )
    rows = []
    print(
        f"{'case':20s} {'threads':>7s} {'process s':>10s} {'SCF s':>8s} {'its':>4s} {'peak MiB':>9s} "
        f"{'SIESTA s':>9s} {'ratio':>6s}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, words in cases(Path(folder), arguments.siesta).items():
            for threads in (1, 2):
                row = {"case": name, **measure(words, threads, arguments.repeat)}
                theirs = SIESTA_SECONDS.get(name)
                if theirs and threads == 1:
                    row |= {"siesta_seconds_scaled": theirs * scale, "ratio": row["scf_seconds"] / theirs / scale}
                rows.append(row)
                tail = f"{row['siesta_seconds_scaled']:9.1f} {row['ratio']:6.2f}" if "ratio" in row else ""
                print(
                    f"{name:20s} {threads:7d} {row['process_seconds']:10.2f} {row['scf_seconds']:8.2f} "
                    f"{row['iterations']:4d} {row['peak_MiB']:9.0f} {tail}",
                    flush=True,
                )
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps({"calibration_seconds": here, "rows": rows}, indent=1)
    (HERE / "results/scf_speed.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

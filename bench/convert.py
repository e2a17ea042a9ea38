"""Converting a folder of runs: time and memory for each, by `nearsight convert` as a user calls it.

    python bench/convert.py /path/to/external [RUNS]

Copies of the real SIESTA runs there (silicon as HSX, bcc iron as NetCDF: no spin, collinear, spin-orbit) are made into a folder
of RUNS (60), which is converted by one process and by two, and once again when all is done. Memory: the largest of any process.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = ("siesta_Si", "siesta_bccFe/nonpolarized", "siesta_bccFe/collinear", "siesta_bccFe/SOC")


def main(external: str, count: str = "60") -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        for n in range(int(count)):
            shutil.copytree(Path(external) / RUNS[n % len(RUNS)], runs / f"{n:04d}")
        mebibytes = sum(p.stat().st_size for p in runs.rglob("*") if p.is_file()) / 1024**2
        for words, target in ((("1",), "one"), (("2",), "two"), (("1",), "one")):
            begun, cpu = time.perf_counter(), children().ru_utime + children().ru_stime
            command = [
                sys.executable,
                "-m",
                "nearsight",
                "convert",
                str(runs),
                str(Path(folder) / target),
                "--workers",
                *words,
            ]
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - begun
            cpu = children().ru_utime + children().ru_stime - cpu
            again = any(r["target"] == target for r in rows)
            row = {"target": target, "workers": int(words[0]), "again": again, "runs": int(count), "seconds": seconds}
            rows.append(row | {"cpu_seconds": cpu, "peak_MiB": children().ru_maxrss / 1024})
            said = f"{'again, ' if again else ''}{words[0]} process(es): {seconds:.1f} s, CPU {cpu:.1f} s"
            print(f"{said}, {1e3 * cpu / int(count):.0f} ms a run, peak {rows[-1]['peak_MiB']:.0f} MiB", flush=True)
    place = Path(__file__).parent / "results" / "convert.json"
    place.write_text(json.dumps({"input_MiB": mebibytes, "rows": rows}, indent=1) + "\n")
    print(f"{count} runs, {mebibytes:.0f} MiB; written to {place}")


def children() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])

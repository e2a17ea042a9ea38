"""How fast is a data set read? A packed set against calculation folders and against one HDF5 dataset per block.

    python bench/packed.py [SET] [--samples 400]

SET: calculation folders with Hamiltonians; without it, copies of graphene (32 atoms, blocks of DZP's shape) are made. What is
timed is what training asks for: structure, overlap and Hamiltonian of an entry as a Calculation, in a random order, the files
being in the system's cache; and from a cold cache, where /proc/sys/vm/drop_caches may be written.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure, supercell
from nearsight.formats.registry import list_folders, read, write
from nearsight.formats.sets.pack import packed
from nearsight.learn.data import read_labelled
from nearsight.tasks.sets.packing import pack

LONGEST = 20.0  # seconds of each measurement


def sheet(seed: int, repeats: int = 4) -> Calculation:
    """Graphene of 2 repeats^2 atoms with random symmetric matrices of DZP's shape (13 orbitals) within 9.6 Bohr."""
    a = 4.6487
    cell = torch.tensor([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 20.0]], dtype=torch.float64)
    place = torch.tensor([[0, a / 3**0.5, 10.0], [a / 2, a / 3**0.5 / 2, 10.0]], dtype=torch.float64)
    s = supercell(Structure(cell, place, torch.tensor([6, 6])), (repeats, repeats, 1))
    generator = torch.Generator().manual_seed(seed)
    s = replace(
        s, positions=s.positions + 0.05 * torch.randn(s.positions.shape, generator=generator, dtype=torch.float64)
    )
    layout = BlockLayout(Basis.of(s.numbers, {6: (0, 0, 1, 1, 2)}), Pairs.within(s, 9.6))
    first, second = (
        BlockMatrix(layout, torch.randn(1, layout.size, generator=generator, dtype=torch.float64)).hermitian()
        for _ in range(2)
    )
    on_site = (layout.pairs.i == layout.pairs.j) & (layout.pairs.R == 0).all(1)
    row, column = layout.local
    first.values[:] = 1e-3 * first.values + (on_site[layout.pair] & (row == column)).double()
    return Calculation(s, overlap=first, hamiltonian=second, fermi_level=0.0, electrons=4.0 * len(s), converged=True)


def rate(read_one: Callable[[Path], object], places: Sequence[Path], samples: int, cold: bool) -> float | None:
    """Samples a second; None where the system's cache cannot be dropped."""
    draw = random.Random(0)
    order = [draw.choice(places) for _ in range(samples)]
    if cold:
        try:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        except OSError:
            return None
        order = list(places)
        random.Random(0).shuffle(order)
    else:
        for path in places:
            read_one(path)
    began, done = time.perf_counter(), 0
    for path in order:
        read_one(path)
        done += 1
        if time.perf_counter() - began > LONGEST:
            break
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", type=Path)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--copies", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.set or Path(scratch) / "set"
        if given.set is None:
            for n in range(given.copies):
                write(folder / f"g{n:03d}", sheet(n))
        places = list_folders(folder)
        for path in places:
            write(Path(scratch) / "old" / path.name, read(path), "deeph-old")
        began = time.perf_counter()
        made = pack(folder)
        seconds = time.perf_counter() - began
        first = read(places[0])
        ways: list[tuple[str, Callable[[Path], object], list[Path]]] = [
            ("packed", packed, places),
            ("packed, as training reads", read_labelled, places),
            ("calculation folder", read, places),
            ("one dataset per block", read, [Path(scratch) / "old" / p.name for p in places]),
        ]
        rows = []
        for name, read_one, where in ways:
            warm, cold = (rate(read_one, where, given.samples, c) for c in (False, True))
            rows.append({"read": name, "samples_per_s": warm, "cold_samples_per_s": cold})
            cold_said = "" if cold is None else f", {cold:8.1f} from a cold cache"
            print(f"{name:28s} {warm:9.1f} samples/s{cold_said}", flush=True)
        told = {
            "atoms": len(first.structure),
            "orbitals": first.basis.size,
            "pairs": len(first.require_hamiltonian().pairs),
            "entries": len(places),
            "packed_MB": made.nbytes / 1e6,
            "pack_seconds": seconds,
            "rows": rows,
        }
    place = Path(__file__).parent / "results" / "packed.json"
    with suppress(FileNotFoundError):
        place.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({k: v for k, v in told.items() if k != "rows"}))


if __name__ == "__main__":
    main()

"""What a pass through the network costs, by number of edges, and what its edge convolution costs beside e3nn's.

    python bench/network_speed.py [--threads 1 2] [--cells 3 5 8]

DeepH-2 (preset base) on distorted graphene sheets with 13 orbitals an atom; nothing is trained and no data are needed.
e3nn: one FullyConnectedTensorProduct of the same features with Y_lm up to l = 4, weights shared between edges.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import torch
from e3nn import o3

from nearsight.core.basis import Basis
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure, supercell
from nearsight.models.deeph2 import PRESETS, DeepH2
from nearsight.models.interactions import EdgeConvolution
from nearsight.models.so2 import FrameIrreps, edge_rotations, out_of_frame, wigner_matrices

RESULTS = Path(__file__).parent / "results"
SHELLS = {6: (0, 0, 1, 1, 2)}
CUTOFF, REACH = 8.0, 10.2  # Bohr


def sheet(n: int) -> tuple[Structure, BlockLayout]:
    a = 4.65
    cell = torch.tensor([[a, 0, 0], [-a / 2, a * sqrt(3) / 2, 0], [0, 0, 28.0]], dtype=torch.float64)
    atoms = torch.tensor([[0, a / sqrt(3), 14], [a / 2, a / sqrt(3) / 2, 14]], dtype=torch.float64)
    flat = supercell(Structure(cell, atoms, torch.tensor([6, 6])), (n, n, 1))
    noise = 0.1 * torch.randn(flat.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    structure = Structure(flat.cell, flat.positions + noise, flat.numbers)
    return structure, BlockLayout(Basis.of(structure.numbers, SHELLS), Pairs.within(structure, REACH))


def timed(work: Callable[[], object], repeats: int = 5) -> float:
    """Least wall time of several runs, seconds."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def whole_model(n: int) -> dict[str, float]:
    structure, layout = sheet(n)
    network = DeepH2(SHELLS, cutoff=CUTOFF, reach=REACH, radial=8, neighbours=18.0, **PRESETS["base"])
    started = time.perf_counter()
    graph = network.prepare(structure, layout)
    prepare = time.perf_counter() - started

    def forward() -> None:
        with torch.no_grad():
            network(graph)

    def both() -> None:
        network.zero_grad()
        network(graph).values.abs().mean().backward()

    return {
        "atoms": len(structure),
        "edges": graph.edge_count,
        "prepare_s": prepare,
        "forward_s": timed(forward),
        "forward_backward_s": timed(both),
        "elements": layout.size,
    }


def convolutions(edges: int = 648) -> dict[str, float]:
    """One edge convolution with message (turn, two maps, gate, turn back) and one e3nn tensor product, same features."""
    network = DeepH2(SHELLS, cutoff=CUTOFF, reach=REACH, radial=8, neighbours=18.0, **PRESETS["base"])
    irreps = network.irreps
    vectors = torch.randn(edges, 3, dtype=torch.float64)
    wigner = tuple(w.float() for w in wigner_matrices(irreps.l_max, edge_rotations(vectors)))
    hidden = FrameIrreps(64, 8, (40, 24, 12, 6))
    own = EdgeConvolution(irreps, network.edge_irreps, hidden, [FrameIrreps.of(irreps)], 64)
    x, radial = torch.randn(18, irreps.dim, requires_grad=True), torch.randn(edges, 64)
    f = network.edge_irreps
    edge = [torch.randn(edges, f.even + f.odd), *(torch.randn(edges, 2, c) for c in f.pairs)]
    index = torch.arange(edges) % 18

    def ours() -> None:
        [message] = own(x, edge, radial, index, index.flip(0), wigner)
        out_of_frame(irreps, message, wigner).sum().backward()

    named = [
        f"{t}x{l}{'eo'[l % 2]}+{p}x{l}{'oe'[l % 2]}"
        for l, (t, p) in enumerate(zip(irreps.true, irreps.pseudo, strict=True))
    ]
    features = o3.Irreps("+".join(named))
    product = o3.FullyConnectedTensorProduct(features, o3.Irreps.spherical_harmonics(4), features)
    y, harmonics = torch.randn(edges, features.dim, requires_grad=True), torch.randn(edges, 25)

    def theirs() -> None:
        product(y, harmonics).sum().backward()

    a, b = timed(ours), timed(theirs)
    return {"edges": edges, "edge_convolution_s": a, "e3nn_tensor_product_s": b, "ratio": b / a}


def _measure(threads: int, cells: list[int], answer: multiprocessing.Queue) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = []
    for n in cells:
        row = whole_model(n)
        row["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append(row)
    answer.put({"threads": threads, "model": rows, "convolution": convolutions()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cells", type=int, nargs="+", default=[3, 5, 8])
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = []
    for threads in asked.threads:  # a process each, so that threads and peak memory are its own
        answer = context.Queue()
        process = context.Process(target=_measure, args=(threads, asked.cells, answer))
        process.start()
        results.append(answer.get())
        process.join()
        for row in results[-1]["model"]:
            print(
                f"{threads} thread(s)  {row['atoms']:5d} atoms {row['edges']:7d} edges: prepare {row['prepare_s']:6.2f} s, "
                f"forward {row['forward_s'] * 1e3:8.1f} ms, with backward {row['forward_backward_s'] * 1e3:8.1f} ms, "
                f"peak {row['peak_MiB']:6.0f} MiB"
            )
        c = results[-1]["convolution"]
        print(
            f"{threads} thread(s)  {c['edges']} edges, forward and backward: edge convolution "
            f"{c['edge_convolution_s'] * 1e3:.1f} ms, e3nn tensor product {c['e3nn_tensor_product_s'] * 1e3:.1f} ms "
            f"({c['ratio']:.1f} times)"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "network_speed.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How well networks of matrices with spin predict what they never saw, after minutes of one core.

    OMP_NUM_THREADS=1 python bench/spin_networks.py --data DATA [--only KIND ...] [--minutes 20] [--count 60]

All data are of this program's own engine (PBE), made in DATA where they are missing:

collinear  rings of four H atoms, all spins parallel (M = 4), DZP: `deeph2` learns both matrices.
spinor     cells of two Si atoms, strained and rattled, SZP, with a stand-in for spin-orbit coupling, exact and not small:
           V = sum_k S_ik (xi L.S)_k S_kj over the p orbitals of all atoms k, xi = 0.3 eV: `deeph2` learns the spinor matrix.
moments    triangles of H atoms, three spins up or two up and one down, DZP, every structure's spins turned at random, which
           without spin-orbit coupling turns H exactly: `xdeeph` learns H as a function of structure and moments.

constrained  triangles of H atoms, DZP, each with moments in directions at random that the engine holds (`moments:` of a data
           set): `xdeeph` learns what is left of H beyond superposed atoms, as a function of structure and moments.

energy     the data of `constrained`: `xdeeph` with target energy learns free energies and magnetic forces -dE/dm (and forces,
           where the data have them).

coupled    cells of two Te atoms, strained and rattled, SZ, with the engine's own spin-orbit coupling: `deeph2` learns what is
           left of the spinor matrix beyond superposed atoms with that coupling, which is known exactly.

Errors are those of predictions of held-out structures over all stored elements. Splittings: between the three upper valence
levels of silicon at Gamma, which spin-orbit coupling and strain part; of
tellurium between its six p levels. Minutes are those of a core (trainer.clock: cpu).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write as write_atoms
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.configuration import validated
from nearsight.core.spin import SPINOR
from nearsight.core.spin_parts import SpinParts, as_spinor, as_vectors
from nearsight.core.units import HARTREE_EV
from nearsight.formats.registry import list_folders, read, write
from nearsight.learn.data_record import DataRecord
from nearsight.learn.model import TrainedModel
from nearsight.learn.potential_energy import Surface, compared, surface
from nearsight.learn.train import train
from nearsight.models.targets import Inputs
from nearsight.tasks.dataset import SetSettings, build

RESULTS = Path(__file__).parent / "results"
MEV = 1000 * HARTREE_EV
XI = 0.3 / HARTREE_EV
KINDS = ("collinear", "spinor", "moments", "constrained", "coupled", "energy")
MAGNETIC = ("moments", "constrained")
RATE = {"constrained": 1e-2, "energy": 1e-2}  # 0.7 minutes end at 7.3 meV, with 3e-3 at 10.8
SPLIT = {"spinor": (1, 4), "coupled": (-6, 0)}  # pairs of levels whose distances are compared
SET = {
    "collinear": {"basis": "dzp", "kmesh": [1, 1, 1], "mesh_cutoff_ry": 120, "spin": "collinear"},
    "spinor": {"basis": "szp", "kmesh": [2, 2, 2], "mesh_cutoff_ry": 100},
    "moments": {"basis": "dzp", "kmesh": [1, 1, 1], "mesh_cutoff_ry": 120, "spin": "collinear"},
    "constrained": {"basis": "dzp", "kmesh": [1, 1, 1], "mesh_cutoff_ry": 80},
    "coupled": {
        "basis": "sz",
        "kmesh": [2, 2, 2],
        "mesh_cutoff_ry": 80,
        "smearing_ev": 0.1,
        "spin": "spinor",
        "spin_orbit": True,
    },
}


def structures(kind: str, count: int) -> list[Atoms]:
    """Rattled copies; those with moments begin with them."""
    g = torch.Generator().manual_seed(KINDS.index(kind))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    found = []
    for k in range(count):
        if kind == "coupled":
            a = Atoms("Te2", [[0, 0, 0], [1.85, 1.75, 1.8]], cell=[3.7, 3.6, 3.8], pbc=True)
            a.set_cell(a.cell.array @ (torch.eye(3).double() + 0.015 * normal(3, 3)).numpy(), scale_atoms=True)
            a.positions += 0.06 * normal(2, 3).numpy()
        elif kind == "spinor":
            a = bulk("Si", "diamond", 5.43)
            a.set_cell(a.cell.array @ (torch.eye(3).double() + 0.015 * normal(3, 3)).numpy(), scale_atoms=True)
            a.positions += 0.06 * normal(2, 3).numpy()
        else:
            n, short, long = (4, 1.9, 2.5) if kind == "collinear" else (3, 2.3, 2.7)
            side = short + (long - short) * float(torch.rand(1, generator=g))
            angle = 2 * torch.pi * torch.arange(n).double() / n
            ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1) * (
                side / 2 / torch.sin(torch.tensor(torch.pi / n))
            )
            a = Atoms(f"H{n}", (ring + 0.08 * normal(n, 3)).numpy(), cell=3 * [8.5 if n == 3 else 9.0], pbc=True)
            a.rotate(float(normal(1)) * 180, normal(3).numpy())
            a.center()
            signs = [1.0] * n
            if kind == "moments" and k % 4:
                signs[k % 4 - 1] = -1.0
            if kind != "constrained":
                a.set_initial_magnetic_moments(signs)
        found.append(a)
    return found


def engine_data(folder: Path, kind: str, count: int) -> list[Path]:
    """Calculation folders by the engine."""
    place = folder / f"{kind}-engine"
    files = folder / f"{kind}-structures"
    files.mkdir(parents=True, exist_ok=True)
    names = []
    for k, atoms in enumerate(structures(kind, count)):
        names.append(str(files / f"{k:03d}.extxyz"))
        write_atoms(names[-1], atoms)
    if not place.exists() or len(list_folders(place)) < count:
        table = {"structure": names, "scf": {"xc": "pbe", **SET[kind]}, "workers": 2}
        if kind == "constrained":
            table["moments"] = {"count": 1, "sizes": {"H": 0.6}}
        build(validated(SetSettings, table, "the set"), place)
    return list_folders(place)[:count]


def spin_orbit(found: Calculation) -> BlockMatrix:
    """V = S_p (xi L.S) S_p^dagger [Ha] on the pairs of H, by a mesh of k-points that is wider than it reaches."""
    s, h = found.require_overlap(), found.require_hamiltonian()
    n, offset = h.basis.size, h.basis.offsets.tolist()
    parts = SpinParts.without_moments(SPINOR)
    on_site = torch.zeros(4, n, n, dtype=torch.float64)
    levi = torch.zeros(3, 3, 3, dtype=torch.float64)  # of y, z, x, an even permutation of x, y, z
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        levi[a, b, c], levi[a, c, b] = 1.0, -1.0
    for atom, z in enumerate(h.basis.numbers):
        first = offset[atom]
        for l in h.basis.shells[z]:
            if l == 1:
                own = slice(first, first + 3)
                on_site[1:, own, own] = -0.5 * XI * levi
            first += 2 * l + 1
    w = SPINOR.to_dense(parts.values(on_site)[:, None])
    axis = torch.arange(7).double() / 7
    k = torch.cartesian_prod(axis, axis, axis)
    sk = s.embed(SPINOR).at_k(k)
    zero = BlockMatrix(h.layout, torch.zeros(4, h.layout.size, dtype=torch.complex128), SPINOR)
    return zero.from_k(sk @ w @ sk.mH, k, torch.full((len(k),), 1 / len(k), dtype=torch.float64)).hermitian()


def prepared(folder: Path, kind: str, count: int) -> Path:
    """The set to learn from."""
    place = folder / kind
    raw = engine_data(folder, kind, count)
    if kind in ("collinear", "constrained", "coupled"):
        return raw[0].parent
    g = torch.Generator().manual_seed(17)
    for source in raw:
        q = torch.randn(4, generator=g, dtype=torch.float64)
        if (place / source.name / "info.json").exists():
            continue
        found = read(source)
        h, moments = as_spinor(found.require_hamiltonian()), None
        if kind == "spinor":
            h = h + spin_orbit(found)
        else:
            a, b, c, d = (q / q.norm()).tolist()
            u = torch.tensor([[complex(a, d), complex(c, b)], [complex(-c, b), complex(a, -d)]])
            up_and_down = torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=torch.complex128)[:, None]
            y, z, x = SpinParts.of(SPINOR).of_values(SPINOR.turned(up_and_down, u))[-3:, 0]
            axis = torch.stack([x, y, z])
            h = h.with_values(SPINOR.turned(h.values, u))
            assert found.moments is not None
            moments = as_vectors(found.moments)[:, 2:] * axis
        write(
            place / source.name,
            Calculation(found.structure, found.overlap, h, electrons=found.electrons, moments=moments),
        )
    species = place / "species"
    if not species.exists():
        species.symlink_to((raw[0].parent / "species").resolve())
    return place


def splittings(h: BlockMatrix, s: BlockMatrix, first: int = 1, last: int = 4) -> Tensor:
    """Between neighbours of the pairs first..last - 1 of levels at Gamma [meV]; counted from the end where negative."""
    k = torch.zeros(1, 3, dtype=torch.float64)
    factor = torch.linalg.cholesky(s.embed(SPINOR).at_k(k)).to(torch.complex128)
    x = torch.linalg.solve_triangular(factor, h.at_k(k), upper=False)
    x = torch.linalg.solve_triangular(factor, x.mH, upper=False)
    pairs = torch.linalg.eigvalsh(0.5 * (x + x.mH)).flatten()[::2]
    return pairs[first : last or None].diff() * MEV


def measured(folder: Path, kind: str, minutes: float, count: int) -> dict[str, object]:
    """One training, and its errors on what was held out."""
    data = prepared(folder, kind, count)
    model = {"kind": "xdeeph" if kind in MAGNETIC else "deeph2", "preset": "small"}
    model |= {"target": "delta"} if kind in ("constrained", "coupled") else {}
    out = folder / f"model-{kind}-{minutes:g}"
    report = train(
        {
            "data": {"train": str(data), "validation_fraction": 0.2, "cache": str(folder / "cache")},
            "model": model,
            "trainer": {
                "max_minutes": minutes,
                "clock": "cpu",
                "learning_rate": RATE.get(kind, 3e-3),
                "validations": 20,
            },
        },
        out,
    )
    trained, record = TrainedModel.load(out), DataRecord.read(out)
    assert record is not None
    errors: list[float] = []
    largest: list[float] = []
    parted: list[Tensor] = []
    sizes: list[Tensor] = []
    reversal = turned = 0.0
    for name, _ in record.validation:
        found = trained.seen(read(Path(name)))
        known = found.require_hamiltonian()
        h = trained.hamiltonian(found.structure, known.layout)
        error = (h - known).values.abs() * MEV
        errors.append(float(error.mean()))
        largest.append(float(error.max()))
        if kind in SPLIT:
            reversal = max(reversal, float((h.time_reversed() - h).values.abs().max()))
            s = found.require_overlap().on(known.layout)
            wanted = splittings(known, s, *SPLIT[kind])
            parted.append((splittings(h, s, *SPLIT[kind]) - wanted).abs())
            sizes.append(wanted)
        if kind in MAGNETIC:
            moments = found.structure.moments
            assert moments is not None
            back = trained.hamiltonian(_with(found, -moments).structure, known.layout)
            reversal = max(reversal, float((back.time_reversed() - h).values.abs().max()))
            flipped = trained.hamiltonian(_with(found, moments @ _quarter().T).structure, known.layout)
            turned = max(turned, float((flipped.values - SPINOR.rotated(h.values, _quarter())).abs().mean()))
    return {
        "data": kind,
        "kind": model["kind"],
        "training": len(record.train),
        "held_out": len(errors),
        "core_minutes": minutes,
        "steps": report["steps"],
        "parameters": report["parameters"],
        "hamiltonian_mae_meV": sum(errors) / len(errors),
        "hamiltonian_max_meV": max(largest),
        "time_reversal_violation_meV": reversal * MEV if kind != "collinear" else None,
        "splitting_mae_meV": float(torch.cat(parted).mean()) if parted else None,
        "splitting_max_error_meV": float(torch.cat(parted).max()) if parted else None,
        "splitting_mean_meV": float(torch.cat(sizes).mean()) if sizes else None,
        "turn_of_spins_mae_meV": turned * MEV if kind in MAGNETIC else None,
    }


def measured_energy(folder: Path, minutes: float, count: int) -> dict[str, object]:
    """The same of target energy; also how far a turn of all, and time reversal, are from leaving what they should."""
    data = engine_data(folder, "constrained", count)[0].parent
    out = folder / f"model-energy-{minutes:g}"
    report = train(
        {
            "data": {"train": str(data), "validation_fraction": 0.2, "cache": str(folder / "cache")},
            "model": {"kind": "xdeeph", "preset": "small", "target": "energy"},
            "trainer": {"max_minutes": minutes, "clock": "cpu", "learning_rate": RATE["energy"], "ema": 0.99},
        },
        out,
    )
    trained, record = TrainedModel.load(out), DataRecord.read(out)
    assert record is not None
    errors: list[dict[str, float]] = []
    sizes: list[float] = []
    turned = reversal = 0.0
    for name, _ in record.validation:
        found = read(Path(name))
        assert found.moments is not None
        errors.append(compared(trained.network, found, found.moments))
        sizes.append(Surface.of(trained.network.labels(found, Inputs())).magnetic_forces.abs().mean().item() * MEV)
        structure = replace(found.structure, moments=found.moments)
        here, back = (
            surface(trained.network, structure, found.moments),
            surface(trained.network, structure, -found.moments),
        )
        reversal = max(reversal, float((here.magnetic_forces + back.magnetic_forces).abs().max()))
        other = structure.rotate(turn := -_quarter())
        assert other.moments is not None
        there, axial = surface(trained.network, other, other.moments), torch.linalg.det(turn) * turn
        turned = max(turned, float((there.magnetic_forces - here.magnetic_forces @ axial.T).abs().max()))
    return {
        "data": "energy",
        "kind": "xdeeph-energy",
        "training": len(record.train),
        "held_out": len(errors),
        "core_minutes": minutes,
        "steps": report["steps"],
        "parameters": report["parameters"],
        **{k: sum(e[k] for e in errors) / len(errors) for k in errors[0]},
        "magnetic_forces_mean_meV_per_mu_B": sum(sizes) / len(sizes),
        "time_reversal_violation_meV_per_mu_B": reversal * MEV,
        "rotation_violation_meV_per_mu_B": turned * MEV,
    }


def _with(found: Calculation, moments: Tensor) -> Calculation:
    return replace(found, structure=replace(found.structure, moments=moments))


def _quarter() -> Tensor:
    """A turn of the spins alone, by 90 degrees about x."""
    return torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--count", type=int, default=60)
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / "spin_networks.json"
    for kind in arguments.only:
        if kind == "energy":
            figures = measured_energy(arguments.data, arguments.minutes, arguments.count)
        else:
            figures = measured(arguments.data, kind, arguments.minutes, arguments.count)
        found = {r["data"]: r for r in json.loads(place.read_text())} if place.exists() else {}
        found[kind] = figures
        place.write_text(json.dumps(list(found.values()), indent=1) + "\n")
        for name, value in figures.items():
            if value is not None:
                print(f"{name:30} {value}")


if __name__ == "__main__":
    main()

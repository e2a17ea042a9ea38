"""The tour on real input: DFT of small distorted graphene cells, a network trained on them, bands of a larger cell."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.dft.settings import Settings
from nearsight.electrons.kpoints import BandPath, band_path
from nearsight.formats.files import read_json, write_json
from nearsight.formats.outputs import claim_place, kind_of
from nearsight.formats.poscar import write_poscar
from nearsight.formats.registry import list_folders, read
from nearsight.learn.model import predict
from nearsight.learn.train import train
from nearsight.properties.compare import compare
from nearsight.properties.spectra import Bands, bands
from nearsight.tasks.dataset import Distort, SetSettings, build
from nearsight.tasks.ledger import Outcome

LATTICE_ANG = 2.46  # graphene
VACUUM_ANG = 15.0  # height of the cell
PATH_POINTS = 36

Draw = Callable[..., None]


class Watcher(Protocol):
    """Who is told how far the tour is."""

    def stage(self, text: str) -> None:
        """A part of the tour begins."""

    def advance(self, done: float, total: float, text: str = "") -> None:
        """So much of this part is done, of so much in all."""


START = "graphene.vasp"
_MADE = ("data", START, "model", "large", "predicted", "report.json", "bands.png")


@dataclass(frozen=True)
class Tour:
    """What the tour computes: all that a smaller or larger one may want to change.

    cells: distorted copies to learn from, each of repeats small.  large: repeats of the unseen cell.
    mesh_cutoff_ry, energy_shift_ry: fineness of the mesh, confinement of the orbitals [Ry].
    sigma_ang, clip_ang: displacements [angstrom].
    training_minutes: at most.
    """

    cells: int = 30
    small: tuple[int, int, int] = (3, 3, 1)
    large: tuple[int, int, int] = (5, 5, 1)
    small_kmesh: tuple[int, int, int] = (4, 4, 1)
    large_kmesh: tuple[int, int, int] = (3, 3, 1)
    mesh_cutoff_ry: float = 200.0
    energy_shift_ry: float = 0.02
    sigma_ang: float = 0.05
    clip_ang: float = 0.1
    seed: int = 1
    training_minutes: float = 4.0

    def scf(self, kmesh: tuple[int, int, int]) -> Settings:
        """Settings of all its ground states: PBE, double zeta with polarisation."""
        return Settings(
            xc="pbe",
            basis="dzp",
            energy_shift_ry=self.energy_shift_ry,
            kmesh=kmesh,
            mesh_cutoff_ry=self.mesh_cutoff_ry,
            tolerance_ev=1e-4,
        )

    def distort(self, count: int, supercell: tuple[int, int, int], seed: int) -> Distort:
        """How so many copies of a supercell are displaced."""
        return Distort(count=count, sigma_ang=self.sigma_ang, clip_ang=self.clip_ang, seed=seed, supercell=supercell)


def graphene() -> Structure:
    """Two atoms in a cell of 15 angstrom height."""
    a = LATTICE_ANG
    cell = torch.tensor([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, VACUUM_ANG]], dtype=torch.float64)
    fractional = torch.tensor([[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]], dtype=torch.float64)
    return Structure(cell / BOHR_ANG, fractional @ cell / BOHR_ANG, torch.tensor([6, 6]))


def run(out: Path | str, watcher: Watcher, draw: Draw, tour: Tour | None = None) -> dict[str, Any]:
    """Make the tour in a folder, or what is left of it, and return its report (also `out/report.json`).

    draw: `plot.plot_bands`, handed in because computing does not depend on drawing.
    Leaves data/ (the calculation folders), model/, large/0000 (DFT), predicted/, report.json and bands.png.
    Raises NearsightError where a ground state fails, or for a folder with files of these names that no demo made.
    """
    tour, out = tour or Tour(), Path(out)
    claim_place(out)
    with tempfile.TemporaryDirectory() as aside:
        write_poscar(Path(aside, START), graphene())
        own = (Path(aside, START)).read_bytes()
    taken = [name for name in _MADE if os.path.lexists(out / name)]
    if (out / START).is_file() and (out / START).read_bytes() == own:  # a tour that was stopped at its first step
        taken.remove(START)
    if taken and kind_of(out / "data") != "data set":
        raise BadInput(f"{out} holds a {taken[0]} that is not of a demo: give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_poscar(out / START, graphene())
    begun = time.monotonic()

    atoms = 2 * tour.small[0] * tour.small[1] * tour.small[2]
    watcher.stage(f"DFT: {tour.cells} cells of {atoms} atoms")
    _ground_states(out, "data", tour.distort(tour.cells, tour.small, tour.seed), tour.scf(tour.small_kmesh), watcher)

    watcher.stage("training on their Hamiltonians")
    _train(out, tour, watcher)

    atoms = 2 * tour.large[0] * tour.large[1] * tour.large[2]
    watcher.stage(f"DFT: an unseen cell of {atoms} atoms")
    _ground_states(out, "large", tour.distort(1, tour.large, tour.seed + 1), tour.scf(tour.large_kmesh), watcher)

    watcher.stage("predicting the unseen cell")
    reference = read(out / "large" / "0000")
    if not (out / "predicted" / "result.json").exists():
        predict(out / "model", reference.structure, out / "predicted")
    watcher.advance(1, 1)

    watcher.stage("bands of both")
    predicted = read(out / "predicted")
    path = _path(reference.structure)
    watcher.advance(0, 2)
    by_dft = bands(reference.require_hamiltonian(), reference.require_overlap(), path, reference.fermi_level)
    watcher.advance(1, 2)
    by_network = bands(predicted.require_hamiltonian(), predicted.require_overlap(), path)
    difference = compare(reference, predicted, spectra=(by_dft, by_network)).to_json()
    watcher.advance(2, 2)
    _picture(out, atoms, draw, by_dft, by_network, difference)
    report = {
        "comparison": difference,
        "tour": {**vars(tour)},
        "data": _timings(out / "data"),
        "large": _timings(out / "large"),
        "training": read_json(out / "model" / "report.json"),
        "prediction": read_json(out / "predicted" / "result.json"),
        "seconds_of_this_run": time.monotonic() - begun,
    }
    write_json(out / "report.json", report)
    return report


def _ground_states(out: Path, name: str, distort: Distort, scf: Settings, watcher: Watcher) -> None:
    settings = SetSettings(structure=str(out / START), distort=distort, scf=scf)
    watcher.advance(0, distort.count)

    def told(outcome: Outcome, done: int, total: int) -> None:
        watcher.advance(done, total)

    made = build(settings, out / name, told)
    if made.failed:
        raise NotConverged(f"{len(made.failed)} of {made.jobs} ground states failed, first {made.failed[0][1]}")
    watcher.advance(made.jobs, made.jobs)


def _train(out: Path, tour: Tour, watcher: Watcher) -> None:
    if (out / "model" / "report.json").exists():
        watcher.advance(1, 1)
        return
    config = {
        "data": {"train": str(out / "data"), "validation_fraction": 0.1, "seed": tour.seed},
        "model": {"kind": "deeph2", "preset": "base", "target": "total"},
        "trainer": {"max_minutes": tour.training_minutes},
    }
    budget = tour.training_minutes
    watcher.advance(0, budget)
    train(config, out / "model", lambda metrics: watcher.advance(min(metrics.minutes, budget), budget))
    watcher.advance(1, 1)


def _path(structure: Structure) -> BandPath:
    """Gamma-M-K-Gamma of the hexagonal lattice, which the distortions leave as it is."""
    lattice = Structure(structure.cell, structure.positions[:1], structure.numbers[:1])
    return band_path(lattice, PATH_POINTS, "GAMMA-M-K-GAMMA")


def _picture(out: Path, atoms: int, draw: Draw, dft: Bands, network: Bands, difference: dict[str, Any]) -> None:
    shown: Sequence[tuple[str, Bands]] = [("DFT", dft), ("network", network)]
    draw(
        shown,
        out / "bands.png",
        window_ev=(-4.0, 4.0),
        title=f"Distorted graphene, {atoms} atoms, never seen in training",
        note=(
            f"mean |ΔH| {difference['hamiltonian_mae_meV']:.2f} meV, "
            f"mean |Δε| {difference['bands_mae_meV']:.1f} meV within 5 eV of the Fermi level"
        ),
    )


def _timings(folder: Path) -> dict[str, Any]:
    results = [read(f).result for f in list_folders(folder)]
    seconds = [r["wall_seconds"] for r in results]
    return {
        "folders": len(results),
        "wall_seconds_mean": sum(seconds) / len(seconds),
        "iterations_mean": sum(r["iterations"] for r in results) / len(results),
    }

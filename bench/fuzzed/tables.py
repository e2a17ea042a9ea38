"""Configurations: what is accepted can be written down again, and is small enough to be tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzzed.contract import STORED, Fuzzed, require, table
from nearsight.core.configuration import read_table, validated
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup, resolved
from nearsight.formats import registry


def _yaml_file(name: str, text: str) -> Callable[[Path], list[Path]]:
    def originals(folder: Path) -> list[Path]:
        (folder / name).write_text(text)
        return [folder / name]

    return originals


SETTINGS = (
    "xc: pbe\nbasis: dzp\nkmesh: [2, 2, 1]\nmesh_cutoff_ry: 200\nsmearing_ev: 0.05\n"
    "mixing: {weight: 0.3, history: 6}\nspin: none\n"
)
NESTED = (
    "basis: {size: sz, energy_shift_ry: 0.01}\nfunctional: {xc: lda, electrostatics: crystal}\n"
    "mesh: {cutoff_ry: 60, band_limited: true, xc_refinement: 1, two_center: exact}\n"
    "kpoints: {mesh: [1, 1, 2], shift: [0, 0, 0.5], symmetry: time-reversal}\n"
    "electrons: {charge_e: 0, smearing: cold, width_ev: 0.05, spin: collinear, moments_mu_b: [0, 1, -1]}\n"
    "solver: {method: scf, tolerance_ev: 0.00001, max_iterations: 50, mixing: {weight: 0.3, history: 6, dielectric_ry: 20},"
    " density: {kind: dense, memory: 1000000000, processes: 1}}\noutputs: {forces: true}\n"
)
SET = (
    "structure: POSCAR\ndistort: {count: 3, sigma_ang: 0.05, clip_ang: 0.1, seed: 1, supercell: [1, 1, 2]}\n"
    "scf: {xc: lda, basis: sz, kmesh: [1, 1, 1], mesh_cutoff_ry: 60}\nlabels: true\nworkers: 1\n"
)
MODEL = (
    "data: {train: set, validation_fraction: 0.25, seed: 0}\nmodel: {preset: small, target: total}\n"
    "trainer: {max_epochs: 2, max_minutes: 5}\n"
)


def _read_settings(path: Path) -> Any:
    return validated(Settings, read_table(path))


def _read_setup(path: Path) -> Any:
    """Settings, and the parts of the engine that are made from them, where those are small."""
    settings = _read_settings(path)
    structure = registry.read_structure(STORED / "calculation")
    chosen = resolved(structure, settings)
    small = (
        np.prod(chosen.mesh.shape) * (chosen.mesh.xc_refinement or 1) ** 3 < 2e6 and np.prod(chosen.kpoints.mesh) < 1e4
    )
    if small:
        Setup.of(structure, settings).problem()
    return settings


def _read_set(path: Path) -> Any:
    from nearsight.tasks import dataset

    settings = dataset.read_settings(path)
    found = registry.read_structure(STORED / "calculation")  # the first copy stands for all: there may be 100,000
    return settings, [found if settings.distort is None else dataset.distorted(found, settings.distort, 0)]


def _read_training(path: Path) -> Any:
    from nearsight.learn.config import TrainingConfig

    return validated(TrainingConfig, read_table(path))


def _judge_settings(read: Any, original: Path) -> None:
    settings = read[0] if isinstance(read, tuple) else read
    json.loads(json.dumps(settings.model_dump(mode="json"), allow_nan=False))
    if isinstance(read, tuple):
        require(len(read[1][0]) <= 10**6 and bool(torch.isfinite(read[1][0].positions).all()), "a copy")


READERS = {
    "settings": Fuzzed(_yaml_file("scf.yaml", SETTINGS), table, _read_settings, _judge_settings),
    "setup": Fuzzed(_yaml_file("scf.yaml", NESTED), table, _read_setup, _judge_settings, 128),
    "set": Fuzzed(_yaml_file("set.yaml", SET), table, _read_set, _judge_settings),
    "training": Fuzzed(_yaml_file("model.yaml", MODEL), table, _read_training, _judge_settings),
}

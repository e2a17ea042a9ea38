"""scf --start: what a model's start saves is told, and kept in result.json."""

from __future__ import annotations

import json
import re

import torch

from nearsight.core.units import BOHR_ANG
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.learn.train import train
from tests import cases

QUICK = {"xc": "lda", "basis": "sz", "energy_shift_ry": 0.02, "kmesh": (1, 1, 1), "mesh_cutoff_ry": 60.0}


def test_the_iterations_that_a_model_saves(nearsight, tmp_path):
    box = [[10.0, 0, 0], [0, 10.0, 0], [0, 0, 10.0]]
    for n, z in enumerate(torch.linspace(1.2, 1.7, 5).tolist()):
        s = cases.structure(box, [[5.0, 5.0, 2.0], [5.0, 5.0, 2.0 + z], [5.2, 4.6, 6.0], [5.0, 5.9, 6.9]], [1, 1, 1, 1])
        run_scf(s, ScfSettings.model_validate(QUICK), tmp_path / f"data/{n}")
    data = {"train": str(tmp_path / "data"), "validation_fraction": 0.2}
    trainer = {"max_minutes": None, "max_epochs": 40}
    train({"data": data, "model": {"preset": "small"}, "trainer": trainer}, tmp_path / "model")
    path, out, model = tmp_path / "h2.xyz", tmp_path / "out", tmp_path / "model"
    edge = 10 * BOHR_ANG
    atoms = [[5.0, 5.0, 2.0], [5.0, 5.0, 3.43], [5.2, 4.6, 6.0], [5.0, 5.9, 6.9]]
    lines = "".join("H " + " ".join(str(x * BOHR_ANG) for x in atom) + "\n" for atom in atoms)
    path.write_text(f'4\nLattice="{edge} 0 0 0 {edge} 0 0 0 {edge}" pbc="T T T"\n' + lines)
    exact = ("--set", "two_center=exact", "--set", "tolerance_ev=1e-5")
    options = ("--xc", "lda", "--kmesh", 1, 1, 1, "--mesh-cutoff", 60, "--species", model / "species")
    told = nearsight("scf", path, "-o", out, *options, *exact, "--start", model)
    assert told.status == 0 and "first residual" in told.out and "saved" not in told.out
    told = nearsight("scf", path, "-o", out, *options, *exact, "--start", model, "--compare-start")
    assert told.status == 0, told.err
    found = re.search(r"(\d+) iterations, (\d+) without the model: (-?\d+) saved \((-?\d+) %\)", told.out)
    assert found is not None, told.out
    started, plain, saved = (int(x) for x in found.groups()[:3])
    result = json.loads((out / "result.json").read_text())
    assert result["iterations"] == started and saved == plain - started >= 1
    assert result["start"]["model"] == str(model) and result["start"]["iterations_from_atoms"] == plain
    assert result["history"][0]["residual_eV"] < 0.2 * result["start"]["first_residual_from_atoms_eV"]
    assert abs(result["start"]["total_from_atoms_eV"] - result["energy_eV"]["total"]) < 1e-7
    refused = nearsight("scf", path, "-o", out, *options, "--compare-start")
    assert refused.status == 1 and "--start MODEL" in refused.err

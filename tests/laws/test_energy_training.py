"""Training on the energy functional by the one trainer: no labels, exact resume, processes, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ase.io
import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.core.structure import Structure
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.learn.losses import Loss, LossValue
from nearsight.learn.model import TrainedModel
from nearsight.learn.train import train
from tests import cases

SCF = {"xc": "lda", "basis": "sz", "energy_shift_ry": 0.02, "kmesh": [1, 1, 1], "mesh_cutoff_ry": 70.0}


def water(seed: int) -> Structure:
    s = cases.water(12.0)
    generator = torch.Generator().manual_seed(seed)
    return replace(s, positions=s.positions + 0.08 * torch.randn(3, 3, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six structures without labels, two ground states to validate on."""
    folder = tmp_path_factory.mktemp("waters")
    ase.io.write(folder / "train.xyz", [water(k).to_ase() for k in range(6)])
    for k in (20, 21):
        run_scf(water(k), ScfSettings.model_validate({**SCF, "tolerance_ev": 1e-8}), folder / "test" / f"{k}")
    return folder


def config(data: Path, loss: object = None, **trainer: object) -> dict:
    return {
        "data": {"train": str(data / "train.xyz"), "validation": str(data / "test")},
        "model": {"preset": "small", "target": "delta", "width": 16},
        "loss": loss or {"kind": "energy", "scf": SCF},
        "trainer": {
            "max_minutes": None,
            "max_epochs": 4,
            "validations": 2,
            "batch_edges": 12,
            "dtype": "float64",
            **trainer,
        },
    }


def lines(folder: Path) -> list[dict]:
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["network"]


def furthest(a: Path, b: Path) -> float:
    one, other = weights(a), weights(b)
    return max(float((one[k] - other[k]).abs().max()) for k in one)


def test_the_energy_falls_without_labels_and_every_figure_is_told(data: Path, tmp_path: Path) -> None:
    report = train(config(data, max_epochs=12, learning_rate=5e-3, ema=0.9), tmp_path / "model")
    found = lines(tmp_path / "model")
    assert found[-1]["energy"]["energy_error_ueV"] < 0.5 * found[0]["energy"]["energy_error_ueV"]
    assert found[-1]["train_loss"] < found[1]["train_loss"]
    energy = found[-1]["energy"]
    assert all(value is not None for value in energy.values())
    # the bound without a reference is of the size of the energy's error
    assert 0.2 < energy["harris_ueV"] / energy["energy_error_ueV"] < 5
    assert report["skipped"] == {} and report["loss"] == ["energy"]
    model = TrainedModel.load(tmp_path / "model")
    assert model.network.dtype == torch.float64
    s = water(20)
    settings = ScfSettings.model_validate({**SCF, "species": tmp_path / "model/species"})
    assert model.start_for(s, settings).layout.size == sum(n for n in model.layout(s).shapes.prod(1).tolist())


class KilledError(Exception):
    pass


def test_a_killed_training_goes_on_to_the_same_bits(one_thread: None, data: Path, tmp_path: Path) -> None:
    train(config(data), tmp_path / "whole")

    def stop(metrics: object) -> None:
        if len(lines(tmp_path / "broken")) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(config(data), tmp_path / "broken", stop)
    train(config(data), tmp_path / "broken")
    assert furthest(tmp_path / "whole", tmp_path / "broken") == 0.0


def test_two_processes_make_the_steps_of_one(data: Path, tmp_path: Path) -> None:
    table = config(data, max_epochs=1, batch_edges=12)
    train({**table, "trainer": {**table["trainer"], "batch_edges": 24}}, tmp_path / "one")
    (tmp_path / "model.yaml").write_text(json.dumps(table))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"),
            *("-m", "nearsight.cli", "train", str(tmp_path / "model.yaml"), "-o", str(tmp_path / "two")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    # AdamW's first steps have the size of the learning rate, 3e-5, in the direction of even the least gradient: in the mean
    apart = torch.cat([(one[k] - two[k]).abs().flatten().double() for k in one])
    assert float(apart.mean()) < 1e-9 and float(apart.max()) < 1e-5
    assert json.loads((tmp_path / "two/report.json").read_text())["processes"] == 2
    a, b = (lines(tmp_path / n)[-1]["energy"]["energy_error_ueV"] for n in ("one", "two"))
    assert a == pytest.approx(b, rel=1e-6)


def test_between_evaluations_the_quadratic_model_leads_to_the_same_place(data: Path, tmp_path: Path) -> None:
    errors = {}
    for reuse in (1, 4):
        loss = {"kind": "energy", "scf": SCF, "reuse": reuse}
        train(config(data, loss, max_epochs=12, learning_rate=2e-3), tmp_path / f"{reuse}")
        errors[reuse] = lines(tmp_path / f"{reuse}")[-1]["train_loss"]
    assert errors[4] < 3 * errors[1]


def test_one_structure_that_cannot_be_computed_is_set_aside_and_listed(data: Path, tmp_path: Path) -> None:
    atoms = [water(k).to_ase() for k in range(3)]
    atoms[1].positions[1] = atoms[1].positions[0] + [0.05, 0, 0]
    ase.io.write(tmp_path / "train.xyz", atoms)
    table = config(data, max_epochs=2)
    table["data"]["train"] = str(tmp_path / "train.xyz")
    report = train(table, tmp_path / "model")
    [(name, reason)] = report["skipped"].items()
    assert name.endswith("train.xyz/1") and "apart" in reason
    assert lines(tmp_path / "model")[-1]["skipped"] == report["skipped"]
    assert report["structures"]["train"] == 2


def test_a_structure_that_gives_no_energy_is_left_out_of_the_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nearsight.learn.energy import EnergyLoss

    true = EnergyLoss.__call__

    def sometimes(self, key, structure, values, settings=None):  # type: ignore[no-untyped-def]
        if str(key[0]).endswith("/4"):
            raise NearsightError("the functional gives no finite energy for the predicted Hamiltonian")
        return true(self, key, structure, values, settings)

    monkeypatch.setattr(EnergyLoss, "__call__", sometimes)
    report = train(config(data, max_epochs=2), tmp_path / "model")
    assert [x.rsplit("/", 1)[1] for x in report["skipped"]] == ["4"]
    assert lines(tmp_path / "model")[-1]["train_loss"] > 0


def test_labels_and_energy_together_begin_from_a_model(data: Path, tmp_path: Path) -> None:
    folders = {"train": str(data / "test"), "validation_fraction": 0.5}
    small = {"max_minutes": None, "max_epochs": 2, "validations": 1}
    train(
        {"data": folders, "model": {"preset": "small", "target": "delta", "width": 16}, "trainer": small},
        tmp_path / "a",
    )
    table = {"data": folders, "loss": ["blocks", "energy"], "init_from": str(tmp_path / "a"), "trainer": small}
    report = train(table, tmp_path / "b")
    assert report["loss"] == ["blocks", "energy"] and report["target"] == "delta"
    first, before = lines(tmp_path / "b")[0], lines(tmp_path / "a")[-1]
    assert first["validation_mae"] == pytest.approx(
        before["validation_mae"], rel=1e-2
    )  # it begins where the other ended


def test_another_functional_is_refused_with_the_difference(data: Path, tmp_path: Path) -> None:
    train(config(data, max_epochs=1), tmp_path / "model")
    table = {**config(data, max_epochs=1), "init_from": str(tmp_path / "model")}
    del table["model"]

    def refused(message: str, **scf: object) -> None:
        loss = {"kind": "energy", "scf": {**SCF, **scf}}
        with pytest.raises(NearsightError, match=message):
            train({**table, "loss": loss, "data": {"train": str(data / "train.xyz")}}, tmp_path / "next")

    refused(r"xc lda \(model\) against pbe", xc="pbe")
    refused(r"mesh.cutoff_ry 70.0 \(model\) against 90.0", mesh_cutoff_ry=90.0)
    refused("orbitals of H", basis="szp")
    (tmp_path / "other").mkdir()
    from nearsight.formats.ion_xml import write_ion_xml

    for x in cases.species_of(water(0), "szp", "lda").values():
        write_ion_xml(x, tmp_path / "other" / f"{x.symbol}.ion.xml")
    refused("orbitals of H", species=str(tmp_path / "other"))
    assert not (tmp_path / "next").exists()
    with pytest.raises(NearsightError, match=r"xc lda \(folder\) against pbe"):
        train(config(data, {"kind": "energy", "scf": {"xc": "pbe"}}, max_epochs=1), tmp_path / "third")


def test_a_loss_without_a_number_goes_back_and_then_stops(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NearsightError, match="learning_rate"):
        train(config(data, learning_rate=1e30, gradient_clip=1e30, warmup=0.0, max_epochs=60), tmp_path / "model")
    TrainedModel.load(tmp_path / "model")


def test_a_step_gone_wrong_is_taken_back(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true, calls = Loss.__call__, []

    def wild(self, predicted, sample, shares):  # type: ignore[no-untyped-def]
        found = true(self, predicted, sample, shares)
        calls.append(found.value)
        return LossValue(1e5 * found.value, found.gradient) if len(calls) == 9 else found

    monkeypatch.setattr(Loss, "__call__", wild)
    report = train(config(data, max_epochs=6), tmp_path / "model")
    assert report["backed_off"] == 1 and report["steps"] == len(calls) - 1
    assert "back to the last good state" in capsys.readouterr().out
    assert max(x["train_loss"] or 0.0 for x in lines(tmp_path / "model")) < 2 * max(calls)


def test_preparation_says_how_far_it_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first steps of self-consistency of each structure come before the first epoch, and may take minutes."""
    monkeypatch.setattr("nearsight.learn.progress.LINE_EVERY", 0.0)
    table = config(data, max_epochs=1)
    train({**table, "data": {**table["data"], "cache": str(tmp_path / "cache")}}, tmp_path / "model")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("preparing")]
    for what in ("structures", "samples"):
        of_it = [line.split(",")[0] for line in said if f" {what}," in line]
        assert of_it[:5] == [f"preparing: {k} of 6 {what}" for k in range(1, 6)]

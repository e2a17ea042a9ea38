"""Folders of the first layout (tests/formats/data/version1) go on working; those of a later one are refused in a line."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
import yaml

from nearsight.core.errors import BadInput
from nearsight.core.units import HARTREE_EV
from nearsight.dft.result import Result
from nearsight.formats.deeph import read_folder
from nearsight.learn.checkpoint import Checkpoint
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.reference import recorded_settings
from tests.cli.test_bad_input import refused

BEFORE = Path(__file__).parents[1] / "formats" / "data" / "version1"
WATER = "3\n\nO 0 0 0\nH 0.757 0 0.587\nH -0.757 0 0.587\n"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A copy that may be written to, with the molecule that the set was made of."""
    shutil.copytree(BEFORE, tmp_path / "before")
    (tmp_path / "before/set/h2.xyz").write_text(WATER)
    return tmp_path / "before"


def digests(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "ledger.sqlite") as ledger:
        return dict(ledger.execute("SELECT name, digest FROM job"))


def test_a_set_of_the_first_layout_is_done(nearsight, folders):
    out, config = folders / "set", folders / "set.yaml"
    shutil.copy(out / "config.yaml", config)
    shutil.move(out / "h2.xyz", folders / "h2.xyz")
    old, untouched = digests(out), (out / "0000/hamiltonian.h5").stat().st_mtime_ns
    done = nearsight("dataset", "build", config, "-o", out, "--set", "scf.max_iterations=1")  # computing would fail
    assert done.status == 0, done
    assert (out / "0000/hamiltonian.h5").stat().st_mtime_ns == untouched
    new = digests(out)
    assert all(new[name] != old[name] for name in ("0000", "0001", "0002"))
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["schema_version"] == 2 and written["scf"]["basis"]["size"] == "sz"
    assert written["structure"] == [str(folders / "h2.xyz")]
    again = nearsight("dataset", "build", out / "config.yaml", "-o", out)  # the file that is written makes the same set
    assert again.status == 0 and digests(out) == new
    refused(nearsight("dataset", "build", config, "-o", out, "--set", "scf.xc=lda"), "another configuration")
    refused(nearsight("dataset", "build", config, "-o", out, "--set", "scf.smearing_ev=0.1"), "another configuration")


def test_another_basis_is_another_set(nearsight, folders):
    refused(
        nearsight("dataset", "build", folders / "set/config.yaml", "-o", folders / "set", "--set", "scf.basis=dz"),
        "begun with orbitals sz by rule 1, here they are dz by rule 1",
    )


def test_results_and_bare_structures_are_read(folders):
    result = Result.read(folders / "calculation")
    assert result.converged and result.forces_eV_per_Ang is not None and result.config.electrons.spin == "collinear"
    assert result.config == recorded_settings(folders / "calculation")
    bare = recorded_settings(folders / "bare/0000")
    assert (
        bare is not None and bare.basis.size == json.loads((folders / "bare/0000/settings.json").read_text())["basis"]
    )
    assert Result.read(folders / "set/0000").energy_eV["total"] == pytest.approx(-461.47384340474815, abs=1e-12)


def test_a_model_predicts_what_it_did(folders, tmp_path):
    predict(folders / "model", folders / "set/0001", tmp_path / "out")
    now, before = read_folder(tmp_path / "out"), read_folder(folders / "predicted")
    found = now.require_hamiltonian().values - before.require_hamiltonian().on(now.overlap.layout).values
    assert float(found.abs().max()) * HARTREE_EV < 1e-4  # the network is in single precision


def edit(file: Path, **changes: object) -> None:
    table = json.loads(file.read_text())
    file.write_text(json.dumps({**table, **changes}))


def test_a_later_layout_is_refused_in_a_line(nearsight, folders):
    edit(folders / "calculation/result.json", schema_version=99, versions={"nearsight": "9.1"})
    with pytest.raises(BadInput, match=r"calculation needs Nearsight 9\.1 or later"):
        Result.read(folders / "calculation")
    edit(folders / "bare/0000/settings.json", schema_version=99)
    with pytest.raises(BadInput, match=r"0000 needs a later Nearsight"):
        recorded_settings(folders / "bare/0000")
    config = json.loads((folders / "model/config.json").read_text())
    edit(folders / "model/config.json", reference={**config["reference"], "schema_version": 99})
    with pytest.raises(BadInput, match=r"needs a later Nearsight"):
        TrainedModel.load(folders / "model")
    build = ("dataset", "build", folders / "set.yaml", "-o", folders / "set")
    shutil.copy(BEFORE / "set/config.yaml", folders / "set.yaml")
    (folders / "h2.xyz").write_text(WATER)
    with sqlite3.connect(folders / "set/ledger.sqlite") as ledger:
        ledger.execute("PRAGMA user_version=99")
    refused(nearsight(*build), "set needs a later Nearsight")
    for name in ("set", "model"):
        written = folders / name / "config.yaml"
        written.write_text("schema_version: 99\n" + written.read_text())
    refused(nearsight(*build), "set needs a later Nearsight")
    (folders / "model/checkpoint.pt").write_bytes(b"of a later time")
    (folders / "model.yaml").write_text("data: {train: set}\nmodel: {preset: small}\n")
    refused(nearsight("train", folders / "model.yaml", "-o", folders / "model"), "needs a later Nearsight")


def test_keys_that_come_and_go_break_nothing_that_is_stored(folders):
    config = json.loads((folders / "model/config.json").read_text())
    reference = {k: v for k, v in config["reference"].items() if k != "split_norm"}  # removed; and one added
    edit(folders / "model/config.json", reference={**reference, "meta_gga": {"alpha": 1}}, later=[1])
    model = TrainedModel.load(folders / "model")
    assert model.reference is not None and model.reference.settings.mesh.cutoff_ry == 60
    result = json.loads((folders / "set/0000/result.json").read_text())
    edit(folders / "set/0000/result.json", config={**result["config"], "hybrid": 0.25}, polarisation=[0, 0, 1])
    assert Result.read(folders / "set/0000").config.functional.xc == "pbe"
    assert torch.isfinite(read_folder(folders / "set/0000").require_hamiltonian().values).all()


@pytest.mark.parametrize(("state", "words"), [({"schema_version": 99}, "needs a later Nearsight"), ([1], "damaged")])
def test_a_checkpoint_of_a_later_layout(tmp_path, state, words):
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(BadInput, match=words), Checkpoint(tmp_path).loading("cpu"):
        pass

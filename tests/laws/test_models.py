"""Every model that there is keeps the laws of models; another one than ours trains, resumes, predicts and is fine-tuned."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml

from nearsight.core.errors import NearsightError
from nearsight.core.spin import COLLINEAR, SPINOR
from nearsight.core.structure import Structure
from nearsight.formats.registry import read
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.train import train
from tests.laws.models import ModelLaws, WithMoments, WithoutMoments, crystal, random_rotation
from tests.laws.test_training import data, lines, weights

__all__ = ["data"]  # a fixture


class TestDeepH2(ModelLaws):
    kind = "deeph2"
    arguments: ClassVar = {
        "cutoff": 5.0,
        "reach": 7.0,
        "layers": 2,
        "radial": 4,
        "irreps": "6x0e+4x1o+3x2e+2x3o+2x4e+2x1e+2x2o",
        "edge": [6, 2, 4, 3, 2, 2],
        "hidden": [6, 2, 4, 3, 2, 2],
        "width": 8,
    }

    def disturb(self, network, generator) -> None:
        for name, x in network.readout.cluster.named_buffers():
            if name.startswith(("site", "edge")):
                x.copy_(0.03 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
        network.readout.site_scale.fill_(0.3)
        network.readout.log_scale.coefficients.fill_(math.log(0.2))


class TestCollinearDeepH2(TestDeepH2):
    spin = COLLINEAR
    arguments: ClassVar = {**TestDeepH2.arguments, "layers": 1, "spin": "collinear"}


class TestSpinorDeepH2(WithoutMoments, TestDeepH2):
    spin = SPINOR
    arguments: ClassVar = {**TestDeepH2.arguments, "layers": 1, "spin": "spinor"}
    shells: ClassVar = {1: (0, 1), 6: (0, 0, 1), 8: (0, 1, 2)}


class TestWithoutSurroundings(TestDeepH2):
    """As it is for many elements: no neighbour enters the cluster expansion."""

    arguments: ClassVar = {**TestDeepH2.arguments, "surroundings": False}


class TestDeepHE3(TestDeepH2):
    kind = "deeph_e3"
    arguments: ClassVar = {
        **{k: TestDeepH2.arguments[k] for k in ("cutoff", "reach", "radial", "width")},
        "layers": 1,
        "l_edge": 3,
        "irreps": "4x0e+3x1o+2x2e+2x3o+1x4e+2x1e+1x2o",
    }


class TestXDeepH(WithMoments, TestDeepH2):
    kind = "xdeeph"
    spin = SPINOR
    arguments: ClassVar = {**TestDeepH2.arguments, "layers": 1, "gaussians": 3, "sums": 2}
    shells: ClassVar = {1: (0, 1), 6: (0, 0, 1), 8: (0, 1, 2)}

    def disturb(self, network, generator) -> None:
        super().disturb(network, generator)
        for field in (network.exchange, network.twist):
            field.site_scale.fill_(0.3)
            field.log_scale.coefficients.fill_(math.log(0.2))

    def inert(self, network) -> None:
        torch.nn.init.zeros_(network.tied)


def test_without_spin_orbit_a_turn_of_all_spins_alone_turns_all_of_the_change_whatever_the_weights_are() -> None:
    laws = TestXDeepH()
    laws.arguments = {**TestXDeepH.arguments, "spin_orbit": False}  # type: ignore[misc]
    network, structure, turn = laws.model(), crystal(), random_rotation(11)
    assert not any(name.startswith(("tied", "vectors")) for name, _ in network.named_parameters())
    found = [laws.told(network, m).values for m in (structure.moments, structure.moments @ turn.T)]
    bare = laws.told(network, torch.zeros(6, 3, dtype=torch.float64)).values
    assert float((found[1] - SPINOR.rotated(found[0], turn)).abs().max()) < 1e-10 * float(found[0].abs().max())
    assert float((found[0] - bare).abs().max()) > 1e-3
    back = laws.told(network, -structure.moments)
    assert torch.equal(back.values, laws.told(network, structure.moments).time_reversed().values)


class TestDeepH(TestDeepH2):
    kind = "deeph"
    arguments: ClassVar = {
        **{k: TestDeepH2.arguments[k] for k in ("cutoff", "reach", "radial", "width")},
        "layers": 2,
        "channels": 3,
        "l_max": 3,
        "hidden": 16,
    }

    def test_the_frame_jumps_where_two_neighbours_swap_their_distance_and_only_there(self) -> None:
        network = self.model()

        def at(x: float) -> torch.Tensor:
            """H of O with H at 2.0 along z, and at x and 2.2 off it: the nearer of the two gives the frame its second axis."""
            places = [[0, 0, 0], [0, 0, 2.0], [x, 0.1, 0.3], [-0.4, 2.15, 0.2]]
            s = Structure(
                40 * torch.eye(3, dtype=torch.float64),
                torch.tensor(places, dtype=torch.float64),
                torch.tensor([8, 1, 6, 6]),
            )
            return self.predicted(network, s, self.layout(s)).values

        swap = (0.4**2 + 2.15**2 + 0.2**2 - 0.1**2 - 0.3**2) ** 0.5
        across = (at(swap + 1e-6) - at(swap - 1e-6)).abs().max()
        beside = (at(swap + 0.1 + 1e-6) - at(swap + 0.1 - 1e-6)).abs().max()
        assert float(beside) < 1e-4 < 1e-3 < float(across)


@pytest.fixture(autouse=True)
def _toy(third_party) -> None:
    third_party("nearsight.models", toy="tests.toy_model:Model")


class TestToy(ModelLaws):
    kind = "toy"
    arguments: ClassVar = {"cutoff": 5.0, "width": 4}


def table(data: Path, **trainer: object) -> dict:
    return {
        "data": {"train": str(data), "validation_fraction": 0.34, "seed": 1},
        "model": {"kind": "toy", "width": 3},
        "trainer": {"max_minutes": None, "max_epochs": 6, "validations": 3, "batch_edges": 1, **trainer},
    }


class StoppedError(Exception):
    pass


def test_a_foreign_model_trains_resumes_predicts_and_is_fine_tuned(data: Path, tmp_path: Path) -> None:
    report = train(table(data, learning_rate=0.03, ema=0.0), tmp_path / "whole")
    found = lines(tmp_path / "whole")
    assert found[-1]["validation_mae"] < 0.9 * found[0]["validation_mae"]
    assert report["target"] == "total"

    def stop(metrics: object) -> None:
        if len(lines(tmp_path / "broken")) == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(table(data, learning_rate=0.03, ema=0.0), tmp_path / "broken", stop)
    train(table(data, learning_rate=0.03, ema=0.0), tmp_path / "broken")
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(x, broken[k]) for k, x in whole.items())

    folder = sorted(data.glob("0*"))[0]
    predict(tmp_path / "whole", folder, tmp_path / "out")
    written, model = read(tmp_path / "out").require_hamiltonian(), TrainedModel.load(tmp_path / "whole")
    assert torch.allclose(written.values, model(read(folder).structure, written.layout).values, atol=1e-12)
    config = json.loads((tmp_path / "whole/config.json").read_text())
    assert config["architecture"]["kind"] == "toy" and config["architecture"]["arguments"]["width"] == 3

    tuned = table(data, max_epochs=1, learning_rate=1e-5)
    train({**tuned, "init_from": str(tmp_path / "whole")}, tmp_path / "tuned")
    assert lines(tmp_path / "tuned")[0]["validation_mae"] == pytest.approx(found[-1]["best"], rel=1e-5)


def test_a_model_declares_its_own_keys_and_a_wrong_one_is_named(data: Path, tmp_path: Path) -> None:
    def refused(message: str, model: dict) -> None:
        with pytest.raises(NearsightError, match=message):
            train({**table(data), "model": model}, tmp_path / "model")

    refused("unknown key model.widht; did you mean width", {"kind": "toy", "widht": 3})
    refused("unknown key model.layers", {"kind": "toy", "layers": 3})
    refused("model.kind: 'toi' is not known among models; did you mean toy", {"kind": "toi"})
    refused("model.target: 'delto' is not known; did you mean delta", {"kind": "toy", "target": "delto"})
    for kind in ("deeph", "deeph_e3", "xdeeph"):
        refused("model.target: 'density' is not known.*total, delta", {"kind": kind, "target": "density"})


VERSION1 = Path(__file__).parents[1] / "formats/data/version1"


def test_a_model_of_the_first_layout_predicts_what_it_did(tmp_path: Path) -> None:
    calculation, expected = read(VERSION1 / "set/0001"), read(VERSION1 / "predicted").require_hamiltonian()
    shutil.copytree(VERSION1 / "model", tmp_path / "model")
    file = tmp_path / "model/config.json"
    config = json.loads(file.read_text())

    def predicted(**changed: object) -> torch.Tensor:
        file.write_text(json.dumps({k: v for k, v in {**config, **changed}.items() if v != "dropped"}))
        return TrainedModel.load(tmp_path / "model")(calculation.structure, expected.layout).values

    for changed in ({}, {"a key of later": 1}, {"training": "dropped", "versions": "dropped"}, {"schema_version": 1}):
        assert float((predicted(**changed) - expected.values).abs().max()) < 1e-10
    with pytest.raises(NearsightError, match=r"config\.json needs Nearsight 9.1 or later"):
        predicted(schema_version=2, versions={"nearsight": "9.1"})
    with pytest.raises(NearsightError, match=r"config\.json has no architecture"):
        predicted(architecture="dropped")
    arguments = {**config["architecture"]["arguments"], "heads": 2}
    with pytest.raises(NearsightError, match=r"deeph2 of another version is needed.*heads"):
        predicted(architecture={**config["architecture"], "arguments": arguments})


def test_an_older_training_goes_on(tmp_path: Path) -> None:
    """Keys of the configuration that came since have their defaults, and those that went are let go."""
    shutil.copytree(VERSION1 / "set", tmp_path / "set")
    table = yaml.safe_load((VERSION1 / "model/config.yaml").read_text())
    table["data"]["train"] = str(tmp_path / "set")
    train(table, tmp_path / "model")
    written = yaml.safe_load((tmp_path / "model/config.yaml").read_text())
    assert written["data"].pop("cache_gb") and written["trainer"].pop("cache_gb")
    (tmp_path / "model/config.yaml").write_text(yaml.safe_dump({**written, "gone": 1}))
    table["trainer"]["max_epochs"] = 4
    assert train(table, tmp_path / "model")["epochs"] == 4

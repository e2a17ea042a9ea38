"""Fine-tuning: a network is taken to further elements, its old ones as they were, and parts of it may stay frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.core.structure import Structure
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings
from nearsight.learn.model import TrainedModel
from nearsight.learn.model_files import build
from nearsight.learn.train import train
from nearsight.learn.widening import nearest_element, widened
from tests.laws import test_models
from tests.laws.test_density import SMALL, network, skew

SETTINGS = Settings(xc="pbe", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=60)


def test_the_nearest_element_is_of_the_nearest_group():
    assert nearest_element(14, [1, 6, 8]) == 6
    assert nearest_element(16, [1, 6, 8]) == 8
    assert nearest_element(3, [1, 6, 8]) == 1
    assert nearest_element(35, [9, 11, 17]) == 17
    assert nearest_element(25, [9, 26, 17]) == 26


def test_old_elements_stay_and_a_new_one_begins_as_its_neighbour():
    before = network()
    architecture = {"kind": "deeph2-density", "shells": {"1": [0], "6": [0, 1], "8": [0, 1]}, "arguments": SMALL}
    wide, wider = widened(before, architecture, {16: (0, 1), 6: (0, 1)})
    assert list(wider["shells"]) == ["1", "6", "8", "16"]
    s = skew()
    sulphur = torch.where(s.numbers == 8, 16, s.numbers)
    with torch.no_grad():
        old = before(before.frames(s)).values
        assert torch.equal(wide(wide.frames(s)).values, old)
        assert torch.equal(wide(wide.frames(Structure(s.cell, s.positions, sulphur))).values, old)
    assert widened(before, architecture, {6: (0, 1)})[0] is before


def test_pairs_of_elements_are_widened_without_surroundings_and_refused_with_them():
    arguments = {**test_models.TestDeepH2.arguments, "surroundings": False}
    shells = {"1": [0, 1], "6": [0, 0, 1], "8": [0, 0, 1]}
    architecture = {"kind": "deeph2", "shells": shells, "arguments": arguments}
    before = build(architecture).double()
    table = before.readout.log_scale.coefficients
    table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    wide, _ = widened(before, architecture, {16: (0, 0, 1)})
    new = wide.readout.log_scale.coefficients
    assert torch.equal(new[1 * 4 + 3], table[1 * 3 + 2]) and torch.equal(new[3 * 4 + 3], table[2 * 3 + 2])
    with pytest.raises(NearsightError, match="cannot be taken to S"):
        widened(before, architecture, {16: (0, 1, 2)})
    with_them = {**architecture, "arguments": test_models.TestDeepH2.arguments}
    with pytest.raises(NearsightError, match=r"cannot be taken to S.*is of all its elements"):
        widened(build(with_them).double(), with_them, {16: (0, 0, 1)})


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("widening")
    for name, other in (("oxygen", 8), ("sulphur", 16)):
        for k in range(3):
            s = skew()
            steps = 0.1 * torch.randn(3, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            numbers = torch.where(s.numbers == 8, other, s.numbers)
            run_scf(Structure(1.1 * s.cell, 1.1 * s.positions + steps, numbers), SETTINGS, folder / name / f"{k}")
    return folder


def table(data: Path, **more: object) -> dict:
    return {
        "data": {"train": str(data), "validation_fraction": 0.34},
        "model": {"target": "density", "members": 2, **{k: v for k, v in SMALL.items() if k != "cutoff"}},
        **more,
    }


def test_a_training_begins_with_a_model_of_other_elements_and_leaves_what_is_frozen(sets: Path, tmp_path: Path):
    few = {"max_minutes": None, "max_epochs": 2, "validations": 1}
    train(table(sets / "oxygen", trainer=few), tmp_path / "first")
    frozen = {**few, "freeze": ["interactions", "multipoles"], "learning_rate": 0.01}
    train(table(sets / "sulphur", init_from=str(tmp_path / "first"), trainer=frozen), tmp_path / "second")
    first, second = (TrainedModel.load(tmp_path / name) for name in ("first", "second"))
    assert list(second.network.shells) == [1, 6, 8, 16] and second.reference is not None
    assert sorted(second.reference.species) == [1, 6, 8, 16]
    before, after = (dict(m.network.named_parameters()) for m in (first, second))
    kept = {n for n in after if n.removeprefix("others.0.").startswith(("interactions", "multipoles"))}
    assert len(kept) > 4
    for name in kept:
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["radial.0.weight"], after["radial.0.weight"])
    s = skew()
    for structure in (s, Structure(s.cell, s.positions, torch.where(s.numbers == 8, 16, s.numbers))):
        assert bool(torch.isfinite(second(structure).values).all())
    with pytest.raises(NearsightError, match="no part interaction; it has embedding"):
        train(table(sets / "oxygen", trainer={**few, "freeze": ["interaction"]}), tmp_path / "third")

"""Training: the loss falls, a killed run goes on exactly, what is saved is what predicts, bad input is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.formats.registry import read, write
from nearsight.learn.config import TrainingConfig
from nearsight.learn.data import LabelledData, Reader
from nearsight.learn.losses import BlockLoss
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.split import split
from nearsight.learn.train import train, train_from_config
from tests import toy_model
from tests.laws.formats import overlap_of

SHELLS = {6: (0, 1), 1: (0,)}


def made_up_hamiltonian(structure: Structure, layout: BlockLayout) -> BlockMatrix:
    """A smooth equivariant matrix with many-body terms: overlap-like blocks times functions of coordination."""
    pairs = layout.pairs
    vectors = pairs.vectors(structure)
    r = vectors.norm(dim=1)
    weights = torch.exp(-0.5 * r) * (r > 0)
    crowd = torch.zeros(len(structure), dtype=torch.float64).index_add(0, pairs.i, weights)
    field = torch.zeros(len(structure), 3, dtype=torch.float64).index_add(0, pairs.i, weights[:, None] * vectors)
    values = []
    for k in range(len(pairs)):
        i, j = int(pairs.i[k]), int(pairs.j[k])
        v = vectors[k][[1, 2, 0]]
        f = (field[i] + field[j])[[1, 2, 0]]
        full = torch.zeros(4, 4, dtype=torch.float64)
        full[0, 0] = -1.0
        full[0, 1:], full[1:, 0] = 0.3 * v + 0.1 * f, -0.3 * v + 0.1 * f
        full[1:, 1:] = 0.5 * torch.eye(3, dtype=torch.float64) - 0.2 * torch.outer(v, v) + 0.05 * torch.outer(f, f)
        block = full * torch.exp(-0.4 * r[k]) * (1 + 0.3 * torch.sin(crowd[i] + crowd[j]))
        rows, columns = layout.shapes[k].tolist()
        values.append(block[:rows, :columns].flatten())
    return BlockMatrix(layout, torch.cat(values)[None]).hermitian()


def sample(seed: int) -> tuple[Structure, BlockMatrix, BlockMatrix]:
    generator = torch.Generator().manual_seed(seed)
    positions = torch.tensor([[0, 0, 0], [2.2, 0, 0], [0, 2.1, 0.3], [2.3, 2.2, -0.4]], dtype=torch.float64)
    positions = positions + 0.2 * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    structure = Structure(7.5 * torch.eye(3, dtype=torch.float64), positions, torch.tensor([6, 6, 1, 1]))
    layout = BlockLayout(Basis.of(structure.numbers, SHELLS), Pairs.within(structure, 6.0))
    hamiltonian = made_up_hamiltonian(structure, layout)
    return structure, hamiltonian, overlap_of(hamiltonian)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for k in range(6):
        structure, hamiltonian, overlap = sample(k)
        write(folder / f"{k:04d}", Calculation(structure, overlap, hamiltonian))
    (folder / "species").mkdir()
    (folder / "species").rmdir()
    return folder


def config(data: Path, **trainer: object) -> dict:
    return {
        "data": {"train": str(data), "validation_fraction": 0.34, "seed": 1},
        "model": {"preset": "small", "cutoff_ang": 2.5, "width": 16},
        "trainer": {"max_minutes": None, "max_epochs": 4, "validations": 4, "batch_edges": 1, **trainer},
    }


def weights(folder: Path, name: str = "network") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)[name]


def lines(folder: Path) -> list[dict]:
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_network_learns_what_the_expansion_leaves(data: Path, tmp_path: Path) -> None:
    settings = config(data, max_epochs=60, learning_rate=5e-3)
    settings["data"]["validation_fraction"] = 0.0
    train(settings, tmp_path / "model")
    losses = [x["train_loss"] for x in lines(tmp_path / "model") if x["train_loss"] is not None]
    assert losses[-1] < 0.8 * losses[0]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_killed_training_goes_on_to_the_same_bits(
    one_thread: None, data: Path, tmp_path: Path, schedule: str
) -> None:
    settings = config(data, schedule=schedule, plateau_patience=1)
    train(settings, tmp_path / "whole")

    def stop(metrics: object) -> None:
        if len(lines(tmp_path / "broken")) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(settings, tmp_path / "broken", stop)
    with open(tmp_path / "broken" / "metrics.jsonl", "a") as file:  # a line that came after the last checkpoint
        file.write(json.dumps({**lines(tmp_path / "broken")[-1], "step": 9999}) + "\n")
    train(settings, tmp_path / "broken")
    for name in ("network", "average"):
        whole, broken = weights(tmp_path / "whole", name), weights(tmp_path / "broken", name)
        assert all(torch.equal(whole[k], broken[k]) for k in whole)
    drop = ("minutes",)
    assert [{k: v for k, v in x.items() if k not in drop} for x in lines(tmp_path / "whole")] == [
        {k: v for k, v in x.items() if k not in drop} for x in lines(tmp_path / "broken")
    ]


def test_what_is_saved_predicts_what_was_validated(data: Path, tmp_path: Path) -> None:
    report = train(config(data), tmp_path / "model")
    model = TrainedModel.load(tmp_path / "model")
    held_out = split(TrainingConfig.model_validate(config(data)).data).validation
    errors, count = 0.0, 0
    for folder in held_out:
        found = read(folder)
        predicted = model(found.structure, found.require_hamiltonian().layout)
        errors += float((predicted.values - found.require_hamiltonian().values).abs().sum())
        count += predicted.values.numel()
    assert 27211.386 * errors / count == pytest.approx(report["validation_mae_meV"], rel=1e-4)
    predict(tmp_path / "model", held_out[0], tmp_path / "out")
    written, expected = read(tmp_path / "out"), read(held_out[0])
    assert torch.equal(written.overlap.values, expected.overlap.values)
    again = model(expected.structure, expected.overlap.layout)
    assert torch.allclose(written.require_hamiltonian().values, again.values, atol=1e-12)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["training"]["epochs"] == 4
    assert (tmp_path / "model" / "config.yaml").exists()


def test_a_difference_is_learnt_and_its_reference_put_back(data: Path) -> None:
    class Half:
        def initial_hamiltonian(self, structure: Structure) -> BlockMatrix:
            layout = BlockLayout(Basis.of(structure.numbers, SHELLS), Pairs.within(structure, 6.0))
            return made_up_hamiltonian(structure, layout) * 0.5

    folders = split(TrainingConfig.model_validate(config(data)).data).train
    model = toy_model.Model(SHELLS, "delta", cutoff=4.0)
    source = LabelledData(folders, Reader(), Half()).source(0, model)
    hamiltonian = read(folders[0]).require_hamiltonian().values
    labels = model.labels(source.calculation, source.inputs)
    assert torch.allclose(labels, 0.5 * hamiltonian, atol=1e-9)
    assert torch.allclose(model.target.matrix(labels, source.inputs), hamiltonian)


def test_the_zero_of_energy_can_be_left_out_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    target, overlap = (torch.randn(10, generator=generator) for _ in range(2))
    shifted = target + torch.cat([0.3 * overlap[:4], -0.7 * overlap[4:]])
    assert float(BlockLoss("mae", gauge_invariant=True)(shifted, target, overlap, (4, 6))) < 0.01
    assert float(BlockLoss("mae")(shifted, target, overlap, (4, 6))) > 1000


def test_a_split_is_drawn_by_its_seed_and_leaves_nothing_out(data: Path) -> None:
    table = config(data)["data"]
    first, second = (split(TrainingConfig.model_validate({"data": table}).data) for _ in range(2))
    assert first == second
    assert len(first.train) == 4
    assert not set(first.train) & set(first.validation)


def refused(message: str, *arguments: object) -> None:
    with pytest.raises(NearsightError, match=message):
        train_from_config(*arguments)  # type: ignore[arg-type]


def test_bad_input_gets_one_line(data: Path, tmp_path: Path) -> None:
    good = config(data)
    refused("learning_rate", {**good, "trainer": {"learning_rat": 1}}, tmp_path / "a")
    refused("large", {**good, "model": {"preset": "lage"}}, tmp_path / "a")
    refused("no such folder", {**good, "data": {"train": str(tmp_path / "none")}}, tmp_path / "a")
    refused("data.species", {**good, "model": {"target": "delta"}}, tmp_path / "a")
    refused("max_minutes", good, tmp_path / "a", ["trainer.max_epochs=null"])
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    refused("dear.txt", good, tmp_path / "letters")
    with pytest.raises(NearsightError, match=r"config\.json"):
        TrainedModel.load(tmp_path / "letters")
    with pytest.raises(NearsightError, match="no such model"):
        TrainedModel.load(tmp_path / "nowhere")


def test_a_model_refuses_what_it_cannot_do(data: Path, tmp_path: Path) -> None:
    train(config(data, max_epochs=1), tmp_path / "model")
    refused("another trainer.learning_rate", config(data, max_epochs=1, learning_rate=0.1), tmp_path / "model")
    structure = sample(0)[0]
    with pytest.raises(NearsightError, match=r"never saw N: it knows H, C"):
        predict(tmp_path / "model", Structure(structure.cell, structure.positions, torch.tensor([6, 6, 1, 7])), "x")
    with pytest.raises(NearsightError, match=r"data\.species"):
        predict(tmp_path / "model", structure, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(NearsightError, match="does not fit"):
        TrainedModel.load(tmp_path / "model")


def test_a_loss_without_a_number_stops_the_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NearsightError, match="learning_rate"):
        train(config(data, learning_rate=1e30, gradient_clip=1e30, warmup=0.0, max_epochs=20), tmp_path / "model")
    TrainedModel.load(tmp_path / "model")

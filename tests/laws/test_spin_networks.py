"""Networks of matrices with spin: trained, saved, predicted, compared; what does not fit is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.so3 import wigner
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.spin_parts import PARTS, SpinParts
from nearsight.formats.registry import read, write
from nearsight.learn.config import BlocksLossConfig
from nearsight.learn.data import LabelledData, Reader
from nearsight.learn.losses import BlocksTerm
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.samples import complete_record, exact_record, sample_of
from nearsight.learn.train import train
from nearsight.models.deeph2 import DeepH2
from nearsight.models.graph import Graph
from nearsight.models.targets import Prediction
from nearsight.properties.compare import compare
from tests.laws.models import random_rotation
from tests.laws.spin import random_matrix
from tests.laws.test_network import TINY
from tests.laws.test_training import SHELLS, config, lines, sample


def with_spin(hamiltonian: BlockMatrix, kind: Spin, seed: int) -> BlockMatrix:
    """A matrix of this spin, of one without: other factors up and down, or an antisymmetric part between the spins."""
    h = hamiltonian.embed(kind)
    if kind is COLLINEAR:
        return h.with_values(h.values * torch.tensor([[0.9], [1.2]], dtype=torch.float64))
    parts = SpinParts.without_moments(SPINOR)
    channels = parts.of_values(h.values)
    rate = torch.tensor([0.3, 0.2, -0.4], dtype=torch.float64)[:, None]
    row, column = h.layout.local
    channels[1:] = 0.02 * rate * (row - column)
    return h.with_values(parts.values(channels)).hermitian()


@pytest.fixture(scope="module", params=[COLLINEAR, SPINOR], ids=["collinear", "spinor"])
def kind(request: pytest.FixtureRequest) -> Spin:
    return request.param


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, kind: Spin) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for k in range(6):
        structure, hamiltonian, overlap = sample(k)
        write(folder / f"{k:04d}", Calculation(structure, overlap, with_spin(hamiltonian, kind, k), electrons=8.0))
    return folder


def test_a_model_of_the_data_s_spin_learns_and_predicts(data: Path, kind: Spin, tmp_path: Path) -> None:
    report = train(config(data, max_epochs=8, learning_rate=5e-3), tmp_path / "model")
    found = lines(tmp_path / "model")
    assert found[-1]["train_loss"] < found[1]["train_loss"]
    model = TrainedModel.load(tmp_path / "model")
    assert model.network.spin is kind and model.domain is not None and model.domain.spin == kind.name
    errors = []
    for place in sorted(data.glob("0*")):
        predict(tmp_path / "model", place, tmp_path / place.name)
        written = read(tmp_path / place.name)
        assert written.require_hamiltonian().spin is kind
        found_, known = (c.require_hamiltonian().values for c in (written, read(place)))
        errors.append(27211.386 * float((found_ - known).abs().mean()))
        assert compare(read(place), written).hamiltonian_mae_meV == pytest.approx(errors[-1], rel=1e-6)
    assert min(errors) - 1e-9 <= report["validation_mae_meV"] <= max(errors) + 1e-9


def test_a_killed_training_goes_on_to_the_same_bits(one_thread: None, data: Path, tmp_path: Path) -> None:
    settings = config(data, max_epochs=4)
    train(settings, tmp_path / "whole")

    def stop(metrics: object) -> None:
        if len(lines(tmp_path / "broken")) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "broken", stop)
    train(settings, tmp_path / "broken")
    whole, broken = (TrainedModel.load(tmp_path / x).network.state_dict() for x in ("whole", "broken"))
    assert all(torch.equal(whole[k], broken[k]) for k in whole)


@pytest.mark.parametrize("loss", [{"error": "mse"}, {"error": "mixed", "gauge_invariant": True}])
def test_every_loss_of_elements_serves(data: Path, tmp_path: Path, loss: dict) -> None:
    train({**config(data, max_epochs=2), "loss": {"kind": "blocks", **loss}}, tmp_path / "model")
    assert lines(tmp_path / "model")[-1]["validation_mae"] > 0


def test_the_zero_of_energy_can_be_left_out_of_the_loss(data: Path, kind: Spin) -> None:
    """H + mu S is the same physics: mu S of both spins alike, and nothing between them."""
    network = DeepH2(SHELLS, cutoff=4.0, reach=7.0, layers=1, radial=4, spin=kind.name, **TINY).double()
    source = LabelledData(sorted(data.glob("0*")), Reader(), None).source(0, network)
    record = complete_record(network, exact_record(network, source))
    found = sample_of(record, 0, Graph, kind, torch.device("cpu"))
    assert found.target is not None
    shift = BlockMatrix(source.layout, record["overlap"][None]).embed(kind).values
    shifted = Prediction(found.target + 0.3 * shift, found.sizes, network.target)
    blind, seeing = (BlocksTerm(BlocksLossConfig(gauge_invariant=x))(shifted, found).value for x in (True, False))
    assert blind < 1e-9 < 10 < seeing


def test_data_of_two_spins_are_refused_by_name(data: Path, kind: Spin, tmp_path: Path) -> None:
    structure, hamiltonian, overlap = sample(7)
    write(tmp_path / "other" / "0000", Calculation(structure, overlap, hamiltonian))
    settings = config(data)
    settings["data"]["train"] = [str(data), str(tmp_path / "other")]
    with pytest.raises(NearsightError, match=f"spin {kind}.*other/0000.*spin none.*leave one of the sets out"):
        train(settings, tmp_path / "model")


def test_a_model_without_spin_refuses_data_with(data: Path, kind: Spin, tmp_path: Path) -> None:
    structure, hamiltonian, overlap = sample(7)
    for k in range(2):
        write(tmp_path / "plain" / f"000{k}", Calculation(structure, overlap, hamiltonian * (1 + 0.01 * k)))
    train(config(tmp_path / "plain", max_epochs=1), tmp_path / "model")
    with pytest.raises(NearsightError, match=f"0000 has spin {kind}, the model none"):
        train({**config(data), "init_from": str(tmp_path / "model")}, tmp_path / "next")


@pytest.mark.parametrize("spin", PARTS, ids=str)
def test_parts_are_what_they_say(spin: Spin) -> None:
    """Of any hermitian matrix: they add up to it, have their sign, and time reversal turns those that are odd."""
    matrix = random_matrix(spin, complex_values=spin is SPINOR)
    parts = SpinParts.of(spin)
    channels = parts.of_values(matrix.values)
    assert channels.dtype == torch.float64 and parts.channels == len(channels)
    assert torch.allclose(parts.values(channels), matrix.values, atol=1e-14)
    reversed_ = parts.of_values(matrix.time_reversed().values)
    for part, own, back in zip(
        parts.parts, *(x.split([p.width for p in parts.parts]) for x in (channels, reversed_)), strict=True
    ):
        assert torch.allclose(own[:, matrix.layout.transposed], part.sign * own, atol=1e-14)
        assert torch.allclose(back, -own if part.odd else own, atol=1e-14)
    even = SpinParts.without_moments(spin)
    kept = BlockMatrix(matrix.layout, even.values(even.of_values(matrix.values)), spin)
    assert torch.allclose(even.rest(kept.values), torch.zeros_like(kept.values), atol=1e-14)
    if spin is SPINOR:
        assert torch.equal(kept.time_reversed().values, kept.values)


def test_the_vector_of_a_part_turns_as_a_vector() -> None:
    """Channels y, z, x of a spinor matrix turn by D^1 where the matrix is turned in spin alone."""
    turn, parts = random_rotation(5), SpinParts.of(SPINOR)
    matrix = random_matrix(SPINOR)
    turned = parts.of_values(SPINOR.rotated(matrix.values, turn))
    widths = [p.width for p in parts.parts]
    here = parts.of_values(matrix.values)
    for own, there in zip(here.split(widths), turned.split(widths), strict=True):
        d = wigner(1, turn) if len(own) == 3 else torch.eye(1, dtype=torch.float64)
        assert torch.allclose(d @ own, there, atol=1e-13)
    assert SpinParts.of(NONE).channels == 1


def test_moments_are_data_of_xdeeph_and_missing_ones_are_told(tmp_path: Path) -> None:
    moments = torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, -0.5, 0.0]], dtype=torch.float64)
    for k in range(4):
        structure, hamiltonian, overlap = sample(k)
        field = SpinParts.of(SPINOR).values(torch.cat([torch.zeros(5, 1), moments[k % 4][[1, 2, 0], None]]).double())
        h = hamiltonian.embed(SPINOR)
        h = h.with_values(h.values + 0.1 * field * hamiltonian.values)
        write(tmp_path / f"set/{k:04d}", Calculation(structure, overlap, h, electrons=8.0, moments=moments))
    settings = config(tmp_path / "set", max_epochs=2)
    settings["model"] |= {"kind": "xdeeph", "gaussians": 4}
    train(settings, tmp_path / "model")
    predict(tmp_path / "model", tmp_path / "set/0000", tmp_path / "own")
    structure = sample(0)[0]
    with pytest.raises(NearsightError, match="orbitals of its data"):
        predict(tmp_path / "model", structure, tmp_path / "other", moments=moments)
    predict(tmp_path / "model", tmp_path / "set/0000", tmp_path / "turned", moments=-moments)
    own, turned = (read(tmp_path / x).require_hamiltonian() for x in ("own", "turned"))
    assert torch.allclose(turned.values, own.time_reversed().values, atol=1e-12)
    assert read(tmp_path / "own").result["moments_mu_b"] == moments.tolist()
    with pytest.raises(NearsightError, match="3 moments for the 4 atoms"):
        predict(tmp_path / "model", tmp_path / "set/0000", tmp_path / "x", moments=moments[:3])

    write(tmp_path / "bare/0000", Calculation(structure, sample(0)[2], own, electrons=8.0))
    write(tmp_path / "bare/0001", Calculation(structure, sample(0)[2], turned, electrons=8.0))
    settings["data"]["train"] = str(tmp_path / "bare")
    with pytest.raises(NearsightError, match=r"bare/000\d gives no magnetic moments, and this model needs each atom's"):
        train(settings, tmp_path / "next")
    with pytest.raises(NearsightError, match=r"states no magnetic moments.*--moments"):
        predict(tmp_path / "model", tmp_path / "bare/0000", tmp_path / "x")
    settings["data"]["train"] = str(tmp_path / "set")
    settings["model"] = config(tmp_path / "set")["model"]
    with pytest.raises(NearsightError, match=r"eV that time reversal turns, those of a magnetic state.*xdeeph"):
        train(settings, tmp_path / "third")

"""What a model was trained on is kept with it: data that no one network can learn are refused, and so is what it never saw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings
from nearsight.formats.registry import read, write
from nearsight.learn.domain import Domain
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.train import train
from tests import cases
from tests.conftest import WATERS
from tests.laws.test_resume import lines, table

SCF = {"xc": "pbe", "basis": "sz", "energy_shift_ry": 0.02, "kmesh": [1, 1, 1], "mesh_cutoff_ry": 60.0}
BOX = 11.0


def molecule(numbers: Sequence[int], positions: Sequence[Sequence[float]], seed: int = 0) -> Structure:
    """In a box, a little distorted; Bohr."""
    steps = 0.05 * torch.randn(len(numbers), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    place = torch.tensor(positions, dtype=torch.float64) + 0.5 * BOX + steps
    return Structure(BOX * torch.eye(3, dtype=torch.float64), place, torch.tensor(numbers))


def hydroxide(seed: int) -> Structure:
    return molecule([8, 1], [[0, 0, 0], [0, 0, 1.83]], seed)


def set_of(folder: Path, structures: Sequence[Structure], **scf: Any) -> Path:
    for k, s in enumerate(structures):
        run_scf(s, Settings(**{**SCF, **scf}), folder / f"{k:04d}")
    return folder


@pytest.fixture(scope="module")
def charged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return set_of(tmp_path_factory.mktemp("charged") / "set", [hydroxide(k) for k in range(3)], charge=-1)


@pytest.fixture(scope="module")
def charged_model(charged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    train(table(data=charged, max_epochs=1), folder := tmp_path_factory.mktemp("model") / "model")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train(table(max_epochs=1), folder := tmp_path_factory.mktemp("waters") / "model")
    return folder


def info(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "info.json").read_text())


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def altered(source: Path, target: Path, change: Callable[[dict[str, Any]], None], file: str = "result.json") -> Path:
    """A copy of a data set, one of whose files is changed in every folder."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sqlite", "config.yaml"))
    for path in target.glob(f"*/{file}"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return target


def of_two(a: Path, b: Path, target: str = "total", **data: Any) -> dict[str, Any]:
    settings = table(max_epochs=1, target=target)
    settings["data"] |= {"train": [str(a), str(b)], **data}
    return settings


# --- what a prediction is told of, or refused


def test_the_model_says_what_it_was_trained_on(model: Path, charged_model: Path) -> None:
    known = json.loads((model / "config.json").read_text())["trained_on"]
    assert known["elements"] == ["H", "O"] and set(known["pairs"]) == {"O-H", "H-H"} and known["structures"] == 2
    assert 1.4 < known["pairs"]["H-H"]["farthest_ang"] < 6
    assert known["settings"]["functional"]["xc"] == "pbe" and known["charges_e"] == {"all": [0.0]}
    domain = TrainedModel.load(charged_model).domain
    assert domain is not None and domain.charges == {"H1O1": (-1.0,)}
    assert Domain.of_table(json.loads(json.dumps(domain.table())), Path("x")) == domain


def test_what_it_was_trained_on_cannot_be_altered(charged_model: Path, tmp_path: Path) -> None:
    shutil.copytree(charged_model, tmp_path / "m")
    config = json.loads((charged_model / "config.json").read_text())
    config["trained_on"]["charges_e"] = {"H1O1": [0.0]}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(NearsightError, match="as they were saved together"):
        TrainedModel.load(tmp_path / "m")
    for key, damage in (("pairs", 3), ("elements", ["Xy"]), ("charges_e", {"HO": "x"}), ("pairs", {"OH": {}})):
        with pytest.raises(NearsightError, match=r"trained_on cannot be .*damaged"):
            Domain.of_table({**config["trained_on"], key: damage}, Path("config.json"))


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Water and carbon monoxide: C and H never met."""
    waters = [molecule([8, 1, 1], [[0, 0, 0], [0, 0, 1.83], [1.77, 0, -0.45]], k) for k in range(4)]
    oxides = [molecule([6, 8], [[0, 0, 0], [0, 0, 2.14]], k) for k in range(4, 7)]
    return set_of(tmp_path_factory.mktemp("apart") / "set", [*waters, *oxides])


@pytest.mark.parametrize("target", ["total", "delta"])
def test_a_pair_of_elements_that_never_met(apart: Path, tmp_path: Path, target: str) -> None:
    settings = table(data=apart, target=target, max_epochs=1)
    settings["data"]["validation_fraction"] = 0.0
    train(settings, tmp_path / "m")
    both = molecule([8, 1, 1, 6, 8], [[-3, 0, 0], [-3, 0, 1.83], [-3, 1.77, -0.4], [1, 0, 2], [1, 2.14, 2]])
    told: list[str] = []
    if target == "total":
        with pytest.raises(NearsightError, match="never saw C-H, O-O"):
            predict(tmp_path / "m", both, tmp_path / "p", warn=told.append)
        assert not (tmp_path / "p").exists()
        with pytest.raises(NearsightError, match="never saw C-H, O-O"):
            TrainedModel.load(tmp_path / "m")(both)
        return
    predict(tmp_path / "m", both, tmp_path / "p", warn=told.append)
    assert len(told) == 1 and "never saw C-H, O-O" in told[0] and result(tmp_path / "p")["warnings"] == told
    trained = TrainedModel.load(tmp_path / "m")
    assert trained.reference is not None
    predicted = read(tmp_path / "p").require_hamiltonian()
    h0 = trained.reference.initial_hamiltonian(read(tmp_path / "p").structure).on(predicted.layout)
    pairs, numbers = predicted.pairs, read(tmp_path / "p").structure.numbers
    never = ((numbers[pairs.i] * numbers[pairs.j]) == 6)[predicted.layout.pair]
    apart_by = (predicted.values - h0.values)[0].abs()
    assert float(predicted.values[0, never].abs().max()) > 0.1
    assert float(apart_by[never].max()) < 1e-5 < float(apart_by[~never].max())


def test_an_element_that_was_held_out_only_is_not_known(apart: Path, tmp_path: Path, capsys: Any) -> None:
    settings = table(data=apart, max_epochs=1)
    settings["data"] |= {"train": str(WATERS), "validation": str(apart / "0004")}
    settings["data"]["train"] = [str(apart / "0000"), str(apart / "0001")]
    train(settings, tmp_path / "m")
    assert "no structure to train on has: C, O-C" in capsys.readouterr().out
    with pytest.raises(NearsightError, match="never saw C, O-C"):
        predict(tmp_path / "m", read(apart / "0004").structure, tmp_path / "p")


def test_a_prediction_has_the_charge_of_the_data(charged: Path, charged_model: Path, tmp_path: Path) -> None:
    structure, told = hydroxide(7), []
    for n, source in enumerate((structure, charged / "0000")):
        predict(charged_model, source, tmp_path / f"{n}", warn=told.append)
        assert info(tmp_path / f"{n}")["occupation"] == 8.0 and result(tmp_path / f"{n}")["charge_e"] == -1.0
    known = read(charged / "0000")
    predicted = read(tmp_path / "1")
    assert predicted.electrons == known.electrons == 8.0 and not told


def test_another_charge_is_told_or_refused(charged_model: Path, model: Path, tmp_path: Path) -> None:
    told: list[str] = []
    predict(charged_model, hydroxide(7), tmp_path / "0", charge=0.0, warn=told.append)
    assert info(tmp_path / "0")["occupation"] == 7.0 and "-1 e, not +0 e" in told[0]
    states = replace(hydroxide(7), charges=torch.tensor([0.0, 1.0], dtype=torch.float64))
    with pytest.raises(NearsightError, match=r"states a charge of \+1 e.*--charge 1"):
        predict(charged_model, states, tmp_path / "1")
    atom = molecule([8], [[0, 0, 0]])
    with pytest.raises(NearsightError, match=r"other formulas, with the charge -1 e\. Give --charge"):
        predict(charged_model, atom, tmp_path / "2")
    predict(charged_model, atom, tmp_path / "2", charge=-2.0, warn=told.append)
    assert info(tmp_path / "2")["occupation"] == 8.0
    with pytest.raises(NearsightError, match="no electrons"):
        predict(model, cases.water(BOX), tmp_path / "3", charge=8.0)
    moments = replace(cases.water(BOX), moments=torch.ones(3, dtype=torch.float64))
    predict(model, moments, tmp_path / "4", warn=told.append)
    assert "moments" in told[-1] and info(tmp_path / "4")["occupation"] == 8.0


# --- what is not learnt together


@pytest.mark.parametrize("target", ["total", "delta"])
@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("functional.xc 'pbe' against 'lda'", lambda r: r["config"].update(xc="lda")),
        ("basis.energy_shift_ry 0.01 against 0.05", lambda r: r["config"].update(energy_shift_ry=0.05)),
        ("mesh.cutoff_ry 60.0 against 200.0", lambda r: r["config"].update(mesh_cutoff_ry=200.0)),
        ("electrostatics", lambda r: r["config"].update(sheet=True)),
        ("pseudopotential of O", lambda r: r["species"]["O"].update(pseudopotential_sha256="f")),
    ],
)
def test_what_was_made_differently_is_not_learnt_together(
    tmp_path: Path, target: str, words: str, change: Callable[[dict[str, Any]], None]
) -> None:
    other = altered(WATERS, tmp_path / "other", change)
    with pytest.raises(NearsightError, match=words):
        train(of_two(WATERS, other, target), tmp_path / "m")
    with pytest.raises(NearsightError, match=words):
        train(of_two(WATERS, other, target, train=str(WATERS), validation=str(other)), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_energy_is_not_trained_on_two_functionals_unless_one_is_chosen(tmp_path: Path) -> None:
    other = altered(WATERS, tmp_path / "other", lambda r: r["config"].update(xc="lda"))
    settings = of_two(WATERS, other, "delta", validation=str(WATERS))
    with pytest.raises(NearsightError, match=r"functional\.xc 'pbe' against 'lda'"):
        train({**settings, "loss": "energy"}, tmp_path / "m")
    train({**settings, "loss": {"kind": "energy", "scf": {"xc": "pbe"}}}, tmp_path / "m")


def test_folders_that_say_nothing_are_learnt_with_others_unless_their_orbitals_differ(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    for k in range(3):
        found = read(WATERS / f"{k:04d}")
        write(foreign / f"{k}", Calculation(found.structure, found.overlap, found.hamiltonian))
    train(of_two(WATERS, foreign), tmp_path / "m")
    found = read(foreign / "0")
    overlap = found.require_overlap()
    away = (overlap.pairs.i != overlap.pairs.j)[overlap.layout.pair]
    longer = overlap.with_values(torch.where(away, 0.9 * overlap.values, overlap.values))
    write(tmp_path / "radii" / "0", replace(found, overlap=longer))
    with pytest.raises(NearsightError, match="radii/0 are not those of its matrices"):
        train(of_two(WATERS, tmp_path / "radii"), tmp_path / "n")


def two_zetas(overlap_between: float, seed: int) -> Calculation:
    """An atom and its neighbour with two s orbitals each, made up."""
    s = molecule([1, 1], [[0, 0, 0], [0, 0, 1.5]], seed)
    layout = BlockLayout(Basis.of(s.numbers, {1: (0, 0)}), Pairs.within(s, 4.0))
    same = layout.pairs.i == layout.pairs.j
    blocks = [torch.tensor([[1, overlap_between], [overlap_between, 1]]) if x else 0.1 * torch.ones(2, 2) for x in same]
    values = torch.cat([b.double().flatten() for b in blocks])[None]
    return Calculation(s, BlockMatrix(layout, values), BlockMatrix(layout, -values))


def test_orbitals_of_unknown_origin_are_told_apart_by_their_overlaps(tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / "a" / f"{k}", two_zetas(0.70, k))
        write(tmp_path / "b" / f"{k}", two_zetas(0.75, k + 2))
    train(table(data=tmp_path / "a", max_epochs=1), tmp_path / "m")
    with pytest.raises(NearsightError, match=r"a/.* and .*b/0 were made differently: orbitals of H"):
        train(of_two(tmp_path / "a", tmp_path / "b"), tmp_path / "n")


def test_cells_of_several_charges(charged: Path, tmp_path: Path) -> None:
    neutral = set_of(
        tmp_path / "neutral", [cases.water(BOX), replace(cases.water(BOX), positions=cases.water(BOX).positions + 0.1)]
    )
    for loss in ("blocks", "energy"):
        with pytest.raises(NearsightError, match=r"charge.*data.mixed_charges"):
            train({**of_two(charged, neutral, "delta"), "loss": loss}, tmp_path / "m")
    train(of_two(charged, neutral, mixed_charges=True), tmp_path / "m")
    predict(tmp_path / "m", hydroxide(7), tmp_path / "p")
    predict(tmp_path / "m", cases.water(BOX), tmp_path / "q")
    assert (info(tmp_path / "p")["occupation"], info(tmp_path / "q")["occupation"]) == (8.0, 8.0)
    assert (result(tmp_path / "p")["charge_e"], result(tmp_path / "q")["charge_e"]) == (-1.0, 0.0)


def test_a_model_of_charged_energies_knows_the_charge(charged: Path, tmp_path: Path) -> None:
    train({**table(data=charged, target="delta", max_epochs=1), "loss": "energy"}, tmp_path / "m")
    predict(tmp_path / "m", hydroxide(7), tmp_path / "p")
    assert info(tmp_path / "p")["occupation"] == 8.0


@pytest.mark.parametrize("loss", ["blocks", "energy"])
def test_what_is_no_ground_state_is_no_label(model: Path, tmp_path: Path, loss: str) -> None:
    def diverged(r: dict[str, Any]) -> None:
        r["converged"] = False

    bad = altered(WATERS, tmp_path / "bad", diverged)
    shutil.copytree(WATERS, tmp_path / "good")
    predict(model, cases.water(BOX), tmp_path / "predicted" / "0")
    for other, words in ((bad, "bad/0000 did not converge"), (tmp_path / "predicted", "predicted/0 is a prediction")):
        if loss == "blocks":
            with pytest.raises(NearsightError, match=words):
                train(of_two(WATERS, other), tmp_path / "m")
        with pytest.raises(NearsightError, match=words):
            train(
                {**of_two(WATERS, other, "delta", train=str(WATERS), validation=str(other)), "loss": loss},
                tmp_path / "m",
            )
    (tmp_path / "predicted/0/hamiltonian.h5").rename(tmp_path / "predicted/0/hamiltonian_pred.h5")
    (tmp_path / "predicted/0/result.json").unlink()
    with pytest.raises(NearsightError, match="is a prediction"):
        train(table(data=tmp_path / "predicted"), tmp_path / "m")


# --- what a training is gone on with


def grown(folder: Path) -> None:
    shutil.copytree(folder / "0000", folder / "0003")


def shrunk(folder: Path) -> None:
    shutil.rmtree(folder / "0001")


def recomputed(folder: Path) -> None:
    found = read(folder / "0001")
    write(folder / "0001", replace(found, hamiltonian=found.require_hamiltonian() * 1.001))


def not_converged(folder: Path) -> None:
    content = result(folder / "0001")
    (folder / "0001" / "result.json").write_text(json.dumps({**content, "converged": False}))


@pytest.mark.parametrize("loss", ["blocks", ["blocks", "energy"]], ids=str)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grown, "1 new .*set/0003"),
        (shrunk, "1 missing .*set/0001"),
        (recomputed, "1 changed .*set/0001"),
        (not_converged, "converge"),
    ],
)
def test_a_training_goes_on_with_the_data_it_began_with(
    tmp_path: Path, loss: Any, change: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(WATERS, tmp_path / "set")
    settings = table(loss, "delta", data=tmp_path / "set", max_epochs=1)
    train(settings, tmp_path / "m")
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir() if p.is_file()}
    change(tmp_path / "set")
    more = {**settings, "trainer": {**settings["trainer"], "max_epochs": 2}}
    with pytest.raises(NearsightError, match=words):
        train(more, tmp_path / "m")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir() if p.is_file()}


def test_a_set_that_only_moved_is_the_same_data(tmp_path: Path) -> None:
    shutil.copytree(WATERS, tmp_path / "set")
    settings = table(data=tmp_path / "set", max_epochs=1)
    train(settings, tmp_path / "m")
    shutil.copytree(tmp_path / "set", tmp_path / "away")
    shutil.rmtree(tmp_path / "set")
    (tmp_path / "set").symlink_to(tmp_path / "away")
    train({**settings, "trainer": {**settings["trainer"], "max_epochs": 2}}, tmp_path / "m")
    assert lines(tmp_path / "m")[-1]["epoch"] == 2
    grown(tmp_path / "away")
    again = {**settings, "trainer": {**settings["trainer"], "max_epochs": 2, "resume": False}}
    assert train(again, tmp_path / "m")["structures"] == {"train": 3, "validation": 1}


# --- atoms alone, and nothing held out


@pytest.mark.parametrize("target", ["total", "delta"])
def test_atoms_alone_are_predicted_validated_and_learnt(apart: Path, tmp_path: Path, target: str) -> None:
    atoms = set_of(tmp_path / "atoms", [molecule([8], [[0, 0, 0]], k) for k in range(2)])
    for loss in ("blocks", "energy"):
        train({**table(data=atoms, target=target, max_epochs=1), "loss": loss}, tmp_path / f"only {loss}")
        mixed = {**table(target=target, max_epochs=1), "loss": loss}
        mixed["data"] = {
            "train": [str(apart / "0000"), str(apart / "0001"), str(atoms / "0001")],
            "validation": str(atoms / "0000"),
        }
        train(mixed, tmp_path / f"mixed {loss}")
    known = read(atoms / "0000")
    predict(tmp_path / "only blocks", molecule([8], [[1, 0, 0]]), tmp_path / "p")
    predicted = read(tmp_path / "p")
    assert len(predicted.require_hamiltonian().pairs) == 1
    error = predicted.require_hamiltonian().values - known.require_hamiltonian().values
    assert float(error.abs().max()) < 2e-3


@pytest.mark.parametrize(
    ("loss", "words", "unit"),
    [
        ("blocks", "nothing was held out; mean error of the Hamiltonians trained on", "meV"),
        ({"kind": "blocks", "error": "mse"}, "nothing was held out; mean square error", "meV^2"),
        ("energy", "nothing was held out; energy above the minimum", "meV per atom"),
    ],
    ids=str,
)
def test_a_figure_has_its_name_and_unit(tmp_path: Path, loss: Any, words: str, unit: str) -> None:
    settings = table(loss, "delta", max_epochs=1)
    settings["data"]["validation_fraction"] = 0.0
    report = train(settings, tmp_path / "m")
    assert report["best_is"].startswith(words) and report["best_unit"] == unit
    assert report["validation_mae_meV"] is None and report["best"] == lines(tmp_path / "m")[-1]["train_loss"]


def test_a_held_out_figure_has_its_name(tmp_path: Path) -> None:
    report = train(table(max_epochs=1), tmp_path / "m")
    assert (report["best_is"], report["best_unit"]) == ("mean error of unseen Hamiltonians", "meV")
    assert report["best"] == report["validation_mae_meV"]
    report = train(table("energy", "delta", max_epochs=1), tmp_path / "e")
    assert (report["best_is"], report["best_unit"]) == ("energy above the ground state", "ueV per atom")

"""Laws of the target `energy`: invariance, both kinds of forces as derivatives, and a training from end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.spin import SPINOR
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats.registry import read, write
from nearsight.learn.config import PotentialEnergyLossConfig
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.model_files import build
from nearsight.learn.potential_energy import PotentialEnergyTerm, Surface, surface
from nearsight.learn.samples import Sample
from nearsight.learn.train import train
from nearsight.models.energy import EnergySample, XDeepHEnergy
from nearsight.models.energy_target import ENERGY, in_parts
from nearsight.models.targets import Inputs, Prediction
from tests.laws.models import ROTATIONS, crystal
from tests.laws.test_training import sample

SMALL = {
    "cutoff": 5.0,
    "irreps": "6x0e+4x1o+3x2e+2x1e+2x2o",
    "edge": [6, 2, 4, 3],
    "hidden": [6, 2, 4, 3],
    "layers": 1,
    "radial": 4,
    "width": 8,
    "gaussians": 4,
}


def network(seed: int = 1) -> XDeepHEnergy:
    """With no weight at zero by accident, and references that are not round."""
    shells = {str(z): [0, 1] for z in (1, 6, 8)}
    found = build({"kind": "xdeeph-energy", "shells": shells, "arguments": SMALL}, "energy", seed).double()
    assert isinstance(found, XDeepHEnergy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in found.head.parameters():
            p.normal_(generator=generator)
        found.tied.fill_(0.8)
    found.reference.copy_(in_parts(torch.tensor([-0.51, -5.4, -15.8], dtype=torch.float64)))
    found.scale.fill_(0.02)
    return found


def of(model: XDeepHEnergy, structure: Structure) -> Surface:
    assert structure.moments is not None
    return surface(model, structure, structure.moments)


@pytest.mark.parametrize("rotation", ROTATIONS.values(), ids=ROTATIONS.keys())
def test_turning_everything_turns_both_kinds_of_forces(rotation: torch.Tensor) -> None:
    model, structure = network(), crystal()
    here, there = of(model, structure), of(model, structure.rotate(rotation))
    assert there.energy == pytest.approx(here.energy, abs=1e-10)
    assert torch.allclose(there.forces, here.forces @ rotation.T, atol=1e-11)
    axial = torch.linalg.det(rotation) * rotation
    assert torch.allclose(there.magnetic_forces, here.magnetic_forces @ axial.T, atol=1e-11)
    assert here.forces.abs().max() > 1e-4 and here.magnetic_forces.abs().max() > 1e-4


def test_time_reversal_turns_magnetic_forces_alone() -> None:
    model, structure = network(), crystal()
    here = of(model, structure)
    back = of(model, replace(structure, moments=-structure.moments))
    assert back.energy == pytest.approx(here.energy, abs=1e-13)
    assert torch.allclose(back.forces, here.forces, atol=1e-13)
    assert torch.allclose(back.magnetic_forces, -here.magnetic_forces, atol=1e-13)


def test_spins_turned_alone_change_the_energy_only_by_what_ties_them_to_space() -> None:
    model, structure = network(), crystal()
    turned = replace(structure, moments=structure.moments @ ROTATIONS["random"].T)
    assert abs(of(model, turned).energy - of(model, structure).energy) > 1e-6
    with torch.no_grad():
        model.tied.zero_()
    assert of(model, turned).energy == pytest.approx(of(model, structure).energy, abs=1e-12)


def test_both_kinds_of_forces_are_differences_of_the_energy() -> None:
    model, structure = network(), crystal()
    found, step = of(model, structure), 1e-4
    for atom, axis in ((0, 2), (1, 0), (5, 1), (4, 2)):  # where a moment vanishes its size has no second derivative
        shift = torch.zeros(6, 3, dtype=torch.float64)
        shift[atom, axis] = step
        at = [replace(structure, positions=structure.positions + s * shift) for s in (1, -1)]
        held = [replace(structure, moments=structure.moments + s * shift) for s in (1, -1)]
        for pair, forces in ((at, found.forces), (held, found.magnetic_forces)):
            slope = (of(model, pair[0]).energy - of(model, pair[1]).energy) / (2 * step)
            assert float(forces[atom, axis]) == pytest.approx(-slope, abs=2e-8)
    assert torch.allclose(found.forces.sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)


def prepared(model: XDeepHEnergy, structure: Structure) -> EnergySample:
    layout = None  # of a matrix, which there is none of
    found: EnergySample = model.prepare(structure, layout, Inputs(moments=structure.moments))  # type: ignore[arg-type]
    return found


def test_several_at_once_are_each_by_itself_and_atoms_may_change_places() -> None:
    model, one = network(), crystal()
    order = [3, 0, 5, 1, 4, 2]
    other = one.reordered(order)
    with torch.no_grad():
        joint = model(EnergySample.batch([prepared(model, s) for s in (one, other)]))
    found = [Surface.of(p.values) for p in joint.parts()]
    for a, structure in zip(found, (one, other), strict=True):
        b = of(model, structure)
        assert a.energy == pytest.approx(b.energy, abs=1e-12)
        assert torch.allclose(a.forces, b.forces, atol=1e-13)
    assert torch.allclose(found[1].magnetic_forces, found[0].magnetic_forces[order], atol=1e-13)


def test_the_loss_reaches_every_weight_by_way_of_the_derivatives() -> None:
    """Its gradient in the weights, against differences, of forces alone: second derivatives of the energy."""
    model, structure = network(), crystal()
    target = torch.randn(1, 38, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3
    target[0, 20:26] = torch.nan  # of two atoms nothing is known
    known = Sample(prepared(model, structure), (0,), target, None, torch.zeros(0, dtype=torch.bool))
    term = PotentialEnergyTerm(PotentialEnergyLossConfig(energy=0.0))

    def loss() -> float:
        with torch.no_grad():
            return term(model(known.prepared), known).value

    predicted = model(known.prepared)
    predicted.values.backward(term(predicted, known).gradient)
    for p in (model.head[0].weight, model.moment_layer.collect.weights["1"], model.vectors.weight, model.embedding):
        assert p.grad is not None
        largest = int(p.grad.abs().argmax())
        with torch.no_grad():
            values = []
            for step in (1e-6, -1e-6):
                p.view(-1)[largest] += step
                values.append(loss())
                p.view(-1)[largest] -= step
        slope = (values[0] - values[1]) / 2e-6
        assert float(p.grad.view(-1)[largest]) == pytest.approx(slope, rel=1e-5)


def test_a_thousand_hartrees_keep_a_microhartree_in_single_precision() -> None:
    energies = torch.tensor([-1234.567891, 0.4999, -0.5001], dtype=torch.float64)
    parts = in_parts(energies)
    assert torch.allclose(parts.float().double().sum(-1), energies, atol=1e-7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Heisenberg energy of pairs, with its derivatives; forces of every other structure alone."""
    folder = tmp_path_factory.mktemp("set")
    for k in range(6):
        structure, hamiltonian, overlap = sample(k)
        n = len(structure)
        generator = torch.Generator().manual_seed(k)
        moments = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        moments = moments / moments.norm(dim=1, keepdim=True)
        at, m = structure.positions.clone().requires_grad_(), moments.clone().requires_grad_()
        distance = (at[:, None] - at[None]).square().sum(-1) + 10 * torch.eye(n)
        energy = -3.0 * n + 0.02 * ((m @ m.T) * torch.exp(-distance / 10) * (1 - torch.eye(n))).sum()
        forces, magnetic = (-x for x in torch.autograd.grad(energy, (at, m)))
        calculation = Calculation(
            structure,
            overlap,
            hamiltonian.embed(SPINOR),
            electrons=8.0,
            moments=moments,
            result={
                "energy_eV": {"free": float(energy.detach()) * HARTREE_EV},
                "magnetic_forces_eV_per_mu_B": (magnetic * HARTREE_EV).tolist(),
                **({} if k % 2 else {"forces_eV_per_Ang": (forces * HARTREE_EV / BOHR_ANG).tolist()}),
            },
        )
        write(folder / f"{k:04d}", calculation)
    return folder


def config(data: Path, **trainer: object) -> dict:
    small = {k: v for k, v in SMALL.items() if k != "cutoff"} | {"cutoff_ang": 4.0}
    return {
        "data": {"train": str(data), "validation_fraction": 0.34, "cache": str(data.parent / "cache")},
        "model": {"kind": "xdeeph", "target": "energy", **small},
        "trainer": {
            "max_minutes": None,
            "max_epochs": 20,
            "learning_rate": 2e-2,
            "ema": 0.8,
            "batch_edges": 1000,
            **trainer,
        },
    }


def test_a_training_lowers_the_error_and_a_prediction_says_it_with_units(data: Path, tmp_path: Path) -> None:
    report = train(config(data), tmp_path / "model")
    first = (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()[0]
    assert report["best"] < 0.9 * float(first.split('"validation_mae": ')[1].split(",")[0])
    assert report["best_is"] == "mean error of unseen energies and forces, weighted" and report["target"] == "energy"
    model = TrainedModel.load(tmp_path / "model")
    assert model.target == "energy" and isinstance(model.network, XDeepHEnergy)
    predict(tmp_path / "model", data / "0001", tmp_path / "own")
    written, known = read(tmp_path / "own"), read(data / "0001")
    assert written.hamiltonian is None and written.result["prediction"] is True
    wanted = surface(model.network, known.structure, known.moments)
    assert written.energies["free"] == pytest.approx(wanted.energy, abs=1e-12)
    assert torch.allclose(written.forces, wanted.forces, atol=1e-12)
    magnetic = torch.tensor(written.result["magnetic_forces_eV_per_mu_B"], dtype=torch.float64) / HARTREE_EV
    assert torch.allclose(magnetic, wanted.magnetic_forces, atol=1e-12)
    with pytest.raises(NearsightError, match="no Hamiltonian: train one of target"):
        model.hamiltonian(replace(known.structure, moments=known.moments), known.require_hamiltonian().layout)
    write(tmp_path / "bare", replace(known, moments=None, result={}))
    with pytest.raises(NearsightError, match="states no magnetic moments"):
        predict(tmp_path / "model", tmp_path / "bare", tmp_path / "x")


def test_labels_that_change_are_other_samples(data: Path, tmp_path: Path) -> None:
    """An energy is no function of the matrices that a folder's digest is of."""
    from nearsight.learn.data import LabelledData, Reader

    model = network()
    place = tmp_path / "0000"
    known = read(data / "0000")
    write(place, known)
    before = LabelledData([place], Reader()).digest(0, model)
    write(place, replace(known, result={**known.result, "energy_eV": {"free": -1.0}}))
    assert LabelledData([place], Reader()).digest(0, model) != before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loss": "blocks"}, "loss blocks does not serve target energy: take potential-energy"),
        ({"loss": "energy"}, "target energy gives none: take potential-energy"),
        ({"loss": ["potential-energy", "energy"]}, "target energy gives none: take potential-energy"),
        ({"loss": {"kind": "potential-energy", "energy": 0, "forces": 0, "magnetic_forces": 0}}, "all 0"),
        ({"model": {"kind": "deeph2", "target": "energy"}}, "target"),
    ],
    ids=["blocks", "energy", "both", "nothing", "deeph2"],
)
def test_what_does_not_serve_is_refused_in_one_line(data: Path, tmp_path: Path, changed: dict, said: str) -> None:
    with pytest.raises(NearsightError, match=said) as caught:
        train({**config(data), **changed}, tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_data_without_an_energy_are_told_by_name(data: Path, tmp_path: Path) -> None:
    for k in range(3):
        known = read(data / f"000{k}")
        write(tmp_path / f"set/000{k}", replace(known, result={}, energies={}, forces=None))
    with pytest.raises(NearsightError, match=r"set/000\d gives no energy.*take target total"):
        train(config(tmp_path / "set"), tmp_path / "model")


def test_its_numbers_are_of_its_structures() -> None:
    values = torch.arange(2 * 2 + 6 * 3, dtype=torch.float64)[None]
    parts = Prediction(values, (8, 14), ENERGY).parts()
    assert [p.values.shape[1] for p in parts] == [8, 14]

"""The first step of self-consistency as the baseline of a density, and fields that atoms see: laws, and whole trainings."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.core.so3 import wigner
from nearsight.core.structure import Structure
from nearsight.dft.problem import Problem, SCFState
from nearsight.dft.response import density_response
from nearsight.dft.run import run_scf
from nearsight.dft.scf import PRODUCTS_NEAR, SCF
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup
from nearsight.formats.registry import read
from nearsight.learn.large import Way
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.model_files import build
from nearsight.learn.train import train
from nearsight.learn.widening import widened
from nearsight.models.density import DeepH2Density, DensitySample
from nearsight.models.density_form import DensityForm
from nearsight.models.targets import Inputs
from tests.cases import skew

FORM = DensityForm()
SETTINGS = Settings(xc="pbe", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=90)
SMALL = {
    "irreps": "6x0e+4x1o+3x2e+2x3o+2x1e+2x2o",
    "edge": [6, 2, 4, 3, 2],
    "hidden": [6, 2, 4, 3, 2],
    "layers": 1,
    "radial": 4,
    "width": 8,
    "members": 2,
}
SHELLS = {str(z): [0, 1] if z > 1 else [0] for z in (1, 6, 8)}


@cache
def ground_state():
    return Setup.of(skew(), SETTINGS).ground_state()


def given(structure: Structure) -> Inputs:
    problem = Setup.of(structure, SETTINGS).problem()
    return Inputs(functional=problem.functional, response=density_response(problem))


@cache
def known() -> Inputs:
    return given(skew())


def architecture(**more: object) -> dict:
    return {"kind": "deeph2-density", "shells": SHELLS, "arguments": {**SMALL, "cutoff": 6.0, **more}}


def network(**more: object) -> DeepH2Density:
    """Of random weights, with the scales of the small crystal's fields."""
    found = build(architecture(**more), "density", 1).double()
    assert isinstance(found, DeepH2Density)
    inputs = known()
    found.fit_baseline([(sample_of(found, skew(), inputs), found.labels(ground_state().as_calculation(), inputs))])
    for k, member in enumerate(found.members):
        with torch.no_grad():
            for p in member.leave.parameters():
                p.normal_(generator=torch.Generator().manual_seed(k))
        member.scale.fill_(0.05)
    return found


def sample_of(model: DeepH2Density, structure: Structure, inputs: Inputs) -> DensitySample:
    return model.prepare(structure, inputs.functional.layout, inputs)


def test_it_is_the_density_of_the_cycles_second_iteration_to_first_order():
    """n[D(H1)], H1 that of the first step of a cycle, differs from n_1 by what is of second order."""
    states: list[SCFState] = []
    setup = Setup.of(skew(), SETTINGS)
    problem = setup.problem()
    observed = Problem(problem.functional, problem.solver, states.append)
    start = problem.kpoints.symmetric(problem.functional.initial_hamiltonian())
    SCF(max_iterations=2, first_products=PRODUCTS_NEAR).solve(observed, start, None)
    atoms = problem.functional.system.atomic_density
    first, second = known().response
    away = (states[1].evaluation.density[0] - atoms - first).abs().sum()
    assert float(away) < 0.15 * float(first.abs().sum())
    out = states[0].evaluation.density[0] - atoms
    assert float((out - first - second).abs().max()) < 1e-10
    assert abs(float(first.sum() * problem.functional.mesh.volume_element)) < 1e-4


def test_alone_it_is_far_nearer_than_superposed_atoms_and_a_new_network_gives_it():
    truth, functional = ground_state().hamiltonian.values, known().functional
    model = build(architecture(baseline="response"), "density", 1).double()
    with torch.no_grad():
        new = model.matrix(skew(), functional.layout, known()).values
    density = functional.system.atomic_density + known().response[0]
    alone = functional.hamiltonian_of_density(density[None], functional.initial_density_matrix()).values
    atoms = functional.initial_hamiltonian().values
    assert float((new - alone).abs().max()) < 1e-12
    assert float((new - truth).abs().mean()) < 0.1 * float((atoms - truth).abs().mean())


def test_labels_are_what_the_first_step_leaves():
    inputs = known()
    model = network(baseline="response")
    labels = model.labels(ground_state().as_calculation(), inputs)
    found = model.target.matrix(labels, inputs)
    truth = ground_state().hamiltonian.values
    atoms = inputs.functional.initial_hamiltonian().values
    assert float((found - truth).abs().mean()) < 1e-3 * float((atoms - truth).abs().mean())


@pytest.mark.parametrize("parity", [1, -1])
def test_the_coefficients_turn_with_the_crystal_from_its_levels_on(parity):
    """The structure is turned, its levels and their response are computed anew, and the coefficients have turned."""
    model = network(baseline="response", inputs=["potential"])
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    q = q * (parity * torch.sign(torch.linalg.det(q)))
    with torch.no_grad():
        found = [model(sample_of(model, x, given(x))).values.view(3, -1) for x in (skew(), skew().rotate(q))]
    here, there = found
    assert float(here.std()) > 1e-4
    for l, columns in FORM.blocks():
        d = wigner(l, q) if l else torch.ones(1, 1, dtype=torch.float64)
        turned = torch.einsum("mn,anq->amq", d, here[:, columns].view(3, 2 * l + 1, -1))
        assert float((turned - there[:, columns].view(3, 2 * l + 1, -1)).abs().max()) < 1e-10


def test_atoms_may_come_in_any_order():
    model, s, order = network(baseline="response"), skew(), torch.tensor([2, 0, 1])
    moved = Structure(s.cell, s.positions[order], s.numbers[order])
    with torch.no_grad():
        here, there = (model(sample_of(model, x, given(x))).values.view(3, -1) for x in (s, moved))
    assert float((there - here[order]).abs().max()) < 1e-9 * float(here.abs().max())


def test_a_projection_is_the_integral_of_function_times_field():
    functional = known().functional
    structure, mesh = functional.structure, functional.mesh
    field = functional.initial_potential()
    c = torch.randn(3, FORM.count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    c = FORM.neutral(c, (c.numel(),)).flatten()
    density = FORM.on_mesh(structure, mesh, c)
    plain, constant = FORM.project(structure, mesh, [(field, False), (torch.full_like(field, 2.0), False)])
    expected = float((density * field).sum() * mesh.volume_element)
    assert float(c @ plain) == pytest.approx(expected, rel=1e-9)
    assert torch.allclose(constant.view(3, -1), 2 * FORM.charges.expand(3, -1), atol=1e-10)
    [metric] = FORM.project(structure, mesh, [(density, True)])
    assert float(c @ metric) == pytest.approx(float(c @ FORM.metric(structure) @ c), rel=2e-3)


def test_the_potential_of_atoms_far_away_is_not_seen():
    """The potential of superposed neutral atoms is local: another molecule in the same cell, out of reach, changes nothing."""
    near = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.1]], dtype=torch.float64)
    far = torch.cat([near, near + torch.tensor([22.0, 0.0, 0.0])])
    cell = torch.diag(torch.tensor([44.0, 16.0, 16.0], dtype=torch.float64))
    model = build(architecture(inputs=["potential"], exponents=[0.8, 1.8]), "density", 1).double()
    found = []
    for positions in (near, far):
        s = Structure(cell, positions, torch.tensor([1, 6]).repeat(len(positions) // 2))
        settings = Settings(**{**SETTINGS.given, "mesh": {"cutoff_ry": 90.0, "band_limited": False}})
        functional = Setup.of(s, settings).problem().functional
        found.append(model.prepare(s, functional.layout, Inputs(functional=functional)).fields)
    assert float(found[0].abs().max()) > 0.1
    assert float((found[1][:2] - found[0]).abs().max()) < 1e-6 * float(found[0].abs().max())


def test_another_element_begins_with_the_fields_of_its_neighbour():
    model = network(baseline="response", inputs=["potential"])
    wider, _ = widened(
        model,
        architecture(baseline="response", inputs=["potential"]),
        {16: (0, 1), **{int(z): s for z, s in SHELLS.items()}},
    )
    assert isinstance(wider, DeepH2Density) and wider.seen is not None and model.seen is not None
    assert torch.equal(wider.seen.mean[3], model.seen.mean[2])
    sample = sample_of(model, skew(), known())
    with torch.no_grad():
        assert torch.equal(wider(sample_of(wider, skew(), known())).values, model(sample).values)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("response") / "set"
    settings = Settings(xc="pbe", basis="sz", kspacing=1.0, mesh_cutoff_ry=60, smearing_ev=0.1)
    for k in range(4):
        s = skew()
        steps = 0.15 * torch.randn(3, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        run_scf(Structure(s.cell, s.positions + steps, s.numbers), settings, folder / f"{k}")
    return folder


def table(data: Path, cache: Path, **model: object) -> dict:
    return {
        "data": {"train": str(data), "validation_fraction": 0.25, "cache": str(cache)},
        "model": {"target": "density", **SMALL, **model},
        "trainer": {"max_minutes": None, "max_epochs": 25, "validations": 2, "learning_rate": 0.01},
    }


def error_of(matrix, truth) -> float:
    return float((matrix.on(truth.layout).values - truth.values).abs().mean())


def test_a_training_from_the_first_step_on(data: Path, tmp_path: Path):
    """Its start is the first step, its end is better; k-points and filling are those of the data, and the folder says so."""
    whole = table(data, tmp_path / "cache", baseline="response")
    train(whole, tmp_path / "m")
    lines = [json.loads(x) for x in (tmp_path / "m/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["validation_mae"] < lines[0]["validation_mae"]
    model = TrainedModel.load(tmp_path / "m")
    assert model.reference is not None and "first step of self-consistency" in repr(model)
    assert (
        model.reference.settings.kpoints.spacing_per_ang == 1.0 and model.reference.settings.electrons.width_ev == 0.1
    )
    atoms, found = 0.0, 0.0
    for k in range(4):
        calculation = read(data / f"{k}")
        truth = calculation.require_hamiltonian()
        atoms += error_of(model.reference.initial_hamiltonian(calculation.structure), truth)
        found += error_of(model(calculation.structure), truth)
    assert found < 0.1 * atoms
    predict(tmp_path / "m", data / "0", tmp_path / "p")
    told = json.loads((tmp_path / "p/result.json").read_text())
    assert told["baseline"] == {"kind": "response", "kmesh": list(read(data / "0").settings["kpoints"]["mesh"])}
    with pytest.raises(NearsightError, match="cannot be made in tiles"):
        predict(tmp_path / "m", data / "0", tmp_path / "q", way=Way(atoms=1))
    assert not (tmp_path / "q").exists()


def test_a_training_that_sees_potentials(data: Path, tmp_path: Path):
    whole = table(data, tmp_path / "cache", inputs=["potential"])
    train(whole, tmp_path / "m")
    lines = [json.loads(x) for x in (tmp_path / "m/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["validation_mae"] < 0.7 * lines[0]["validation_mae"]
    model, calculation = TrainedModel.load(tmp_path / "m"), read(data / "0")
    truth = calculation.require_hamiltonian()
    assert model.reference is not None and model.network.inputs == {"functional"}
    atoms = error_of(model.reference.initial_hamiltonian(calculation.structure), truth)
    assert error_of(model(calculation.structure), truth) < 0.8 * atoms


def test_the_energy_trains_what_the_first_step_leaves(data: Path, tmp_path: Path):
    whole = table(data, tmp_path / "cache", baseline="response") | {"loss": "energy"}
    whole["data"] |= {"train": str(data / "0"), "validation": str(data / "0")}
    whole["trainer"] |= {"max_epochs": 20}
    train(whole, tmp_path / "m")
    lines = [json.loads(x) for x in (tmp_path / "m/metrics.jsonl").read_text().splitlines()]
    first, last = (x["energy"]["energy_error_ueV"] for x in (lines[0], lines[-1]))
    assert 0 < last < 0.7 * first


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path):
    for model, word in (
        ({"target": "delta", "baseline": "response"}, "baseline"),
        ({"target": "density", "baseline": "scf"}, "baseline"),
        ({"target": "density", "inputs": ["potential", "potential"]}, "inputs"),
        ({"target": "density", "inputs": ["response"]}, "inputs"),
    ):
        with pytest.raises(NearsightError, match=word):
            train({"data": {"train": str(data)}, "model": model}, tmp_path / "a")
    model = build(architecture(baseline="response"), "density", 1)
    with pytest.raises(NearsightError, match="the model needs the response of a structure, which is not given"):
        model.prepare(skew(), known().functional.layout, Inputs(functional=known().functional))

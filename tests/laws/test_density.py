"""The density as a target: its form and metric, F[n] with its derivative, equivariance, and a training from end to end."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.so3 import wigner
from nearsight.core.structure import Structure
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup
from nearsight.dft.terms.contract import State
from nearsight.formats.registry import read
from nearsight.learn.model import TrainedModel
from nearsight.learn.model_files import build
from nearsight.learn.train import train
from nearsight.models.density import DeepH2Density, DensitySample
from nearsight.models.density_form import DensityForm, default_form
from nearsight.models.density_metric import potential_metric
from nearsight.models.targets import Inputs
from tests.cases import skew

FORM = DensityForm()
SMALL = {
    "cutoff": 6.0,
    "irreps": "6x0e+4x1o+3x2e+2x3o+2x1e+2x2o",
    "edge": [6, 2, 4, 3, 2],
    "hidden": [6, 2, 4, 3, 2],
    "layers": 1,
    "radial": 4,
    "width": 8,
}


@cache
def ground_state():
    settings = Settings(xc="pbe", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=90)
    return Setup.of(skew(), settings).ground_state()


def network(seed: int = 1) -> DeepH2Density:
    shells = {str(z): [0, 1] if z > 1 else [0] for z in (1, 6, 8)}
    found = build({"kind": "deeph2-density", "shells": shells, "arguments": SMALL}, "density", seed).double()
    assert isinstance(found, DeepH2Density)
    with torch.no_grad():
        for p in found.leave.parameters():
            p.normal_(generator=torch.Generator().manual_seed(seed))
    found.scale.fill_(0.05)
    return found


def coefficients(seed: int, atoms: int) -> torch.Tensor:
    values = torch.randn(atoms, FORM.count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return FORM.neutral(values, (values.numel(),)).flatten()


def test_one_atom_alone_has_the_unit_metric():
    box = Structure(30 * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([8]))
    s = DensityForm(exponents=(0.8, 1.8), l_max=2)
    metric = s.metric(box)
    off = (metric - torch.eye(len(metric))).abs()
    assert float(off[2:, 2:].max()) < 1e-3  # l > 0: those with a charge miss G = 0, where the sum over waves is coarse
    assert float(off.max()) < 0.1
    assert float((metric - metric.T).abs().max()) < 1e-12


def test_the_metric_is_the_norm_on_the_mesh():
    """V sum_G (4 pi / G^2 + 1) |dn_G|^2 from the density's own transform: twice the Coulomb energy, and int dn^2."""
    functional = ground_state().functional
    c = coefficients(0, 3)
    density = FORM.on_mesh(functional.structure, functional.mesh, c)
    coulomb = (density * functional.mesh.hartree_potential(density)).sum() * functional.mesh.volume_element
    square = density.square().sum() * functional.mesh.volume_element
    found = c @ FORM.metric(functional.structure) @ c
    assert float(found) == pytest.approx(float(coulomb + square), rel=2e-3)  # of waves that the mesh has not got


def test_the_fit_finds_what_the_form_made_and_is_neutral():
    functional = ground_state().functional
    metric = FORM.metric(functional.structure)
    c = coefficients(1, 3)
    density = FORM.on_mesh(functional.structure, functional.mesh, c)
    found, rest = FORM.fit(functional.structure, functional.mesh, density, metric)
    off = found - c
    assert float(off @ metric @ off) < 1e-3 * float(c @ metric @ c)
    assert rest < 0.05 * float(c @ metric @ c) ** 0.5
    assert float((found.view(3, -1) @ FORM.charges).sum().abs()) < 1e-9


def test_the_best_fit_gives_the_hamiltonian():
    """The form is not the limit: a hundredth of the error of superposed atoms."""
    state = ground_state()
    functional = state.functional
    model = network()
    inputs = Inputs(functional=functional)
    labels = model.labels(state.as_calculation(), inputs)
    truth = state.hamiltonian.values
    found = model.target.matrix(labels, inputs)
    atoms = functional.initial_hamiltonian().values
    assert float((found - truth).abs().mean()) < 0.05 * float((atoms - truth).abs().mean())


def test_the_derivative_of_the_matrix():
    functional = ground_state().functional
    model, inputs = network(), Inputs(functional=functional)
    values = coefficients(2, 3)[None] * 0.001  # where n is positive everywhere
    weights = torch.randn(functional.layout.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = BlockMatrix(functional.layout, weights[None]).hermitian().values
    direction = coefficients(4, 3)[None] * 0.001
    free = values.clone().requires_grad_()
    [slope] = torch.autograd.grad((model.target.matrix(free, inputs) * weights).sum(), free)
    step = 1e-3
    up, down = (model.target.matrix(values + s * step * direction, inputs) for s in (1, -1))
    expected = ((up - down) * weights).sum() / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("parity", [1, -1])
def test_the_coefficients_turn_with_the_crystal(parity):
    model, s = network(), skew()
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    q = q * (parity * torch.sign(torch.linalg.det(q)))
    with torch.no_grad():
        here, there = (model(model.frames(x)).values.view(3, -1) for x in (s, s.rotate(q)))
    assert float(here.std()) > 1e-3
    for l, columns in FORM.blocks():
        d = wigner(l, q) if l else torch.ones(1, 1, dtype=torch.float64)
        turned = torch.einsum("mn,anq->amq", d, here[:, columns].view(3, 2 * l + 1, -1))
        assert float((turned - there[:, columns].view(3, 2 * l + 1, -1)).abs().max()) < 1e-10


def test_the_metric_of_potentials_is_what_the_functional_says():
    """The root mean square, over the electrons of superposed atoms, of how the Kohn-Sham potential moves with the density."""
    settings = Settings(xc="lda", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=90)
    functional = Setup.of(skew(), settings).problem().functional
    system, start = functional.system, functional.initial_density_matrix()
    c = 1e-3 * coefficients(7, 3)
    moved = system.atomic_density + FORM.on_mesh(system.structure, functional.mesh, c)
    here, there = (functional.potential(State(system, start, n[None]))[0] for n in (system.atomic_density, moved))
    share = system.atomic_density / system.atomic_density.sum()
    expected = float(((there - here).square() * share).sum().sqrt())
    found = float(c @ potential_metric(FORM, functional) @ c) ** 0.5
    assert found == pytest.approx(expected, rel=0.1)  # correlation, and G = 0 of the exchange


def test_a_training_by_potentials_says_its_unit(data: Path, tmp_path: Path):
    whole = table(data)
    whole["model"] |= {"metric": "potential", "members": 2}
    whole["trainer"] |= {"max_epochs": 30, "validations": 2}
    report = train(whole, tmp_path / "m")
    lines = [json.loads(x) for x in (tmp_path / "m/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["unit"] == report["best_unit"] == "meV of potential"
    assert lines[-1]["validation_mae"] < 0.8 * lines[0]["validation_mae"]
    with pytest.raises(NearsightError, match=r"model.metric"):
        train({**whole, "model": {**whole["model"], "metric": "potentials"}}, tmp_path / "n")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_atoms_may_come_in_any_order_any_cell_and_any_place(dtype, tolerance):
    model, s = network().to(dtype), skew()
    order = torch.tensor([2, 0, 1])
    cells = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    shift = torch.tensor([0.3, -1.7, 2.9], dtype=torch.float64)
    moved = Structure(s.cell, s.positions[order] + cells @ s.cell + shift, s.numbers[order])
    with torch.no_grad():
        here, there = (model(model.frames(x).cast(dtype)).values.view(3, -1) for x in (s, moved))
    assert float((there - here[order]).abs().max()) < tolerance * float(here.abs().max())


def test_atoms_beyond_the_reach_share_the_charge_and_nothing_else():
    """Coefficients of l > 0 are strictly local; those of l = 0 move along one vector, by which the cell is neutral."""
    model = network()
    reach = (model.layers + 1) * model.cutoff
    count, step = int(reach / 2.0) + 6, 2.0
    positions = torch.zeros(count, 3, dtype=torch.float64)
    positions[:, 0] = torch.arange(count) * step
    positions[:, 1] = torch.sin(positions[:, 0])
    numbers = torch.tensor([8, 1, 6]).repeat(count)[:count]
    cell = 4 * count * step * torch.eye(3, dtype=torch.float64)
    disturbed = positions.clone()
    disturbed[-1] += torch.tensor([0.3, -0.2, 0.4])
    with torch.no_grad():
        made = [model.frames(Structure(cell, x, numbers)) for x in (positions, disturbed)]
        here, there = (model(x).values.view(count, -1) for x in made)
    beyond = (positions[-1] - positions).norm(dim=1) > reach + 0.6
    change = (there - here)[beyond]
    assert bool(beyond.any()) and float((there - here)[~beyond].abs().max()) > 0
    assert float(change[:, FORM.radial :].abs().max()) == 0.0
    share = change @ FORM.charges
    assert torch.allclose(change, share[:, None] * FORM.carrier, atol=1e-14)
    assert float((share - share[0]).abs().max()) < 1e-14


def test_several_structures_at_once_are_as_one_by_one():
    model, s = network(), skew()
    other = Structure(s.cell * 1.05, s.positions * 1.03, s.numbers)
    samples = [model.geometry(x, ground_state().functional.layout, Inputs()) for x in (s, other)]
    with torch.no_grad():
        together = model(DensitySample.batch(samples)).parts()
        for sample, part in zip(samples, together, strict=True):
            assert float((model(sample).values - part.values).abs().max()) < 1e-12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("density") / "set"
    settings = Settings(xc="pbe", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=60)
    for k in range(5):
        s = skew()
        steps = 0.15 * torch.randn(3, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        run_scf(Structure(s.cell, s.positions + steps, s.numbers), settings, folder / f"{k}")
    return folder


def table(data: Path, **more: object) -> dict:
    return {
        "data": {"train": str(data), "validation_fraction": 0.2},
        "model": {"target": "density", **{k: v for k, v in SMALL.items() if k != "cutoff"}},
        "trainer": {"max_minutes": None, "max_epochs": 60, "validations": 3, "learning_rate": 0.02},
        **more,
    }


def test_a_training_lowers_the_error_and_predicts(data: Path, tmp_path: Path):
    report = train(table(data), tmp_path / "m")
    lines = [json.loads(x) for x in (tmp_path / "m/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["validation_mae"] < 0.7 * lines[0]["validation_mae"]
    assert report["target"] == "density" and report["validation_mae_meV"] is None
    assert "Ha" in report["best_unit"]
    model = TrainedModel.load(tmp_path / "m")
    trained = sorted(p.name for p in data.iterdir() if (p / "info.json").exists())
    better = 0
    for name in trained:
        known = read(data / name)
        truth = known.require_hamiltonian()
        assert model.reference is not None
        h0 = model.reference.initial_hamiltonian(known.structure).on(truth.layout).values
        found = model(known.structure).on(truth.layout).values
        better += float((found - truth.values).abs().mean()) < 0.7 * float((h0 - truth.values).abs().mean())
    assert better >= 4


def test_the_energy_alone_trains_a_density(data: Path, tmp_path: Path):
    """No label: the derivative of F[n] goes back through the functional."""
    whole = table(data, loss="energy")
    whole["data"] = {"train": str(data / "0"), "validation": str(data / "0")}
    whole["trainer"] |= {"max_epochs": 40, "learning_rate": 0.01}
    train(whole, tmp_path / "m")
    lines = [json.loads(x) for x in (tmp_path / "m/metrics.jsonl").read_text().splitlines()]
    first, last = (x["energy"]["energy_error_ueV"] for x in (lines[0], lines[-1]))
    assert 0 < last < 0.2 * first
    assert lines[-1]["unit"] == "meV"


def test_a_charged_cell_is_refused(tmp_path: Path):
    settings = Settings(xc="pbe", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=60, charge=1.0)
    for k in range(2):
        run_scf(Structure(skew().cell * (1 + 0.01 * k), skew().positions, skew().numbers), settings, tmp_path / f"{k}")
    with pytest.raises(NearsightError, match=r"charge of \+1.000 e, and target density learns neutral cells"):
        train(table(tmp_path), tmp_path / "m")


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path):
    with pytest.raises(NearsightError, match="blocks does not serve target density"):
        train(table(data, loss="blocks"), tmp_path / "a")
    with pytest.raises(NearsightError, match="density does not serve target delta"):
        train({**table(data), "model": {"target": "delta"}, "loss": "density"}, tmp_path / "b")
    with pytest.raises(NearsightError, match="exponents"):
        default_form((0.5, 0.5))


def test_members_are_trained_in_turn_and_their_mean_is_given():
    shells = {str(z): [0, 1] if z > 1 else [0] for z in (1, 6, 8)}
    architecture = {"kind": "deeph2-density", "shells": shells, "arguments": {**SMALL, "members": 3}}
    model = build(architecture, "density", 1).double()
    assert isinstance(model, DeepH2Density)
    with torch.no_grad():
        for k, member in enumerate(model.members):
            for p in member.leave.parameters():
                p.normal_(generator=torch.Generator().manual_seed(k))
    sample = model.frames(skew())
    each = [member.coefficients(sample).flatten() for member in model.members]
    assert float((each[0] - each[1]).abs().max()) > 1e-3
    assert torch.allclose(model(sample).values[0], torch.stack(each).mean(0), atol=1e-14)
    for step in range(4):
        model.zero_grad(set_to_none=True)
        model.at_step(step)
        found = model(sample).values
        assert torch.equal(found[0], each[step % 3])
        found.square().sum().backward()
        trained = {k for k, m in enumerate(model.members) if m.embedding.grad is not None}
        assert trained == {step % 3}
    model.at_step(None)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.allclose(model(sample).values[0], torch.stack(each).mean(0), atol=1e-14)

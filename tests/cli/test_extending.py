"""docs/extending.md is taken at its word: its package is installed, and each of its parts is used as a user would."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

import nearsight as ns
from nearsight.core.registry import load
from tests import cases

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
SET = Path(__file__).parents[1] / "formats" / "data" / "version1" / "set"
SCF = {"xc": "lda", "basis": "sz", "mesh_cutoff_ry": 60, "kmesh": (1, 1, 1)}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def toys(third_party) -> None:
    """The package of the page."""
    points = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    modules = {text.split("\n", 1)[0].removeprefix("# ").removesuffix(".py"): text for text in blocks("python")}
    for group, parts in points.items():
        [module] = {place.partition(":")[0] for place in parts.values()}
        third_party(group, modules.pop(module), **parts)
    assert not modules  # every block is announced


@pytest.mark.usefixtures("toys")
def test_the_term_has_its_forces() -> None:
    """At self-consistency, against differences of the free energy."""
    term = load("terms", "electric-field")(field=0.02)
    s = cases.skew()
    settings = ns.Settings(
        functional={"xc": "lda", "terms": [{"kind": "electric-field", "field": 0.02}]},
        basis={"size": "sz"},
        mesh={"shape": (16, 18, 20)},
        kpoints={"mesh": (1, 1, 1)},
        solver={"tolerance_ev": 1e-7},
    )
    gs = ns.ground_state(s, settings)
    assert gs.energies["Efield"] != 0.0
    assert term.name in gs.energies
    force, step = ns.forces(gs)[0, 2], 2e-3
    free = []
    for sign in (1, -1):
        moved = s.positions.clone()
        moved[0, 2] += sign * step
        other = ns.Structure(s.cell, moved, s.numbers)
        free.append(ns.ground_state(other, settings).free)
    assert float(force) == pytest.approx(-(free[0] - free[1]) / (2 * step), abs=2e-5)


@pytest.mark.usefixtures("toys")
def test_the_functional_makes_orbitals_and_energies() -> None:
    water = cases.water(10.0)
    slater, lda = (ns.ground_state(water, **{**SCF, "xc": xc}) for xc in ("slater", "lda"))
    n = torch.full((1, 1), 0.3, dtype=torch.float64)
    mine, theirs = (load("functionals", name).derivatives(n).e for name in ("slater", "lda"))
    assert theirs < mine < 0  # correlation binds
    assert lda.energies["Exc"] < slater.energies["Exc"] < 0


@pytest.mark.usefixtures("toys")
def test_the_format_trains_restarts_and_is_drawn(nearsight, tmp_path: Path) -> None:
    calculations = [ns.read(SET / name) for name in ("0000", "0001", "0002")]
    for n, c in enumerate(calculations):
        ns.write(tmp_path / f"{n}.toy", c, format="toy")
        back = ns.read(tmp_path / f"{n}.toy")
        assert torch.allclose(back.require_hamiltonian().values, c.require_hamiltonian().values, atol=1e-15)
    for arguments in (
        ("bands", tmp_path / "0.toy", "-o", tmp_path / "b.png", "--points", 4),
        ("check", tmp_path / "0.toy"),
        ("compare", tmp_path / "0.toy", SET / "0000"),
        ("bandwidth", tmp_path / "0.toy", "--points", 1, "--json", tmp_path / "width.json"),
    ):
        done = nearsight(*arguments)
        assert done.status == 0, done
    assert json.loads((tmp_path / "width.json").read_text())["width_eV"] > 5
    (tmp_path / "model.yaml").write_text(
        f"data: {{train: [{tmp_path}/0.toy, {tmp_path}/1.toy], validation: [{tmp_path}/2.toy], species: {SET}/species}}\n"
        "model: {kind: averages, powers: 3}\ntrainer: {max_epochs: 60, learning_rate: 0.05}\n"
    )
    trained = nearsight("train", tmp_path / "model.yaml", "-o", tmp_path / "model")
    assert trained.status == 0, trained
    lines = [json.loads(x) for x in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["best"] < 0.5 * lines[0]["best"]
    again = nearsight("train", tmp_path / "model.yaml", "-o", tmp_path / "model", "--set", "trainer.max_epochs=70")
    assert again.status == 0, again
    predicted = nearsight("predict", tmp_path / "model", SET / "0001", "-o", tmp_path / "predicted")
    assert predicted.status == 0, predicted
    assert nearsight("bandwidth", tmp_path / "predicted").status == 0


@pytest.mark.usefixtures("toys")
def test_each_is_told_in_help_and_by_its_near_miss(nearsight, tmp_path) -> None:
    assert "bandwidth" in nearsight("--help").out
    assert "--points" in nearsight("bandwidth", "--help").out
    (tmp_path / "h2.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    said = nearsight("scf", tmp_path / "h2.xyz", "-o", tmp_path / "out", "--xc", "slatr")
    assert said.status == 1
    assert "slater" in said.err

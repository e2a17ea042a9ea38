"""Every study's files are valid, and its result tells what it should."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nearsight.core.configuration import read_table, validated
from nearsight.learn.config import TrainingConfig
from nearsight.tasks.dataset import read_settings

STUDIES = Path(__file__).parents[2] / "studies"
NAMES = sorted(x.parent.name for x in STUDIES.glob("*/run"))


def test_all_are_there() -> None:
    asked = {"h2o-single", "graphene-single", "mos2", "na", "h2o-many", "graphene-many", "lambda"}
    assert asked <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_files_are_valid(name: str) -> None:
    files = sorted((STUDIES / name).glob("*.yaml"))
    trainings = 0
    for file in files:
        table = read_table(file)
        if "scf" in table:
            read_settings(file)
            continue
        table.pop("set_up_seconds", None)
        table["data"] = {"train": "put in by run", **table["data"]}
        validated(TrainingConfig, table)
        trainings += 1
    assert trainings
    assert os.access(STUDIES / name / "run", os.X_OK)


@pytest.mark.parametrize(
    ("name", "figure", "most"),
    [
        ("h2o-single", "hamiltonian_mae_meV", 0.06),
        ("h2o-single", "energy_error_micro_eV", 0.013),
        ("graphene-single", "hamiltonian_mae_meV", 0.004),
        ("mos2", "energy_error_micro_eV", 3.0),  # 1 an atom
        ("na", "energy_error_micro_eV", 1.0),
    ],
)
def test_the_figures_asked_for_are_reached(name: str, figure: str, most: float) -> None:
    """Of the results as they are kept: a worse one cannot slip in."""
    result = json.loads((STUDIES / name / "result.json").read_text())
    assert -1e-6 < result[figure] <= most


@pytest.mark.parametrize("name", NAMES)
def test_the_result_tells_its_figures(name: str) -> None:
    result = json.loads((STUDIES / name / "result.json").read_text())
    for key in ("hamiltonian_mae_meV", "energy_error_micro_eV", "wall_seconds"):
        assert result[key] > -1e-6, key  # energies have rounding
    assert result["machine"] and result["versions"]["torch"]


def test_the_study_of_lambda_tells_both() -> None:
    result = json.loads((STUDIES / "lambda/result.json").read_text())
    assert result["lambda_0"]["energy_error_micro_eV"] < result["lambda_0"]["first"]["energy_error_cell_ueV"]
    unseen = [result[f"lambda_{n}"]["figures"]["unocc_unocc_mae_meV"] for n in (0, 1)]
    assert unseen[0] > 10 * unseen[1]

"""A trained model's prediction as the start of a self-consistency cycle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.learn.model import TrainedModel
from nearsight.learn.train import train
from tests import cases


def settings(**more: object) -> ScfSettings:
    table = {"xc": "lda", "basis": "sz", "energy_shift_ry": 0.02, "kmesh": (1, 1, 1), "mesh_cutoff_ry": 70.0}
    return ScfSettings.model_validate(table | more)


def test_a_prediction_starts_closer_to_the_same_ground_state(tmp_path: Path) -> None:
    species = cases.species_of(cases.water(11.0), "sz", "lda")
    generator = torch.Generator().manual_seed(0)
    for n in range(6):
        s = cases.water(11.0)
        s = replace(s, positions=s.positions + 0.06 * torch.randn(3, 3, generator=generator, dtype=torch.float64))
        run_scf(s, settings(), tmp_path / "data" / f"{n}", species=species)
    (tmp_path / "data/species").mkdir()
    for x in species.values():
        write_ion_xml(x, tmp_path / "data/species" / f"{x.symbol}.ion.xml")
    train(
        {
            "data": {"train": str(tmp_path / "data"), "validation_fraction": 0.2},
            "model": {"preset": "small"},
            "trainer": {"max_minutes": None, "max_epochs": 2},
        },
        tmp_path / "model",
    )
    model = TrainedModel.load(tmp_path / "model")
    s = cases.water(11.0)
    own = settings(species=tmp_path / "model/species")
    plain, started = run_scf(s, own), run_scf(s, own, start=model.start_for(s, own))
    assert started.converged and abs(plain.total - started.total) < 1e-8
    assert started.steps[0].residual < 0.5 * plain.steps[0].residual
    with pytest.raises(NearsightError, match="orbitals of"):
        model.start_for(s, settings(energy_shift_ry=0.05))

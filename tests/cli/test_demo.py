"""The tour in miniature: every stage, its report, and going on from where it was stopped."""

from __future__ import annotations

import json

import pytest

from nearsight.core.errors import NearsightError
from nearsight.report.plot import plot_bands
from nearsight.tasks.demo import Tour, run

MINIATURE = Tour(
    cells=2,
    small=(1, 1, 1),
    large=(2, 2, 1),
    small_kmesh=(2, 2, 1),
    large_kmesh=(1, 1, 1),
    mesh_cutoff_ry=40.0,
    training_minutes=0.05,
)


class Silent:
    def __init__(self, stop_at: str = "") -> None:
        self.stages: list[str] = []
        self.stop_at = stop_at

    def stage(self, text: str) -> None:
        if self.stop_at and self.stop_at in text:
            raise KeyboardInterrupt
        self.stages.append(text)

    def advance(self, done: float, total: float, text: str = "") -> None:
        assert 0 <= done <= total


@pytest.mark.parametrize("name", ["report.json", "graphene.vasp", "data"])
def test_files_that_no_tour_made_are_left_alone(nearsight, tmp_path, name):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / name).write_text("mine")
    refused = nearsight("demo", "-o", tmp_path / "demo")
    assert refused.status == 1 and f"holds a {name} that is not of a demo" in refused.err
    assert (tmp_path / "demo" / name).read_text() == "mine" and len(list((tmp_path / "demo").iterdir())) == 1


def test_the_tour_goes_on_where_it_was_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Silent("predicting"), plot_bands, MINIATURE)
    weights = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    ground_state = (tmp_path / "large" / "0000" / "hamiltonian.h5").stat().st_mtime_ns
    assert not (tmp_path / "report.json").exists()
    report = run(tmp_path, Silent(), plot_bands, MINIATURE)
    assert json.loads((tmp_path / "report.json").read_text())["comparison"] == report["comparison"]
    assert report["data"]["folders"] == 2
    assert report["comparison"]["atoms"] == 8
    assert report["comparison"]["overlap_max"] < 1e-8
    assert (tmp_path / "bands.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert (tmp_path / "large" / "0000" / "hamiltonian.h5").stat().st_mtime_ns == ground_state
    with pytest.raises(NearsightError, match="another configuration"):
        run(tmp_path, Silent(), plot_bands, Tour(**{**vars(MINIATURE), "seed": 5}))

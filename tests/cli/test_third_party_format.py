"""A third party's calculations restart a run, are drawn, checked and compared by the same commands as ours."""

from __future__ import annotations

import json
from pathlib import Path

SET = Path(__file__).parents[1] / "formats" / "data" / "version1" / "set"


def test_a_foreign_format_restarts_a_run_and_draws_its_bands(toy_set, nearsight, tmp_path):
    first = toy_set / "0.toy"
    config = json.loads((SET / "0000" / "result.json").read_text())["config"]
    same = ("--basis", config["basis"], "--mesh-cutoff", config["mesh_cutoff_ry"], "--kmesh", 1, 1, 1)
    same = (*same, "--set", f"tolerance_ev={config['tolerance_ev']}", "--set", "mesh.xc_near_nuclei=1")
    done = nearsight("scf", first, "-o", tmp_path / "again", *same, "--restart", first)
    assert done.status == 0, done
    assert json.loads((tmp_path / "again" / "result.json").read_text())["iterations"] <= 2
    drawn = nearsight("bands", first, "-o", tmp_path / "b.png", "--json", tmp_path / "b.json", "--points", 6)
    assert drawn.status == 0, drawn
    assert (tmp_path / "b.png").exists()
    assert nearsight("bands", first, "--points", 6).status == 0
    assert (toy_set / "0.toy.bands.png").exists()
    assert nearsight("check", first).status == 0
    assert nearsight("compare", first, SET / "0000", "--json").status == 0

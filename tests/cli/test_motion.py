"""`nearsight relax` and `nearsight md`: killed at any point, the same command goes on; bad input is refused beforehand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
from ase import Atoms

from tests.cli.test_bad_input import refused

SZ = ("--basis", "sz", "--mesh-cutoff", 60, "--kmesh", 1, 1, 1)


@pytest.fixture
def hydrogen(tmp_path: Path) -> Path:
    atoms = Atoms("H2", positions=[[2.5, 2.5, 2.0], [2.5, 2.5, 2.85]], cell=[5, 5, 5], pbc=True)
    ase.io.write(tmp_path / "h2.vasp", atoms)
    return tmp_path / "h2.vasp"


def test_relax_and_its_folder(nearsight, hydrogen, tmp_path):
    done = nearsight("relax", hydrogen, "-o", tmp_path / "out", *SZ)
    assert done.status == 0, done
    assert "relaxed in" in done.out
    assert "iterations a step" in done.out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["fmax_eV_per_Ang"] < 0.02
    assert nearsight("relax", hydrogen, "-o", tmp_path / "out", *SZ).out == done.out
    refused(
        nearsight("relax", hydrogen, "-o", tmp_path / "out", *SZ, "--xc", "lda"), "begun with another scf.functional"
    )
    refused(nearsight("scf", hydrogen, "-o", tmp_path / "out", *SZ), "holds a relaxation")
    assert nearsight("scf", tmp_path / "out", "-o", tmp_path / "scf", *SZ).status == 0  # its POSCAR is a structure


def test_dynamics_killed_go_on_to_the_last_bit(nearsight, hydrogen, tmp_path):
    words: list[object] = ["md", hydrogen, "--temperature", 300, "--timestep", 0.5, "--steps", 25, *SZ]
    assert nearsight(*words, "-o", tmp_path / "whole").status == 0
    out = tmp_path / "cut"
    command = [sys.executable, "-c", _SCRIPT, *map(str, words), "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    steps = out / "steps.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if steps.exists() and len(steps.read_bytes().splitlines()) > 8:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "result.json").exists()
    with open(steps, "ab") as file:
        file.write(b'{"step": 99, "torn')
    done = nearsight(*words, "-o", out)
    assert done.status == 0, done
    for name in ("steps.jsonl", "trajectory.extxyz"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    words[words.index("--steps") + 1] = 27
    assert nearsight(*words, "-o", out).status == 0
    assert len(ase.io.read(out / "trajectory.extxyz", index=":")) == 28


_SCRIPT = """
import sys
from nearsight import cli
from nearsight.motion import record
record._APART = record._SHARE = 0.0
sys.argv[0] = "nearsight"
cli.main()
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("relax", "h2.vasp", "--cell", "both"), "none, full, volume, shape, sheet"),
        (("relax", "h2.vasp", "--optimiser", "newton"), "bfgs"),
        (("relax", "h2.vasp", "--fmax", "-1"), "fmax_ev_per_ang"),
        (("relax", "none.vasp"), "no such file"),
        (("relax", "h2.vasp", "--calculator", "emt"), "module:Class"),
        (("relax", "h2.vasp", "--calculator", "ase.calculators.emt:EMT", "--xc", "lda"), "leave one of them out"),
        (("md", "h2.vasp", "--ensemble", "langevin"), "langevin needs a temperature"),
        (("md", "h2.vasp", "--ensemble", "npt"), "nve"),
        (("md", "h2.vasp", "--ensemble", "nve", "--friction", 0.1), "is of langevin"),
        (("md", "h2.vasp", "--timestep", 0), "timestep_fs"),
        (("md", "h2.vasp", "--steps", -1), "steps"),
        (("md", "h2.vasp", "--set", "xc=bpe"), "did you mean pbe"),
        (("md", "h2.vasp", "--set", "spin_orbit=file"), "add --spin spinor"),
        (("relax", "h2.vasp", "--set", "total_moment=2"), "add --spin collinear"),
    ],
)
def test_bad_input_leaves_nothing(nearsight, hydrogen, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    refused(nearsight(*words, "-o", "out"), message)
    assert [p.name for p in tmp_path.iterdir()] == ["h2.vasp"]

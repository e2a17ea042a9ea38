"""Bad input to the ground state: spin, charge, restart and derivatives asked of a run that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.formats.poscar import write_poscar
from tests.cli.test_bad_input import GRAPHENE, hydrogen, refused

QUICK = ("--basis", "sz", "--mesh-cutoff", 40, "--kmesh", 1, 1, 1)


@pytest.fixture
def h2(tmp_path) -> Path:
    return hydrogen(tmp_path / "h2.vasp")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--smearing", -0.1), ("smearing_ev", "greater than 0")),
        (("--smearing-kind", "colder"), ("smearing", "did you mean cold?")),
        (("--spin", "colinear"), ("spin", "did you mean collinear?")),
        (("--method", "variation"), ("method", "did you mean variational?")),
        (("--charge", 2), ("charge of 2", "leaves 0 electrons")),
        (("--charge", -3), ("charge of -3", "leaves 5 electrons for 2 orbitals")),
        (("--charge", "nan"), ("charge", "finite")),
        (("--spin", "collinear", "--moments", "1,nan"), ("moments", "finite")),
        (("--moments", "1,1"), ("--spin collinear",)),
        (("--total-moment", 0), ("--spin collinear",)),
        (("--spin", "collinear", "--moments", "1"), ("1 moments for 2 atoms",)),
        (("--spin", "collinear", "--moments", "1,up"), ("--moments 1,up", "commas")),
        (("--spin", "collinear", "--moments", "1,-1.5"), ("atom 1 (H)", "moment of -1.5", "its 1 electrons")),
        (("--spin", "collinear", "--total-moment", 3), ("total moment of 3", "the 2 electrons")),
        (("--spin", "collinear", "--spin-orbit"), ("spin-orbit", "--spin spinor")),
        (("--spin", "spinor", "--moments", "0,0,1;0,0"), ("three numbers, not 2",)),
        (("--spin", "spinor", "--moments", "0,0,1;0,0,1;0,0,1"), ("3 moments for 2 atoms",)),
        (("--spin", "non-collinear", "--moments", "1,1,1;0,0,1"), ("atom 0 (H)", "moment of 1.73", "its 1 electrons")),
        (("--spin", "collinear", "--moments", "0,0,1;0,0,1"), ("vectors", "--spin non-collinear")),
        (("--spin", "spinor", "--total-moment", 1), ("total moment", "leave it out")),
        (("--restart", "/nowhere"), ("no such file or folder", "/nowhere")),
        (("--trace", "trace.png"), ("trace.png", "text file")),
    ],
)
def test_refused_before_anything_is_written(nearsight, tmp_path, h2, options, words):
    refused(nearsight("scf", h2, "-o", tmp_path / "out", *QUICK, *options), *words)
    assert not (tmp_path / "out").exists()


def test_restart_from_another_structure_or_basis(nearsight, tmp_path, h2):
    refused(nearsight("scf", h2, "-o", tmp_path / "out", *QUICK, "--restart", GRAPHENE), "cannot start", "orbitals")
    first = tmp_path / "sz"
    nearsight("scf", h2, "-o", first, *QUICK, "--set", "max_iterations=1")
    other = ("--mesh-cutoff", 40, "--kmesh", 1, 1, 1, "--basis", "szp")
    refused(nearsight("scf", h2, "-o", tmp_path / "out", *other, "--restart", first), "cannot start", "orbitals")
    spin = ("--spin", "collinear", "--restart", first)
    refused(nearsight("scf", h2, "-o", tmp_path / "out", *QUICK, *spin), "spin none", "collinear")
    assert not (tmp_path / "out").exists()


def test_no_forces_of_a_run_that_did_not_converge(nearsight, tmp_path, h2):
    out = tmp_path / "out"
    options = ("--set", "max_iterations=1", "--forces", "--stress")
    refused(nearsight("scf", h2, "-o", out, *QUICK, *options), "not converged", "no forces", f"--restart {out}")
    result = json.loads((out / "result.json").read_text())
    assert result["converged"] is False
    assert not {"forces_eV_per_Ang", "stress_eV_per_Ang3"} & set(result)
    assert nearsight("scf", h2, "-o", out, *QUICK, "--forces", "--stress", "--restart", out).status == 0
    result = json.loads((out / "result.json").read_text())
    assert torch.tensor(result["forces_eV_per_Ang"]).shape == (2, 3)
    assert torch.tensor(result["stress_eV_per_Ang3"]).shape == (3, 3)


def test_trace_of_a_minimisation(nearsight, tmp_path, h2):
    trace = tmp_path / "trace.jsonl"
    done = nearsight("scf", h2, "-o", tmp_path / "out", *QUICK, "--method", "variational", "--trace", trace)
    assert done.status == 0, done
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [s["iteration"] for s in steps] == list(range(1, result["iterations"] + 1))
    assert steps[-1]["free_eV"] == result["energy_eV"]["free"]
    assert all(b["free_eV"] <= a["free_eV"] + 1e-10 for a, b in zip(steps[:-1], steps[1:], strict=True))
    assert steps[-1]["density_matrix_to_final_norm"] == 0 < steps[0]["density_matrix_to_final_norm"]
    assert steps[0]["gradient_norm"] > 100 * steps[-1]["gradient_norm"] > 0
    assert all(s["residual_norm_eV"] >= s["residual_max_eV"] > 0 for s in steps)
    assert trace.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_chain_with_opposite_moments(nearsight, tmp_path):
    cell = torch.diag(torch.tensor([4.0, 4.0, 4.4], dtype=torch.float64))
    positions = torch.tensor([[0.0, 0, 0], [0, 0, 2.2]], dtype=torch.float64)
    path = tmp_path / "chain.vasp"
    write_poscar(path, Structure(cell / BOHR_ANG, positions / BOHR_ANG, torch.tensor([1, 1])))
    options = ("--spin", "collinear", "--moments", "-1,1", "--smearing-kind", "gaussian", "--charge", 0)
    done = nearsight("scf", path, "-o", tmp_path / "out", *QUICK, *options)
    assert done.status == 0, done
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    first, second = result["mulliken_moments"]
    assert first < -0.3 and abs(first + second) < 1e-4 and abs(result["magnetic_moment"]) < 1e-6

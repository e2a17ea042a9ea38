"""Bad input gets one clear line on stderr and exit status 1, a usage error 2; nothing is left that looks finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.formats.poscar import write_poscar

DATA = Path(__file__).parents[1] / "formats" / "data"
GRAPHENE = DATA / "graphene_lda_sz"


def hydrogen(path: Path, distance: float = 0.74, box: float = 4.0, numbers=(1, 1)) -> Path:
    """A two-atom molecule in a box [angstrom]."""
    cell = torch.eye(3, dtype=torch.float64) * box
    positions = torch.tensor([[0.0, 0, 0], [0, 0, distance]], dtype=torch.float64)
    write_poscar(path, Structure(cell / BOHR_ANG, positions / BOHR_ANG, torch.tensor(numbers)))
    return path


def refused(result, *words: str) -> None:
    assert result.status == 1, result
    lines = result.err.strip().splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert len(said) == 1, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert word in said[0]


def test_no_such_file(nearsight, tmp_path):
    refused(nearsight("scf", tmp_path / "nope.cif", "-o", tmp_path / "out"), "no such file", "nope.cif")
    refused(nearsight("bands", tmp_path / "nope"), "no such file")
    refused(nearsight("compare", tmp_path / "nope", GRAPHENE), "no such file")
    refused(nearsight("check", tmp_path / "nope"), "no such file")
    refused(nearsight("dataset", "build", tmp_path / "set.yaml", "-o", tmp_path / "out"), "no such file")
    refused(nearsight("scf", GRAPHENE, "-o", tmp_path / "out", "--config", tmp_path / "c.yaml"), "no such file")
    assert not (tmp_path / "out").exists()


def test_unreadable_structure(nearsight, tmp_path):
    (tmp_path / "bad.cif").write_text("hello")
    refused(nearsight("scf", tmp_path / "bad.cif", "-o", tmp_path / "out"), "bad.cif", "cannot be read")


def test_molecule_without_a_cell(nearsight, tmp_path):
    (tmp_path / "h2.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    refused(nearsight("scf", tmp_path / "h2.xyz", "-o", tmp_path / "out"), "no cell", "--vacuum")


def test_atoms_too_close(nearsight, tmp_path):
    hydrogen(tmp_path / "h2.vasp", distance=0.1)
    refused(nearsight("scf", tmp_path / "h2.vasp", "-o", tmp_path / "out"), "atoms 0 (H) and 1 (H)", "0.100 angstrom")
    hydrogen(tmp_path / "h2.vasp", distance=3.95)
    refused(nearsight("scf", tmp_path / "h2.vasp", "-o", tmp_path / "out"), "0.050 angstrom", "cell")


def test_cell_of_zero_volume(nearsight, tmp_path):
    path = hydrogen(tmp_path / "POSCAR")
    lines = path.read_text().splitlines()
    lines[4] = lines[3]
    path.write_text("\n".join(lines))
    refused(nearsight("scf", path, "-o", tmp_path / "out"), "zero volume")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kmesh", 0, 1, 1), ("kmesh", "at least 1")),
        (("--mesh", 10, 0, 10), ("mesh", "at least 1")),
        (("--xc", "pbee"), ("pbee", "did you mean pbe?")),
        (("--xc", "LDA"), ("LDA", "did you mean lda?")),
        (("--basis", "dpz"), ("dpz", "did you mean dzp?")),
        (("--mesh-cutoff", -5), ("mesh_cutoff_ry", "greater than or equal to 10")),
        (("--smearing", 0), ("smearing_ev", "greater than 0")),
        (("--set", "max_iteration=3"), ("max_iteration", "did you mean max_iterations?")),
        (("--set", "mixing.wieght=0.1"), ("mixing.wieght", "did you mean weight?")),
        (("--set", "nonsense"), ("key=value",)),
        (("--species", "/nowhere"), ("no such folder of species", "/nowhere")),
    ],
)
def test_settings(nearsight, tmp_path, options, words):
    path = hydrogen(tmp_path / "h2.vasp")
    refused(nearsight("scf", path, "-o", tmp_path / "out", *options), *words)
    assert not (tmp_path / "out").exists()


def test_element_without_a_pseudopotential(nearsight, tmp_path):
    path = hydrogen(tmp_path / "u2.vasp", distance=2.4, numbers=(92, 92))
    refused(nearsight("scf", path, "-o", tmp_path / "out", "--mesh-cutoff", 20), "U")


def test_cuda_where_there_is_none(nearsight, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    path = hydrogen(tmp_path / "h2.vasp")
    refused(nearsight("scf", path, "-o", tmp_path / "out", "--device", "cuda"), "CUDA", "--device cpu")


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "cpu:x", "cuda:99", "gpu"])
def test_devices_that_a_network_cannot_run_on(nearsight, tmp_path, device):
    """PyTorch knows some of these names, and fails only when something is moved there."""
    path, out = hydrogen(tmp_path / "h2.vasp"), tmp_path / "out"
    said = "CUDA device" if device == "cuda:99" else "take cpu or cuda"
    refused(nearsight("predict", tmp_path, path, "-o", out, "--device", device), device, said)
    assert not out.exists()


def test_no_convergence_is_told_and_kept(nearsight, tmp_path):
    path, out = hydrogen(tmp_path / "h2.vasp"), tmp_path / "out"
    quick = ("--basis", "sz", "--mesh-cutoff", 60, "--kmesh", 1, 1, 1)
    refused(nearsight("scf", path, "-o", out, *quick, "--set", "max_iterations=1"), "not converged", "--restart")
    result = json.loads((out / "result.json").read_text())
    assert result["converged"] is False
    assert result["iterations"] == 1
    assert nearsight("check", out).status == 1
    again = nearsight("scf", path, "-o", out, *quick, "--set", f"start={out}")
    assert again.status == 0, again
    assert json.loads((out / "result.json").read_text())["converged"] is True


def test_odd_electrons_are_warned_of(nearsight, tmp_path):
    path = hydrogen(tmp_path / "h2.vasp", numbers=(1, 2), distance=1.0)
    quick = ("--basis", "sz", "--mesh-cutoff", 60, "--kmesh", 1, 1, 1, "--set", "max_iterations=1")
    result = nearsight("scf", path, "-o", tmp_path / "out", *quick)
    assert "warning: 3 electrons without spin" in result.err


def test_broken_matrices(nearsight, tmp_path):
    shutil.copytree(GRAPHENE, tmp_path / "x")
    content = (tmp_path / "x" / "hamiltonian.h5").read_bytes()
    (tmp_path / "x" / "hamiltonian.h5").write_bytes(content[:5000])
    for command in (("check",), ("bands",), ("compare", GRAPHENE)):
        refused(nearsight(*command, tmp_path / "x"), "hamiltonian.h5", "not a whole HDF5")


def test_different_structures_are_not_compared(nearsight, tmp_path):
    shutil.copytree(GRAPHENE, tmp_path / "x")
    text = (tmp_path / "x" / "POSCAR").read_text()
    (tmp_path / "x" / "POSCAR").write_text(text.replace("1.42", "1.52"))
    refused(nearsight("compare", GRAPHENE, tmp_path / "x"), "different structures")


def test_unknown_picture_and_path(nearsight, tmp_path):
    refused(nearsight("bands", GRAPHENE, "-o", tmp_path / "b.docx", "--points", 5), "b.docx", "png")
    refused(nearsight("bands", GRAPHENE, "-o", tmp_path / "b.png", "--path", "GAMMA-Q"), "Q", "GAMMA")
    assert not list(tmp_path.iterdir())


def test_no_place_to_write(nearsight, tmp_path):
    (tmp_path / "file").write_text("")
    refused(nearsight("bands", GRAPHENE, "-o", tmp_path / "file" / "b.png", "--points", 5), "file")


@pytest.mark.parametrize(
    "words", [("compar",), ("scf",), ("scf", "x.cif"), ("scf", "x.cif", "-o", "o", "--kmesh", "1"), ("bands", "--nope")]
)
def test_usage_errors(nearsight, words):
    assert nearsight(*words).status == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", ("key: value",)),
        ("{", ("not a YAML file",)),
        ("structre: x.cif\n", ("structre", "did you mean structure?")),
        ("structure: []\n", ("empty",)),
        ("structure: h2.vasp\ndistort: {count: 1, sigma: 0.1, clip_ang: 0.2}\n", ("sigma", "sigma_ang")),
        ("structure: h2.vasp\nscf: {xc: pbee}\n", ("scf.xc", "did you mean pbe?")),
        ("structure: h2.vasp\nworkers: 0\n", ("workers",)),
        (
            "structure: h2.vasp\nmodes: {count: 1, temperature_K: [300, 600], hessian: nowhere}\n",
            ("nowhere", "no such"),
        ),
        (
            "structure: h2.vasp\nmodes: {count: 1, temperature_K: [300, 600]}\n"
            "distort: {count: 1, sigma_ang: 0.1, clip_ang: 0.2}\n",
            ("distort", "modes", "leave one of them out"),
        ),
    ],
)
def test_set_files(nearsight, tmp_path, text, words):
    hydrogen(tmp_path / "h2.vasp")
    (tmp_path / "set.yaml").write_text(text)
    refused(nearsight("dataset", "build", tmp_path / "set.yaml", "-o", tmp_path / "out"), *words)
    assert not (tmp_path / "out" / "0000").exists()

"""What the commands print and leave behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nearsight import __version__
from nearsight.core.units import HARTREE_EV
from nearsight.formats.matrix_file import MatrixFile
from nearsight.formats.registry import read, write
from nearsight.learn.model import TrainedModel
from nearsight.tasks.ledger import Ledger

GRAPHENE = Path(__file__).parents[1] / "formats" / "data" / "graphene_lda_sz"


def test_version_and_help_are_quick(nearsight):
    assert nearsight("--version").out.strip() == f"nearsight {__version__}"
    code = "import sys, nearsight, nearsight.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    for verb in ("scf", "dataset", "train", "predict", "bands", "compare", "check", "demo"):
        assert verb in nearsight("--help").out


def shifted(folder: Path, noise_ev: float, mu_ev: float) -> tuple[Path, torch.Tensor]:
    """Graphene with H + noise + mu S; the noise [Ha]."""
    c = read(GRAPHENE)
    h = c.require_hamiltonian()
    generator = torch.Generator().manual_seed(0)
    noise = h.with_values(torch.randn(h.values.shape, dtype=torch.float64, generator=generator)).hermitian()
    noise = noise * (noise_ev / HARTREE_EV)
    changed = h + noise + c.overlap * (mu_ev / HARTREE_EV)
    write(folder, replace(c, hamiltonian=changed, density_matrix=None, electrons=None))
    return folder, noise.values


def test_compare_json(nearsight, tmp_path):
    other, noise = shifted(tmp_path / "other", 1e-3, 0.0)
    result = json.loads(nearsight("compare", GRAPHENE, other, "--json").out)
    assert result["hamiltonian_mae_meV"] == pytest.approx(float(noise.abs().mean()) * HARTREE_EV * 1000, rel=1e-6)
    assert result["hamiltonian_max_meV"] == pytest.approx(float(noise.abs().max()) * HARTREE_EV * 1000, rel=1e-6)
    assert result["overlap_max"] == 0
    assert 0 < result["gauge_mae_meV"] <= result["hamiltonian_mae_meV"]
    assert 0 < result["bands_mae_meV"] < result["bands_max_meV"] < 50


def test_compare_takes_the_zero_of_energy_out(nearsight, tmp_path):
    other, _ = shifted(tmp_path / "other", 0.0, 0.3)
    result = json.loads(nearsight("compare", GRAPHENE, other, "--json").out)
    assert result["gauge_shift_meV"] == pytest.approx(-300, rel=1e-6)
    assert result["gauge_mae_meV"] < 1e-6
    assert result["bands_mae_meV"] == pytest.approx(300, rel=1e-6)
    assert result["bands_aligned_mae_meV"] < 1e-5
    assert result["hamiltonian_mae_meV"] > 1


def test_compare_sees_through_another_choice_of_cells(nearsight, tmp_path):
    """Atom 1 taken from a neighbouring cell: other R, the same crystal."""
    shutil.copytree(GRAPHENE, tmp_path / "x")
    lines = (tmp_path / "x" / "POSCAR").read_text().splitlines()
    moved = np.array(lines[9].split(), float) + np.array(lines[2].split(), float)
    lines[9] = " ".join(map(repr, moved.tolist()))
    (tmp_path / "x" / "POSCAR").write_text("\n".join(lines) + "\n")
    for name in ("overlap.h5", "hamiltonian.h5", "density_matrix.h5"):
        file = MatrixFile.read(tmp_path / "x" / name)
        pairs = file.atom_pairs.copy()
        pairs[:, 0] += (pairs[:, 3] == 1).astype(int) - (pairs[:, 4] == 1).astype(int)
        MatrixFile(pairs, file.chunk_shapes, file.chunk_boundaries, file.entries).write(tmp_path / "x" / name)
    assert nearsight("check", tmp_path / "x").status == 0
    result = json.loads(nearsight("compare", GRAPHENE, tmp_path / "x", "--json").out)
    assert result["hamiltonian_max_meV"] == 0
    assert result["pairs_only_in_reference"] == 0


def test_pairs_that_one_lacks_are_zero(nearsight, tmp_path):
    shutil.copytree(GRAPHENE, tmp_path / "x")
    for name in ("overlap.h5", "hamiltonian.h5", "density_matrix.h5"):
        file = MatrixFile.read(tmp_path / "x" / name)
        near = np.abs(file.atom_pairs[:, :3]).max(1) < 2
        entries = np.concatenate([file.block(n).ravel() for n in np.flatnonzero(near)])
        MatrixFile.of(file.atom_pairs[near], file.chunk_shapes[near], entries).write(tmp_path / "x" / name)
    result = json.loads(nearsight("compare", GRAPHENE, tmp_path / "x", "--json").out)
    file = MatrixFile.read(GRAPHENE / "hamiltonian.h5")
    far = np.abs(file.atom_pairs[:, :3]).max(1) >= 2
    lost = np.concatenate([file.block(n).ravel() for n in np.flatnonzero(far)])
    assert result["pairs_only_in_reference"] == far.sum() > 0
    assert result["hamiltonian_max_meV"] == pytest.approx(1000 * np.abs(lost).max(), rel=1e-6)
    assert result["hamiltonian_mae_meV"] == pytest.approx(1000 * np.abs(lost).sum() / file.entries.size, rel=1e-6)


def test_check_finds_what_is_broken(nearsight, tmp_path):
    assert nearsight("check", GRAPHENE).status == 0
    shutil.copytree(GRAPHENE, tmp_path / "x")
    file = MatrixFile.read(tmp_path / "x" / "density_matrix.h5")
    changed = MatrixFile(file.atom_pairs, file.chunk_shapes, file.chunk_boundaries, file.entries * 1.02)
    changed.write(tmp_path / "x" / "density_matrix.h5")
    result = nearsight("check", tmp_path / "x")
    assert result.status == 1
    assert "Tr[D S]" in result.err
    found = json.loads(nearsight("check", tmp_path / "x", "--json").out)
    assert [f["law"] for f in found["findings"] if not f["holds"]] == ["Tr[D S] is the number of electrons"]


def test_bands_picture_and_numbers(nearsight, tmp_path):
    numbers, picture = tmp_path / "b.json", tmp_path / "b.png"
    words = ("bands", GRAPHENE, GRAPHENE, "-o", picture, "--points", 20, "--json", numbers, "--path", "GAMMA-K")
    assert nearsight(*words).status == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    bands = json.loads(numbers.read_text())["graphene_lda_sz"]
    fermi, at_k = bands["fermi_energy_eV"], np.array(bands["energies_eV"])[0, -1]
    assert [name for _, name in bands["labels"]] == ["GAMMA", "K"]
    dirac = np.sort(np.abs(at_k - fermi))[:2]
    assert dirac.max() < 1e-3  # graphene's cone is at K


@pytest.fixture
def small_set(tmp_path) -> Path:
    (tmp_path / "h2.xyz").write_text('2\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nH 0 0 0\nH 0 0 0.74\n')
    (tmp_path / "set.yaml").write_text(
        "structure: h2.xyz\n"
        "distort: {count: 3, sigma_ang: 0.05, clip_ang: 0.1, seed: 7}\n"
        "scf: {xc: lda, basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}\n"
        "workers: 1\n"
    )
    return tmp_path


def test_thermal_copies_and_a_second_set_of_them(nearsight, small_set):
    text = (small_set / "set.yaml").read_text()
    distort = next(line for line in text.splitlines() if line.startswith("distort"))
    recipe = "modes: {count: 1, temperature_K: [300, 600], seed: 1, molecule: true, relax_ev_per_ang: null}"
    (small_set / "set.yaml").write_text(text.replace(distort, recipe))
    assert nearsight("dataset", "build", small_set / "set.yaml", "-o", small_set / "train").status == 0
    assert (small_set / "train" / "modes" / "0" / "modes.json").exists()
    taken = ("--set", "modes.seed=2", "--set", "modes.hessian=train")
    assert nearsight("dataset", "build", small_set / "set.yaml", "-o", small_set / "test", *taken).status == 0
    assert not (small_set / "test" / "modes").exists()
    one, other = (read(small_set / name / "0000").structure.positions for name in ("train", "test"))
    assert 1e-3 < float((one - other).abs().max()) < 1
    (small_set / "h2.xyz").write_text('2\nLattice="5 0 0 0 4 0 0 0 4" pbc="T T T"\nH 0 0 0\nH 0 0 0.74\n')
    refused = nearsight("dataset", "build", small_set / "set.yaml", "-o", small_set / "more", *taken)
    assert refused.status == 1
    assert "another structure" in refused.err


def test_dataset_build_and_its_failures(nearsight, small_set):
    config, out = small_set / "set.yaml", small_set / "out"
    first = nearsight("dataset", "build", config, "-o", out, "--set", "distort.count=1")
    assert first.status == 0, first
    made = (out / "0000" / "hamiltonian.h5").stat().st_mtime_ns
    assert (out / "species" / "H.ion.xml").exists()
    again = nearsight("dataset", "build", config, "-o", out)
    assert again.status == 0, again
    assert sorted(p.name for p in out.iterdir() if p.name.isdigit()) == ["0000", "0001", "0002"]
    assert (out / "0000" / "hamiltonian.h5").stat().st_mtime_ns == made
    assert nearsight("check", out / "0002").status == 0
    other = nearsight("dataset", "build", config, "-o", out, "--set", "scf.xc=pbe")
    assert other.status == 1
    assert "another configuration" in other.err
    once = ("--set", "scf.max_iterations=1", "--set", "retry=[]")
    failing = nearsight("dataset", "build", config, "-o", small_set / "bad", *once)
    assert failing.status == 1
    assert "3 of 3 failed" in failing.err
    assert len(json.loads((small_set / "bad" / "failures.json").read_text())) == 3
    assert not (small_set / "bad" / "0000").exists()


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ("outputs: {forces: true}", "scf.forces=false", "begun with scf.outputs.forces"),
        ("outputs: {stress: true}", "scf.xc=lda", "begun with scf.outputs.stress"),
        ("solver: {tolerance_ev: 0.001}", "scf.tolerance_ev=1e-6", "tolerance_ev 0.001, wider than 1e-06"),
    ],
)
def test_a_set_is_not_gone_on_with_where_its_entries_would_differ(nearsight, small_set, before, now, told) -> None:
    (small_set / "out").mkdir()
    Ledger(small_set / "out" / "ledger.sqlite").close()
    (small_set / "out" / "config.yaml").write_text(f"schema_version: 2\nstructure: h2.xyz\nscf:\n  {before}\n")
    refused = nearsight("dataset", "build", small_set / "set.yaml", "-o", small_set / "out", "--set", now)
    assert refused.status == 1 and told in refused.err, refused
    assert not (small_set / "out" / "0000").exists()


def test_bare_structures_are_built_and_trained_on_by_their_energy(nearsight, small_set):
    """Each says what its functional is: the configuration of the training need not."""
    config, out = small_set / "set.yaml", small_set / "bare"
    built = nearsight("dataset", "build", config, "-o", out, "--set", "labels=false")
    assert built.status == 0 and "3 structures" in built.out, built
    assert sorted(p.name for p in (out / "0002").iterdir()) == ["POSCAR", "provenance.json", "settings.json"]
    made = (out / "0000" / "POSCAR").read_text()
    bare = ["--set", "labels=false"]
    for changed, told in (
        (["--set", "labels=true"], "without labels"),
        ([*bare, "--set", "distort.seed=9"], "another config"),
    ):
        refused = nearsight("dataset", "build", config, "-o", out, *changed)
        assert refused.status == 1 and told in refused.err, refused
    assert (out / "0000" / "POSCAR").read_text() == made
    model = small_set / "energy.yaml"
    model.write_text(
        f"data: {{train: {out}, validation: {out}}}\nmodel: {{preset: small, target: delta, width: 16}}\n"
        "loss: {kind: energy}\n"
        "trainer: {max_minutes: null, max_epochs: 1, validations: 1}\n"
    )
    trained = nearsight("train", model, "-o", small_set / "energy")
    assert trained.status == 0, trained
    learnt = TrainedModel.load(small_set / "energy").reference.settings
    assert (learnt.functional.xc, learnt.basis.size, learnt.mesh.cutoff_ry) == ("lda", "sz", 60)


def test_a_killed_build_goes_on(nearsight, small_set):
    config, out = small_set / "set.yaml", small_set / "out"
    command = [sys.executable, "-m", "nearsight.cli", "dataset", "build", str(config), "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "0000").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = {p.name for p in out.iterdir() if p.name.isdigit()}
    for name in done:
        assert (out / name / "result.json").exists()
    deadline = time.monotonic() + 120
    result = nearsight("dataset", "build", config, "-o", out)
    while "at work" in result.err and time.monotonic() < deadline:  # the orphaned worker leaves by itself
        time.sleep(0.2)
        result = nearsight("dataset", "build", config, "-o", out)
    assert result.status == 0, result
    assert sorted(p.name for p in out.iterdir() if p.name.isdigit()) == ["0000", "0001", "0002"]


def test_every_setting_is_listed_with_its_default(nearsight):
    text = nearsight("settings").out
    assert "mesh.cutoff_ry=300.0 Ry   or mesh_cutoff_ry\n" in text and "solver.mixing.kerker_per_ang=null" in text
    found = json.loads(nearsight("settings", "--json").out)["settings"]
    assert len(found) > 30 and all(s["description"] for s in found)
    assert {s["short"] for s in json.loads(nearsight("settings", "smearing", "--json").out)["settings"]} >= {
        "smearing_ev"
    }
    assert nearsight("settings", "nonsense").status == 1
    shown = " ".join(nearsight("scf", "--help").out.split())
    for default in ("pbe", "300.0", "standard", "0.025", "fermi-dirac"):
        assert f"({default})" in shown


def test_the_documentation_lists_every_setting(nearsight):
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    for s in json.loads(nearsight("settings", "--json").out)["settings"]:
        default = f"{s['default']} {s['unit']}".strip()
        short = f"`{s['short']}`" if s["short"] else ""
        assert f"| `{s['key']}` | {short} | {default} | {s['description']} |\n" in page

"""nearsight overlap: one structure, many structures, what follows from them, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from ase.io import write as write_ase

from nearsight.core.errors import BadInput, MissingData
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.formats.registry import read
from nearsight.learn.data import require_ground_state
from nearsight.learn.model import predict
from tests import cases
from tests.formats.basis_writers import orb_text, write

DATA = Path(__file__).parents[1] / "formats" / "data"


@pytest.fixture(scope="module")
def ions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ions")
    for symbol in ("C", "H", "O"):
        write_ion_xml(cases.species(symbol, "szp"), folder / f"{symbol}.ion.xml")
    return folder


@pytest.fixture
def structures(tmp_path):
    folder = tmp_path / "structures"
    folder.mkdir()
    graphene = cases.graphene().to_ase()
    write_ase(folder / "a.cif", graphene)
    write_ase(folder / "b.vasp", graphene)
    turned = graphene.copy()
    turned.rattle(0.02, seed=1)
    write_ase(folder / "frames.extxyz", [graphene, turned, cases.water().to_ase()])
    write_ase(folder / "silicon.cif", graphene.__class__("Si", cell=[4, 4, 4], pbc=True))
    (folder / "broken.cif").write_text("nothing")
    (folder / "README.md").write_text("no structure")
    return folder


def test_one_structure_becomes_a_folder_that_is_read_and_checked(nearsight, tmp_path, ions, structures):
    made = nearsight("overlap", structures / "a.cif", "--species", ions, "-o", tmp_path / "S")
    assert made.status == 0 and "overlap in" in made.out
    c = read(tmp_path / "S")
    assert c.hamiltonian is None and c.electrons == 8 and c.basis.shells[6] == cases.species("C", "szp").shells
    record = json.loads((tmp_path / "S" / "result.json").read_text())
    assert record["overlap_of"]["C"]["file"] == "C.ion.xml" and record["config"]["basis"]["species"] == str(ions)
    told = json.loads(nearsight("check", tmp_path / "S", "--json").out)
    laws = {f["law"] for f in told["findings"]}
    assert told["sound"] and {"S is positive definite", "S has the symmetry of the crystal"} <= laws
    assert nearsight("bands", tmp_path / "S").status == 1
    with_h0 = nearsight(
        "overlap", structures / "a.cif", "--species", ions, "--h0", "--mesh-cutoff", 60, "-o", tmp_path / "S"
    )
    assert with_h0.status == 0 and read(tmp_path / "S").hamiltonian is not None
    assert nearsight("bands", tmp_path / "S", "-o", tmp_path / "b.png", "--points", 8).status == 0
    with pytest.raises(BadInput, match="no ground state to learn from"):
        require_ground_state(read(tmp_path / "S"), tmp_path / "S")


def test_many_structures_resume_and_tell_their_failures(nearsight, tmp_path, ions, structures):
    out = tmp_path / "set"
    first = nearsight("overlap", structures, "--species", ions, "-o", out, "--workers", 1)
    failures = json.loads((out / "failures.json").read_text())
    assert first.status == 1 and "2 of 7 failed" in first.err and set(failures) == {"broken", "silicon"}
    assert "Si" in failures["silicon"] and all("\n" not in text for text in failures.values())
    done = sorted(p.name for p in out.iterdir() if p.is_dir() and p.name[0] != ".")
    assert done == ["a", "b", "frames_0000", "frames_0001", "frames_0002"]
    before = (out / "a" / "overlap.h5").stat().st_mtime_ns
    (structures / "broken.cif").unlink()
    (structures / "silicon.cif").unlink()
    shutil.copytree(ions, structures / "species")  # as a data set has them
    second = nearsight("overlap", structures, "--species", ions, "-o", out, "--workers", 1)
    assert second.status == 0 and "5 structures" in second.out
    assert (out / "a" / "overlap.h5").stat().st_mtime_ns == before
    assert "Traceback" not in first.err + second.err


def test_a_model_without_its_orbitals_predicts_on_an_overlap(tmp_path, ions):
    from nearsight.core.calculation import Calculation
    from nearsight.dft.overlap import overlap
    from nearsight.formats.registry import write as write_calculation
    from nearsight.learn.model import TrainedModel
    from nearsight.models.deeph2 import DeepH2

    made: Calculation = overlap(cases.graphene(), ions)
    write_calculation(tmp_path / "S", made)
    shells = {6: made.basis.shells[6]}
    sizes = {"irreps": "4x0e+2x1o+2x2e", "edge": (4, 2, 2), "hidden": (4, 2, 2), "width": 8}
    network = DeepH2(shells, cutoff=6.0, reach=12.0, layers=1, radial=4, **sizes).double().eval()
    model = TrainedModel(network, {"kind": "deeph2", "shells": shells}, None)
    predict(model, tmp_path / "S", tmp_path / "P")
    found = read(tmp_path / "P")
    assert found.hamiltonian.same_layout(found.overlap) and found.electrons == 8
    assert float((found.overlap.on(made.overlap.layout) - made.overlap).values.abs().max()) < 1e-14
    with pytest.raises(MissingData, match="orbitals"):
        predict(model, cases.graphene(), tmp_path / "Q")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.cif", "--species", "nowhere"), "no such folder"),
        (("a.cif", "--species", "ions", "--basis", "dzp"), "leave basis.size out"),
        (("a.cif", "--species", "ions", "--set", "kmesh=[2,2,2]"), "no bearing"),
        (("a.cif", "--species", "ions", "--orbitals", "C7.0-s2"), "no such file"),
        (("a.cif", "--gaussian", "def2-svp", "--h0", "--xc", "lda"), "no bearing on Gaussians"),
        (("nowhere.cif", "--species", "ions"), "no such file"),
        (("a.cif", "twin/a.cif", "--species", "ions"), "rename one"),
        (("silicon.cif", "--species", "ions"), "no orbitals of Si"),
        (("a.cif", "--species", "orbs", "--h0"), "leave --h0 out"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(nearsight, tmp_path, monkeypatch, ions, structures, words, said):
    monkeypatch.chdir(structures)
    (structures / "ions").symlink_to(ions)
    (structures / "twin").mkdir()
    shutil.copy("a.cif", "twin/a.cif")
    write(structures / "orbs" / "C.orb", orb_text(cases.species("C", "szp")))
    result = nearsight("overlap", *words, "-o", tmp_path / "x")
    assert result.status == 1 and said in result.err and len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "x" / "info.json").exists()


def test_a_calculation_is_not_replaced_by_an_overlap(nearsight, tmp_path, ions, structures):
    shutil.copytree(DATA / "graphene_lda_sz", tmp_path / "H")
    result = nearsight("overlap", structures / "a.cif", "--species", ions, "-o", tmp_path / "H")
    assert result.status == 1 and "more than an overlap" in result.err
    assert read(tmp_path / "H").hamiltonian is not None
    assert torch.isfinite(read(tmp_path / "H").hamiltonian.values).all()

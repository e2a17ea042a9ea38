"""Data sets by other programs: PySCF itself, and programs that a script stands for, which leaves real output."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from nearsight.core.errors import BadInput, Unavailable
from nearsight.core.units import HARTREE_EV
from nearsight.dft.settings import Settings
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats.abacus import _structure
from nearsight.formats.registry import read
from nearsight.formats.sets.entry import read_provenance
from nearsight.tasks.dataset import SetSettings, build
from nearsight.tasks.engines.abacus import Abacus, AbacusTable
from nearsight.tasks.engines.contract import EngineTable, engine_of
from nearsight.tasks.engines.programs import Siesta, SiestaTable
from nearsight.tasks.sets.listing import failures, list_set
from tests import cases
from tests.cli.test_bad_input import hydrogen

H2O = Path(__file__).parents[1] / "formats" / "data" / "openmx" / "h2o"


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def settings(folder: Path, **more) -> SetSettings:
    distort = {"count": 2, "sigma_ang": 0.01, "clip_ang": 0.05}
    return SetSettings(structure=str(folder / "h2.vasp"), distort=distort, workers=1, **more)


@pytest.fixture
def openmx(tmp_path: Path) -> Path:
    """A program called openmx that checks its input and leaves the output of a real one."""
    hydrogen(tmp_path / "h2.vasp")
    (tmp_path / "DFT_DATA19" / "VPS").mkdir(parents=True)
    (tmp_path / "DFT_DATA19" / "VPS" / "H_PBE19.vps").write_text("valence.electron 1.0\n")
    text = (
        'test -s "$1" || { echo no input; exit 3; }\n'
        'grep -q "System.CurrentDirectory *./$" "$1" || { echo wrong place; exit 5; }\n'
        'grep -qi "atoms.number *2" "$1" || { echo wrong atoms; exit 4; }\n'
        f"echo done; cp {H2O}/h2o.scfout openmx.scfout"
    )
    return script(tmp_path / "openmx", text)


def by(program: Path) -> dict:
    parameters = {"definition_of_atomic_species": SPECIES}
    return {
        "kind": "openmx",
        "command": str(program),
        "data": str(program.parent / "DFT_DATA19"),
        "parameters": parameters,
    }


SPECIES = [["H", "H6.0-s2p1", "H_PBE19", 0.5, 0.5]]


def test_a_program_that_ase_drives(openmx, tmp_path):
    engine = by(openmx)
    made = build(settings(tmp_path, engine=engine), tmp_path / "set")
    assert not made.failed, made.failed
    found, real = read(tmp_path / "set" / "0001"), read(H2O)
    assert float((found.hamiltonian - real.hamiltonian).values.abs().max()) < 1e-14
    told = read_provenance(tmp_path / "set" / "0000")
    assert (told["engine"], told["parent"], told["tries"]) == ("openmx", str(tmp_path / "h2.vasp"), 1)
    assert [e.engine for e in list_set(tmp_path / "set").entries] == ["openmx", "openmx"]
    assert not list((tmp_path / "set" / ".work").glob("*.run"))


def test_a_program_that_fails_is_a_failure_with_its_last_words(openmx, tmp_path):
    script(openmx, "echo all went well; echo ERROR: no such pseudopotential; exit 9")
    engine = by(openmx)
    made = build(settings(tmp_path, engine=engine), tmp_path / "set")
    assert [name for name, _ in made.failed] == ["0000", "0001"]
    assert "status 9" in made.failed[0][1] and "no such pseudopotential" in made.failed[0][1]
    script(openmx, "echo The SCF was not achieved; cp /dev/null openmx.scfout")
    made = build(settings(tmp_path, engine=engine), tmp_path / "set")
    assert "did not converge" in made.failed[0][1]
    assert [t["rung"] for t in failures(tmp_path / "set")[0].tries] == [None, "mixing"]
    script(openmx, "echo done; echo nonsense > openmx.scfout")
    made = build(settings(tmp_path, engine=engine, retry=[]), tmp_path / "set")
    assert "openmx.scfout" in made.failed[0][1] or "is of no known format" in made.failed[0][1]


def test_a_program_that_hangs_is_ended_with_all_that_it_started(openmx, tmp_path):
    script(openmx, f"sleep 987 & echo $! > {tmp_path}/pid; wait")
    engine = by(openmx)
    chosen = settings(tmp_path, engine=engine, limits={"wall_seconds": 3}).model_copy(
        update={"distort": None, "structure": [str(tmp_path / "h2.vasp")]}
    )
    made = build(chosen, tmp_path / "set")
    assert "limits.wall_seconds" in made.failed[0][1]
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_input_of_abacus_is_read_again(tmp_path):
    s = cases.water(11.0)
    table = {"kind": "abacus", "pseudopotentials": {"O": "O.upf", "H": "H.upf"}}
    table["orbitals"] = {"O": "O_gga_7au_100Ry_2s2p1d.orb", "H": "H_gga_6au_100Ry_2s1p.orb"}
    engine = engine_of(EngineTable.told({**table, "kmesh": [2, 1, 1], "parameters": {"scf_nmax": 7}}), Settings())
    engine.write_input(s, tmp_path)
    (tmp_path / "OUT.set").mkdir()
    found, shells = _structure(tmp_path / "OUT.set", "")
    assert found.numbers.tolist() == s.numbers.tolist() and shells[0] == (0, 0, 1, 1, 2)
    assert np.allclose(found.positions, s.positions, atol=1e-12) and np.allclose(found.cell, s.cell, atol=1e-12)
    text = (tmp_path / "INPUT").read_text()
    assert "out_mat_hs2 1" in text and "scf_nmax 7" in text and "2 1 1 0 0 0" in (tmp_path / "KPT").read_text()
    finer = engine.changed(engine.rung("kmesh"))
    assert finer.table.kmesh == (3, 1, 1) and finer.digest(s) != engine.digest(s)
    with pytest.raises(BadInput, match="names no file for O"):
        Abacus(AbacusTable(), Settings()).write_input(s, tmp_path)
    for parameters in ({"a b": 1}, {"a": "1\nb 2"}):
        with pytest.raises(BadInput, match="in one line"):
            Abacus(AbacusTable(**{**table, "parameters": parameters}), Settings()).write_input(s, tmp_path)


def test_the_input_of_siesta_has_what_is_read_afterwards(tmp_path):
    for symbol in ("H", "O"):
        (tmp_path / f"{symbol}.psml").write_text("<psml/>")
    engine = Siesta(SiestaTable(data=tmp_path, parameters={"Max.SCF.Iterations": 3}), Settings())
    (tmp_path / "run").mkdir()
    engine.write_input(cases.water(11.0), tmp_path / "run")
    text = (tmp_path / "run" / "siesta.fdf").read_text()
    assert "SaveHS" in text and "Max.SCF.Iterations" in text.replace("\t", " ") and "NumberOfAtoms" in text
    with pytest.raises(BadInput, match="ASE cannot write"):
        Siesta(SiestaTable(basis_set="nonsense"), Settings()).write_input(cases.water(11.0), tmp_path / "run")


def test_what_is_not_installed_is_one_line(monkeypatch):
    for kind in ("siesta", "openmx", "abacus"):
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(Unavailable, match=rf"needs the program {kind}"):
            engine_of(EngineTable.told(kind), Settings()).check([])
    monkeypatch.undo()
    with pytest.raises(BadInput, match="DFT_DATA19"):
        engine_of(EngineTable.told({"kind": "openmx", "command": "true"}), Settings()).check([])


def test_pyscf_molecules_and_crystals(tmp_path):
    pyscf = pytest.importorskip("pyscf")
    from pyscf import dft

    hydrogen(tmp_path / "h2.vasp")
    engine = {"kind": "pyscf", "xc": "b3lyp", "basis": "sto-3g"}
    made = build(settings(tmp_path, engine=engine), tmp_path / "set")
    assert not made.failed, made.failed
    found = read(tmp_path / "set" / "0000")
    apart = float((found.structure.positions[1] - found.structure.positions[0]).norm()) * 0.529177210903 / 0.52917721092
    mol = pyscf.gto.M(atom=[["H", (0, 0, 0)], ["H", (0, 0, apart)]], basis="sto-3g", unit="Bohr", verbose=0)
    mf = dft.RKS(mol, xc="b3lyp")
    mf.conv_tol = 1e-10
    assert found.energies["total"] == pytest.approx(mf.kernel(), abs=1e-7)
    levels = eigenvalues(found.hamiltonian, found.overlap, torch.zeros(1, 3, dtype=torch.float64))
    assert np.allclose(np.ravel(levels) * HARTREE_EV, mf.mo_energy * HARTREE_EV, atol=1e-4)
    [first, _] = list_set(tmp_path / "set").entries
    assert (first.functional, first.basis, first.engine, first.converged) == ("b3lyp", "sto-3g", "pyscf", True)
    soft = {**engine, "basis": "6-31g", "max_cycles": 1}
    hard = build(settings(tmp_path, engine=soft, retry=["mixing"]), tmp_path / "hard")
    assert "did not converge in 2 cycles" in hard.failed[0][1]
    climbed = build(
        settings(tmp_path, engine=soft, retry=["mixing", {"max_cycles": 60, "damping": 0}]), tmp_path / "soft"
    )
    assert not climbed.failed and read_provenance(tmp_path / "soft" / "0000")["tries"] == 3
    for change, said in (
        ({"xc": "nonsense"}, "no functional"),
        ({"basis": "nonsense"}, "cannot build"),
        ({"spin": 1}, "cannot build"),
    ):
        with pytest.raises(BadInput, match=said):
            build(settings(tmp_path, engine={**engine, **change}), tmp_path / "never")
    assert not (tmp_path / "never").is_dir() or not list((tmp_path / "never").glob("0*"))
    crystal = {"kind": "pyscf", "basis": "gth-szv", "pseudo": "gth-pade", "xc": "lda,vwn", "kmesh": [2, 1, 1]}
    one = SetSettings(structure=str(tmp_path / "h2.vasp"), engine=crystal, workers=1)
    assert "denser engine.kmesh" in build(one, tmp_path / "coarse").failed[0][1]

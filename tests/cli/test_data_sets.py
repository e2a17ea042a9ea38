"""What a data set is made from: content, not paths; and how what failed is tried again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nearsight as ns
from nearsight.core.errors import MissingData
from nearsight.dft.result import Result
from nearsight.dft.settings import Settings
from nearsight.tasks.digest import Origin, digest_of_schema_1, former_digest
from tests import cases
from tests.cli.test_bad_input import hydrogen, refused

IONS = Path(__file__).parents[1] / "formats" / "data" / "version1" / "set" / "species"
SCF = "{basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}"


def digest(**keys: object) -> str:
    return Origin(Settings(**{"basis": "sz", "kmesh": (1, 1, 1), **keys})).digest(cases.water(11.0))


def test_a_digest_is_of_content_not_of_paths(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(IONS, tmp_path / name)
    same = digest(species=tmp_path / "a")
    assert same == digest(species=tmp_path / "b") == digest(species=tmp_path / "b", basis="dzp", split_norm=0.3)
    path = tmp_path / "b" / "O.ion.xml"
    path.write_text(path.read_text() + "<!-- one comment more -->\n")
    assert same != digest(species=tmp_path / "b")
    path.unlink()
    with pytest.raises(MissingData, match=r"O\.ion\.xml"):
        digest(species=tmp_path / "b")


def test_a_digest_is_of_the_pseudopotentials_bytes(tmp_path):
    from nearsight.atoms.library import source

    packaged = digest()
    for symbol in ("H", "O"):
        shutil.copy(source(symbol), tmp_path / f"{symbol}.upf")
    assert packaged == digest(pseudopotentials=tmp_path)
    (tmp_path / "H.upf").write_bytes((tmp_path / "H.upf").read_bytes() + b"\n")
    assert packaged != digest(pseudopotentials=tmp_path)


def test_a_digest_is_of_the_physics_alone():
    plain = digest()
    free = {"max_iterations": 3, "method": "variational", "mixing": {"weight": 0.1}, "tolerance_ev": 1e-3, "start": "x"}
    for key, value in {**free, "device": "cuda", "forces": True, "stress": True}.items():
        assert digest(**{key: value}) == plain, key
    bound = {"xc": "lda", "sheet": True, "mesh_cutoff_ry": 50.0, "kmesh": (2, 1, 1), "smearing_ev": 0.1, "charge": 1.0}
    assert len({plain, *(digest(**{key: value}) for key, value in bound.items())}) == len(bound) + 1


def test_the_digest_of_the_first_schema():
    """Of commit 67f1a51, for settings with every kind of value."""
    keys = {
        "xc": "lda",
        "sheet": True,
        "mixing": {"weight": 0.1, "kerker": 1.0},
        "species": "ions",
        "kshift": (0.5, 0, 0),
    }
    settings = Settings(**keys, start="x", device="cuda", max_iterations=7, basis="sz")
    water = cases.water(11.0)
    assert digest_of_schema_1(water, settings) == "5ba25d1ac194971d2a17828c6e39710965dd7204bc63997aad71e9475c8c80fb"
    assert former_digest(water, Origin(Settings()), Origin(settings)) is None  # its ions are not there


@pytest.fixture
def h2(tmp_path: Path) -> Path:
    hydrogen(tmp_path / "h2.vasp")
    (tmp_path / "set.yaml").write_text(
        f"structure: h2.vasp\ndistort: {{count: 2, sigma_ang: 0.02, clip_ang: 0.05}}\nscf: {SCF}\nworkers: 1\n"
    )
    return tmp_path


def test_advice_for_a_failed_job_can_be_followed(nearsight, h2):
    build = ("dataset", "build", h2 / "set.yaml", "-o", h2 / "set")
    refused(
        nearsight(*build, "--set", "scf.max_iterations=1", "--set", "retry=[]"),
        "2 of 2 failed",
        "scf.mixing.weight=0.1",
    )
    again = nearsight(*build, "--set", "scf.mixing.weight=0.1", "--set", "scf.mixing.dielectric=null")
    assert again.status == 0, again
    assert Result.read(h2 / "set/0001").config.solver.mixing.weight == 0.1
    before = [Result.read(h2 / f"set/000{n}") for n in range(2)]
    assert nearsight(*build, "--set", "scf.method=variational", "--set", "scf.forces=true").status == 0
    for n, old in enumerate(before):  # what is asked for now is added, from where the state was
        new = Result.read(h2 / f"set/000{n}")
        assert old.forces_eV_per_Ang is None and new.forces_eV_per_Ang is not None
        assert new.energy_eV["total"] == pytest.approx(old.energy_eV["total"], abs=1e-6)
        assert new.iterations < old.iterations
    changed = (h2 / "set/0000/result.json").stat().st_mtime_ns
    assert nearsight(*build, "--set", "scf.forces=true").status == 0
    refused(nearsight(*build), "begun with scf.outputs.forces")  # entries of one set have the same parts
    assert (h2 / "set/0000/result.json").stat().st_mtime_ns == changed


def test_a_set_of_other_orbitals_is_not_gone_on_with(nearsight, h2):
    """The default of an earlier version was dzp: the line says how to go on with it."""
    build = ("dataset", "build", h2 / "set.yaml", "-o", h2 / "set")
    assert nearsight(*build, "--set", "scf.basis=sz").status == 0
    refused(nearsight(*build, "--set", "scf.basis=szp"), "begun with orbitals sz by rule 1", "{size: sz, rule: 1}")


def test_a_script_without_a_guard_builds_its_set(h2):
    script = h2 / "script.py"
    script.write_text(
        "from nearsight.tasks.dataset import build, read_settings\n"
        "print('begun')\n"
        f"print(len(build(read_settings({str(h2 / 'set.yaml')!r}), {str(h2 / 'set')!r}).failed))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "begun\n0\n"), done


def test_every_structure_of_a_file_gives_its_copies(nearsight, tmp_path):
    frame = '2\nLattice="4 0 0 0 4 0 0 0 4"\nH 0 0 0\nH 0 0 {}\n'
    (tmp_path / "many.extxyz").write_text("".join(frame.format(d) for d in (0.7, 0.8, 0.9)))
    (tmp_path / "set.yaml").write_text(
        "structure: [many.extxyz, many.extxyz/1]\ndistort: {count: 2, sigma_ang: 0.01, clip_ang: 0.02}\nlabels: false\n"
        "scf: {basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}\n"
    )
    done = nearsight("dataset", "build", tmp_path / "set.yaml", "-o", tmp_path / "set")
    assert done.status == 0 and "warning" not in done.err
    distances = [ns.read_structure(tmp_path / "set" / f"{n:04d}").to_ase().get_distance(0, 1) for n in range(8)]
    assert distances == pytest.approx([0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 0.8, 0.8], abs=0.08)
    said = nearsight(
        "scf", tmp_path / "many.extxyz", "-o", tmp_path / "out", "--set", "mesh_cutoff_ry=60", "--basis", "sz"
    )
    assert said.status == 0 and said.err.startswith("warning: ") and "many.extxyz/0 names the first" in said.err

"""`nearsight structures`, and `generate:` of a data set: what is made is told, stays told, and is made again the same."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest

from nearsight.formats.registry import read_structure
from nearsight.tasks.dataset import build, read_settings
from tests.cli.test_bad_input import hydrogen, refused

SCF = "{basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}"


@pytest.fixture
def graphene(nearsight, tmp_path) -> Path:
    assert nearsight("example", "graphene", "-o", tmp_path).status == 0
    return tmp_path / "graphene.cif"


def test_a_file_tells_how_it_was_made(nearsight, graphene, tmp_path):
    done = nearsight("structures", "twist", graphene, "-o", tmp_path / "t.extxyz", "--indices", 2, 1)
    assert (done.status, done.out.splitlines()) == (
        0,
        [f"1 structure of 28 atoms in {tmp_path / 't.extxyz'}", "angle_deg 21.786789, largest_strain 0.0"],
    )
    info = ase.io.read(tmp_path / "t.extxyz").info
    assert (info["generator"], info["parent"]) == ("twist", str(graphene))
    assert info["parameters"]["indices"] == [2, 1]
    assert read_structure(tmp_path / "t.extxyz").provenance["details"]["atoms_of_layers"] == [14, 14]


def test_a_folder_is_read_whole_and_formats_without_a_place_have_a_file_beside(nearsight, graphene, tmp_path):
    assert nearsight("structures", "rattle", graphene, "-o", tmp_path / "many", "--count", 3, "--seed", 5).status == 0
    index = json.loads((tmp_path / "many" / "structures.json").read_text())
    assert [(s["file"], s["seed"], s["index"]) for s in index["structures"]] == [
        (f"{n:04d}.extxyz", 5, n) for n in range(3)
    ]
    done = nearsight("structures", "supercell", tmp_path / "many", "-o", tmp_path / "s.extxyz", "--repeat", "2,1,1")
    assert done.out == f"3 structures of 4 atoms in {tmp_path / 's.extxyz'}\n"
    done = nearsight(
        "structures", "supercell", tmp_path / "s.extxyz/1", "-o", tmp_path / "one.vasp", "--repeat", "1,1,1"
    )
    assert done.status == 0, done
    told = read_structure(tmp_path / "one.vasp").provenance
    assert [t["generator"] for t in (told, told["ancestors"][0], told["ancestors"][0]["ancestors"][0])] == [
        "supercell",
        "supercell",
        "rattle",
    ]


def test_the_list_of_angles(nearsight, graphene):
    rows = nearsight("structures", "angles", graphene, "--most-atoms", 80).out.splitlines()
    assert [row.split() for row in rows[1:3]] == [["2", "1", "21.7868", "28"], ["4", "1", "38.2132", "28"]]
    found = json.loads(nearsight("structures", "angles", graphene, "--most-atoms", 80, "--json").out)
    assert [a["atoms"] for a in found["angles"]] == [28, 28, 52, 52, 76, 76]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rattle", "graphene.cif", "-o", "out", "--count", "-3"), "rattle.count"),
        (("rattle", "-o", "out", "missing.cif"), "no such file"),
        (("supercell", "graphene.cif", "-o", "out", "--repeat", "1000,1000,1"), "2000000 atoms"),
        (("supercell", "graphene.cif", "-o", "out", "--repeat", "a,b,c"), "supercell.repeat"),
        (("rattle", "graphene.cif", "-o", "two.vasp", "--count", "2"), "several are made"),
        (("rattle", "graphene.cif", "-o", "graphene.cif"), "there already"),
        (("rattle", "graphene.cif", "-o", "x.pdb"), "must end in"),
        (("decorate", "-o", "out", "--prototypes", "fcc", "--elements", "Zz"), "no element"),
        (("twist", "graphene.cif", "graphene.cif", "graphene.cif", "-o", "out", "--indices", 2, 1), "3 structures"),
    ],
)
def test_bad_input_leaves_nothing(nearsight, graphene, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    refused(nearsight("structures", *words), message)
    assert [p.name for p in tmp_path.iterdir()] == ["graphene.cif"]


def test_a_third_partys_generator(nearsight, graphene, tmp_path, third_party):
    source = '''
"""Sheared cells."""
from nearsight.generators.contract import Generator, option

class Shear(Generator):
    kind = "shear"
    by: float = option(0.1, "How far.")
    def number(self, parents): return 1
    def size(self, parents): return len(parents[0])
    def structures(self, parents, first=0):
        atoms = parents[0].copy()
        cell = atoms.cell.array.copy()
        cell[1] += self.by * cell[0]
        atoms.set_cell(cell, scale_atoms=True)
        yield atoms
'''
    third_party("nearsight.generators", source, shear="toy_generator:Shear")
    done = nearsight("structures", "shear", graphene, "-o", tmp_path / "s.extxyz", "--by", 0.2)
    assert done.status == 0, done
    assert read_structure(tmp_path / "s.extxyz").provenance["parameters"]["by"] == 0.2
    assert "Sheared cells." in nearsight("structures", "--help").out


def test_a_data_set_of_generated_structures(tmp_path):
    hydrogen(tmp_path / "h2.vasp")
    (tmp_path / "set.yaml").write_text(
        "structure: h2.vasp\nlabels: false\nworkers: 1\n"
        "generate:\n  - {kind: supercell, repeat: [2, 1, 1]}\n  - {kind: rattle, count: 2, sigma_ang: 0.02, seed: 3}\n"
        f"scf: {SCF}\n"
    )
    made = build(read_settings(tmp_path / "set.yaml"), tmp_path / "set")
    assert (made.jobs, made.failed) == (2, ())
    s = read_structure(tmp_path / "set/0001")
    assert len(s) == 4
    assert (s.provenance["generator"], s.provenance["seed"], s.provenance["index"]) == ("rattle", 3, 1)
    assert s.provenance["ancestors"][0]["generator"] == "supercell"
    again = build(read_settings(tmp_path / "set.yaml"), tmp_path / "set")
    assert again.worked == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("generate: {kind: ratle}", "did you mean rattle"),
        ("generate: {kind: rattle, cuont: 3}", "unknown key rattle.cuont; did you mean count"),
        ("generate: {kind: rattle}\ndistort: {count: 1, sigma_ang: 0.1, clip_ang: 1}", "leave one of them out"),
    ],
)
def test_recipes_that_cannot_be(nearsight, tmp_path, table, message):
    hydrogen(tmp_path / "h2.vasp")
    (tmp_path / "set.yaml").write_text(f"structure: h2.vasp\n{table}\nscf: {SCF}\n")
    refused(nearsight("dataset", "build", tmp_path / "set.yaml", "-o", tmp_path / "set"), message)
    assert not (tmp_path / "set").exists()


def test_a_set_of_decorated_prototypes_needs_no_structure(nearsight, tmp_path):
    recipe = "generate: {kind: decorate, prototypes: [sc, fcc, bcc], elements: [H]}"
    (tmp_path / "set.yaml").write_text(f"{recipe}\nlabels: false\nworkers: 1\nscf: {SCF}\n")
    done = nearsight("dataset", "build", tmp_path / "set.yaml", "-o", tmp_path / "set")
    assert done.out == f"3 structures in {tmp_path / 'set'}\n", done
    (tmp_path / "none.yaml").write_text(f"scf: {SCF}\n")
    refused(nearsight("dataset", "build", tmp_path / "none.yaml", "-o", tmp_path / "none"), "structure is missing")


def test_frames_of_dynamics_on_the_command_line(nearsight, tmp_path):
    hydrogen(tmp_path / "h2.vasp")
    words = ("structures", "dynamics", tmp_path / "h2.vasp", "--temperature", 300, "--count", 2, "--every", 2)
    done = nearsight(*words, "-o", tmp_path / "d.extxyz", "--scf", SCF)
    assert done.status == 0, done
    assert [a.info["details"]["time_fs"] for a in ase.io.read(tmp_path / "d.extxyz", index=":")] == [2, 4]
    refused(nearsight(*words, "-o", tmp_path / "e.extxyz", "--scf", "3"), "dynamics.scf", "such as {basis: sz}")


def test_what_a_dead_writer_left_is_in_nobodys_way(nearsight, graphene, tmp_path):
    """How it was made, written before the structure; and its folder of work, which the next run sweeps up."""
    words = ("structures", "supercell", graphene, "-o", tmp_path / "one.vasp", "--repeat", "1,1,1")
    assert nearsight(*words).status == 0
    (tmp_path / "one.vasp").unlink()
    (tmp_path / ".one.vasp.abcdefgh.part").mkdir()
    assert nearsight(*words).status == 0
    (tmp_path / ".one.vasp.abcdefgh.part").mkdir()
    assert "is there already" in nearsight(*words).err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graphene.cif", "one.vasp", "one.vasp.provenance.json"]
    (tmp_path / "one.vasp").unlink()
    (tmp_path / "one.vasp.provenance.json").write_text('{"mine": 1}')
    assert "is there already" in nearsight(*words).err

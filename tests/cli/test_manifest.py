"""Data sets as one thing: what they hold, what is taken in once, and conditions that are never run as code."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nearsight.core.errors import BadInput, MissingData
from nearsight.formats.registry import read, write
from nearsight.formats.sets.entry import Entry
from nearsight.formats.sets.manifest import Manifest
from nearsight.formats.sets.where import Where
from nearsight.properties.gap import gap
from nearsight.tasks.sets.adding import add
from nearsight.tasks.sets.listing import list_set
from tests.cli.test_bad_input import refused

DATA = Path(__file__).parents[1] / "formats" / "data"
H2O, CHAIN, GRAPHENE = DATA / "openmx" / "h2o", DATA / "openmx" / "n_chain", DATA / "graphene_lda_sz"
WATERS = DATA / "version1" / "set"


@pytest.fixture
def waters(tmp_path: Path) -> Path:
    """A set from before there were manifests: folders and a ledger of jobs."""
    return Path(shutil.copytree(WATERS, tmp_path / "waters"))


def told(nearsight, *words: object) -> dict:
    found = nearsight("dataset", "list", *words, "--json")
    assert found.status == 0, found
    return json.loads(found.out)


def test_a_set_of_before_has_a_manifest_when_it_is_asked(nearsight, waters):
    found = told(nearsight, waters)
    assert [e["name"] for e in found["entries"]] == ["0000", "0001", "0002"] and found["broken"] == {}
    first, c = found["entries"][0], read(waters / "0000")
    assert first["energy"] == pytest.approx(
        json.loads((waters / "0000" / "result.json").read_text())["energy_eV"]["total"]
    )
    assert (first["composition"], first["elements"], first["n_atoms"]) == ("H2O", ["H", "O"], 3)
    assert (first["functional"], first["basis"], first["charge"], first["converged"]) == ("pbe", "sz", 0.0, True)
    assert first["parent"] == "h2.xyz" and first["n_orbitals"] == c.basis.size
    assert first["shortest"] == pytest.approx(_nearest(c), rel=1e-9)
    assert first["pairs"]["H-O"] == 2 and set(first["files"]) == {p.name for p in (waters / "0000").iterdir()}
    again = told(nearsight, waters, "--rebuild")
    assert again == found
    jobs = sqlite3.connect(waters / "ledger.sqlite").execute("SELECT name, state FROM job").fetchall()
    assert jobs == [(n, "done") for n in ("0000", "0001", "0002")]


def _nearest(c) -> float:
    atoms = c.structure.to_ase()
    distances = atoms.get_all_distances(mic=True)
    return float(distances[distances > 0].min())


def test_the_manifest_follows_the_folders(nearsight, waters):
    told(nearsight, waters)
    shutil.rmtree(waters / "0000")
    shutil.copytree(waters / "0001", waters / "extra")
    (waters / "0002" / "overlap.h5").write_bytes(b"torn")
    (waters / "away").symlink_to(GRAPHENE)
    found = told(nearsight, waters)
    assert [e["name"] for e in found["entries"]] == ["0001", "extra"]
    assert set(found["broken"]) == {"0002", "away"} and "link out of" in found["broken"]["away"]
    shown = nearsight("dataset", "list", waters, "--columns", "name,shortest")
    assert shown.status == 0 and "warning: 0002 cannot be read" in shown.err and "2 of 2 entries" in shown.out


def test_a_folder_that_is_no_set_is_listed_and_not_written_to(nearsight, tmp_path):
    shutil.copytree(H2O, tmp_path / "runs" / "a")
    shutil.copytree(GRAPHENE, tmp_path / "runs" / "b")
    assert [e["formula"] for e in told(nearsight, tmp_path / "runs")["entries"]] == ["OH2", "C2"]
    assert sorted(os.listdir(tmp_path / "runs")) == ["a", "b"]


def test_gaps_are_computed_when_a_condition_asks_and_kept(nearsight, waters):
    with Manifest.of(waters) as manifest:
        manifest.refresh()
        with pytest.raises(MissingData, match="not all gaps"):
            manifest.entries("gap > 1")
    found = told(nearsight, waters, "--where", "gap > 1 and gap < 1000")
    assert len(found["entries"]) == 3
    own = gap(read(waters / "0001")).to_json()["gap_eV"]
    with Manifest.of(waters) as manifest:
        assert manifest.entries("gap > 0 and name == '0001'")[0].gap == pytest.approx(own, rel=1e-9)


def test_calculations_of_any_program_are_taken_in_once(nearsight, waters, tmp_path):
    made = tmp_path / "set"
    first = nearsight("dataset", "add", made, H2O, CHAIN, GRAPHENE, waters)
    assert first.status == 0 and "6 added" in first.out, first
    entries = {e["name"]: e for e in told(nearsight, made)["entries"]}
    assert set(entries) == {"h2o", "n_chain", "graphene_lda_sz", "waters-0000", "waters-0001", "waters-0002"}
    assert entries["h2o"]["program"] == "OpenMX" and entries["h2o"]["source"] == str(H2O)
    assert "dataset add" in entries["h2o"]["command"] and entries["waters-0000"]["parent"] == "h2.xyz"
    assert float((read(made / "h2o").hamiltonian - read(H2O).hamiltonian).values.abs().max()) < 1e-14
    assert (made / "graphene_lda_sz" / "hamiltonian.h5").read_bytes() == (GRAPHENE / "hamiltonian.h5").read_bytes()
    assert (made / "species" / "O.ion.xml").read_bytes() == (waters / "species" / "O.ion.xml").read_bytes()
    shutil.copytree(GRAPHENE, tmp_path / "copy")
    again = nearsight(
        "dataset", "add", made, H2O, tmp_path / "copy", made, tmp_path / "nowhere", waters / "config.yaml"
    )
    refused(again, "4 were not added")
    assert "1 there already" in again.out
    assert again.err.count("not added again") == 1 and "is the set itself" in again.err and "no such file" in again.err
    assert len(told(nearsight, made)["entries"]) == 6
    other = tmp_path / "other" / "h2o"
    write(other, replace(c := read(GRAPHENE), hamiltonian=2.0 * c.require_hamiltonian()))
    assert add(made, [other]).added == ((other, "h2o-2"),)


def test_one_bad_source_is_one_line_and_the_rest_goes_on(nearsight, tmp_path):
    runs = tmp_path / "runs"
    for name in ("good", "torn", "linked"):
        shutil.copytree(GRAPHENE, runs / name)
    (runs / "torn" / "hamiltonian.h5").write_bytes((GRAPHENE / "hamiltonian.h5").read_bytes()[:999])
    shutil.copy(GRAPHENE / "overlap.h5", tmp_path / "secret.h5")
    (runs / "linked" / "overlap.h5").unlink()
    (runs / "linked" / "overlap.h5").symlink_to(tmp_path / "secret.h5")
    made = nearsight("dataset", "add", tmp_path / "set", runs)
    refused(made, "2 were not added")
    assert "1 added" in made.out and "Traceback" not in made.err and "link out of" in made.err
    assert sorted(p.name for p in (tmp_path / "set").iterdir() if p.is_dir()) == ["good"]
    refused(nearsight("dataset", "add", tmp_path / "empty", tmp_path / "nowhere"), "no such file")
    assert not (tmp_path / "empty").exists()
    refused(nearsight("dataset", "add", H2O / "h2o.scfout", GRAPHENE), "is a file")


def test_two_processes_write_one_set(tmp_path):
    """Each adds five calculations, three of them the same; whatever the order, each content is there once."""
    base = read(GRAPHENE)
    for n in range(7):
        h = (1.0 + n) * base.require_hamiltonian()
        write(tmp_path / "runs" / f"r{n}", replace(base, hamiltonian=h))
    code = (
        "import sys; from nearsight.tasks.sets.adding import add; print('ready', flush=True); sys.stdin.readline()\n"
        "print(len(add(sys.argv[1], sys.argv[2:]).added))"
    )
    shares = [[tmp_path / "runs" / f"r{n}" for n in s] for s in (range(5), range(2, 7))]
    commands = [[sys.executable, "-c", code, str(tmp_path / "set"), *map(str, s)] for s in shares]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    crew = [subprocess.Popen(c, **pipes) for c in commands]
    for p in crew:
        assert p.stdout.readline() == "ready\n"
    for p in crew:
        p.stdin.write("\n")
        p.stdin.flush()
    counts = [int(p.communicate(timeout=300)[0]) for p in crew]
    assert [p.returncode for p in crew] == [0, 0] and sum(counts) == 7, counts
    found = list_set(tmp_path / "set")
    assert len(found.entries) == 7 == len({e.sha256 for e in found.entries}) and not found.broken
    assert not list((tmp_path / "set").glob(".*.part"))


def test_a_damaged_manifest_is_made_anew(nearsight, waters, tmp_path):
    before = told(nearsight, waters)
    (waters / "ledger.sqlite").write_bytes(b"no database" * 999)
    for name in ("-wal", "-shm"):
        (waters / f"ledger.sqlite{name}").unlink(missing_ok=True)
    refused(nearsight("dataset", "list", waters), "--rebuild")
    assert told(nearsight, waters, "--rebuild") == before
    assert (waters / "ledger.sqlite.damaged").exists()
    database = sqlite3.connect(waters / "ledger.sqlite")
    database.execute("UPDATE entry SET pairs = 'no json'")
    database.commit()
    refused(nearsight("dataset", "list", waters), "--rebuild")
    database.execute("DROP TABLE entry")
    database.execute("CREATE TABLE entry (x)")
    database.commit()
    refused(nearsight("dataset", "list", waters), "--rebuild")
    assert told(nearsight, waters, "--rebuild") == before
    database.execute("UPDATE manifest SET schema = 99")
    database.commit()
    refused(nearsight("dataset", "list", waters), "later Nearsight")
    refused(nearsight("dataset", "list", waters / "config.yaml"), "is a file")
    refused(nearsight("dataset", "list", tmp_path / "nowhere"), "no such file or folder")


ENTRY = Entry(
    name="a", formula="CH4", composition="CH4", elements=("C", "H"), n_atoms=5, gap=None, spin="none", energy=-10.0
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("n_atoms < 10", True),
        ("2 < n_atoms <= 5 and not n_atoms == 4", True),
        ('"C" in elements and "O" not in elements', True),
        ('elements == {"H", "C"}', True),
        ('elements <= {"C", "H", "O"}', True),
        ('elements < {"C", "H"}', False),
        ('formula in ["CH4", "H2O"]', True),
        ("energy / n_atoms < -1.9", True),
        ("-energy > 9 or gap > 3", True),
        ("gap > 3", False),
        ("gap < 3", False),
        ("gap == none", True),
        ("gap + 1 > 0", False),
        ("spin == 'none'", True),
        ("energy / 0 > 1", False),
        ("functional in {'pbe'}", False),
    ],
)
def test_conditions(text, holds):
    assert Where.parse(text)(ENTRY) is holds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "condition"),
        ("n_atom < 3", "did you mean n_atoms"),
        ("formula == H2O", "text stands in quotes"),
        ("n_atoms = 3", "equality is =="),
        ("__import__('os').system('true')", "is no comparison"),
        ("(lambda: 1)()", "is no comparison"),
        ("elements.__class__ == 1", "is no comparison"),
        ("[x for x in elements]", "is no comparison"),
        ("2 ** 10 ** 10 > n_atoms", "is no comparison"),
        ("'%99999999d' % 1 == name", "is no comparison"),
        ("n_atoms is none", "compare by"),
        ("name if n_atoms else 3", "is no comparison"),
        ("f'{name}' == 'a'", "is no comparison"),
        ("n_atoms < 3j", "values are"),
        ("(" * 400 + "1" + ")" * 400, "cannot be read"),
        ("n_atoms < " + "9" * 990 + "9", "at most"),
        ("n_atoms < " + "9" * 300, "values are"),
        ("n_atoms < 1" + " or n_atoms < 1" * 99, "at most"),
        ("a\0b", "cannot be read"),
    ],
)
def test_conditions_that_are_none(text, said):
    with pytest.raises(BadInput) as error:
        Where.parse(text)
    assert said in str(error.value) and "\n" not in str(error.value) and "columns: name" in str(error.value)


@pytest.mark.parametrize("text", ["n_atoms < 'x'", "name + 1 == 2", "elements < 3", "name * 9 == 'x'"])
def test_what_cannot_be_compared(text):
    with pytest.raises(BadInput, match="cannot be compared"):
        Where.parse(text)(ENTRY)

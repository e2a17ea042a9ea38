"""nearsight convert and check on data of other programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from nearsight.formats.registry import read, write

DATA = Path(__file__).parents[1] / "formats" / "data"
H2O, CHAIN, GRAPHENE = DATA / "openmx" / "h2o", DATA / "openmx" / "n_chain", DATA / "graphene_lda_sz"


def runs(tmp_path: Path) -> Path:
    """Three sound runs of two programs, and seven that are not."""
    folder = tmp_path / "runs"
    shutil.copytree(H2O, folder / "a")
    shutil.copytree(CHAIN, folder / "b")
    write(folder / "c", read(GRAPHENE), "deeph-old")
    shutil.copytree(H2O, folder / "cut")
    content = (H2O / "h2o.scfout").read_bytes()
    (folder / "cut" / "h2o.scfout").write_bytes(content[:9999])
    (folder / "empty").mkdir()
    for name in ("beyond", "evaluated", "declared", "linked"):
        shutil.copytree(folder / "c", folder / name)
    with h5py.File(folder / "beyond" / "hamiltonians.h5", "a") as file:
        file["[0, 0, 0, 1, 99]"] = np.zeros((4, 4))
    with h5py.File(folder / "evaluated" / "hamiltonians.h5", "a") as file:
        file["__import__('os')._exit(3)"] = np.zeros((4, 4))
    with h5py.File(folder / "declared" / "overlaps.h5", "a") as file:
        del file["[0, 0, 0, 1, 1]"]
        file.create_dataset("[0, 0, 0, 1, 1]", (10**8, 10**8), "f8", chunks=(8, 8), compression="gzip")
    secret = tmp_path / "secret.h5"
    shutil.copy(folder / "c" / "overlaps.h5", secret)
    (folder / "linked" / "overlaps.h5").unlink()
    (folder / "linked" / "overlaps.h5").symlink_to(secret)
    (folder / "out").symlink_to(tmp_path)
    (folder / "README.md").write_text("no run")
    return folder


def test_a_folder_of_runs_converts_resumes_and_tells_its_failures(nearsight, tmp_path):
    folder, target = runs(tmp_path), tmp_path / "set"
    first = nearsight("convert", folder, target, "--workers", "2")
    assert first.status == 1
    failures = json.loads((target / "failures.json").read_text())
    assert set(failures) == {"cut", "empty", "beyond", "evaluated", "declared", "linked", "out"}
    assert all(text and "\n" not in text for text in failures.values())
    assert "link out of" in failures["linked"] and "link out of" in failures["out"]
    assert "not among the 2" in failures["beyond"] and "its orbitals make it" in failures["declared"]
    assert "7 of 10 failed" in first.err and "Traceback" not in first.err
    assert sorted(p.name for p in target.iterdir() if p.is_dir() and p.name[0] != ".") == ["a", "b", "c"]
    before = (target / "a" / "hamiltonian.h5").stat().st_mtime_ns
    shutil.rmtree(folder / "cut")
    shutil.copytree(H2O, folder / "cut")
    assert nearsight("convert", folder, target).status == 1
    assert (target / "a" / "hamiltonian.h5").stat().st_mtime_ns == before
    assert (target / "cut" / "hamiltonian.h5").exists()
    assert "cut" not in json.loads((target / "failures.json").read_text())
    checked = nearsight("check", target)
    assert checked.out.count("sound") == 4


def test_the_orbitals_of_a_data_set_are_no_run(nearsight, tmp_path):
    done = nearsight("convert", DATA / "version1" / "set", tmp_path / "out", "--workers", 1)
    assert (done.status, done.out) == (0, f"3 runs in {tmp_path / 'out'}\n"), done


def test_one_run_converts_with_its_levels_and_goes_back(nearsight, tmp_path):
    assert "1 run in" in nearsight("convert", CHAIN, tmp_path / "x").out
    told = json.loads(nearsight("check", tmp_path / "x", "--json").out)
    laws = {f["law"]: f for f in told["findings"]}
    assert told["sound"] and laws["eigenvalues are those that the program printed"]["holds"]
    nearsight("convert", tmp_path / "x", tmp_path / "old", "--to", "deeph-old")
    nearsight("convert", tmp_path / "old", tmp_path / "again", "--from", "deeph-old")
    a, b = read(tmp_path / "x"), read(tmp_path / "again")
    assert float((a.hamiltonian - b.hamiltonian).values.abs().max()) < 1e-14


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "x"), "no such file or folder"),
        ((H2O, "x", "--from", "openmxx"), "openmx"),
        ((H2O, "x", "--to", "deepth"), "deeph"),
        ((H2O, "x", "--from", "siesta"), "holds no"),
        ((DATA / "version1" / "model", "x"), "is a model"),
        ((DATA / "version1" / "bare", "x", "--from", "aims"), "no run"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(nearsight, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    result = nearsight("convert", *words)
    assert result.status == 1 and said in result.err and len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "x" / "POSCAR").exists()


def test_check_names_the_convention_that_mends_it(nearsight, tmp_path):
    from tests.formats.damage import order_permuted

    write(tmp_path / "bad", order_permuted(read(CHAIN)))
    result = nearsight("check", tmp_path / "bad")
    assert result.status == 1 and "OpenMX's order" in " ".join(result.out.split()) and "not sound" in result.err

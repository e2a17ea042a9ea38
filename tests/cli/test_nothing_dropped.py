"""What a file says is done or refused: charges, places of atoms, names that other programs read something into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import WATERS

H2 = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3{columns} pbc="T T T"{more}\nH 0 0 0{q}\nH 0 0 0.8{q}\n'
SCF = ("--xc", "lda", "--basis", "sz", "--mesh-cutoff", 60, "--kmesh", 1, 1, 1)
CALCULATION = WATERS.parent / "calculation"


def hydrogen(path: Path, columns: str = "", more: str = "", q: str = "") -> Path:
    path.write_text(H2.format(columns=columns, more=more, q=q))
    return path


@pytest.mark.parametrize("stated", [{"more": " charge=1"}, {"columns": ":initial_charges:R:1", "q": " 0.5"}])
def test_a_charge_that_the_file_states_is_asked_about(nearsight, tmp_path, stated) -> None:
    file = hydrogen(tmp_path / "ion.xyz", **stated)
    (tmp_path / "set.yaml").write_text(f"structure: {file}\nscf: {{xc: lda, basis: sz}}\nworkers: 1\n")
    for words in (
        ("scf", file, *SCF),
        ("relax", file, *SCF),
        ("md", file, "--temperature", 300, "--steps", 2, *SCF),
        ("dataset", "build", tmp_path / "set.yaml"),
    ):
        refused = nearsight(*words, "-o", tmp_path / "out")
        assert refused.status == 1 and "sum to +1 e" in refused.err and "--charge 1" in refused.err, refused
        assert not (tmp_path / "out" / "result.json").exists()
    assert nearsight("scf", file, *SCF, "--charge", 0, "-o", tmp_path / "neutral").status == 0


def test_charges_of_a_neutral_cell_are_no_charge(nearsight, tmp_path) -> None:
    file = hydrogen(tmp_path / "h2.xyz", columns=":initial_charges:R:1")
    file.write_text(file.read_text().replace("H 0 0 0\n", "H 0 0 0 0.2\n").replace("0.8\n", "0.8 -0.2\n"))
    assert nearsight("scf", file, *SCF, "-o", tmp_path / "out").status == 0


def test_a_name_with_an_at_sign_is_a_name(nearsight, tmp_path) -> None:
    file = hydrogen(tmp_path / "h2@0.xyz")
    assert nearsight("structures", "strain", file, "-o", tmp_path / "s.extxyz").status == 0


def test_isotopes_are_told_as_what_they_are(nearsight, tmp_path) -> None:
    file = hydrogen(tmp_path / "d2.xyz")
    file.write_text(file.read_text().replace("\nH", "\nD"))
    refused = nearsight("scf", file, *SCF, "-o", tmp_path / "out")
    assert refused.status == 1 and "'D' is no element: write deuterium and tritium as H" in refused.err


def test_nothing_is_converted_onto_itself(nearsight, tmp_path) -> None:
    shutil.copytree(CALCULATION, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    refused = nearsight("convert", tmp_path / "run", f"{tmp_path}/other/../run")
    assert refused.status == 1 and "is the input" in refused.err
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}


def test_atoms_that_were_moved_after_the_calculation(nearsight, tmp_path) -> None:
    """Fields would be of orbitals elsewhere, a training of structures that the Hamiltonians are not of."""
    shutil.copytree(WATERS, tmp_path / "set")
    poscar = tmp_path / "set" / "0001" / "POSCAR"
    lines = poscar.read_text().splitlines()
    x, y, z = lines[-1].split()
    poscar.write_text("\n".join([*lines[:-1], f"{x} {y} {float(z) + 0.1}"]) + "\n")
    refused = nearsight("density", poscar.parent, "-o", tmp_path / "n.cube")
    assert refused.status == 1 and "its overlap is not that of its orbitals" in refused.err
    (tmp_path / "model.yaml").write_text("data: {train: set, validation_fraction: 0.34}\nmodel: {preset: small}\n")
    refused = nearsight("train", tmp_path / "model.yaml", "-o", tmp_path / "model")
    assert refused.status == 1 and "0001: its overlap is of other places of its atoms" in refused.err
    assert not (tmp_path / "n.cube").exists() and not (tmp_path / "model" / "model.safetensors").exists()

"""A calculation in its parts: what it must have for what is asked of it, its order of atoms, its one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.spin import COLLINEAR, NONE
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.core.versions import KEY
from nearsight.formats.registry import list_folders, read, read_settings, read_structure, write
from tests.formats.test_deeph import hermitian, same, water
from tests.laws.formats import overlap_of

DATA = Path(__file__).parent / "data"
FIRST = DATA / "version1"


def interleaved() -> Calculation:
    """H O H, with one value an atom in every place that can hold one."""
    structure = water((1, 8, 1))
    matrix = hermitian(structure)
    record = {
        "forces_eV_per_Ang": [[0.0, 0, 1], [0, 0, 2], [0, 0, 3]],
        "mulliken_charges": [1, 2, 3],
        "mulliken_moments": [0.1, 0.2, 0.3],
        "config": {"moments": [0.5, 0.6, 0.7], "kmesh": [1, 2, 3]},
        "mesh": [10, 20, 30],
        "per_atom": ["own"],
        "own": ["a", "b", "c"],
    }
    return Calculation(structure, overlap_of(hermitian(structure, seed=1)), matrix, result=record)


def test_everything_with_one_value_an_atom_follows_the_order_of_poscar(tmp_path):
    c = interleaved()
    write(tmp_path / "x", c)
    found = read(tmp_path / "x")
    assert found.structure.symbols == ["H", "H", "O"]
    assert found.atom_order == (0, 2, 1)
    r = found.result
    assert [f[2] for f in r["forces_eV_per_Ang"]] == [1, 3, 2]
    assert (r["mulliken_charges"], r["mulliken_moments"]) == ([1, 3, 2], [0.1, 0.3, 0.2])
    assert (r["config"]["moments"], r["own"]) == ([0.5, 0.7, 0.6], ["a", "c", "b"])
    assert (r["config"]["kmesh"], r["mesh"]) == ([1, 2, 3], [10, 20, 30])
    assert found.moments.tolist() == [0.1, 0.3, 0.2]
    assert torch.allclose(found.forces[:, 2] * HARTREE_EV / BOHR_ANG, torch.tensor([1.0, 3, 2], dtype=torch.float64))
    back = found.in_original_order()
    assert back.atom_order is None
    assert back.structure.symbols == ["H", "O", "H"]
    assert same(back.hamiltonian, c.hamiltonian)
    assert same(back.overlap, c.overlap)
    assert back.result == c.result
    assert back.moments.tolist() == [0.1, 0.2, 0.3]
    write(tmp_path / "y", found)
    assert read(tmp_path / "y").atom_order == (0, 2, 1)


def test_an_older_folder_had_only_its_forces_in_that_order(tmp_path):
    c = interleaved()
    write(tmp_path / "x", c)
    info = json.loads((tmp_path / "x" / "info.json").read_text())
    del info[KEY]
    (tmp_path / "x" / "info.json").write_text(json.dumps(info))
    record = {**c.result, "forces_eV_per_Ang": [[0.0, 0, 1], [0, 0, 3], [0, 0, 2]]}
    (tmp_path / "x" / "result.json").write_text(json.dumps(record))
    found = read(tmp_path / "x").result
    assert [f[2] for f in found["forces_eV_per_Ang"]] == [1, 3, 2]
    assert (found["mulliken_charges"], found["config"]["moments"]) == ([1, 3, 2], [0.5, 0.7, 0.6])


def test_folders_of_the_first_layout_load():
    c = read(FIRST / "calculation")
    assert c.spin is COLLINEAR
    assert c.converged is True
    assert c.electrons == 8
    assert c.forces.shape == (3, 3)
    assert float(c.forces.sum(0).abs().max()) < 0.05
    assert abs(float(c.moments.sum())) < 1e-6
    assert c.energies["total"] * HARTREE_EV == pytest.approx(-461.7984088087936, abs=1e-9)
    assert c.settings["basis"] == "sz"
    assert (c.provenance.program, c.provenance.version) == ("nearsight", "0.1.0")
    assert [f.name for f in list_folders(FIRST / "set")] == ["0000", "0001", "0002"]
    assert all(read(f).hamiltonian is not None for f in list_folders(FIRST / "set"))
    bare = read(FIRST / "bare" / "0000")
    assert bare.matrices == {}
    assert bare.settings["mesh_cutoff_ry"] == 60.0
    assert read_settings(FIRST / "bare" / "0000") == bare.settings
    assert read_structure(FIRST / "bare" / "0000").symbols == ["O", "H", "H"]
    predicted = read(FIRST / "predicted")
    assert predicted.spin is NONE
    assert predicted.density_matrix is None
    assert predicted.electrons == 8


def test_a_folder_of_a_later_version_is_refused_in_one_line(tmp_path):
    write(tmp_path / "x", interleaved())
    info = json.loads((tmp_path / "x" / "info.json").read_text())
    (tmp_path / "x" / "info.json").write_text(json.dumps(info | {KEY: 99}))
    with pytest.raises(BadInput, match="a later Nearsight") as refused:
        read(tmp_path / "x")
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_said_with_its_remedy():
    bare = read(FIRST / "bare" / "0000")
    for require, word in (
        (bare.require_hamiltonian, "no Hamiltonian"),
        (bare.require_overlap, "no overlap"),
        (bare.require_density_matrix, "no density matrix"),
        (bare.require_electrons, "how many electrons"),
        (lambda: bare.basis, "no matrices"),
    ):
        with pytest.raises(MissingData, match=word) as missing:
            require()
        assert "bare/0000" in str(missing.value)
        assert "\n" not in str(missing.value)


def test_one_line_tells_it():
    for path in (FIRST / "calculation", FIRST / "bare" / "0000", DATA / "graphene_lda_sz"):
        c = read(path)
        assert len(repr(c)) < 200
        assert c.structure.formula in repr(c)
    assert repr(read(FIRST / "calculation")) == "Calculation(OH2, 6 orbitals, spin collinear, S H D, from calculation)"

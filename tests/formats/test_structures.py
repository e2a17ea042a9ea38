"""Structures from other programs' files, and the registry of formats."""

from __future__ import annotations

from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch

from nearsight.core.configuration import near_miss, override
from nearsight.core.errors import NearsightError
from nearsight.core.units import BOHR_ANG
from nearsight.formats import registry as formats
from nearsight.formats.registry import read_structure
from nearsight.formats.structures import check_structure

GRAPHENE = Path(__file__).parent / "data" / "graphene_lda_sz"


@pytest.mark.parametrize("name", ["si.cif", "si.xyz", "POSCAR", "si.xsf", "si.json", "geometry.in"])
def test_a_crystal_survives_any_format(tmp_path, name):
    crystal = ase.build.bulk("Si", cubic=True)
    crystal.rattle(0.02, seed=1)
    ase.io.write(tmp_path / name, crystal)
    s = read_structure(tmp_path / name)
    assert s.symbols == ["Si"] * 8
    assert np.allclose(s.cell.numpy() * BOHR_ANG, crystal.cell.array, atol=1e-5)
    difference = (s.positions.numpy() * BOHR_ANG - crystal.positions) @ np.linalg.inv(crystal.cell.array)
    assert np.abs(difference - np.round(difference)).max() < 1e-5
    back = s.to_ase()
    assert back.pbc.all()
    assert np.allclose(back.cell.array, s.cell.numpy() * BOHR_ANG)


def test_vacuum_makes_the_missing_cell_vectors_only(tmp_path):
    ase.io.write(tmp_path / "w.xyz", ase.build.molecule("H2O"))
    water = read_structure(tmp_path / "w.xyz", vacuum=5.0)
    height = (water.positions.amax(0) - water.positions.amin(0)) * BOHR_ANG
    assert torch.allclose(water.cell.diag() * BOHR_ANG, height + 10, atol=1e-6)
    ase.io.write(tmp_path / "g.xyz", ase.build.graphene())
    with pytest.raises(NearsightError, match="zero volume"):
        read_structure(tmp_path / "g.xyz")
    sheet = read_structure(tmp_path / "g.xyz", vacuum=6.0)
    assert float(sheet.cell[0, 0]) * BOHR_ANG == pytest.approx(2.46)
    assert float(sheet.cell[2, 2]) * BOHR_ANG == pytest.approx(12.0)
    with pytest.raises(NearsightError, match="has a cell"):
        read_structure(GRAPHENE / "POSCAR", vacuum=6.0)
    with pytest.raises(NearsightError, match="positive"):
        read_structure(tmp_path / "w.xyz", vacuum=-1.0)


def test_a_dummy_atom_and_an_infinite_coordinate_are_refused():
    s = read_structure(GRAPHENE)
    with pytest.raises(NearsightError, match="no known element"):
        check_structure(type(s)(s.cell, s.positions, torch.tensor([6, 0])))
    with pytest.raises(NearsightError, match="not finite"):
        check_structure(type(s)(s.cell, s.positions / 0, s.numbers))


def test_the_registry_reads_what_it_wrote(tmp_path):
    c = formats.read(GRAPHENE)
    formats.write(tmp_path / "x", c)
    again = formats.read(tmp_path / "x", "deeph")
    assert float((again.require_hamiltonian() - c.require_hamiltonian()).values.abs().max()) < 1e-15
    (tmp_path / "file.txt").write_text("x")
    for path, message in ((tmp_path / "file.txt", "no known format"), (tmp_path / "nope", "no such file")):
        with pytest.raises(NearsightError, match=message):
            formats.read(path)
    with pytest.raises(NearsightError, match="did you mean deeph"):
        formats.write(tmp_path / "y", c, "deep")


def test_words_reach_into_tables():
    table = {"a": {"b": 1, "c": 2}, "d": 3}
    assert override(table, ["a.b=[1, 2]", "d=null", "e.f=1e-3", "g=text"]) == {
        "a": {"b": [1, 2], "c": 2},
        "d": None,
        "e": {"f": 1e-3},
        "g": "text",
    }
    assert table == {"a": {"b": 1, "c": 2}, "d": 3}
    assert near_miss("dpz", ["dz", "dzp"]) == "; did you mean dzp?"
    assert near_miss("qqqq", ["dz", "dzp"]) == ""

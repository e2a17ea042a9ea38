"""What structure files of other programs say besides elements and places: done, told or refused, never dropped."""

from __future__ import annotations

import codecs
import warnings
from pathlib import Path

import numpy as np
import pytest

from nearsight.core.errors import BadInput, Notice
from nearsight.formats.registry import read_structure
from nearsight.formats.structures import read_atoms

XYZ = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties={columns} {words} pbc="T T T"\nH 0 0 0 {a}\nH 0 0 0.8 {b}\n'
POSCAR = "H2\n1.0\n4 0 0\n0 4 0\n0 0 4\nH\n2\nDirect\n0 0 0\n0 0 0.2\n"
CIF = """data_x
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{group}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{column}
{sodium}
Cl1 Cl 0.5 0.5 0.5 1
"""
GROUP = "_symmetry_space_group_name_H-M 'F m -3 m'"


def xyz(folder: Path, words: str = "", column: str = "", a: object = "", b: object = "") -> Path:
    path = folder / "h2.xyz"
    path.write_text(XYZ.format(columns="species:S:1:pos:R:3" + column, words=words, a=a, b=b))
    return path


@pytest.mark.parametrize(("name", "text"), [("POSCAR", POSCAR), ("h2.xyz", XYZ)])
def test_text_of_windows_is_read(tmp_path: Path, name: str, text: str) -> None:
    text = text.format(columns="species:S:1:pos:R:3", words="", a="", b="")
    plain, marked = tmp_path / name, tmp_path / "marked"
    plain.write_text(text)
    known = read_structure(plain).positions
    marked.mkdir()
    (marked / name).write_bytes(codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode())
    assert read_structure(marked / name).positions.equal(known)
    plain.write_bytes(text.encode("utf-16"))
    with pytest.raises(BadInput, match="UTF-16: save it as UTF-8"):
        read_structure(plain)


def test_isotopes_move_as_heavy_as_they_are(tmp_path: Path) -> None:
    masses = ":masses:R:1"
    assert np.allclose(read_atoms(xyz(tmp_path, "", masses, 2.014, 1.008)).get_masses(), [2.014, 1.008])
    assert not read_atoms(xyz(tmp_path)).has("masses")
    for wrong in (0, -1, "nan", 1e9):
        with pytest.raises(BadInput, match="atom 1 has a mass of"):
            read_atoms(xyz(tmp_path, "", masses, 1.008, wrong))


def test_masses_belong_to_what_a_run_began_with(tmp_path: Path) -> None:
    from nearsight.motion.run import digest

    plain, heavy = read_atoms(xyz(tmp_path)), read_atoms(xyz(tmp_path, "", ":masses:R:1", 2.014, 2.014))
    assert digest(plain) != digest(heavy)


@pytest.mark.parametrize("column", ["magmom", "initial_magmoms", "magnetic_moments"])
def test_moments_by_their_other_names(tmp_path: Path, column: str) -> None:
    moments = read_structure(xyz(tmp_path, "", f":{column}:R:1", 1, -1)).moments
    assert moments is not None and moments.tolist() == [1, -1]


def test_another_unit_is_refused_and_a_spin_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="units=bohr"):
        read_structure(xyz(tmp_path, "units=bohr"))
    with pytest.warns(Notice, match="multiplicity=3 of its file is not taken up"):
        read_structure(xyz(tmp_path, "multiplicity=3"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_structure(xyz(tmp_path, "units=Angstrom multiplicity=1 spin=0"))


def test_disorder_without_occupancies_and_operations_without_a_group(tmp_path: Path) -> None:
    """ASE takes two elements at one site for the first of them, and says so to whoever listens."""
    path = tmp_path / "x.cif"
    column = "_atom_site_disorder_group"
    path.write_text(CIF.format(group=GROUP, column=column, sodium="Na1 Na 0 0 0 1\nK1 K 0 0 0 2"))
    with pytest.raises(BadInput, match="sites 0 and 1 are at one place"):
        read_structure(path)
    path.write_text(CIF.format(group=GROUP, column=column, sodium="Na1 Na 0 0 0 1"))
    assert read_structure(path).formula == "Na4Cl4"
    operations = "loop_\n_space_group_symop_operation_xyz\n'x,y,z'\n'x+1/2,y+1/2,z'"
    path.write_text(CIF.format(group=operations, column=column, sodium="Na1 Na 0 0 0 1"))
    with pytest.raises(BadInput, match="symmetry operations and no space group"):
        read_structure(path)


def test_a_symbol_in_lower_case_is_named(tmp_path: Path) -> None:
    from nearsight.formats.poscar import read_poscar

    (tmp_path / "POSCAR").write_text(POSCAR.replace("\nH\n", "\nh\n"))
    with pytest.raises(BadInput, match="'h' is no element: write H"):
        read_poscar(tmp_path / "POSCAR")

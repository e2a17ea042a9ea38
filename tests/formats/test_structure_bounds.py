"""Files of structures that cannot be, or would take all memory: one line, at once."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch

from nearsight.core.errors import BadInput, Notice
from nearsight.core.structure import Structure, check_bounds
from nearsight.core.units import BOHR_ANG
from nearsight.formats.poscar import read_poscar
from nearsight.formats.structures import check_structure, frames, read_frames, read_structure
from tests.cases import water

POSCAR = "two\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def poscar(folder: Path, text: str) -> Path:
    (folder / "POSCAR").write_text(text)
    return folder / "POSCAR"


def test_three_scaling_factors_stretch_the_axes(tmp_path: Path) -> None:
    plain = read_poscar(poscar(tmp_path, POSCAR.replace("4 0 0", "8 0 0").replace("0 0 4", "0 0 2")))
    found = read_poscar(poscar(tmp_path, POSCAR.replace("1.0", "2.0 1.0 0.5", 1)))
    assert torch.allclose(found.cell, plain.cell) and torch.allclose(found.positions, plain.positions)


def test_symbols_with_the_names_of_potentials(tmp_path: Path) -> None:
    assert read_poscar(poscar(tmp_path, POSCAR.replace("Na Cl", "Na_pv Cl/a1b2c3"))).symbols == ["Na", "Cl"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1 1\n", "1 99999999999\n", "100000000000 atoms are announced, the file has 10 lines"),
        ("1 1\n", "1 -1\n", "atoms are announced"),
        ("1 1\n", "1 2\n", "3 atoms are announced, 2 are there"),
        ("1 1\n", "1 1 1\n", "not a VASP 5 POSCAR"),
        ("1.0", "0", "scaling factor"),
        ("1.0", "1 2", "scaling factor"),
        ("1.0", "nan", "not finite"),
        ("4 0 0", "1e300 0 0", "a coordinate of"),
        ("4 0 0", "0 0 0", "zero volume"),
        ("4 0 0", "4e-9 0 0", "zero volume|angstrom high"),
        ("1.0", "1e-3", "angstrom high"),
        ("0.5 0.5 0.5", "0.5 0.5 inf", "not finite"),
        ("0.5 0.5 0.5", "0.5 0.5 1e30", "a coordinate of"),
        ("Na Cl", "Na X", "'X' is no element"),
        ("Na Cl", "Na Qq", "not a VASP 5 POSCAR"),
        ("two", "\0", "NUL"),
    ],
)
def test_poscars_that_cannot_be(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message) as error:
        read_poscar(poscar(tmp_path, POSCAR.replace(old, new, 1)))
    assert "\n" not in str(error.value)


def test_files_that_never_end(tmp_path: Path) -> None:
    for name in ("POSCAR", "a.xyz"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(BadInput, match="a pipe"):
            read_structure(tmp_path / name)
    with (tmp_path / "huge.cif").open("wb") as file:
        file.truncate(10**13)  # holes: nothing is on the disk
    with pytest.raises(BadInput, match="MiB"):
        read_structure(tmp_path / "huge.cif")


def test_a_packed_file_is_read_and_a_bomb_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gzip.open(tmp_path / "a.xyz.gz", "wt") as file:
        file.write('1\nLattice="3 0 0 0 3 0 0 0 3"\nHe 0 0 0\n')
    assert read_structure(tmp_path / "a.xyz.gz").symbols == ["He"]
    monkeypatch.setattr("nearsight.formats.ase_files._MOST_UNPACKED", 4 * 1024**2)
    with gzip.open(tmp_path / "bomb.xyz.gz", "wb") as file:
        file.write(bytes(8 * 1024**2))
    with pytest.raises(BadInput, match="unpacks to more than 4 MiB"):
        read_structure(tmp_path / "bomb.xyz.gz")
    (tmp_path / "cut.xyz.gz").write_bytes((tmp_path / "a.xyz.gz").read_bytes()[:30])
    with pytest.raises(BadInput, match="cannot be read as a structure"):
        read_structure(tmp_path / "cut.xyz.gz")
    assert len(frames(tmp_path / "cut.xyz.gz")) == 1


def of(positions: torch.Tensor, edge: float = 20.0) -> Structure:
    return Structure(edge * torch.eye(3, dtype=torch.float64), positions, torch.ones(len(positions), dtype=torch.int64))


def test_ten_thousand_atoms_at_one_place_are_two_too_close() -> None:
    """Their close pairs would be 10^8."""
    with pytest.raises(BadInput, match=r"atoms 0 \(H\) and 1 \(H\) are 0.000 angstrom apart"):
        check_structure(of(torch.ones(10_000, 3, dtype=torch.float64)))


def test_images_are_seen_where_atoms_lie_in_different_cells() -> None:
    far = torch.tensor([[1.0, 1.0, 1.0], [41.0, 1.0, -19.0 + 1e-3]], dtype=torch.float64)
    with pytest.raises(BadInput, match=r"in cell \(-2, 0, 1\) are 0.001 angstrom apart"):
        check_structure(of(far))
    across = torch.tensor([[0.01, 1.0, 1.0], [19.99, 1.0, 1.0]], dtype=torch.float64)
    with pytest.raises(BadInput, match=r"0.011 angstrom apart"):
        check_structure(of(across))


def test_bounds_hold_for_what_is_sound_and_say_what_is_not() -> None:
    assert check_bounds(water()) is not None
    with pytest.raises(BadInput, match="holds no atoms"):
        check_bounds(of(torch.zeros(0, 3, dtype=torch.float64)))
    with pytest.raises(BadInput, match=r"the slab has a cell that is 0\.11 angstrom high"):
        check_bounds(of(torch.zeros(1, 3, dtype=torch.float64), 0.2), "the slab")
    with pytest.raises(BadInput, match="is the most that can be meant"):
        check_bounds(of(torch.full((1, 3), 2e5 / BOHR_ANG, dtype=torch.float64)))


XDATCAR = "a\n1\n5 0 0\n0 5 0\n0 0 5\nNa Cl\n1 1\nDirect configuration= 1\n0.1 0.1 0.1\n0.5 0.5 0.5\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.xyz",
            '99999999999\nLattice="3 0 0 0 3 0 0 0 3"\nHe 0 0 0\n',
            "99999999999 atoms are announced, 1 are there",
        ),
        ("a.extxyz", '1\nLattice="3 0 0 0 3 0 0 0 3"\nHe 0 0 0\n3000000\n\nHe 0 0 0\n', "3000000 atoms are announced"),
        ("POSCAR_2", POSCAR.replace("1 1\n", "1 99999999999\n"), "100000000000 atoms are announced"),
        ("XDATCAR", XDATCAR + XDATCAR.replace("1 1\n", "1 99999999999\n"), "100000000000 atoms are announced, 3 lines"),
        ("four.vasp", POSCAR.replace("Na Cl\n1 1\n", "1 99999999999\n"), "100000000000 atoms are announced"),
    ],
)
def test_counts_of_atoms_that_are_not_there(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        read_structure(tmp_path / name)
    assert frames(tmp_path / name) == [tmp_path / name]


def test_a_reader_that_takes_too_much_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ase.io

    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell what a process has taken")
    (tmp_path / "a.cif").write_text("data_x")
    monkeypatch.setattr(ase.io, "read", lambda path, **_: bytearray(8 * 1024**3))
    with pytest.raises(BadInput, match="wants more memory than a file of its size can need"):
        read_structure(tmp_path / "a.cif")


def test_frames_of_a_sound_file_are_read_within_the_limits(tmp_path: Path) -> None:
    frame = '2\nLattice="3 0 0 0 3 0 0 0 4"\nHe 0 0 0\nHe 0 0 2\n'
    (tmp_path / "a.xyz").write_text(5 * frame)
    assert len(list(read_frames(tmp_path / "a.xyz"))) == len(frames(tmp_path / "a.xyz")) == 5
    with pytest.warns(Notice, match="several structures: the last one is taken"):
        read_structure(tmp_path / "a.xyz")

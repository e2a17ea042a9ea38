"""The calculation folder: what is written is read, what another program wrote gives its own eigenvalues."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import NONE, SPINOR, SPINS
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats import matrix_file
from nearsight.formats.deeph import read_folder, write_folder
from nearsight.formats.matrix_file import MatrixFile
from nearsight.formats.poscar import read_poscar, write_poscar
from nearsight.formats.registry import list_folders
from tests.laws.formats import overlap_of

GRAPHENE = Path(__file__).parent / "data" / "graphene_lda_sz"


def water(numbers=(8, 1, 1)) -> Structure:
    cell = torch.tensor([[9.1, 0.3, 0.0], [0.0, 8.7, 0.1], [0.2, 0.0, 9.9]], dtype=torch.float64)
    positions = torch.tensor([[0.0, 0.1, 0.2], [1.43, 1.1, 0.0], [-1.43, 1.1, 1 / 3]], dtype=torch.float64)
    return Structure(cell, positions, torch.tensor(numbers))


def hermitian(structure: Structure, spin=NONE, seed=0) -> BlockMatrix:
    generator = torch.Generator().manual_seed(seed)
    basis = Basis.of(structure.numbers, {1: (0, 0, 1), 8: (0, 1, 2)})
    layout = BlockLayout(basis, Pairs.within(structure, 11.0))
    dtype = torch.complex128 if spin is SPINOR else torch.float64
    values = torch.randn(spin.components, layout.size, dtype=dtype, generator=generator)
    return BlockMatrix(layout, values, spin).hermitian()


def same(a: BlockMatrix, b: BlockMatrix, tolerance: float = 1e-14) -> bool:
    return a.spin is b.spin and float((a - b).values.abs().max()) <= tolerance


def test_siesta_eigenvalues_from_the_files_alone():
    c = read_folder(GRAPHENE)
    told = json.loads((GRAPHENE / "eigenvalues.json").read_text())
    k = torch.tensor(told["k"], dtype=torch.float64) / told["k_denominator"]
    levels = eigenvalues(c.hamiltonian, c.overlap, k)[0] * HARTREE_EV
    assert np.abs(levels.numpy() - np.array(told["eigenvalues_eV"])).max() < 5e-7
    assert float(c.density_matrix.trace(c.overlap)) == pytest.approx(told["electrons"], abs=1e-8)
    assert float(c.density_matrix.trace(c.hamiltonian)) * HARTREE_EV == pytest.approx(told["band_energy_eV"], abs=1e-5)
    assert c.fermi_level * HARTREE_EV == pytest.approx(-6.287633608657064)


@pytest.mark.parametrize("spin", SPINS.values(), ids=repr)
def test_round_trip(tmp_path, spin):
    structure, s = water(), hermitian(water())
    h, d = hermitian(structure, spin, 1), hermitian(structure, spin, 2)
    c = Calculation(structure, s, h, d, fermi_level=-0.1, electrons=8, result={"converged": True})
    write_folder(tmp_path / "x", c)
    c = read_folder(tmp_path / "x")
    assert same(c.overlap, s)
    assert same(c.hamiltonian, h)
    assert same(c.density_matrix, d)
    assert torch.allclose(c.structure.positions, structure.positions, atol=1e-15)
    assert torch.allclose(c.structure.cell, structure.cell, atol=1e-15)
    assert (c.electrons, c.result) == (8.0, {"converged": True})
    assert c.fermi_level == pytest.approx(-0.1, abs=1e-15)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_spin_blocks_stand_outermost(tmp_path):
    """[[uu, ud], [du, dd]] within each pair of atoms."""
    structure, h = water(), hermitian(water(), SPINOR)
    write_folder(tmp_path / "x", Calculation(structure, hermitian(structure), h))
    file = MatrixFile.read(tmp_path / "x" / "hamiltonian.h5")
    assert file.entries.dtype == np.complex128
    assert json.loads((tmp_path / "x" / "info.json").read_text())["orbits_quantity"] == h.basis.size
    for n in range(len(h.pairs)):
        uu, ud, du, dd = (h.block(n) * HARTREE_EV).numpy()
        assert np.array_equal(file.block(n), np.block([[uu, ud], [du, dd]]))


def test_atoms_are_grouped_by_element_and_the_order_is_told(tmp_path):
    structure = water((1, 8, 1))
    h = hermitian(structure)
    forces = [[0.0, 0, 1], [0, 0, 2], [0, 0, 3]]
    write_folder(tmp_path / "x", Calculation(structure, h, h, result={"forces_eV_per_Ang": forces}))
    c = read_folder(tmp_path / "x")
    order = list(c.atom_order)
    assert order == [0, 2, 1]
    assert c.structure.symbols == ["H", "H", "O"]
    assert torch.allclose(c.structure.positions, structure.positions[order], atol=1e-15)
    assert c.result["forces_eV_per_Ang"] == [forces[i] for i in order]
    k = torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([torch.arange(h.basis.offsets[a], h.basis.offsets[a + 1]) for a in order])
    assert torch.allclose(c.hamiltonian.at_k(k), h.at_k(k)[:, :, rows][..., rows], atol=1e-13)


def test_a_file_with_one_of_each_pair_is_completed(tmp_path):
    structure, h = water(), hermitian(water())
    write_folder(tmp_path / "x", Calculation(structure, h, h))
    path = tmp_path / "x" / "hamiltonian.h5"
    file = MatrixFile.read(path)
    half = h.pairs.half.numpy()
    entries = np.concatenate([file.block(n).ravel() for n in np.flatnonzero(half)])
    MatrixFile.of(file.atom_pairs[half], file.chunk_shapes[half], entries).write(path)
    assert same(read_folder(tmp_path / "x").hamiltonian, h)


def test_files_in_another_order_and_single_precision(tmp_path):
    structure, h = water(), hermitian(water())
    write_folder(tmp_path / "x", Calculation(structure, h, h))
    path = tmp_path / "x" / "hamiltonian.h5"
    file = MatrixFile.read(path)
    order = np.random.default_rng(0).permutation(len(file.atom_pairs))
    with h5py.File(path, "w") as f:
        f["atom_pairs"], f["chunk_shapes"] = file.atom_pairs[order], file.chunk_shapes[order]
        f["chunk_boundaries"] = np.concatenate([[0], np.cumsum(file.chunk_shapes[order].prod(1))])
        entries = np.concatenate([file.block(n).ravel() for n in order]).astype(np.float32)
        f.create_dataset("entries", data=entries, compression="gzip")
    c = read_folder(tmp_path / "x", dtype=torch.float32)
    assert c.hamiltonian.values.dtype == torch.float32
    assert same(c.hamiltonian, h.to(torch.float32), 1e-6)


def test_entries_that_are_packed_to_next_to_nothing_are_as_many_as_the_tables_tell(tmp_path):
    """Most elements of a large sparse matrix may be zero: 9 MB here, in a file of some kB."""
    pairs = np.array([(0, 0, 0, i, j) for i in range(40) for j in range(40)])
    shapes = np.full((len(pairs), 2), 26)
    entries = np.zeros(len(pairs) * 26 * 26)
    entries[::1009] = 0.5
    tables = {"atom_pairs": pairs, "chunk_shapes": shapes, "chunk_boundaries": 676 * np.arange(len(pairs) + 1)}
    path = tmp_path / "hamiltonian.h5"
    for name in ("whole", "longer", "never written"):
        with h5py.File(path, "w") as file:
            for key, value in tables.items():
                file.create_dataset(key, data=value, compression="gzip")
            if name == "whole":
                file.create_dataset("entries", data=entries, compression="gzip", shuffle=True)
            else:
                count = 2**40 if name == "longer" else len(entries)
                file.create_dataset("entries", shape=count, dtype="f8", chunks=10**4, compression="gzip")
        assert len(entries) * 8 > 32 * path.stat().st_size
        if name == "whole":
            assert np.array_equal(MatrixFile.read(path).entries, entries)
        else:
            with pytest.raises(BadInput, match="do not fit together" if name == "longer" else "never written"):
                MatrixFile.read(path)


def _replace(name):
    def change(folder, **datasets):
        with h5py.File(folder / name, "a") as f:
            for key, value in datasets.items():
                del f[key]
                if value is not None:
                    f[key] = value

    return change


def _truncate(folder):
    content = (folder / "hamiltonian.h5").read_bytes()
    (folder / "hamiltonian.h5").write_bytes(content[: len(content) // 2])


BROKEN = {
    "truncated": (_truncate, "not a whole HDF5"),
    "not HDF5": (lambda f: (f / "hamiltonian.h5").write_text("hello"), "not a whole HDF5"),
    "empty": (lambda f: (f / "hamiltonian.h5").write_bytes(b""), "not a whole HDF5"),
    "foreign": (lambda f: _replace("hamiltonian.h5")(f, entries=None), "has no entries"),
    "short": (lambda f: _replace("overlap.h5")(f, entries=np.zeros(3)), "do not fit together"),
    "shapes": (lambda f: _replace("overlap.h5")(f, atom_pairs=np.zeros((3, 4), int)), "do not have the shapes"),
    "not finite": (
        lambda f: _replace("hamiltonian.h5")(
            f, entries=np.full(MatrixFile.read(f / "hamiltonian.h5").entries.size, np.nan)
        ),
        "not finite",
    ),
    "no overlap": (lambda f: (f / "overlap.h5").unlink(), "no such file"),
    "no POSCAR": (lambda f: (f / "POSCAR").unlink(), "not a calculation folder"),
    "broken POSCAR": (lambda f: (f / "POSCAR").write_text("x\n1.0\n"), "not a VASP 5 POSCAR"),
    "broken info": (lambda f: (f / "info.json").write_text("{"), "not a JSON file"),
    "no basis": (lambda f: (f / "info.json").write_text("{}"), "elements_orbital_map"),
    "wrong basis": (
        lambda f: (f / "info.json").write_text(json.dumps({"elements_orbital_map": {"C": [0, 0, 1]}})),
        "the orbitals of info.json make it",
    ),
    "wrong element": (
        lambda f: (f / "info.json").write_text(json.dumps({"elements_orbital_map": {"Si": [0, 1]}})),
        "no orbitals for C",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_refused_in_one_line(tmp_path, fault):
    folder = tmp_path / "x"
    shutil.copytree(GRAPHENE, folder)
    change, message = BROKEN[fault]
    change(folder)
    with pytest.raises(NearsightError, match=message) as error:
        read_folder(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("there_before", [False, True])
def test_a_write_that_fails_half_way_leaves_nothing_that_looks_finished(tmp_path, monkeypatch, there_before):
    structure, h = water(), hermitian(water())
    if there_before:
        write_folder(tmp_path / "x", Calculation(structure, h, h, result={}))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrix_file.MatrixFile, "write", full)
    with pytest.raises(NearsightError, match="No space left on device"):
        write_folder(tmp_path / "x", Calculation(structure, h, h * 2.0, result={}))
    assert [p.name for p in tmp_path.iterdir()] == (["x"] if there_before else [])
    if there_before:
        assert same(read_folder(tmp_path / "x").hamiltonian, h)


def test_writing_over_a_folder_keeps_what_else_is_in_it(tmp_path):
    structure, h = water(), hermitian(water())
    write_folder(tmp_path / "x", Calculation(structure, h, h, result={"a": 1}))
    (tmp_path / "x" / "species").mkdir()
    (tmp_path / "x" / "species" / "O.txt").write_text("o")
    (tmp_path / "x" / "bands.png").write_text("picture")
    write_folder(tmp_path / "x", Calculation(structure, h, h * 2.0, result={"a": 2}))
    c = read_folder(tmp_path / "x")
    assert same(c.hamiltonian, h * 2.0)
    assert c.result == {"a": 2}
    assert (tmp_path / "x" / "bands.png").exists()
    assert (tmp_path / "x" / "species" / "O.txt").read_text() == "o"


def test_poscar_of_any_form(tmp_path):
    text = """anything
2.0
1.0 0.0 0.0
0.0 1.5 0.0
0.0 0.0 2.0
O H O
1 1 1
Selective dynamics
Direct
0.0 0.0 0.0 T T F
0.5 0.5 0.5 T T F
0.25 0.0 0.0 F F F
"""
    (tmp_path / "POSCAR").write_text(text)
    s = read_poscar(tmp_path / "POSCAR")
    assert s.symbols == ["O", "H", "O"]
    write_poscar(tmp_path / "again", s)
    again = read_poscar(tmp_path / "again")
    assert again.symbols == ["O", "O", "H"]
    assert torch.equal(again.positions, s.positions[[0, 2, 1]])
    (tmp_path / "POSCAR").write_text(text.replace("2.0\n1.0", "-24.0\n1.0", 1))
    assert torch.allclose(read_poscar(tmp_path / "POSCAR").cell, s.cell, atol=1e-12)


def test_folders_are_listed_by_name_and_hidden_ones_are_not(tmp_path):
    for name in ("0001", "0000", ".0002.part"):
        shutil.copytree(GRAPHENE, tmp_path / name)
    (tmp_path / "species").mkdir()
    assert [f.name for f in list_folders(tmp_path)] == ["0000", "0001"]
    assert list_folders(GRAPHENE) == [GRAPHENE]
    with pytest.raises(NearsightError, match="no calculation folders"):
        list_folders(tmp_path / "species")
    with pytest.raises(NearsightError, match="no such folder"):
        list_folders(tmp_path / "nowhere")


def altered(folder, change):
    """A sound folder whose hamiltonian.h5 is changed by a function of the open file."""
    structure = water()
    h = hermitian(structure)
    write_folder(folder, Calculation(structure, overlap_of(h), h))
    with h5py.File(folder / "hamiltonian.h5", "r+") as file:
        change(file)
    return folder


def retyped(kind):
    def change(file):
        entries = file["entries"][()]
        del file["entries"]
        file["entries"] = entries.astype(kind)

    return change


@pytest.mark.parametrize(("kind", "tolerance"), [(">f8", 1e-14), (np.longdouble, 1e-14), (">f4", 1e-5), ("f2", 1e-2)])
def test_entries_of_other_byte_orders_and_precisions(kind, tolerance, tmp_path):
    found = read_folder(altered(tmp_path / "x", retyped(kind))).hamiltonian
    assert float((found - hermitian(water())).values.abs().max()) < tolerance


def linked(link):
    def change(file):
        file.move("entries", "kept")
        file["entries"] = link

    return change


def virtual(file):
    count = len(file["entries"])
    del file["entries"]
    layout = h5py.VirtualLayout((count,), "f8")
    layout[:] = h5py.VirtualSource("overlap.h5", "entries", (count,))
    file.create_virtual_dataset("entries", layout)


def external(file):
    count = len(file["entries"])
    del file["entries"]
    file.create_dataset("entries", (count,), "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def twice(file):
    pairs = file["atom_pairs"][()]
    same = np.flatnonzero((file["chunk_shapes"][()] == file["chunk_shapes"][0]).all(1))[1]
    pairs[same] = pairs[0]
    file["atom_pairs"][...] = pairs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (linked(h5py.ExternalLink("overlap.h5", "/entries")), "entries is a link to somewhere else"),
        (linked(h5py.SoftLink("/kept")), "entries is a link to somewhere else"),
        (virtual, "is stored in other files"),
        (external, "is stored in other files"),
        (retyped("S8"), "do not have the shapes"),
        (retyped(">i4"), "do not have the shapes"),
        (twice, "names a pair of atoms twice"),
    ],
)
def test_numbers_that_are_not_the_files_own(change, message, tmp_path):
    with pytest.raises(NearsightError, match=message):
        read_folder(altered(tmp_path / "x", change))


def test_a_spinor_whose_numbers_are_real_is_complex_all_the_same(tmp_path):
    structure = water()
    h = hermitian(structure, SPINOR)
    h = h.with_values(h.values.real.to(torch.complex128)).hermitian()
    unit = overlap_of(hermitian(structure) * 1e-3)
    write_folder(tmp_path / "x", Calculation(structure, unit, h))
    with h5py.File(tmp_path / "x" / "hamiltonian.h5", "r+") as file:
        entries = file["entries"][()]
        del file["entries"]
        file["entries"] = entries.real
    found = read_folder(tmp_path / "x")
    assert found.hamiltonian.spin is SPINOR and found.hamiltonian.values.is_complex()
    assert eigenvalues(found.hamiltonian, found.overlap, torch.zeros(1, 3, dtype=torch.float64)).isfinite().all()


def test_a_record_of_another_structure_is_refused(tmp_path):
    """Two structures of one formula: whatever is copied from one folder to the other, energies and forces stay with theirs."""
    one, other = water(), water()
    other.positions[1, 0] += 0.01
    for name, s in (("one", one), ("other", other)):
        write_folder(tmp_path / name, s, hermitian(s), hermitian(s), energies={"total": -1.0})
    record = tmp_path / "one" / "result.json"
    kept = record.read_text()
    shutil.copy(tmp_path / "other" / "result.json", record)
    with pytest.raises(BadInput, match="of another structure than the POSCAR beside it"):
        read_folder(tmp_path / "one")
    record.write_text(kept)
    write_folder(tmp_path / "again", read_folder(tmp_path / "one").reordered([2, 0, 1]))  # the mark follows the order
    assert read_folder(tmp_path / "again").energies == read_folder(tmp_path / "one").energies
    earlier = json.loads(kept)
    del earlier["structure_mark_ang"]
    record.write_text(json.dumps(earlier))
    assert read_folder(tmp_path / "one").energies["total"] == pytest.approx(-1.0)

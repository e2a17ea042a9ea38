"""Other programs' files: real ones give their own printed levels, written ones give back what was written."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import COLLINEAR, NONE, SPINOR
from nearsight.core.structure import Structure
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats import registry
from nearsight.formats.levels import Levels, levels_beside
from nearsight.formats.orders import ORDERS
from tests.formats import writers

DATA = Path(__file__).parent / "data"
GRAPHENE = DATA / "graphene_lda_sz"
SHELLS = {14: (0, 0, 1, 2, 3), 8: (0, 1, 1, 2)}
WORDS = """
System.Name x
<Definition.of.Atomic.Species
 Si1 Si7.0-s2p1d1f1 Si_PBE19  # comment
 O O6.0-s1p2d1 O_PBE19
Definition.of.Atomic.Species>
<Atoms.SpeciesAndCoordinates
 1 O 0 0 0 3 3
 2 Si1 1 1 1 2 2
 3 O 2 2 2 3 3
Atoms.SpeciesAndCoordinates>
"""


def invented(spin=NONE, seed=0, density=True, reach=6.0) -> Calculation:
    """Three atoms, two elements in mixed order, shells to f, hermitian random matrices. reach: of pairs [Bohr]."""
    generator = torch.Generator().manual_seed(seed)
    cell = torch.tensor([[5.0, 0.3, -0.2], [0.9, 6.1, 0.4], [-0.5, 1.1, 7.2]], dtype=torch.float64)
    x = torch.tensor([[0.1, 0.2, 0.3], [2.4, 1.7, 1.8], [3.4, 4.1, 4.9]], dtype=torch.float64)
    structure = Structure(cell, x, torch.tensor([8, 14, 8]))
    layout = BlockLayout(Basis.of(structure.numbers, SHELLS), Pairs.within(structure, reach))

    def matrix(kind) -> BlockMatrix:
        dtype = torch.complex128 if kind is SPINOR else torch.float64
        return BlockMatrix(
            layout, torch.randn(kind.components, layout.size, dtype=dtype, generator=generator), kind
        ).hermitian()

    return Calculation(
        structure,
        overlap=of_functions(matrix(NONE)),
        hamiltonian=matrix(spin),
        density_matrix=matrix(spin) if density else None,
        fermi_level=-0.2,
        electrons=16.0,
    )


def of_functions(matrix: BlockMatrix) -> BlockMatrix:
    """1 + 0.01 of it: an overlap of normalised functions, with an inverse."""
    layout = matrix.layout
    rows, columns = layout.local
    values = 0.01 * matrix.values
    values[0, torch.isin(layout.pair, layout.pairs.on_site) & (rows == columns)] = 1
    return matrix.with_values(values)


def same(read: Calculation, written: Calculation, tolerance: float = 1e-13, names=("overlap", "hamiltonian")) -> None:
    """The same structure and the same matrices, whatever pairs of zeros either has besides."""
    assert read.structure.numbers.tolist() == written.structure.numbers.tolist()
    for a, b in (
        (read.structure.cell, written.structure.cell),
        (read.structure.positions, written.structure.positions),
    ):
        assert float((a - b).abs().max()) < max(tolerance, 1e-12)
    assert read.basis.same_as(written.basis)
    for name in names:
        a, b = getattr(read, name), getattr(written, name)
        assert a.spin is b.spin, name
        pairs = a.pairs.union(b.pairs)
        layout = BlockLayout(a.basis, pairs)
        assert float((a.on(layout).values - b.on(layout).values).abs().max()) < tolerance, name


@pytest.mark.parametrize(("folder", "spin"), [("h2o", NONE), ("n_chain", SPINOR)])
def test_an_openmx_run_gives_its_own_levels_and_band_energy(folder, spin):
    c = registry.read(DATA / "openmx" / folder)
    levels = Levels.of_record(c.result)
    found = eigenvalues(c.hamiltonian, c.overlap, levels.k)
    assert c.hamiltonian.spin is spin
    assert float((found - levels.energies).abs().max()) < 1e-8
    assert float(c.density_matrix.trace(c.overlap).real) == pytest.approx(c.electrons, abs=1e-8)
    uele = {"h2o": -4.044986592215, "n_chain": -4.443449101670}[folder]  # as printed
    assert float(c.density_matrix.trace(c.hamiltonian).real) == pytest.approx(uele, abs=1e-10)


def test_an_openmx_run_has_the_moments_that_it_prints():
    """Direction of the first nitrogen's moment: theta 46.75710, phi -46.30755 degrees in the run's output."""
    c = registry.read(DATA / "openmx" / "n_chain")
    populations = c.density_matrix.spin.moment(c.density_matrix.values * c.overlap.values[0])
    first = c.overlap.pairs.i[c.overlap.layout.pair] == 0
    m = populations[:, first].sum(1)
    assert float(torch.rad2deg(torch.atan2(m[:2].norm(), m[2]))) == pytest.approx(46.75710, abs=1e-3)
    assert float(torch.rad2deg(torch.atan2(m[1], m[0]))) == pytest.approx(-46.30755, abs=1e-3)


@pytest.mark.parametrize("version", [0, 3])
@pytest.mark.parametrize("spin", [NONE, COLLINEAR])
def test_what_is_written_as_scfout_is_read(tmp_path, spin, version):
    c = invented(spin)
    writers.write_scfout(tmp_path / "x.scfout", c, version, WORDS)
    read = registry.read(tmp_path / "x.scfout")
    same(read, c, names=("overlap", "hamiltonian", "density_matrix"))
    assert read.fermi_level == c.fermi_level and read.electrons == c.electrons
    assert read.provenance.version == ("3.9" if version else "3.8")


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("spin", [NONE, COLLINEAR])
def test_what_is_written_as_hsx_is_read(tmp_path, spin, version):
    c = invented(spin, density=False)
    writers.write_hsx(tmp_path / "x.HSX", c, {8: "O.1", 14: "Si_bulk"}, version)
    read = registry.read(tmp_path)
    same(read, c, 1e-6 if version == 0 else 1e-13)
    assert read.electrons == c.electrons


@pytest.mark.parametrize("spin", [NONE, COLLINEAR])
def test_what_is_written_as_netcdf_or_dm_is_read(tmp_path, spin):
    c, labels = invented(spin), {8: "O.1", 14: "Si_bulk"}
    writers.write_netcdf(tmp_path / "siesta.nc", c, labels)
    read = registry.read(tmp_path)
    same(read, c, names=("overlap", "hamiltonian", "density_matrix"))
    assert read.fermi_level == c.fermi_level and read.electrons == c.electrons
    (tmp_path / "siesta.nc").unlink()
    writers.write_hsx(tmp_path / "x.HSX", c, labels, 2)
    writers.write_dm(tmp_path / "x.DM", c)
    same(registry.read(tmp_path), c, names=("overlap", "hamiltonian", "density_matrix"))


def sisl_hamiltonian(c: Calculation):
    """sisl's Hamiltonian [eV] in SIESTA's order."""
    sisl = pytest.importorskip("sisl")
    from nearsight.core.units import BOHR_ANG, HARTREE_EV

    H, S = (writers.blocks(c, name, "siesta", 0) for name in ("hamiltonian", "overlap"))
    atoms = []
    for z in c.basis.numbers:
        orbitals = []
        for l in c.basis.shells[z]:
            orbitals += [sisl.AtomicOrbital(n=4 + l, l=l, m=m, zeta=1, R=8.0) for m in range(-l, l + 1)]
        atoms.append(sisl.Atom(z, orbitals=orbitals))
    R = np.abs(c.overlap.pairs.R.numpy()).max(0)
    lattice = sisl.Lattice(c.structure.cell.numpy() * BOHR_ANG, nsc=2 * R + 1)
    geometry = sisl.Geometry(c.structure.positions.numpy() * BOHR_ANG, atoms=atoms, lattice=lattice)
    made = sisl.Hamiltonian(geometry, orthogonal=False)
    for cell in writers.cells(c):
        h, s = writers.dense(c, H, cell) * HARTREE_EV, writers.dense(c, S, cell)
        for i, j in zip(*np.nonzero((h != 0) | (s != 0)), strict=True):
            made[int(i), int(j), cell] = h[i, j], s[i, j]
    return made


@pytest.mark.parametrize("ending", ["HSX", "TSHS"])
def test_what_sisl_writes_for_siesta_is_read(tmp_path, ending):
    sisl = pytest.importorskip("sisl")
    c = invented(density=False)
    made = sisl_hamiltonian(c)
    with sisl.get_sile(tmp_path / f"x.{ending}", "w") as file:
        made.write(file)
    if ending == "TSHS":
        writers.write_orbital_index(tmp_path / "x.ORB_INDX", c)
    read = registry.read(tmp_path)
    scale = sisl.unit.siesta.unit_convert("Ry", "eV") * 2
    from nearsight.core.units import BOHR_ANG, HARTREE_EV

    ang = sisl.unit.siesta.unit_convert("Bohr", "Ang")  # sisl writes with SIESTA's units of its choice
    rescaled = replace(
        c,
        structure=Structure(
            *(x * BOHR_ANG / ang for x in (c.structure.cell, c.structure.positions)), c.structure.numbers
        ),
        hamiltonian=c.hamiltonian * (HARTREE_EV / scale),
    )
    same(read, rescaled, 1e-6)


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("spin", [NONE, COLLINEAR, SPINOR])
def test_what_is_written_for_abacus_is_read(tmp_path, spin, new):
    c = invented(spin, density=False).reordered([0, 2, 1])  # STRU has atoms by element
    writers.write_abacus(tmp_path / "run", c, {8: "O", 14: "Si"}, new)
    for place in (tmp_path / "run", tmp_path / "run" / "OUT.ABACUS"):
        read = registry.read(place)
        same(read, c)
        assert read.fermi_level == pytest.approx(c.fermi_level) and read.electrons == c.electrons


@pytest.mark.parametrize("spin", [NONE, COLLINEAR])
def test_what_is_written_for_aims_is_read(tmp_path, spin):
    c = invented(spin, density=False)
    writers.write_aims(tmp_path / "run", c)
    same(registry.read(tmp_path / "run"), c)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("rs_indices.out", r"(index_hamiltonian\(2,:,:\)\s+)\d+", r"\g<1>99999999999", "contradicts itself"),
        ("basis-indices.out", r"(?m)^(\s*\d+ \w+ \d+ \d+) 1 -1$", r"\1 1000000 -1", "no whole shells"),
    ],
)
def test_one_number_of_aims_takes_no_memory(tmp_path, file, old, new, said):
    """A count in a list is held against the list before anything is made of that length."""
    writers.write_aims(tmp_path / "run", invented(NONE, density=False))
    path = tmp_path / "run" / file
    text = re.sub(old, new, path.read_text(), count=1)
    assert text != path.read_text()
    path.write_text(text)
    tracemalloc.start()
    with pytest.raises(BadInput, match=said):
        registry.read(tmp_path / "run")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("spin", [NONE, COLLINEAR, SPINOR])
def test_the_old_deeph_layout_goes_both_ways(tmp_path, spin):
    c = replace(invented(spin), moments=torch.tensor([[0.1, -0.2, 2.0], [0.0, 0.0, 0.0], [0.5, 0.5, -1.0]]).double())
    registry.write(tmp_path / "old", c, "deeph-old")
    read = registry.read(tmp_path / "old")
    same(read, c, 1e-15 * 27.2, ("overlap", "hamiltonian", "density_matrix"))
    assert float((read.moments - c.moments).abs().max()) < 1e-12
    with h5py.File(tmp_path / "old" / "hamiltonians.h5") as file:
        block = file["[0, 0, 0, 2, 2]"][()]  # silicon, the second atom
    if spin is NONE:
        theirs = writers.blocks(c, "hamiltonian", "openmx", 0)[0, 0, 0, 1, 1] * 27.211386245988
        assert np.abs(block - theirs).max() < 1e-12
    registry.write(tmp_path / "again", read, "deeph-old")
    with h5py.File(tmp_path / "again" / "hamiltonians.h5") as a, h5py.File(tmp_path / "old" / "hamiltonians.h5") as b:
        assert all(np.abs(a[k][()] - b[k][()]).max() < 1e-14 for k in b) and set(a) == set(b)


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: o.name)
def test_every_order_lists_every_orbital_once(order):
    for l in range(min(order.largest, 6) + 1):
        index, sign = order.shell(l)
        assert sorted(index) == list(range(2 * l + 1)) and {abs(s) for s in sign} == {1.0}


def test_levels_beside_a_siesta_calculation(tmp_path):
    """The .EIG of before SIESTA 5 is in its own eV, which the Fermi level tells."""
    c = registry.read(GRAPHENE)
    k = torch.tensor([[0.0, 0.0, 0.0], [0.25, 0.5, 0.0]], dtype=torch.float64)
    levels = eigenvalues(c.hamiltonian, c.overlap, k)[0]
    cartesian = k @ c.structure.reciprocal
    for unit in (2 * 13.60580, 27.211386245988):
        rows = [f"{c.fermi_level * unit:.9E}", f"{c.basis.size} 1 2"]
        rows += [f"{n + 1} " + " ".join(f"{e * unit:.9E}" for e in levels[n].tolist()) for n in range(2)]
        (tmp_path / "x.EIG").write_text("\n".join(rows) + "\n")
        lines = [f"{n + 1} " + " ".join(f"{v:.6E}" for v in cartesian[n].tolist()) + " 0.5" for n in range(2)]
        (tmp_path / "x.KP").write_text("\n".join(["2", *lines]) + "\n")
        read = levels_beside(tmp_path, c.structure, c.fermi_level)
        assert float((read.k - k).abs().max()) < 1e-15
        assert float((read.energies[0] - levels).abs().max()) < 1e-9
    (tmp_path / "x.EIG").write_text("-0.1 8 1 2\n 1 0.1 0.2\n")
    with pytest.raises(BadInput, match="not a whole file of levels"):
        levels_beside(tmp_path, c.structure, c.fermi_level)


# --- bad input: one clear error


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.9])
def test_a_scfout_that_was_cut_off_is_refused(tmp_path, share):
    writers.write_scfout(tmp_path / "x.scfout", invented(), 3, WORDS)
    with pytest.raises(BadInput, match=r"x\.scfout"):
        registry.read(cut(tmp_path / "x.scfout", share))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("version", [0, 1])
def test_an_hsx_that_was_cut_off_is_refused(tmp_path, share, version):
    writers.write_hsx(tmp_path / "x.HSX", invented(), {8: "O", 14: "Si"}, version)
    with pytest.raises(BadInput, match=r"x\.HSX"):
        registry.read(cut(tmp_path / "x.HSX", share))


def test_a_scfout_that_declares_the_moon_allocates_nothing(tmp_path):
    head = struct.pack("<6i", 2**30, 13, 2**30, 0, 0, 2**30)
    (tmp_path / "x.scfout").write_bytes(head + bytes(400))
    with pytest.raises(BadInput, match="declares more"):
        registry.read(tmp_path)


@pytest.mark.parametrize("name", ["x.scfout", "x.HSX", "x.TSHS", "data-HR-sparse_SPIN0.csr", "rs_indices.out"])
@pytest.mark.parametrize("content", [b"", b"what is this\n" * 50, bytes(range(256)) * 20])
def test_a_file_of_another_program_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "STRU").write_text("hello\n")
    with pytest.raises(BadInput) as error:
        registry.read(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def old_layout(tmp_path: Path) -> Path:
    registry.write(tmp_path / "old", invented(), "deeph-old")
    return tmp_path / "old"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("[0, 0, 0, 1, 99]", "not among the 3"),
        ("[0, 0, 0, 0, 1]", "not among the 3"),
        ("__import__('os').system('touch /tmp/evaluated')", "is no"),
        ("[0, 0, 0, 1]", "is no"),
    ],
)
def test_a_bad_key_is_named_and_never_evaluated(tmp_path, key, said):
    folder = old_layout(tmp_path)
    with h5py.File(folder / "hamiltonians.h5", "a") as file:
        file[key.replace("/", "|")] = np.zeros((20, 20))
    with pytest.raises(BadInput, match=said):
        registry.read(folder)
    assert not Path("/tmp/evaluated").exists()


def test_a_huge_declared_block_a_link_and_a_truncated_file_are_refused(tmp_path):
    folder = old_layout(tmp_path)
    kept = (folder / "hamiltonians.h5").read_bytes()
    key = "[0, 0, 0, 1, 1]"
    with h5py.File(folder / "hamiltonians.h5", "a") as file:
        del file[key]
        file.create_dataset(key, shape=(10**7, 10**7), dtype="f8", chunks=(64, 64), compression="gzip")
    with pytest.raises(BadInput, match="its orbitals make it"):
        registry.read(folder)
    (folder / "hamiltonians.h5").write_bytes(kept)
    (tmp_path / "secret.h5").write_bytes(kept)
    with h5py.File(folder / "hamiltonians.h5", "a") as file:
        del file[key]
        file[key] = h5py.ExternalLink(str(tmp_path / "secret.h5"), key)
    with pytest.raises(BadInput, match="link to somewhere else"):
        registry.read(folder)
    (folder / "hamiltonians.h5").write_bytes(kept[: len(kept) // 2])
    with pytest.raises(BadInput, match=r"hamiltonians\.h5"):
        registry.read(folder)


def test_two_atoms_of_one_element_with_different_shells_are_refused(tmp_path):
    folder = old_layout(tmp_path)
    (folder / "orbital_types.dat").write_text("0 1 1 2\n0 0 1 2 3\n0 1 2\n")
    with pytest.raises(BadInput, match="different shells"):
        registry.read(folder)


# --- PySCF and DeePTB


def write_chk(path: Path, c: Calculation, k: torch.Tensor | None = None) -> None:
    """A checkpoint as PySCF writes it, of a calculation's S and H [Ha]: C, e and occupations, and the molecule as JSON."""
    points = torch.zeros(1, 3, dtype=torch.float64) if k is None else k
    T = torch.block_diag(*(torch.tensor(writers.turn("pyscf", c.basis.shells[z])) for z in c.basis.numbers))
    S, H = (m.at_k(points) for m in (c.overlap, c.hamiltonian))
    if c.spin is SPINOR:
        S = torch.stack([torch.block_diag(s, s) for s in S[0]])[None]
        T = torch.block_diag(T, T)
    C, e = [], []
    for s in range(len(H)):
        L = torch.linalg.cholesky(S[0]).to(torch.promote_types(H.dtype, S.dtype))
        half = torch.linalg.solve_triangular(L, H[s].to(L.dtype), upper=False)
        levels, u = torch.linalg.eigh(torch.linalg.solve_triangular(L, half.mH, upper=False))
        C.append(T.to(u.dtype) @ torch.linalg.solve_triangular(L.mH, u, upper=True))
        e.append(levels)
    coefficients, energies = torch.stack(C).numpy(), torch.stack(e).numpy()
    occupations = np.where(np.arange(energies.shape[-1]) < 4, 2.0 if c.spin is NONE else 1.0, 0.0) + 0 * energies
    atoms = [[s, x] for s, x in zip(c.structure.symbols, c.structure.positions.tolist(), strict=True)]
    bas = [[n, l, 1, 1, 0, 0, 0, 0] for n, z in enumerate(c.basis.numbers) for l in c.basis.shells[z]]
    mol = {"_atom": atoms, "_bas": bas, "atom": "__import__('os').abort()", "basis": "'cc-pvdz'"}
    if k is not None:
        mol["a"] = [[v * 0.52917721092 for v in row] for row in c.structure.cell.tolist()]
    shape = (lambda x: x[0]) if len(H) == 1 else (lambda x: x)
    with h5py.File(path, "w") as file:
        file["mol"] = json.dumps(mol)
        file["scf/e_tot"] = -1.5
        for name, values in (("mo_coeff", coefficients), ("mo_energy", energies), ("mo_occ", occupations)):
            file[f"scf/{name}"] = shape(values if k is not None else values[:, 0])
        if k is not None:
            file["scf/kpts"] = (k @ c.structure.reciprocal).numpy()


@pytest.mark.parametrize("spin", [NONE, COLLINEAR, SPINOR])
def test_a_molecule_comes_back_from_pyscfs_checkpoint(tmp_path, spin):
    c = invented(spin)
    alone = Pairs.of(*(torch.tensor(x) for x in ([0, 0, 1], [1, 2, 2], [[0, 0, 0]] * 3)), 3)
    layout = BlockLayout(c.basis, alone)
    c = replace(c, **{name: m.on(layout) for name, m in c.matrices.items()})
    write_chk(tmp_path / "x.chk", c)
    read = registry.read(tmp_path / "x.chk")
    for name in ("overlap", "hamiltonian"):
        a, b = getattr(read, name), getattr(c, name)
        assert a.spin is b.spin and float((a.on(layout).values - b.values).abs().max()) < 1e-11
    levels = 4 * len(c.hamiltonian.values) if spin is not SPINOR else 4
    assert read.electrons == pytest.approx(levels * (2 if spin is NONE else 1))
    assert read.energies == {"total": -1.5}


def test_a_crystal_comes_back_from_pyscfs_checkpoint_exactly_on_its_mesh(tmp_path):
    c = invented()
    for third in ([0.0], [0.25, 0.75]):  # a shifted mesh holds -k with each k
        k = torch.tensor([[i / 2, j / 3, x] for i in range(2) for j in range(3) for x in third], dtype=torch.float64)
        write_chk(tmp_path / "x.chk", c, k)
        read = registry.read(tmp_path / "x.chk")
        for name in ("overlap", "hamiltonian"):
            assert float((getattr(read, name).at_k(k) - getattr(c, name).at_k(k)).abs().max()) < 1e-11
    assert read.electrons == pytest.approx(8.0)
    assert any("exact on the k-mesh 2x3x2" in note and "meV" in note for note in read.provenance.notes)


def test_k_points_that_are_no_mesh_are_refused(tmp_path):
    c = invented()
    write_chk(tmp_path / "x.chk", c, torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.3, 0.1, 0]], dtype=torch.float64))
    with pytest.raises(BadInput, match="no whole uniform mesh"):
        registry.read(tmp_path / "x.chk")


def test_pyscf_itself_molecule_and_crystal(tmp_path):
    gto = pytest.importorskip("pyscf.gto")
    from pyscf import dft
    from pyscf.pbc import dft as crystal_dft
    from pyscf.pbc import gto as crystal

    from nearsight.formats.pyscf import from_pyscf

    mol = gto.M(atom="O 0 0 0; H 0 0.757 0.587; H 0 -0.757 0.587", basis="6-31g*", verbose=0)
    mf = dft.RKS(mol, xc="b3lyp")
    mf.chkfile, mf.conv_tol = str(tmp_path / "w.chk"), 1e-11
    mf.kernel()
    for c in (from_pyscf(mf), registry.read(tmp_path / "w.chk")):
        found = eigenvalues(c.hamiltonian, c.overlap, torch.zeros(1, 3, dtype=torch.float64))[0, 0]
        assert np.abs(found.numpy() - mf.mo_energy).max() < 1e-6
    cell = crystal.M(
        a="0 2.7 2.7\n2.7 0 2.7\n2.7 2.7 0",
        atom="Si 0 0 0; Si 1.35 1.35 1.35",
        basis="gth-szv",
        pseudo="gth-pade",
        verbose=0,
    )
    cell.mesh = [15, 15, 15]
    km = crystal_dft.KRKS(cell, cell.make_kpts([3, 3, 3]), xc="lda,vwn")
    km.chkfile = str(tmp_path / "s.chk")
    km.kernel()
    k = torch.tensor(cell.get_scaled_kpts(km.kpts))
    for c in (from_pyscf(km), registry.read(tmp_path / "s.chk")):
        found = eigenvalues(c.hamiltonian, c.overlap, k)[0]
        assert np.abs(found.numpy() - np.array(km.mo_energy)).max() < 1e-5
        assert c.electrons == pytest.approx(8)


def test_deeptb_goes_both_ways(tmp_path):
    c = invented()
    registry.write(tmp_path / "x", c, "deeptb")
    read = registry.read(tmp_path / "x")
    same(read, c, 1e-13, ("overlap", "hamiltonian", "density_matrix"))
    with h5py.File(tmp_path / "x" / "hamiltonians.h5") as file:
        assert file["0/0_1_0_0_0"].shape == (12, 17) and "0_1_0_0_0" in file["0"]
    registry.write(tmp_path / "again", read, "deeptb")
    with h5py.File(tmp_path / "again" / "hamiltonians.h5") as a, h5py.File(tmp_path / "x" / "hamiltonians.h5") as b:
        assert all(np.abs(a["0"][k][()] - b["0"][k][()]).max() < 1e-14 for k in b["0"])


def test_deeptb_groups_shells_by_l_and_reads_atoms_from_1(tmp_path):
    generator = torch.Generator().manual_seed(3)
    c = invented()
    basis = Basis(c.basis.numbers, {8: (1, 0), 14: (0, 2, 1)})
    layout = BlockLayout(basis, c.overlap.pairs)
    H = BlockMatrix(layout, torch.randn(1, layout.size, dtype=torch.float64, generator=generator)).hermitian()
    c = replace(c, overlap=of_functions(H), hamiltonian=H, density_matrix=None)
    registry.write(tmp_path / "x", c, "deeptb")
    (tmp_path / "x" / "overlaps.h5").unlink()
    with h5py.File(tmp_path / "x" / "hamiltonians.h5") as old, h5py.File(tmp_path / "x" / "hamiltonian.h5", "w") as new:
        for key in old["0"]:
            i, j, *R = key.split("_")
            new["1/" + "_".join([str(int(i) + 1), str(int(j) + 1), *R])] = old["0"][key][()]
    (tmp_path / "x" / "hamiltonians.h5").unlink()
    (tmp_path / "x" / "basis.dat").write_text("{'O': '1s1p', 'Si': '1s1p1d'}")
    read = registry.read(tmp_path / "x")
    pair = int(read.hamiltonian.pairs.on_site[0])
    mine = int(H.pairs.on_site[0])
    assert torch.allclose(read.hamiltonian.block(pair)[0], H.block(mine)[0][[3, 0, 1, 2]][:, [3, 0, 1, 2]], atol=1e-13)
    with h5py.File(tmp_path / "x" / "hamiltonian.h5", "a") as file:
        file["1/1_99_0_0_0"] = np.zeros((4, 4))
    with pytest.raises(BadInput, match="not among the 3"):
        registry.read(tmp_path / "x")

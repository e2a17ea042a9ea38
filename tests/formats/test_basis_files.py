"""Files of orbitals of other programs, and Gaussians: the overlaps are what they should be; what is no basis is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import nearsight as ns
from nearsight.atoms.orbitals import generate_species
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.gaussians import GaussianBasis, GaussianShell
from nearsight.core.registry import BUILT_IN
from nearsight.core.species import AtomicBasis, Orbital, RadialFunction
from nearsight.dft.overlap import overlap
from nearsight.formats.basis_files import BasisFormat, choose, read_basis
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.integrals.gaussian import GaussianTable
from nearsight.integrals.two_center import TwoCenterTable
from tests import cases
from tests.formats.basis_writers import orb_text, pao_text, write

CARBON = cases.species("C")


def by_l(calculation):
    """Our DZP carbon has its shells by l already, so that other programs' files have the same order."""
    assert CARBON.shells == tuple(sorted(CARBON.shells))
    return calculation.overlap


@pytest.fixture
def exact():
    return overlap(cases.graphene(), basis="dzp", energy_shift_ry=0.02).overlap


@pytest.mark.parametrize(
    ("name", "text", "orbitals", "near"),
    [
        ("C6.0.pao", pao_text(CARBON), ("C6.0-s2p2d1",), 2e-7),
        ("C_gga_8au_100Ry_2s2p1d.orb", orb_text(CARBON), (), 2e-7),
        ("C.orb", orb_text(CARBON, scale=0.95), (), 2e-7),  # ABACUS scales to unit norm
    ],
)
def test_a_file_of_another_program_gives_the_overlap_of_its_functions(tmp_path, exact, name, text, orbitals, near):
    write(tmp_path / name, text)
    found = by_l(overlap(cases.graphene(), tmp_path, orbitals=orbitals))
    assert found.basis.same_as(exact.basis)
    difference = found.on(exact.layout) - exact
    assert float(difference.values.abs().max()) < near
    assert float((exact.on(found.layout) - found).values.abs().max()) < near


def test_an_ion_file_in_the_folder_is_the_species_and_gives_h0(tmp_path):
    write_ion_xml(CARBON, tmp_path / "C.ion.xml")
    found = overlap(cases.graphene(), tmp_path, initial_hamiltonian=True, mesh_cutoff_ry=60)
    assert found.hamiltonian is not None and found.electrons == 8 and found.species[6].symbol == "C"
    alone = overlap(cases.graphene(), tmp_path)
    assert alone.hamiltonian is None
    assert float((alone.overlap.on(found.overlap.layout) - found.overlap).values.abs().max()) < 1e-14


def shells(l: int, *a: float) -> GaussianShell:
    from math import gamma

    e = np.array(a)
    c = np.arange(1.0, len(a) + 1)
    norm = c @ (gamma(l + 1.5) / 2 / (e[:, None] + e) ** (l + 1.5)) @ c
    return GaussianShell(l, e, c / np.sqrt(norm))


def table_of(g: GaussianShell) -> RadialFunction:
    r = np.linspace(0, 14.0, 5001)
    return RadialFunction(g.l, np.exp(-np.outer(r**2, g.exponents)) @ g.coefficients, r[1])


def test_gaussians_in_closed_form_are_the_transforms_of_their_tables():
    a = GaussianBasis("C", 6, (shells(0, 0.5, 2.0), shells(1, 0.4), shells(2, 0.8, 0.3), shells(3, 0.6)), 6.0)
    b = GaussianBasis("N", 7, (shells(0, 0.9), shells(1, 0.7, 1.5), shells(3, 0.5)), 7.0)
    vectors = torch.tensor([[0.0, 0, 0], [0.3, -0.2, 0.1], [1.5, 0.7, -2.1], [0, 0, 4.0]], dtype=torch.float64)
    exact = TwoCenterTable([table_of(g) for g in a.gaussians], [table_of(g) for g in b.gaussians])(vectors)
    closed = GaussianTable(a, b)(vectors)
    assert float((closed - exact).abs().max()) < 1e-8
    far = torch.tensor([[GaussianTable(a, b).reach, 0, 0]], dtype=torch.float64)
    assert float(GaussianTable(a, b)(far).abs().max()) < 1e-11


def test_pyscf_overlaps_of_a_molecule_and_a_crystal():
    gto = pytest.importorskip("pyscf.gto")
    pbc = pytest.importorskip("pyscf.pbc.gto")
    from nearsight.formats.orders import PYSCF

    def ours(S, k):
        index, sign = PYSCF.rows(S.basis)
        back = torch.argsort(index)
        return (S.at_k(k)[0] * sign[:, None] * sign)[:, back][:, :, back]

    water = cases.water(60.0)
    atoms = list(zip(water.symbols, water.positions.tolist(), strict=True))
    mol = gto.M(atom=atoms, basis="cc-pvtz", unit="B", verbose=0)
    S = overlap(water, gaussian="cc-pvtz").overlap
    at = ours(S, torch.zeros(1, 3, dtype=torch.float64))[0]
    assert float((at - torch.as_tensor(mol.intor("int1e_ovlp"))).abs().max()) < 1e-12
    crystal = cases.diamond()
    cell = pbc.Cell(a=crystal.cell.numpy(), unit="B", basis="def2-svp", precision=1e-12, verbose=0)
    cell.atom = list(zip(crystal.symbols, crystal.positions.tolist(), strict=True))
    cell.build()
    k = cell.make_kpts([2, 1, 1])
    theirs = torch.as_tensor(np.array(cell.pbc_intor("int1e_ovlp", kpts=k)))
    mine = ours(overlap(crystal, gaussian="def2-svp").overlap, torch.as_tensor(cell.get_scaled_kpts(k)))
    assert float((mine - theirs).abs().max()) < 1e-8


ORB, PAO = orb_text(CARBON), pao_text(CARBON)


@pytest.mark.parametrize(
    ("name", "text", "shell", "said"),
    [
        ("C.orb", ORB[: len(ORB) // 2], None, "truncated"),
        ("C.orb", ORB.replace("Element                     C", "Element                     Q"), None, "Element Q"),
        (
            "C.orb",
            ORB.replace("Lmax                        2", "Lmax                        9"),
            None,
            "more than the 6",
        ),
        ("C.orb", re.sub(r"Mesh +\d+", "Mesh 99999999999", ORB), None, "more than the 20000"),
        ("C.orb", re.sub(r"Sorbital--> +2", "Sorbital--> 7", ORB), None, "missing"),
        ("C.orb", re.sub(r"dr +0.01", "dr -0.01", ORB), None, "no length"),
        ("C.orb", re.sub(r"dr +0.01", "dr 0.02", ORB), None, "do not end at its Radius Cutoff"),
        ("C.orb", orb_text(CARBON, scale=1.5), None, "norm 2.25"),
        (
            "C.orb",
            re.sub(r"(\d\.\d{14}e[-+]\d\d \d\.\d{14}e[-+]\d\d\n)", r"nan \1", ORB, count=1),
            None,
            "values where",
        ),
        ("C.orb", PAO, None, "no Element"),
        ("C.orb", "", None, "no Element"),
        ("C6.pao", PAO, None, "--orbitals C6-s2p2d1"),
        ("C6.pao", PAO[: len(PAO) // 2], "s2p2d1", "truncated"),
        ("C6.pao", PAO, "s2p2d1f1", "no functions of l = 3"),
        ("C6.pao", PAO, "s4", "3 functions of l = 0, not 4"),
        ("C6.pao", PAO, "s2>1p1", "optimised"),
        ("C6.pao", PAO, "dzp", "says no shells"),
        ("C6.pao", PAO, "s2s1", "says no shells"),
        ("C6.pao", PAO, "s3", "norm"),
        ("C6.pao", PAO.replace("AtomSpecies             6", "AtomSpecies             0"), "s2", "no element"),
        ("C6.pao", PAO.replace("AtomSpecies", "Atom"), "s2", "no AtomSpecies"),
        ("C6.pao", re.sub(r"radial.cutoff.pao +\S+", "radial.cutoff.pao 90", PAO), "s2", "not within its grid"),
        ("C6.pao", re.sub(r"radial.cutoff.pao +\S+", "radial.cutoff.pao 1.5", PAO), "s2", "norm"),
        ("C6.pao", "\n".join(reversed(PAO.splitlines())), "s2", "truncated"),
        ("C6.pao", ORB, "s2", "no AtomSpecies"),
        ("C.xml", "nothing", None, "no orbitals of a known form"),
    ],
)
def test_what_is_no_file_of_orbitals_is_refused_in_one_line(tmp_path, name, text, shell, said):
    path = write(tmp_path / name, text)
    with pytest.raises((BadInput, MissingData)) as error:
        read_basis(path, "C", shell)
    assert said in str(error.value) and "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_grid_that_does_not_rise_is_refused(tmp_path):
    lines = PAO.splitlines()
    start = next(n for n, line in enumerate(lines) if "orbitals.L=0" in line)
    lines[start + 5], lines[start + 9] = lines[start + 9], lines[start + 5]
    with pytest.raises(BadInput, match="do not rise"):
        read_basis(write(tmp_path / "C6.pao", "\n".join(lines) + "\n"), "C", "s2")


def test_which_file_is_taken_is_said(tmp_path):
    for name in ("C6.0.pao", "C7.0.pao", "Co6.0H.pao", "notes.txt"):
        write(tmp_path / name, PAO)
    with pytest.raises(BadInput, match=r"several files of orbitals of C \(C6.0.pao, C7.0.pao\)"):
        choose(tmp_path, "C")
    assert choose(tmp_path, "C", ["C7.0-s2p1"]).path.name == "C7.0.pao"
    assert choose(tmp_path, "C", ["C7.0-s2p1"]).shells == "s2p1"
    assert choose(tmp_path, "N") is None
    with pytest.raises(BadInput, match="no such file"):
        choose(tmp_path, "C", ["C8.0-s2"])
    with pytest.raises(BadInput, match="two files of C"):
        choose(tmp_path, "C", ["C7.0-s2p1", "C6.0-s2p1"])
    with pytest.raises(MissingData, match="no such folder"):
        choose(tmp_path / "nowhere", "C")


def test_radii_that_are_no_exponentials_are_refused(tmp_path):
    moved = PAO.replace("-7.800000000000000 ", "-7.700000000000000 ", 1)
    with pytest.raises(BadInput, match="exponentials"):
        read_basis(write(tmp_path / "C6.pao", moved), "C", "s2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"gaussian": "def2-svp", "basis": "dzp"}, "no bearing on Gaussians"),
        ({"gaussian": "def2-svp", "species": "x"}, "leave --species"),
        ({"orbitals": "C6.0-s2p2d1"}, "give --species too"),
        ({"kmesh": (2, 2, 2)}, "kpoints.mesh has no bearing"),
        ({"xcc": "pbe"}, "xcc"),
    ],
)
def test_words_without_bearing_are_refused(arguments, said):
    with pytest.raises(ns.BadInput, match=said):
        ns.overlap(cases.graphene(), **arguments)


class Toy(BasisFormat):
    """A third party's form: the name of an element, and a decay."""

    name, endings = "toy", ("toy",)

    def recognises(self, path, head):
        return path.suffix == ".toy"

    def read(self, path, symbol=None, shells=None):
        element, decay = path.read_text().split()
        r = np.linspace(0, 12, 1201)
        values = np.exp(-float(decay) * r**2) * np.sqrt(4 / np.sqrt(np.pi)) * (2 * float(decay)) ** 0.75
        return AtomicBasis(
            element, 6, (Orbital(RadialFunction(0, values, r[1]), 1, 1, 0.0),), provenance={"file": path.name}
        )


def test_a_form_of_a_third_party_is_read_like_ours(tmp_path, monkeypatch):
    monkeypatch.setitem(BUILT_IN["bases"], "toy", f"{__name__}:Toy")
    write(tmp_path / "C.toy", "C 0.5")
    S = overlap(cases.graphene(), tmp_path).overlap
    distance = S.pairs.vectors(cases.graphene()).norm(dim=1)
    assert float((S.values[0] - torch.exp(-0.25 * distance**2)).abs().max()) < 1e-6  # of two equal Gaussians
    write(tmp_path / "C.toy", "N 0.5")
    with pytest.raises(BadInput, match="holds N, not C"):
        overlap(cases.graphene(), tmp_path)


def test_no_h0_without_a_pseudopotential(tmp_path):
    write(tmp_path / "C6.0.pao", PAO)
    with pytest.raises(BadInput, match="leave --h0 out"):
        ns.overlap(cases.graphene(), tmp_path, orbitals="C6.0-s2p2d1", initial_hamiltonian=True)
    with pytest.raises(MissingData, match="no orbitals of H"):
        ns.overlap(cases.water(), tmp_path, orbitals="C6.0-s2p2d1")
    with pytest.raises(BadInput, match="holds its orbitals: leave basis"):
        ns.overlap(cases.graphene(), tmp_path, orbitals="C6.0-s2p2d1", basis="szp")


def test_orbitals_of_another_element_than_the_name_says(tmp_path):
    """A file of carbon that calls itself boron is not taken for carbon."""
    path = write(tmp_path / "C.pao", pao_text(generate_species("C", "pbe"), points=500))
    path.write_text(path.read_text().replace("AtomSpecies             6", "AtomSpecies             5"))
    with pytest.raises(BadInput, match="holds orbitals of B, not of C"):
        read_basis(path, "C", "s2p2d1")

"""The .ion.xml file: what is written is read back, by us and by sisl; what is damaged is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nearsight.atoms.orbitals import BasisSettings, HardWall, generate_species
from nearsight.core.errors import NearsightError
from nearsight.core.species import RadialFunction, Species
from nearsight.formats.ion_xml import read_ion_xml, write_ion_xml


@pytest.fixture(scope="module")
def carbon() -> Species:
    return generate_species("C", "lda")


@pytest.fixture
def written(tmp_path: Path, carbon: Species) -> Path:
    path = tmp_path / "C.ion.xml"
    write_ion_xml(carbon, path)
    return path


def assert_same(a: RadialFunction, b: RadialFunction) -> None:
    assert a.l == b.l
    assert a.spacing == pytest.approx(b.spacing, rel=1e-14)
    assert a.values == pytest.approx(b.values, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize(("symbol", "xc"), [("C", "lda"), ("H", "pbe"), ("Mo", "pbe")])
def test_round_trip(symbol: str, xc: str, tmp_path: Path) -> None:
    species = generate_species(symbol, xc)
    write_ion_xml(species, tmp_path / "X.ion.xml")
    back = read_ion_xml(tmp_path / "X.ion.xml", symbol)
    for name in ("symbol", "number", "valence", "mass", "shells"):
        assert getattr(back, name) == getattr(species, name)
    for a, b in zip(species.orbitals, back.orbitals, strict=True):
        assert (a.n, a.l, a.zeta, a.polarization, a.population) == (b.n, b.l, b.zeta, b.polarization, b.population)
        assert_same(a.radial, b.radial)
    for kind in ("projectors", "relativistic_projectors"):
        for p, q in zip(getattr(species, kind), getattr(back, kind), strict=True):
            assert (p.l, p.j) == (q.l, q.j)
            assert p.energy == pytest.approx(q.energy, rel=1e-14)
            assert_same(p.radial, q.radial)
    assert_same(species.neutral_atom_potential, back.neutral_atom_potential)
    assert_same(species.local_charge, back.local_charge)
    if species.core_density is None:
        assert back.core_density is None
    else:
        assert back.core_density is not None
        assert_same(species.core_density, back.core_density)
    assert back.provenance["pseudopotential_sha256"] == species.provenance["pseudopotential_sha256"]
    assert not list(tmp_path.glob(".*"))


def test_sisl_reads_it(written: Path, carbon: Species) -> None:
    sisl = pytest.importorskip("sisl")
    atom = sisl.get_sile(str(written)).read_basis()
    assert atom.Z == 6
    assert atom.no == carbon.orbital_count
    assert [o.l for o in atom.orbitals] == [l for l in carbon.shells for _ in range(2 * l + 1)]
    assert atom.maxR() == pytest.approx(carbon.orbital_cutoff * 0.529177, rel=1e-5)


def test_siestas_radii_from_nearly_the_same_pseudopotential() -> None:
    """Radii of SIESTA (psml branch) with PseudoDojo pseudopotentials, energy shift 0.02 Ry, split norm 0.15 [Bohr].

    In the order of the shells; the last one is the polarisation shell.
    """
    settings = BasisSettings("dzp", energy_shift=0.02, confinement=HardWall())
    for symbol, xc, radii in [
        ("C", "pbe", (4.088, 3.347, 4.870, 3.475, 4.870)),
        ("C", "lda", (4.192, 3.432, 4.870, 3.475, 4.870)),
        ("O", "lda", (3.305, 2.510, 3.937, 2.542, 3.937)),
    ]:
        found = [o.radial.cutoff for o in generate_species(symbol, xc, settings).orbitals]
        assert found == pytest.approx(radii, rel=0.03)


def test_energies_are_in_rydberg_and_the_charge_has_the_electrons_sign(written: Path, carbon: Species) -> None:
    text = written.read_text()
    assert f'ref_energy="{2 * carbon.projectors[0].energy:.10e}'[:-6] in text
    charge = carbon.local_charge
    assert 4 * np.pi * np.trapezoid(charge.values * charge.r**2, charge.r) == pytest.approx(-4, abs=1e-6)
    # SIESTA's number for the same element and functional is 20.784 Ry (PseudoDojo, LDA).
    self_energy = float(text.split("<self_energy>")[1].split("<")[0])
    assert self_energy == pytest.approx(20.784, rel=0.01)


def replaced(old: str, new: str, count: int = 1) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-4000], "truncated"),
        (lambda text: "", "truncated"),
        (replaced("<ion ", "<atom "), "mismatched tag|not <ion>"),
        (replaced("<vna>", "<vnb>"), "mismatched tag|missing"),
        (lambda text: text.replace("vna>", "other>"), "section <vna> is missing"),
        (lambda text: text.replace("chlocal>", "other>"), "section <chlocal> is missing"),
        (lambda text: text.replace("<orbital ", "<orbitals ").replace("</orbital>", "</orbitals>"), "no <orbital>"),
        (replaced("<npts> ", "<npts> 9"), "where npts"),
        (replaced("<valence> 4", "<valence> 5"), "not to the valence 5"),
        (lambda text: text.replace('ispol="0"', ""), "attribute ispol is missing"),
        (lambda text: text.replace("1.000000000000000e-02 ", "NaN ", 1), "not finite|uniform grid"),
    ],
)
def test_damage_is_refused(written: Path, change: Callable[[str], str], message: str) -> None:
    written.write_text(change(written.read_text()))
    with pytest.raises(NearsightError, match=message):
        read_ion_xml(written)


def test_a_value_that_is_not_finite_is_refused(written: Path) -> None:
    lines = written.read_text().split("\n")
    row = lines.index("<data>") + 5
    lines[row] = lines[row].split()[0] + " NaN"
    written.write_text("\n".join(lines))
    with pytest.raises(NearsightError, match="not finite"):
        read_ion_xml(written)


def test_a_projector_without_energy_is_refused(written: Path) -> None:
    text = written.read_text()
    start = text.index('ref_energy="') + len('ref_energy="')
    end = text.index('"', start)
    written.write_text(text[:start] + "0.0" + text[end:])
    with pytest.raises(NearsightError, match=r"energy zero.*another pseudopotential"):
        read_ion_xml(written)


def test_wrong_element_and_missing_file(written: Path) -> None:
    with pytest.raises(NearsightError, match="holds C, not Si"):
        read_ion_xml(written, "Si")
    with pytest.raises(NearsightError, match="no such file"):
        read_ion_xml(written.parent / "none.ion.xml")
    with pytest.raises(NearsightError, match="cannot be written"):
        write_ion_xml(read_ion_xml(written), written.parent / "none" / "C.ion.xml")

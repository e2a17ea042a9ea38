"""Levels of a prediction beside an ill-conditioned S: no ghosts, the same to first order, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import nearsight as ns
from nearsight.core.calculation import Calculation
from nearsight.core.errors import Notice
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.dft.settings import Settings
from nearsight.dft.setup import functional_for
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.formats.registry import read
from nearsight.learn.conditioning import ill_conditioned
from nearsight.learn.model import TrainedModel, predict
from nearsight.learn.model_files import build
from nearsight.learn.reference import OrbitalReference
from nearsight.properties.eigenstates import levels
from nearsight.properties.kdotp import Lattice
from nearsight.properties.near_levels import near_levels
from nearsight.properties.spectra import bands, fermi_level_of
from nearsight.properties.subspace import NearHamiltonian, without_ghosts

K = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.3, -0.2], [0.5, 0.5, 0.5]], dtype=torch.float64)
SETTINGS = {"xc": "lda", "basis": "dzp", "mesh_cutoff_ry": 60.0}


@cache
def dense_hydrogen():
    """Squeezed hydrogen: S has eigenvalues below 1e-3."""
    cell = 3.8 * torch.eye(3, dtype=torch.float64)
    places = torch.tensor([[0.0, 0.0, 0.0], [1.8, 1.8, 0.1], [1.9, 0.2, 1.8], [0.1, 1.7, 1.8]], dtype=torch.float64)
    return functional_for(Structure(cell, places, torch.tensor([1, 1, 1, 1])), Settings(**SETTINGS))


def predicted(size: float, folder: Path | None = None) -> Calculation:
    functional = dense_hydrogen()
    h0 = functional.initial_hamiltonian()
    noise = torch.randn(h0.values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = h0 + h0.with_values(size / 1000 / HARTREE_EV * noise).hermitian()
    settings = Settings(**SETTINGS).model_dump(mode="json", include={"functional", "mesh"})
    told = {"lowest_overlap_eigenvalue": 1e-5, "settings": {**settings, "basis": {"species": str(folder)}}}
    return Calculation(
        functional.structure,
        functional.overlap,
        h,
        electrons=functional.electrons,
        result={"prediction": True, "near_levels": told},
    )


@pytest.fixture(scope="module")
def species(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("species")
    for s in dense_hydrogen().species.values():
        write_ion_xml(s, folder / f"{s.symbol}.ion.xml")
    return folder


def near(c: Calculation, ceiling: float) -> NearHamiltonian:
    h = c.require_hamiltonian()
    return NearHamiltonian(
        h.layout, h.values, h.spin, dense_hydrogen().initial_hamiltonian(), c.require_overlap(), ceiling
    )


def test_the_case_is_ill_conditioned():
    assert ill_conditioned(dense_hydrogen().overlap) is not None


def test_levels_are_those_in_the_span_below_and_of_superposed_atoms_above():
    c = predicted(2.0)
    s, h0 = c.require_overlap(), dense_hydrogen().initial_hamiltonian()
    ceiling = float(levels(h0, s, K).median()) + 1e-3
    found, known = levels(near(c, ceiling), s, K), levels(h0, s, K)
    for index, at in enumerate(near_levels(h0, s, 0.0, K, [c.require_hamiltonian()], above_ev=ceiling * HARTREE_EV)):
        n = at.known.shape[1]
        above = known[:, index, n:]
        expected = torch.cat([at.others[0], above], 1).sort().values
        assert torch.allclose(found[:, index], expected, atol=1e-9)


def test_without_an_error_nothing_changes():
    c = predicted(0.0)
    s = c.require_overlap()
    assert torch.allclose(levels(near(c, 0.3), s, K), levels(c.require_hamiltonian(), s, K), atol=1e-8)


def test_ghosts_are_gone(species: Path):
    """An error of 2 meV an element moves levels of the full problem by eV, those in the span by far less."""
    c, h0 = predicted(2.0, species), dense_hydrogen().initial_hamiltonian()
    s = c.require_overlap()
    truth = levels(h0, s, K)
    raw = levels(c.require_hamiltonian(), s, K)
    with pytest.warns(Notice, match=r"S has eigenvalues down to 1e-05: its levels are those within the span"):
        mended = without_ghosts(c)
    found = levels(mended.require_hamiltonian(), s, K)
    assert isinstance(mended.hamiltonian, NearHamiltonian)
    assert float((raw - truth).abs().max()) * HARTREE_EV > 1.0
    low = truth < mended.hamiltonian.ceiling - 5 / HARTREE_EV
    assert float((found - truth)[low].abs().max()) < 0.1 * float((raw - truth).abs().max())
    assert without_ghosts(mended) is mended


def test_bands_and_dos_and_gap_take_it(species: Path):
    c = predicted(2.0, species)
    known = dense_hydrogen().initial_hamiltonian()
    level = fermi_level_of(Calculation(c.structure, c.overlap, known, electrons=4.0, fermi_level=None))
    assert level is not None
    with pytest.warns(Notice):
        found = bands(replace(c, fermi_level=level), path="GAMMA-X", points=5)
    assert found.ceiling == pytest.approx(level + 15 / HARTREE_EV, abs=1 / HARTREE_EV)
    assert json.dumps(found.to_json()["levels_of_superposed_atoms_from_eV"])
    assert float(found.energies.min()) > float(levels(known, c.overlap, K).min()) - 0.02
    with pytest.warns(Notice):
        assert ns.dos(c, kmesh=(2, 2, 2))
    with pytest.warns(Notice):
        assert ns.gap(replace(c, hamiltonian=predicted(0.1).hamiltonian), kmesh=(1, 1, 1), points=2)


def test_its_derivatives_are_those_of_its_levels():
    c = predicted(0.5)
    h = near(c, 0.5)
    lattice = Lattice(h, c.require_overlap(), c.structure)
    k = K[1:2]
    e, states = lattice.states(k[0])
    v = lattice.velocities(k, e[:, None], states[:, None])[:, 0, 0]
    step = 1e-3
    for axis in range(3):
        d = step * c.structure.cell.T[axis] / (2 * torch.pi)
        up, down = (levels(h, c.require_overlap(), k + x * d)[0, 0] for x in (1, -1))
        low = slice(0, 6)
        assert torch.allclose(v[axis, low], ((up - down) / (2 * step))[low], atol=2e-4)


def test_orbitals_that_are_gone_are_told():
    with pytest.warns(Notice, match="may be ghosts, because its H0 cannot be made"):
        assert without_ghosts(predicted(2.0, Path("gone"))).hamiltonian is not None
    plain = replace(predicted(2.0), result={})
    assert without_ghosts(plain) is plain


def test_a_prediction_says_it_and_its_bands_take_it(tmp_path: Path):
    functional = dense_hydrogen()
    sizes = {"irreps": "6x0e+4x1o+3x2e+2x1e+2x2o", "edge": [6, 2, 4, 3, 2], "hidden": [6, 2, 4, 3, 2]}
    arguments = {**sizes, "cutoff": 4.0, "reach": 12.0, "layers": 1, "radial": 4, "width": 8}
    architecture = {"kind": "deeph2", "shells": {"1": [0, 0, 1]}, "arguments": arguments}
    reference = OrbitalReference(dict(functional.species), Settings(**SETTINGS))
    model = TrainedModel(build(architecture, "delta").double(), architecture, reference)
    model.save(tmp_path / "m")
    said: list[str] = []
    predict(tmp_path / "m", functional.structure, tmp_path / "p", warn=said.append)
    record = json.loads((tmp_path / "p/result.json").read_text())
    assert [x for x in said if "where small errors of H make ghost levels" in x] == record["warnings"]
    assert record["near_levels"]["lowest_overlap_eigenvalue"] < 1e-3
    with pytest.warns(Notice, match="within the span"):
        assert bands(read(tmp_path / "p"), path="GAMMA-X", points=2, fermi_level=0.0).ceiling is not None
    ns.write(tmp_path / "alone", replace(read(tmp_path / "p"), result={"prediction": True}))
    assert bands(read(tmp_path / "alone"), path="GAMMA-X", points=2, fermi_level=0.0).ceiling is None

"""Models for other packages have our bands: by their files, and where the package is installed by its own bands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.core.spin import COLLINEAR
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats import registry
from nearsight.formats.orthogonal import orthogonal_models
from nearsight.formats.tight_binding import to_kwant, to_pythtb, to_sisl, to_tbmodels

DATA = Path(__file__).parent / "data"
K = torch.tensor([[0.0, 0, 0], [0.13, 0.29, 0.0], [0.5, 0.1, 0.0]], dtype=torch.float64)
CUT = 2e-5  # eV, of models that are cut; sisl's is not


def graphene() -> Calculation:
    return registry.read(DATA / "graphene_lda_sz")


def chain() -> Calculation:
    """Spinors, with spin-orbit coupling."""
    return registry.read(DATA / "openmx" / "n_chain")


def magnetic() -> Calculation:
    c = graphene()
    h = c.hamiltonian
    return replace(
        c, hamiltonian=BlockMatrix(h.layout, torch.cat([h.values, 1.02 * h.values]), COLLINEAR), density_matrix=None
    )


def bands(c: Calculation, k: torch.Tensor) -> np.ndarray:
    return eigenvalues(c.hamiltonian, c.overlap, k).numpy() * HARTREE_EV


def k_of(c: Calculation) -> torch.Tensor:
    return K.flip(1) if c.spin.components == 4 else K  # the chain runs along z


@pytest.mark.parametrize("make", [graphene, chain, magnetic])
def test_the_orthogonal_model_has_the_bands_and_says_what_it_cuts(make):
    c = make()
    k = k_of(c)
    models = orthogonal_models(c)
    assert len(models) == c.hamiltonian.spin.matrices
    for model, told in zip(models, bands(c, k), strict=True):
        phases = np.exp(2j * np.pi * k.numpy() @ model.R.T)
        H = np.einsum("kr,rab->kab", phases, model.hoppings) * HARTREE_EV
        assert np.abs(H - H.conj().swapaxes(1, 2)).max() < 1e-9
        assert np.abs(np.linalg.eigvalsh(H) - told).max() < CUT
        assert model.cut < 1e-6 and "Loewdin" in model.note
    loose = orthogonal_models(c, tolerance=1e-2)[0]
    assert len(loose.R) <= len(models[0].R) and loose.cut >= models[0].cut


@pytest.mark.parametrize("make", [graphene, chain, magnetic])
def test_hr_dat_has_the_bands(tmp_path, make):
    c = make()
    registry.write(tmp_path / "x", c, "wannier90")
    names = ["x_up", "x_dn"] if c.hamiltonian.spin is COLLINEAR else ["x"]
    k = k_of(c)
    for name, told in zip(names, bands(c, k), strict=True):
        lines = (tmp_path / "x" / f"{name}_hr.dat").read_text().splitlines()
        assert "Loewdin-orthogonalised" in lines[0]
        n, cells = int(lines[1]), int(lines[2])
        first = 3 + -(-cells // 15)
        degeneracies = [int(w) for line in lines[3:first] for w in line.split()]
        table = np.array([line.split() for line in lines[first:]], dtype=float)
        assert len(degeneracies) == cells and len(table) == cells * n * n
        H = np.zeros((len(k), n, n), dtype=complex)
        for row in table:
            i, j = int(row[3]) - 1, int(row[4]) - 1
            H[:, i, j] += np.exp(2j * np.pi * k.numpy() @ row[:3]) * (row[5] + 1j * row[6])
        assert np.abs(np.linalg.eigvalsh(H) - told).max() < CUT
        centres = (tmp_path / "x" / f"{name}_centres.xyz").read_text().splitlines()
        assert int(centres[0]) == n + len(c.structure)


@pytest.mark.parametrize("make", [graphene, chain, magnetic])
def test_sisl_has_the_bands(make):
    pytest.importorskip("sisl")
    c = make()
    H = to_sisl(c)
    k = k_of(c)
    for n, point in enumerate(k.numpy()):
        for s, told in enumerate(bands(c, k)):
            found = H.eigh(point, spin=s) if c.hamiltonian.spin is COLLINEAR else H.eigh(point)
            assert np.abs(found - told[n]).max() < 1e-8


def test_what_sisl_writes_of_us_is_read_again(tmp_path):
    sisl = pytest.importorskip("sisl")
    c = graphene()
    registry.write(tmp_path / "x.HSX", c, "sisl")
    found = registry.read(tmp_path / "x.HSX")
    scale = 2 * sisl.unit.siesta.unit_convert("Ry", "eV") / HARTREE_EV
    k = torch.tensor([[0.1, 0.2, 0.0]], dtype=torch.float64)
    told = bands(c, k)
    assert np.abs(bands(found, k) * scale - told).max() < 1e-6
    with pytest.raises(BadInput, match="sisl writes no Hamiltonian"):
        registry.write(tmp_path / "x.xyz", c, "sisl")


def test_pythtb_has_the_bands():
    pytest.importorskip("pythtb")
    c = graphene()
    found = to_pythtb(c)[0].solve_all(K.tolist())
    assert np.abs(np.sort(found.T, axis=1) - bands(c, K)[0]).max() < CUT


def test_tbmodels_has_the_bands(tmp_path):
    tbmodels = pytest.importorskip("tbmodels")
    c = graphene()
    registry.write(tmp_path / "x.hdf5", c, "tbmodels")
    for model in (to_tbmodels(c)[0], tbmodels.io.load(str(tmp_path / "x.hdf5"))):
        assert np.abs(np.array([model.eigenval(k) for k in K.tolist()]) - bands(c, K)[0]).max() < CUT


def test_kwant_has_the_bands():
    kwant = pytest.importorskip("kwant")
    c = graphene()
    wrapped = kwant.wraparound.wraparound(to_kwant(c)[0]).finalized()
    for k, told in zip(K.tolist(), bands(c, K)[0], strict=True):
        H = wrapped.hamiltonian_submatrix(params=dict(zip(("k_x", "k_y", "k_z"), 2 * np.pi * np.array(k), strict=True)))
        assert np.abs(np.linalg.eigvalsh(H) - told).max() < CUT


@pytest.mark.parametrize("kind", ["wannier90", "sisl", "tbmodels"])
def test_what_is_only_written_is_not_read(tmp_path, kind):
    (tmp_path / "x").mkdir()
    with pytest.raises(BadInput, match="only written"):
        registry.read(tmp_path / "x", kind)


def test_bohr_and_angstrom_are_not_mixed_up():
    model = orthogonal_models(graphene())[0]
    assert np.allclose(model.cell[0, 0] * BOHR_ANG, 2.46, atol=0.02)

"""Properties of SIESTA's spinor matrices against its own figures: spin-orbit coupling, and moments that are not collinear.

The .npz files hold S, H (Ha) and D of SIESTA (psml-support branch), its k-points, eigenvalues (Ha), Fermi level and moments.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nearsight
from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import SPINOR
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.electrons import kpoints
from nearsight.electrons.levels import Filling
from nearsight.electrons.solvers.dense import Dense
from nearsight.properties.brillouin import Sampling, Thermal, fermi_energy
from nearsight.properties.eigenstates import eigenstates, levels
from tests import cases

HERE = Path(__file__).parent
NAMES = ("fe_chain_pbe_dzp_soc", "h3_triangle_pbe_dzp_nc")
MEV = 1000 * HARTREE_EV


def reference(name: str) -> tuple[Calculation, dict, dict]:
    with np.load(HERE / f"{name}.npz") as file:
        data = dict(file)
    about = json.loads(str(data["about"]))
    s = Structure(*(torch.as_tensor(data[key]) for key in ("cell", "positions", "numbers")))
    table = torch.as_tensor(data["pairs"])
    basis = Basis.of(s.numbers, {int(z): tuple(l) for z, l in about["shells"].items()})
    layout = BlockLayout(basis, Pairs(table[:, 0], table[:, 1], table[:, 2:], len(s)))
    found = Calculation(
        s,
        BlockMatrix(layout, torch.as_tensor(data["overlap"])),
        BlockMatrix(layout, torch.as_tensor(data["hamiltonian_ha"]), SPINOR),
        BlockMatrix(layout, torch.as_tensor(data["density_matrix"]), SPINOR),
        fermi_level=about["fermi_energy_eV"] / HARTREE_EV,
    )
    return found, data, about


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_those_of_siesta(name):
    c, data, _ = reference(name)
    k, wanted = torch.as_tensor(data["k"]), data["eigenvalues_ha"]
    found = levels(c.hamiltonian, c.overlap, k)[0]
    assert np.abs(found.numpy() - wanted).max() * MEV < 0.1
    chunks = list(eigenstates(c.hamiltonian, c.overlap, k, elements=1))
    assert len(chunks) == len(k)
    assert float((torch.cat([x.energies for x in chunks], 1)[0] - found).abs().max()) * MEV < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_electrons_fermi_level_and_moments(name):
    c, _, about = reference(name)
    findings = nearsight.check(c)
    assert all(f.holds for f in findings)
    assert any(f"{about['electrons']:.6f}" in f.found for f in findings if "Tr[D S]" in f.law)
    mesh = Sampling.of(tuple(about["kmesh"]), time_reversal=False)
    e = levels(c.hamiltonian, c.overlap, mesh.k)
    fermi = fermi_energy(e, Thermal(mesh.weights, about["kT_eV"] / HARTREE_EV), about["electrons"], 1.0)
    if name.startswith("fe"):  # a metal, whose Fermi level is no choice
        assert fermi * HARTREE_EV == pytest.approx(about["fermi_energy_eV"], abs=1e-4)
    found = nearsight.charges(c, kmesh=tuple(about["kmesh"]))
    moments = torch.tensor(about["moments_muB"], dtype=torch.float64)
    assert float((found.moments["mulliken"] - moments).abs().max()) < 1e-4
    assert float(found.electrons["lowdin"].sum()) == pytest.approx(about["electrons"], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_density_matrix_is_that_of_siesta(name):
    """Where SIESTA stores it: not between orbitals that do not overlap, and without an imaginary part of up-up and down-down
    where moments are not collinear (it is averaged over transposition)."""
    c, _, about = reference(name)
    k = kpoints.mesh(tuple(about["kmesh"]), time_reversal=False)
    solver = Dense().bind(c.overlap.hermitian(), k, Filling(about["electrons"], about["kT_eV"] / HARTREE_EV))
    e = solver.solve(c.hamiltonian.hermitian())
    theirs, ours = c.density_matrix.values, e.density_matrix.values
    if name.endswith("nc"):
        theirs, ours = (torch.cat([d[[0, 3]].real, d[1:3].real, d[1:3].imag]) for d in (theirs, ours))
    stored = (c.density_matrix.values != 0).any(0)
    assert stored.sum() > 0.5 * len(stored)
    assert float((theirs - ours)[:, stored].abs().max()) < 1e-6
    s = c.overlap
    assert float(e.density_matrix.trace(s)) == pytest.approx(about["electrons"], abs=1e-9)
    assert float(c.density_matrix.trace(s)) == pytest.approx(about["electrons"], abs=1e-9)
    band = float(c.density_matrix.trace(c.hamiltonian))
    assert float(e.density_matrix.trace(c.hamiltonian)) == pytest.approx(band, abs=1e-8)
    assert float(e.energy_weighted.trace(s)) == pytest.approx(band, abs=1e-8)
    half = Dense().bind(s, kpoints.mesh(tuple(about["kmesh"])), solver.filling)
    with pytest.raises(BadInput, match="time_reversal=False"):
        half.solve(c.hamiltonian)


@pytest.mark.parametrize("name", NAMES)
def test_a_turned_crystal_has_the_same_levels_and_the_turned_moments(name):
    c, _, about = reference(name)
    k, r = kpoints.mesh(tuple(about["kmesh"]), time_reversal=False), cases.random_rotation(1, improper=True)
    filling = Filling(about["electrons"], about["kT_eV"] / HARTREE_EV)
    s, h = c.overlap.hermitian(), c.hamiltonian.hermitian()
    one, two = (Dense().bind(m.rotate(x), k, filling).solve(h.rotate(x)) for m, x in ((s, r @ r.T), (s, r)))
    assert float((two.levels.energies - one.levels.energies).abs().max()) < 1e-10
    moments = [(SPINOR.moment(e.density_matrix.values) * m.values[0]).sum(1) for e, m in ((one, s), (two, s.rotate(r)))]
    assert float((moments[1] + r @ moments[0]).abs().max()) < 1e-8  # axial: inversion leaves them alone


@pytest.mark.parametrize("name", NAMES)
def test_bands_compare_and_dos(name):
    c, _, about = reference(name)
    found = nearsight.compare(c, c)
    assert found.hamiltonian_max_meV == 0 == found.bands_max_meV
    dos = nearsight.dos(c, project="atom,spin", kmesh=tuple(about["kmesh"]), method="gaussian")
    assert float(dos.at_fermi(dos.below).sum()) == pytest.approx(about["electrons"], abs=1e-6)
    assert float((dos.projections.sum(0) - dos.total.sum(0)).abs().max()) < 1e-8
    up, down = (sum(n for g, n in zip(dos.names, dos.at_fermi(dos.projected).tolist(), strict=True) if w in g)
                for w in ("up", "down"))  # fmt: skip
    wanted = sum(m[2] for m in about["moments_muB"])
    assert up - down == pytest.approx(wanted, abs=0.1)  # at another smearing
    assert nearsight.gap(c, kmesh=tuple(about["kmesh"]), points=6).to_json()["spin"] == "spinor"

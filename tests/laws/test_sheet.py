"""Laws of the electrostatics of a sheet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.scf import SCF
from nearsight.electrons import kpoints
from nearsight.integrals.mesh import Mesh
from tests import cases

GAMMA = kpoints.mesh((1, 1, 1))


def test_a_dipole_layer_has_flat_vacuum_on_both_sides_with_a_step_of_4_pi_times_its_moment():
    cell = torch.diag(torch.tensor([6.0, 6.0, 40.0], dtype=torch.float64))
    z = torch.arange(160, dtype=torch.float64) * 0.25
    layer = (torch.exp(-((z - 19) ** 2)) - torch.exp(-((z - 21) ** 2))) / torch.pi**0.5
    n = layer.expand(8, 8, 160)
    v = Mesh((8, 8, 160), cell, sheet=True).hartree_potential(n)[0, 0]
    left, right = v[44:60], v[-60:-44]  # within half a cell of both layers
    assert float(left.max() - left.min()) < 1e-6 and float(right.max() - right.min()) < 1e-6
    assert abs(float(left[0] - right[0]) - 4 * torch.pi * 2.0) < 1e-6
    plain = Mesh((8, 8, 160), cell).hartree_potential(n)[0, 0]
    assert float(plain[44:60].max() - plain[44:60].min()) > 1.0


def test_a_polar_molecule_between_vacuum_does_not_see_its_images_along_the_normal():
    species = cases.species_of(cases.water(), "sz")

    def energy(height, points, sheet):
        s = cases.water(12.0)
        cell = s.cell.clone()
        cell[2, 2] = height
        f = EnergyFunctional.of(replace(s, cell=cell), species, "lda", (24, 24, points), sheet=sheet)
        return ground_state(f, GAMMA, 0.002).total

    assert abs(energy(24.0, 48, True) - energy(30.0, 60, True)) < 2e-6
    assert abs(energy(24.0, 48, False) - energy(30.0, 60, False)) > 1e-4


def test_forces_and_stress_of_a_sheet_are_derivatives():
    s = cases.water(12.0)
    cell = s.cell.clone()
    cell[2, 2] = 24.0
    s = replace(s, cell=cell)
    species = cases.species_of(s, "sz")

    def solve(x):
        f = EnergyFunctional.of(x, species, "lda", (32, 32, 64), sheet=True)
        return ground_state(f, GAMMA, 0.002, SCF(tolerance=1e-8))

    found = forces_and_stress(solve(s))
    g = torch.Generator().manual_seed(0)
    move = torch.randn(3, 3, generator=g, dtype=torch.float64)
    strain = torch.diag(torch.tensor([0.4, -0.7, 0.5], dtype=torch.float64))
    h = 1e-3
    up, down = (solve(replace(s, positions=s.positions + x * h * move)).free for x in (1, -1))
    assert abs((up - down) / (2 * h) + float((found.forces * move).sum())) < 2e-5
    d = [torch.eye(3, dtype=torch.float64) + x * h * strain for x in (1, -1)]
    up, down = (solve(replace(s, cell=s.cell @ x, positions=s.positions @ x)).free for x in d)
    assert abs((up - down) / (2 * h) - float((found.stress * strain).sum() * s.volume)) < 1e-4


def test_a_sheet_that_fills_its_cell_is_refused():
    s = cases.graphene(12.0)
    with pytest.raises(NearsightError, match="more than half"):
        EnergyFunctional.of(s, cases.species_of(s, "sz"), "lda", (12, 12, 32), sheet=True)

"""Laws of band-limited fields and of the refined exchange-correlation mesh, and the egg box that they leave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.scf import SCF
from nearsight.electrons import kpoints
from nearsight.integrals import band_limited
from nearsight.integrals.atomic_functions import Spherical, superpose
from nearsight.integrals.mesh import Mesh, mesh_shape
from tests import cases

close = torch.testing.assert_close
GAMMA = kpoints.mesh((1, 1, 1))


def test_interpolation_is_exact_for_waves_and_its_own_adjoint():
    r = band_limited.Refinement((8, 9, 10), 2)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 9, 10, generator=g, dtype=torch.float64)
    y = torch.randn(16, 18, 20, generator=g, dtype=torch.float64)
    close((r.up(x) * y).sum() / y.numel(), (x * r.down(y)).sum() / x.numel())
    i, j, k = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in (8, 9, 10)), indexing="ij")
    wave = torch.cos(2 * torch.pi * (3 * i - 2 * j + 4 * k))
    i, j, k = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in (16, 18, 20)), indexing="ij")
    close(r.up(wave), torch.cos(2 * torch.pi * (3 * i - 2 * j + 4 * k)), atol=1e-12, rtol=0)


def test_a_band_limited_sum_agrees_with_the_sum_over_atoms_and_moves_rigidly():
    s = cases.skew()
    functions = {z: q.neutral_atom_potential for z, q in cases.species_of(s, "sz").items()}
    mesh = Mesh(mesh_shape(s.cell, 500.0), s.cell)
    plain, limited = superpose(mesh, s, Spherical.each(functions)), band_limited.superpose(mesh, s, functions)
    close(limited.mean(), plain.mean(), atol=2e-5, rtol=0)
    assert float((limited - plain).abs().mean()) < 2e-3
    coarse = Mesh(mesh_shape(s.cell, 100.0), s.cell)
    moved = replace(s, positions=s.positions + torch.tensor([0.11, 0.05, -0.08], dtype=torch.float64))
    norms = [band_limited.superpose(coarse, x, functions).square().sum() for x in (s, moved)]
    close(norms[0], norms[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["diamond", "graphene"])
def test_the_egg_box_at_200_ry_is_below_a_fifth_of_a_mev_per_atom(name):
    s = getattr(cases, name)()
    shape = mesh_shape(s.cell, 200.0)
    step = s.cell[0] / shape[0] + s.cell[1] / shape[1] + s.cell[2] / shape[2]
    energies = []
    for part in (0.0, 0.25, 0.5):
        x = replace(s, positions=s.positions + part * step)
        f = EnergyFunctional.of(x, cases.species_of(s), "pbe", shape, band_limited=True, xc_refinement=2)
        energies.append(ground_state(f, kpoints.mesh((2, 2, 1)), 0.002).total * 27211.4 / len(s))
    assert max(energies) - min(energies) < 0.2


def test_forces_and_stress_with_both_remedies():
    """At a mesh that holds the density: below it, interpolated densities ripple and the energy has kinks."""
    s = cases.skew()
    species, shape = cases.species_of(s, "sz"), mesh_shape(s.cell, 120.0)

    def solve(x):
        f = EnergyFunctional.of(x, species, "pbe", shape, band_limited=True, xc_refinement=2)
        return ground_state(f, GAMMA, 0.01, SCF(tolerance=1e-8))

    found = forces_and_stress(solve(s))
    g = torch.Generator().manual_seed(0)
    move, strain = (torch.randn(3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    strain = strain + strain.T
    h = 1e-3
    up, down = (solve(replace(s, positions=s.positions + x * h * move)).free for x in (1, -1))
    assert abs((up - down) / (2 * h) + float((found.forces * move).sum())) < 2e-5
    eye = torch.eye(3, dtype=torch.float64)
    up, down = (
        solve(replace(s, cell=s.cell @ (eye + x * h * strain), positions=s.positions @ (eye + x * h * strain))).free
        for x in (1, -1)
    )
    assert abs((up - down) / (2 * h) - float((found.stress * strain).sum() * s.volume)) < 5e-5

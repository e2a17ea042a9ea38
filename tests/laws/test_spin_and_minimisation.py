"""Laws of collinear spin and of direct minimisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.mixing import Pulay
from nearsight.dft.problem import Problem
from nearsight.dft.scf import SCF
from nearsight.electrons import kpoints
from nearsight.integrals.mesh import mesh_shape
from tests import cases
from tests.laws.test_dft import functional, random_direction

close = torch.testing.assert_close
GAMMA = kpoints.mesh((1, 1, 1))


def test_spin_without_moments_is_no_spin():
    f = functional("water")
    plain = ground_state(f, GAMMA, 0.002)
    spin = ground_state(f, GAMMA, 0.002, moments=[0.0, 0.0, 0.0])
    assert abs(plain.total - spin.total) < 1e-6  # PW92's constants as printed interpolate to 1e-6 only
    assert abs(spin.magnetic_moment) < 1e-9


@pytest.mark.parametrize("total", [None, 1.6])
def test_derivative_of_omega_with_spin_free_or_fixed_moment(total):
    f = functional("skew")
    problem = Problem.of(f, GAMMA, 0.02, total)
    start = f.initial_hamiltonian([1.0, 0.5, 0.0])
    gradient = problem.gradient(problem(start))
    direction = torch.cat([random_direction(f, s).values for s in (1, 2)])
    h = 1e-5
    d1, d2 = (
        problem(start.with_values(start.values + n * h * direction)).free
        - problem(start.with_values(start.values - n * h * direction)).free
        for n in (1, 2)
    )
    numeric = (8 * d1 - d2) / (12 * h)
    assert abs(float((gradient * direction).sum()) - numeric) < 2e-7 * abs(numeric) + 1e-9


def test_forces_of_a_magnetic_molecule_are_derivatives():
    s = cases.skew()
    species, shape = cases.species_of(s, "sz"), mesh_shape(s.cell, 60.0)

    def solve(x):
        f = EnergyFunctional.of(x, species, "pbe", shape)
        return ground_state(f, GAMMA, 0.01, SCF(tolerance=1e-8), moments=[2.0, 1.0, 0.0], total_moment=3.0)

    gs = solve(s)
    assert abs(gs.magnetic_moment - 3.0) < 1e-9
    move = torch.randn(len(s), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = 1e-3
    up, down = (solve(replace(s, positions=s.positions + x * h * move)).free for x in (1, -1))
    assert abs((up - down) / (2 * h) + float((forces_and_stress(gs).forces * move).sum())) < 5e-5


def test_minimisation_gives_the_energy_of_mixing_and_never_goes_up():
    f = functional("diamond")
    k = kpoints.mesh((2, 1, 1))
    mixed = ground_state(f, k, 0.002)
    minimised = ground_state(f, k, 0.002, DirectMinimisation())
    assert minimised.converged and abs(minimised.free - mixed.free) < 1e-9
    energies = [s.free for s in minimised.steps]
    assert all(b <= a + 1e-11 for a, b in zip(energies[:-1], energies[1:], strict=True))


def test_minimisation_converges_where_bad_mixing_does_not():
    f = functional("skew")
    bad = SCF(mixing=Pulay(weight=1.0, history=1), max_iterations=40)
    assert not ground_state(f, GAMMA, 0.0005, bad).converged
    assert ground_state(f, GAMMA, 0.0005, DirectMinimisation()).converged


def test_impossible_moments_are_refused():
    f = functional("water")
    with pytest.raises(NearsightError, match="more than"):
        ground_state(f, GAMMA, 0.002, moments=[9.0, 0.0, 0.0])
    with pytest.raises(NearsightError, match="more than"):
        ground_state(f, GAMMA, 0.002, moments=[1.0, 0.0, 0.0], total_moment=9.0)
    with pytest.raises(NearsightError, match="one for each atom"):
        ground_state(f, GAMMA, 0.002, moments=[1.0])

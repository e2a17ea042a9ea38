"""Laws of exchange and correlation, of every functional that is registered."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from nearsight.atoms.orbitals import BasisSettings, generate_species
from nearsight.core.registry import BUILT_IN, kinds
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.scf import SCF
from nearsight.electrons import kpoints
from nearsight.integrals.mesh import mesh_shape
from nearsight.xc.functionals import Functional, GradientCorrected, automatic, differentiable, functional
from nearsight.xc.radial import derivatives
from tests import cases

close = torch.testing.assert_close
NAMES = kinds("functionals")


def one_density() -> tuple[torch.Tensor, torch.Tensor]:
    n = torch.logspace(-6, 1, 40, dtype=torch.float64)
    return n[None], (n ** (8 / 3) * torch.linspace(0.01, 8.0, 40, dtype=torch.float64))[None]


def two_spins() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    n = 0.3 * torch.rand(2, 30, generator=g, dtype=torch.float64) + 1e-3
    up, down = 0.4 * torch.randn(2, 3, 30, generator=g, dtype=torch.float64)
    return n, torch.stack([(up * up).sum(0), (up * down).sum(0), (down * down).sum(0)])


@pytest.mark.parametrize("inputs", [one_density, two_spins])
@pytest.mark.parametrize("name", NAMES)
def test_derivatives_in_closed_form_are_the_automatic_ones(name, inputs):
    f = functional(name)
    n, sigma = inputs()
    closed, auto = f.derivatives(n, sigma), automatic(f, n, sigma)
    close(closed.e, auto.e, rtol=1e-11, atol=1e-15)
    close(closed.by_density, auto.by_density, rtol=1e-9, atol=1e-12)
    if f.uses_gradient:
        close(closed.by_sigma, auto.by_sigma, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("inputs", [one_density, two_spins])
@pytest.mark.parametrize("name", NAMES)
def test_the_differentiable_energy_has_right_first_and_second_derivatives(name, inputs):
    f = functional(name)
    n, sigma = (x[:, 24:30].clone().requires_grad_() for x in inputs())

    def e(n, sigma):
        return differentiable(f, n, sigma if f.uses_gradient else None)

    assert torch.autograd.gradcheck(e, (n, sigma), eps=1e-7, atol=1e-6, rtol=1e-5)
    assert torch.autograd.gradgradcheck(e, (n, sigma), eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_equal_spins_are_one_density(name):
    f = functional(name)
    n, sigma = one_density()
    one = f.derivatives(n, sigma)
    two = f.derivatives((n / 2).expand(2, -1), (sigma / 4).expand(3, -1))
    close(two.e, one.e, rtol=1e-11, atol=1e-15)
    close(two.by_density, one.by_density.expand(2, -1), rtol=1e-8, atol=1e-11)
    if f.uses_gradient:  # de/dsigma of the sum: sigma_uu + 2 sigma_ud + sigma_dd, each moved by a quarter
        close((two.by_sigma.sum(0) / 4)[None], one.by_sigma, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_exchanging_the_spins_changes_nothing(name):
    f = functional(name)
    n, sigma = two_spins()
    close(f.energy(n.flip(0), sigma.flip(0)), f.energy(n, sigma))


def test_energies_of_the_uniform_gas():
    """PW92: correlation per electron of -0.0598 Ha at rs = 1, -0.0448 at 2 and -0.0282 at 5; exchange -0.4582/rs."""
    rs = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    n = (3 / (4 * torch.pi * rs**3))[None]
    for name in ("lda", "pbe", "pbesol"):
        e = functional(name).derivatives(n, torch.zeros_like(n)).e
        expected = torch.tensor([-0.0598, -0.0448, -0.0282], dtype=torch.float64)
        close(e / n[0] + 0.458165 / rs, expected, atol=6e-5, rtol=0)


def test_fully_polarised_gas():
    """Exchange of one spin is 2^(1/3) that of two; PW92's ferromagnetic correlation at rs = 2 is -0.0240 Ha."""
    n = torch.tensor([[3 / (4 * torch.pi * 8)], [0.0]], dtype=torch.float64)
    e = functional("lda").derivatives(n).e
    close(e / n[0] + 2 ** (1 / 3) * 0.458165 / 2, torch.tensor([-0.0240], dtype=torch.float64), atol=3e-4, rtol=0)


def test_the_constants_are_those_of_the_papers():
    assert GradientCorrected().beta == 0.066725 and functional("pbesol").mu == 10 / 81


@dataclass(frozen=True)
class Toy(Functional):
    """Exchange alone, with a gradient: as another distribution would add it."""

    uses_gradient: ClassVar[bool] = True
    pseudopotentials: str | None = "pbe"

    def energy_density(self, n, sigma=None, tau=None):
        n = n.clamp(min=1e-14)
        return (-0.369 * (2 * n).pow(4 / 3) - 2e-3 * sigma[[0, 2]] / n.pow(4 / 3) / (1 + n)).sum(0)


@pytest.mark.parametrize("moments", [None, [1.0, 0.5, 0.0]], ids=["none", "collinear"])
def test_a_functional_from_outside_makes_atoms_and_ground_states(moments, monkeypatch):
    monkeypatch.setitem(BUILT_IN["functionals"], "toy", f"{__name__}:Toy")
    assert __name__ in sys.modules
    species = {z: generate_species(x, "toy", BasisSettings(size="sz")) for z, x in ((8, "O"), (6, "C"), (1, "H"))}
    s = cases.skew()

    def solve(x):
        f = EnergyFunctional.of(x, species, "toy", mesh_shape(s.cell, 60.0))
        return ground_state(f, kpoints.mesh((1, 1, 1)), 0.01, SCF(tolerance=1e-8), moments=moments)

    gs = solve(s)
    assert gs.converged and gs.energies["Exc"] < 0
    move = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    up, down = (solve(replace(s, positions=s.positions + h * move)).free for h in (1e-3, -1e-3))
    assert abs((up - down) / 2e-3 + float((forces_and_stress(gs).forces * move).sum())) < 5e-5
    n, slope, d = np.array([0.05, 0.4]), np.array([-0.03, 0.2]), 1e-6  # in atoms
    up, down = (derivatives(n, slope + h, "toy")[0] for h in (d, -d))
    assert derivatives(n, slope, "toy")[2] == pytest.approx((up - down) / (2 * d), rel=1e-6)

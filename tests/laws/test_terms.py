"""Every term keeps the law of terms: our own by the registry, and terms written as a third party would."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from nearsight.core.errors import BadInput
from nearsight.core.registry import kinds, load
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.scf import SCF
from nearsight.dft.terms import ALL, DirectTerm, NeutralAtom, State, Symmetry, System, Term
from nearsight.dft.terms.exchange_correlation import ExchangeCorrelation
from nearsight.electrons import kpoints
from nearsight.integrals.mesh import mesh_shape
from nearsight.xc.functionals import LDA
from tests import cases
from tests.laws.terms import TermLaws

GAMMA = kpoints.mesh((1, 1, 1))


@dataclass(frozen=True)
class SinePotential(DirectTerm):
    """E = int A sin(G.r) n"""

    amplitude: float = 0.1
    wave: tuple[int, int, int] = (1, 0, -1)
    name: str = "Esine"

    keeps: ClassVar[frozenset[Symmetry]] = frozenset({Symmetry.ROTATION, Symmetry.TIME_REVERSAL})

    def energy(self, state: State) -> Tensor:
        axes = [torch.arange(n, dtype=torch.float64, device=state.density.device) / n for n in state.mesh.shape]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        a, b, c = self.wave
        return state.integral(self.amplitude * torch.sin(2 * torch.pi * (a * x + b * y + c * z)), state.charge)


@dataclass(frozen=True)
class ElectricField(DirectTerm):
    """A uniform field along the third lattice vector, a sawtooth at its end: E = int F z n - sum_a Z_a F z_a."""

    field: float = 0.02
    name: str = "Efield"

    keeps: ClassVar[frozenset[Symmetry]] = frozenset({Symmetry.ROTATION, Symmetry.TIME_REVERSAL})

    def energy(self, state: State) -> Tensor:
        height = state.structure.cell[2].norm()
        n = state.mesh.shape[2]
        z = torch.arange(n, dtype=torch.float64, device=state.density.device) / n * height
        valence = [state.system.species[x].valence for x in state.structure.numbers.tolist()]
        at = (state.structure.positions @ torch.linalg.inv(state.structure.cell))[:, 2] * height
        nuclei = (at.new_tensor(valence) * at).sum()
        return self.field * (state.integral(z.expand(state.mesh.shape), state.charge) - nuclei)


@dataclass(frozen=True)
class Hubbard(DirectTerm):
    """E = U/2 sum_k Tr[n_k (1 - n_k)] of occupations n_k = <phi_k| D |phi_k> of one shell, spin by spin."""

    element: int
    shell: int
    u: float = 0.15
    name: str = "Ehubbard"

    keeps: ClassVar[frozenset[Symmetry]] = ALL

    def energy(self, state: State) -> Tensor:
        radial = state.system.species[self.element].orbitals[self.shell].radial
        projections = state.system.projections({self.element: [radial]})
        n = projections.occupations(state.density_matrix)[self.element]
        trace = state.spin.trace(n.diagonal(dim1=-2, dim2=-1).sum((-2, -1)))
        return 0.5 * self.u * (trace.real - (n * n.conj()).real.sum())


@dataclass(frozen=True)
class Charging(DirectTerm):
    """E = k/2 sum_a N_a^2 of Mulliken populations N_a = sum_ij D_ij S_ij."""

    k: float = 0.05
    name: str = "Echarging"

    keeps: ClassVar[frozenset[Symmetry]] = ALL

    def energy(self, state: State) -> Tensor:
        layout = state.system.layout
        each = state.spin.charge(state.density_matrix.values) * state.system.overlap.values[0]
        atoms = each.new_zeros(len(state.structure)).index_add(0, layout.pairs.i[layout.pair], each)
        return 0.5 * self.k * atoms.square().sum()


@dataclass(frozen=True)
class PairPotential(DirectTerm):
    """E = 1/2 sum_ab A exp(-R_ab / rho) over the pairs of the matrix layout."""

    name: str = "Epair"

    keeps: ClassVar[frozenset[Symmetry]] = ALL

    def energy(self, state: State) -> Tensor:
        pairs = state.system.layout.pairs
        r = pairs.vectors(state.structure)[(pairs.i != pairs.j) | (pairs.R != 0).any(1)].norm(dim=1)
        return 0.5 * (0.3 * torch.exp(-r / 1.5)).sum()


THIRD_PARTY: dict[str, Term] = {
    "sine": SinePotential(),
    "field": ElectricField(),
    "hubbard": Hubbard(6, 1),
    "charging": Charging(),
    "pairs": PairPotential(),
}


def law_of(term_under_test: Term) -> type:
    class Law(TermLaws):
        term = term_under_test

    return Law


REQUIRED = {"moment-field": {"fields_ev": [[0.3, -0.1, 0.2], [0.0, 0.4, -0.2], [-0.5, 0.1, 0.3]]}}
for _kind in kinds("terms"):
    globals()[f"Test_{_kind}"] = law_of(load("terms", _kind)(**REQUIRED.get(_kind, {})))
for _name, _term in THIRD_PARTY.items():
    globals()[f"Test_third_party_{_name}"] = law_of(_term)
TestLDA = law_of(ExchangeCorrelation(LDA))


class TestExchangeCorrelationNearNuclei(TermLaws):
    term = ExchangeCorrelation(near_nuclei=2)


class TestNeutralAtomOfTheMeshsWaves(TermLaws):
    term = NeutralAtom()

    def system(self, device: str) -> System:
        return replace(super().system(device), limited=True)


class TestRefinedExchangeCorrelation(TermLaws):
    term = ExchangeCorrelation(refinement=2)
    cutoff = 120.0  # at 60 Ry interpolated densities ripple through zero, where the energy has kinks


@pytest.mark.parametrize("moments", [None, [1.0, 0.5, 0.0]], ids=["none", "collinear"])
@pytest.mark.parametrize("name", THIRD_PARTY)
def test_a_ground_state_with_a_term_of_ones_own_has_its_forces(name, moments):
    s = cases.skew()
    species, shape = cases.species_of(s, "sz"), mesh_shape(s.cell, 60.0)

    def solve(x):
        f = EnergyFunctional.of(x, species, "pbe", shape, terms=[THIRD_PARTY[name]])
        return ground_state(f, GAMMA, 0.01, SCF(tolerance=1e-8), moments=moments)

    gs = solve(s)
    assert gs.converged and gs.energies[THIRD_PARTY[name].name] != 0
    assert abs(gs.total - gs.harris) < 1e-8
    move = torch.randn(len(s), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = 1e-3
    up, down = (solve(replace(s, positions=s.positions + x * h * move)).free for x in (1, -1))
    assert abs((up - down) / (2 * h) + float((forces_and_stress(gs).forces * move).sum())) < 5e-5


def test_a_molecule_in_a_field_is_polarised_and_feels_no_net_force():
    s = cases.water(16.0)
    species = cases.species_of(s, "sz")

    def solve(field):
        terms = [ElectricField(field)] if field else []
        return ground_state(EnergyFunctional.of(s, species, "lda", (48, 48, 48), terms=terms), GAMMA, 0.002)

    gs = solve(0.01)
    energies = [solve(field).total for field in (-0.01, 0.0)] + [gs.total]
    assert energies[0] + energies[2] < 2 * energies[1] - 1e-5  # -1/2 alpha F^2
    net = forces_and_stress(gs).forces.sum(0) - forces_and_stress(solve(0.0)).forces.sum(0)
    assert float(net.abs().max()) < 1e-4  # the ripple of the mesh is what is left


def test_two_energies_of_one_name_are_refused():
    s = cases.skew()
    with pytest.raises(BadInput, match="two terms of the energy are named Esine"):
        EnergyFunctional.of(s, cases.species_of(s, "sz"), "lda", (12, 12, 12), terms=[SinePotential(), SinePotential()])

"""The law of a term of the energy: inherit `TermLaws`, give it a term, and its derivatives are held to finite differences.

class TestSine(TermLaws):
    term = SinePotential(amplitude=0.1)
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.structure import Structure
from nearsight.dft.forces import derivatives_at_fixed_density_matrix
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.terms import BoundTerm, State, Symmetry, System, Term
from nearsight.integrals.grid import GridOrbitals
from nearsight.integrals.mesh import Mesh, mesh_shape
from tests import cases

close = torch.testing.assert_close
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


@cache
def system_of(name: str, cutoff: float, device: str) -> System:
    s = getattr(cases, name)()
    return System.of(s.to(device), cases.species_of(s, "sz"), mesh_shape(s.cell, cutoff))


def same_orbitals(system: System, structure: Structure) -> System:
    """The system of another structure on the same pairs and mesh, made anew."""
    mesh = Mesh(system.mesh.shape, structure.cell, system.mesh.sheet)
    grid = GridOrbitals.of(structure, system.species, system.layout, mesh)
    return System(structure, system.species, system.layout, mesh, grid, system.quadrature, system.limited)


def positive_density_matrix(system: System, spin: Spin) -> BlockMatrix:
    """P^1/2 S P^1/2, positive as S is, with populations P of each spin; a spinor's moment is turned away from all axes."""
    layout = system.layout
    populations = [p for z in system.structure.numbers.tolist() for p in system.species[z].orbital_populations]
    p = torch.tensor(populations, dtype=torch.float64, device=layout.device).clamp(min=0.1)
    parts = []
    for share in (1.0,) if spin is NONE else (0.6, 0.35):
        root = (share * p + 0.1 * (1 - share) * p.square()).sqrt()
        parts.append(root[layout.row] * system.overlap.values[0] * root[layout.column])
    values = torch.stack(parts)
    if spin is SPINOR:
        zero = torch.zeros_like(values[0])
        upright = torch.stack([values[0], zero, zero, values[1]])
        values = spin.rotated(upright, cases.random_rotation(5))
    return BlockMatrix(layout, values, spin)


def direction(system: System, spin: Spin, seed: int = 0) -> BlockMatrix:
    """A random hermitian matrix."""
    g = torch.Generator().manual_seed(seed)
    shape = (2, spin.components, system.layout.size)
    real, imaginary = torch.randn(*shape, generator=g, dtype=torch.float64).to(system.layout.device)
    values = torch.complex(real, imaginary) if spin is SPINOR else real
    return BlockMatrix(system.layout, 0.1 * values, spin).hermitian()


def inner(a: BlockMatrix, b: BlockMatrix) -> Tensor:
    """Re sum a* b, the change of an energy with gradient a along b."""
    return (a.values.conj() * b.values).real.sum() if a.values.is_complex() else (a.values * b.values).sum()


def central(f, h: float):
    """f'(0) by a difference of fourth order."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("spin", [NONE, COLLINEAR, SPINOR], ids=str)
class TermLaws:
    """term: under test.  structure: name of a case.  cutoff: of the mesh [Ry].  tolerance: relative, of derivatives against
    differences.  length_step: of positions [Bohr]."""

    term: ClassVar[Term]
    structure: ClassVar[str] = "skew"
    cutoff: ClassVar[float] = 60.0
    tolerance: ClassVar[float] = 1e-6
    length_step: ClassVar[float] = 2e-3

    def system(self, device: str) -> System:
        return system_of(self.structure, self.cutoff, device)

    def functional(self, device: str) -> EnergyFunctional:
        return EnergyFunctional.bind(self.system(device), (self.term,), 1.0)

    def energy_of(self, structure: Structure, d: BlockMatrix, device: str) -> Tensor:
        moved = same_orbitals(self.system(device), structure)
        return self.term.on(moved).energy(State.of(moved, d))

    def test_the_gradient_is_that_of_the_energy(self, spin: Spin, device: str) -> None:
        f = self.functional(device)
        d, x = positive_density_matrix(f.system, spin), direction(f.system, spin)
        numeric = central(lambda h: f.energy(d + h * x), 1e-4)
        evaluation = f.evaluate(d)
        close(inner(evaluation.hamiltonian, x), numeric, rtol=self.tolerance, atol=1e-9)
        close(evaluation.total, f.energy(d), rtol=1e-12, atol=1e-13)
        close(evaluation.hamiltonian.values, evaluation.hamiltonian.dagger().values, rtol=0, atol=1e-10)

    def test_a_closed_form_is_the_automatic_one(self, spin: Spin, device: str) -> None:
        f = self.functional(device)
        state = f.state(positive_density_matrix(f.system, spin))
        energy, gradient = BoundTerm.evaluate(f.terms[0], state)
        own, closed = f.terms[0].evaluate(state)
        close(energy, own, rtol=1e-12, atol=1e-13)
        close(f._matrix([gradient], spin).values, f._matrix([closed], spin).values, rtol=1e-9, atol=1e-10)

    def test_closed_forces_and_stress_are_the_automatic_ones(
        self, spin: Spin, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        system = self.system(device)
        d = positive_density_matrix(system, spin)
        closed = derivatives_at_fixed_density_matrix(system, (self.term,), d)
        monkeypatch.setattr(type(self.term.on(system)), "by_structure", BoundTerm.by_structure)
        automatic = derivatives_at_fixed_density_matrix(system, (self.term,), d)
        close(closed.forces, automatic.forces, rtol=1e-8, atol=1e-11)
        close(closed.stress, automatic.stress, rtol=1e-8, atol=1e-12)

    def test_the_kernel_is_the_derivative_of_the_gradient(self, spin: Spin, device: str) -> None:
        f = self.functional(device)
        d, x, y = positive_density_matrix(f.system, spin), direction(f.system, spin), direction(f.system, spin, 1)
        x = x * 0.1 + d * 0.3  # where there is hardly any density, a kernel of exchange has no linear range
        numeric = central(lambda h: inner(f.evaluate(d + h * x).hamiltonian, y), 1e-4)
        close(inner(f.kernel(d, x), y), numeric, rtol=10 * self.tolerance, atol=1e-8)

    def test_forces_are_derivatives_at_fixed_density_matrix(self, spin: Spin, device: str) -> None:
        system = self.system(device)
        s, d = system.structure, positive_density_matrix(system, spin)
        found = derivatives_at_fixed_density_matrix(system, (self.term,), d)
        g = torch.Generator().manual_seed(0)
        move = torch.randn(len(s), 3, generator=g, dtype=torch.float64).to(device)
        numeric = central(
            lambda h: self.energy_of(replace(s, positions=s.positions + h * move), d, device), self.length_step
        )
        close(-(found.forces * move).sum(), numeric, rtol=self.tolerance, atol=2e-8)

    def test_stress_is_a_derivative_at_fixed_density_matrix(self, spin: Spin, device: str) -> None:
        system = self.system(device)
        s, d = system.structure, positive_density_matrix(system, spin)
        found = derivatives_at_fixed_density_matrix(system, (self.term,), d)
        strain = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
        strain = 0.5 * (strain + strain.T)
        eye = torch.eye(3, dtype=torch.float64, device=device)

        def energy(h: float) -> Tensor:
            return self.energy_of(
                replace(s, cell=s.cell @ (eye + h * strain), positions=s.positions @ (eye + h * strain)), d, device
            )

        numeric = central(energy, self.length_step / 5)
        close((found.stress * strain).sum() * s.volume, numeric, rtol=self.tolerance, atol=5e-8)

    def test_symmetries_that_it_keeps(self, spin: Spin, device: str) -> None:
        system = self.system(device)
        s, d = system.structure, positive_density_matrix(system, spin)
        bound = self.term.on(system)
        energy = bound.energy(State.of(system, d))
        if Symmetry.TRANSLATION in bound.keeps:
            step = 3 * system.mesh.steps[0] - 2 * system.mesh.steps[2]
            moved = self.energy_of(replace(s, positions=s.positions + step), d, device)
            close(moved, energy, rtol=1e-10, atol=1e-10)
        if Symmetry.ROTATION in bound.keeps and spin is not SPINOR:
            r = cases.random_rotation(3, improper=True)
            close(self.energy_of(s.rotate(r), d.rotate(r), device), energy, rtol=1e-9, atol=1e-9)
        if Symmetry.TIME_REVERSAL in bound.keeps:
            reversed_ = d.with_values(spin.time_reversed(d.values))
            close(bound.energy(State.of(system, reversed_)), energy, rtol=1e-11, atol=1e-12)

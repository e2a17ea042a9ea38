"""The law of density solvers: what the electrons of a Hamiltonian keep, whichever solver makes them.

A third party's solver inherits `SolverLaws` and sets `kind` to the name under which it is registered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput, NearsightError, Unavailable
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.registry import load
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, SPINS, Spin
from nearsight.electrons import kpoints
from nearsight.electrons.density_matrix import density_matrix
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.levels import Filling
from nearsight.electrons.smearing import SMEARINGS
from nearsight.electrons.solvers.contract import BoundSolver, DensitySolver, Electrons
from tests import cases
from tests.laws.spin import random_matrix, random_overlap

close = torch.testing.assert_close
KT = 0.05


class SolverLaws:
    """Inherit, and set `kind` (and `settings`, `device`)."""

    kind: str
    settings: ClassVar[dict[str, Any]] = {}
    device = "cpu"
    tolerance = 1e-9  # of what an exact solver keeps to rounding

    @pytest.fixture(params=SPINS.values(), ids=repr)
    def spin(self, request: pytest.FixtureRequest) -> Spin:
        return request.param

    def solver(self) -> DensitySolver:
        return load("solvers", self.kind)(**self.settings)

    def kpoints(self, spin: Spin) -> KPoints:
        """Spinors without time reversal need all points."""
        return kpoints.mesh((2, 1, 2), (0.0, 0.0, 0.5), time_reversal=spin is not SPINOR).to(self.device)

    def hamiltonian(self, spin: Spin, seed: int = 0) -> BlockMatrix:
        return random_matrix(spin, seed, self.device, complex_values=spin is SPINOR)

    def bound(self, spin: Spin, electrons: float = 9.0, kT: float = KT, **words: Any) -> BoundSolver:
        overlap = random_overlap(device=self.device)
        return self.solver().bind(overlap, self.kpoints(spin), Filling(electrons, kT, **words))

    def solved(self, spin: Spin, **words: Any) -> Electrons:
        return self.bound(spin, **words).solve(self.hamiltonian(spin))

    def molecule(self, spin: Spin) -> tuple[BlockMatrix, BlockMatrix, KPoints]:
        """H, S and Gamma alone, with a block for each two atoms: D is whole on the layout."""
        s = cases.structure([[60, 0, 0], [0, 60, 0], [0, 0, 60]], [[0, 0, 0], [2, 1, 0.5], [-1, 2, 1]], [8, 6, 1])
        layout = BlockLayout(Basis.of(s.numbers, {8: (0, 1), 6: (0, 1), 1: (0,)}), Pairs.within(s, 8.0))
        g = torch.Generator().manual_seed(1)
        dtype = torch.complex128 if spin is SPINOR else torch.float64
        h = BlockMatrix(layout, torch.randn(spin.components, layout.size, generator=g, dtype=dtype), spin).hermitian()
        plain = BlockMatrix(layout, 0.03 * torch.randn(1, layout.size, generator=g, dtype=torch.float64)).hermitian()
        overlap = plain.with_values(plain.values + _identity(layout))
        k = kpoints.mesh((1, 1, 1), time_reversal=spin is not SPINOR)
        return h.to(self.device), overlap.to(self.device), k.to(self.device)

    @pytest.mark.parametrize("smearing", SMEARINGS)
    def test_the_electrons_are_counted(self, spin, smearing):
        e = self.solved(spin, smearing=SMEARINGS[smearing])
        s = random_overlap(device=self.device)
        close(float(e.density_matrix.trace(s)), 9.0, rtol=self.tolerance, atol=0)
        close(e.density_matrix.dagger().values, e.density_matrix.values, rtol=0, atol=self.tolerance)
        assert e.density_matrix.spin is spin and e.density_matrix.values.device.type == self.device

    def test_the_weighted_matrix_carries_the_band_energy(self, spin):
        e, s = self.solved(spin), random_overlap(device=self.device)
        close(e.energy_weighted.trace(s), e.density_matrix.trace(e.hamiltonian), rtol=self.tolerance, atol=0)
        close(e.energy_weighted.dagger().values, e.energy_weighted.values, rtol=0, atol=self.tolerance)

    def test_full_and_empty_levels_make_a_projector(self, spin):
        """D S D = g D as kT -> 0."""
        h, s, k = self.molecule(spin)
        electrons = 4 * spin.electrons_per_level
        d = self.solver().bind(s, k, Filling(electrons, 1e-5)).solve(h).density_matrix.at_k(k.k)
        dense = s.embed(spin).at_k(k.k).to(d.dtype)
        close(d @ dense @ d, spin.electrons_per_level * d, rtol=0, atol=1e-6)

    def test_levels_belong_to_the_density_matrix(self, spin):
        e = self.solved(spin)
        if e.levels is None:
            return
        total = (e.levels.electrons * e.levels.weights[None, :, None]).sum()
        close(float(total), 9.0, rtol=self.tolerance, atol=0)
        energy = (e.levels.electrons * e.levels.energies * e.levels.weights[None, :, None]).sum()
        close(energy, e.density_matrix.trace(e.hamiltonian), rtol=self.tolerance, atol=0)
        assert bool((e.levels.energies.diff(dim=-1) >= 0).all())

    def test_the_zero_of_energy_has_no_effect(self, spin):
        bound, h, c = self.bound(spin), self.hamiltonian(spin), 0.37
        moved = h + c * bound.overlap.embed(spin).on(h.layout)
        one, two = bound.solve(h), bound.solve(moved)
        close(two.density_matrix.values, one.density_matrix.values, rtol=0, atol=self.tolerance)
        close(two.fermi_level, one.fermi_level + c, rtol=0, atol=self.tolerance)
        close(two.entropy_term, one.entropy_term, rtol=0, atol=self.tolerance)
        shifted = one.energy_weighted + c * one.density_matrix
        close(two.energy_weighted.values, shifted.values, rtol=0, atol=10 * self.tolerance)

    def test_turned_orbitals_and_spins_give_the_turned_density(self, spin):
        r = cases.random_rotation(2, improper=True)
        bound = self.bound(spin)
        turned = self.solver().bind(bound.overlap.rotate(r), bound.kpoints, bound.filling)
        d = turned.solve(self.hamiltonian(spin).rotate(r)).density_matrix
        close(
            d.values, bound.solve(self.hamiltonian(spin)).density_matrix.rotate(r).values, rtol=0, atol=self.tolerance
        )

    def test_no_spin_is_every_spin_alike(self, spin):
        plain = self.hamiltonian(NONE)
        h = plain.embed(spin)
        h = h.with_values(h.values.to(torch.complex128)) if spin is SPINOR else h
        d, one = self.bound(spin).solve(h).density_matrix, self.bound(NONE).solve(plain).density_matrix
        close(spin.charge(d.values), one.values[0], rtol=0, atol=self.tolerance)
        close(spin.moment(d.values), torch.zeros_like(spin.moment(d.values)), rtol=0, atol=self.tolerance)

    def test_half_of_the_zone_is_enough_with_time_reversal(self, spin):
        m = self.hamiltonian(spin)
        even = m.with_values(0.5 * (m.values + spin.at_minus_k(m.values)))
        filling, s = Filling(9.0, KT), random_overlap(device=self.device)
        half, full = (kpoints.mesh((3, 2, 1), time_reversal=t).to(self.device) for t in (True, False))
        one, two = (self.solver().bind(s, k, filling).solve(even).density_matrix for k in (half, full))
        close(one.values, two.values, rtol=0, atol=self.tolerance)

    def test_a_moment_is_held(self):
        e = self.solved(COLLINEAR, moment=1.5)
        up, down = (BlockMatrix(e.density_matrix.layout, v[None]) for v in e.density_matrix.values)
        s = random_overlap(device=self.device)
        close(float(up.trace(s) - down.trace(s)), 1.5, rtol=self.tolerance, atol=0)

    def test_the_free_energy_of_the_levels_has_the_density_as_its_derivative(self, spin):
        """A = Tr[D H] - T S: dA = Tr[D dH] at fixed number of electrons."""
        bound, h, change = self.bound(spin), self.hamiltonian(spin), self.hamiltonian(spin, 3)

        def free(step: float) -> float:
            e = bound.solve(h + step * change)
            return float(e.density_matrix.trace(e.hamiltonian) - e.entropy_term)

        x = 1e-3
        slope = (8 * (free(x) - free(-x)) - (free(2 * x) - free(-2 * x))) / (12 * x)
        close(slope, float(bound.solve(h).density_matrix.trace(change)), rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("moment", [None, 1.5])
    def test_the_response_is_the_derivative_of_the_density(self, spin, moment):
        if moment and spin is not COLLINEAR:
            return
        bound, h, change = self.bound(spin, moment=moment), self.hamiltonian(spin), self.hamiltonian(spin, 3)
        found = _response(bound.solve(h))(change)
        x = 1e-3
        d = [bound.solve(h + n * x * change).density_matrix.values for n in (1, -1, 2, -2)]
        close(found.values, (8 * (d[0] - d[1]) - (d[2] - d[3])) / (12 * x), rtol=1e-6, atol=1e-8)
        assert abs(float(found.trace(bound.overlap))) < 100 * self.tolerance  # no electron comes or goes

    def test_the_response_is_self_adjoint_and_never_positive(self, spin):
        chi0 = _response(self.solved(spin))
        a, b = self.hamiltonian(spin, 3), self.hamiltonian(spin, 4)
        close(chi0(a).trace(b), chi0(b).trace(a), rtol=1e-8, atol=self.tolerance)
        assert float(chi0(a).trace(a)) < 0

    def test_the_derivative_of_the_energy_in_the_hamiltonian(self, spin):
        """dOmega/dH by autograd against differences, Omega a function of D less T S."""
        bound, weight = self.bound(spin), self.hamiltonian(spin, 2)

        def omega(h: BlockMatrix) -> torch.Tensor:
            d = density_matrix(h, bound)
            linear = d.matrix.trace(weight)
            return linear + 0.1 * linear**2 - d.entropy_term

        h, change, x = self.hamiltonian(spin), self.hamiltonian(spin, 3), 1e-3
        values = h.values.clone().requires_grad_()
        try:
            omega(h.with_values(values)).backward()
        except Unavailable as error:
            pytest.skip(str(error))
        with torch.no_grad():
            w = [float(omega(h + n * x * change)) for n in (1, -1, 2, -2)]
        slope = (8 * (w[0] - w[1]) - (w[2] - w[3])) / (12 * x)
        along = (values.grad.conj() * change.values).real.sum()
        close(float(along), slope, rtol=1e-7, atol=1e-9)

    def test_what_cannot_be_solved_is_said_in_one_line(self, spin):
        bound, h = self.bound(spin), self.hamiltonian(spin)
        broken = h.values.clone()
        broken[0, 0] = torch.nan
        if self.device == "cpu":
            with pytest.raises(BadInput, match="not finite"):
                bound.solve(h.with_values(broken))
        with pytest.raises(BadInput, match="do not fit"):
            self.bound(spin, electrons=31.0).solve(h)
        with pytest.raises(BadInput, match="must be positive"):
            self.bound(spin, kT=0.0)
        overlap = random_overlap(device=self.device)
        with pytest.raises(NearsightError, match="not positive definite"):
            self.solver().bind(overlap - overlap - overlap, bound.kpoints, bound.filling)

    def test_spinors_with_moments_need_all_k_points(self):
        filling, s = Filling(9.0, KT), random_overlap(device=self.device)
        bound = self.solver().bind(s, replace(self.kpoints(NONE), time_reversal=True), filling)
        with pytest.raises(BadInput, match="time_reversal=False"):
            bound.solve(self.hamiltonian(SPINOR))


def _response(electrons: Electrons) -> Any:
    try:
        return electrons.response()
    except Unavailable as error:
        pytest.skip(str(error))


def _identity(layout: BlockLayout) -> torch.Tensor:
    """[1, size]"""
    row, column = layout.local
    same = torch.isin(layout.pair.long(), layout.pairs.on_site)
    return ((row == column) & same).double()[None]

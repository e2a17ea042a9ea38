"""The law of spin: what every kind of it keeps, whatever the matrix."""

from __future__ import annotations

import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.so3 import spin_half
from nearsight.core.spin import NONE, SPINS, Spin, by_components, spin
from nearsight.electrons import kpoints
from nearsight.electrons.eigen import eigenvalues
from tests import cases

close = torch.testing.assert_close
K = torch.tensor([[0.0, 0.0, 0.0], [0.1, -0.3, 0.27], [0.5, 0.5, 0.0]], dtype=torch.float64)


def random_matrix(kind: Spin, seed: int = 0, device: str = "cpu", complex_values: bool = True) -> BlockMatrix:
    """A hermitian matrix between the orbitals of three atoms without symmetry."""
    s = cases.skew()
    layout = BlockLayout(Basis.of(s.numbers, {8: (0, 1, 2), 6: (0, 0, 1), 1: (0,)}), Pairs.within(s, 8.0))
    dtype = torch.complex128 if complex_values else torch.float64
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(kind.components, layout.size, generator=g, dtype=dtype)
    return BlockMatrix(layout, values, kind).hermitian().to(device)


def random_overlap(kind: Spin = NONE, device: str = "cpu") -> BlockMatrix:
    """A positive definite matrix on the same pairs, without spin."""
    m = random_matrix(NONE, 7, complex_values=False)
    values = 0.02 * m.values.clone()
    for pair in m.pairs.on_site.tolist():
        n = int(m.layout.shapes[pair, 0])
        a = int(m.layout.boundaries[pair])
        values[0, a : a + n * n] += torch.eye(n, dtype=values.dtype).flatten()
    return m.with_values(values).to(device).embed(kind)


class SpinLaws:
    """Inherit, and set `kind`."""

    kind: Spin
    device = "cpu"

    def matrix(self, seed: int = 0, complex_values: bool = True) -> BlockMatrix:
        return random_matrix(self.kind, seed, self.device, complex_values)

    def any_matrix(self) -> BlockMatrix:
        """One that is not hermitian."""
        m = self.matrix()
        return m.with_values(m.values * torch.linspace(0.5, 1.5, m.layout.size, device=m.layout.device))

    def test_its_counts_belong_together(self):
        kind = self.kind
        assert len(kind.blocks) == len(kind.dagger) == kind.components
        assert [kind.blocks[c] for c in kind.dagger] == [(t, s) for s, t in kind.blocks]
        assert list(kind.diagonal) == [c for c, (s, t) in enumerate(kind.blocks) if s == t]
        # full levels hold two electrons an orbital
        assert kind.matrices * kind.size_factor * kind.electrons_per_level == 2
        assert spin(kind.name) is kind and by_components(kind.components) is kind and SPINS[kind.name] is kind

    def test_the_adjoint_twice_is_the_matrix(self):
        m = self.any_matrix()
        close(m.dagger().dagger().values, m.values)
        assert (m.dagger().values - m.values).abs().max() > 0.1

    def test_hermitian_matrices_have_a_half_and_a_real_trace(self):
        a, b = self.matrix(0), self.matrix(1)
        close(BlockMatrix.from_half(a.layout, a.half_values(), self.kind).values, a.values)
        close(a.trace(b), b.trace(a))
        full = torch.einsum("skab,skba->k", a.at_k(K), b.at_k(K))
        close(full.imag, torch.zeros_like(full.imag), atol=1e-9, rtol=0)

    def test_the_trace_is_that_of_the_matrices(self):
        """Tr[A B] of all M(R) is that of M(k), averaged over a mesh so fine that no two cells of the pairs fall together."""
        a, b = self.any_matrix(), self.matrix(1)
        k = kpoints.mesh((7, 7, 7), time_reversal=False)
        dense = torch.einsum("skab,skba->k", a.at_k(k.k), b.at_k(k.k)).real @ k.weights.to(self.device)
        close(a.trace(b), dense)

    def test_the_overlap_counts_electrons(self):
        """Tr[D S] is that with the embedded overlap, of any density matrix."""
        d, s = self.matrix(), random_overlap(device=self.device)
        close(d.trace(s), d.trace(s.embed(self.kind)))
        close(d.trace(s), s.trace(d))
        charge = BlockMatrix(d.layout, self.kind.charge(d.values)[None])
        close(d.trace(s), charge.trace(s))

    def test_full_levels_hold_two_electrons_an_orbital(self):
        s = random_overlap(self.kind, self.device)
        levels = torch.linalg.eigvalsh(s.at_k(K[1:2]))
        assert levels.numel() * self.kind.electrons_per_level == 2 * s.basis.size

    def test_a_matrix_with_spin_is_not_embedded_in_another(self):
        for other in SPINS.values():
            if other is not self.kind and self.kind is not NONE:
                with pytest.raises(NearsightError, match="embedded"):
                    self.matrix().embed(other)

    @pytest.mark.parametrize("improper", [False, True])
    def test_rotations_form_a_group_and_keep_traces(self, improper):
        m, other = self.matrix(), self.matrix(1)
        a, b = cases.random_rotation(1, improper), cases.random_rotation(2)
        close(m.rotate(b).rotate(a).values, m.rotate(a @ b).values)
        close(m.rotate(a).rotate(a.T).values, m.values)
        close(m.rotate(a).trace(other.rotate(a)), m.trace(other))
        close(m.rotate(a).dagger().values, m.dagger().rotate(a).values)

    def test_rotations_keep_the_levels(self):
        h, s, r = self.matrix(), random_overlap(device=self.device), cases.random_rotation(4, improper=True)
        close(eigenvalues(h.rotate(r), s.rotate(r), K), eigenvalues(h, s, K))

    def test_moments_turn_as_axial_vectors(self):
        d, r = self.matrix(), cases.random_rotation(3, improper=True)
        before, after = self.kind.moment(d.values), self.kind.moment(self.kind.rotated(d.values, r))
        axial = (r * torch.linalg.det(r)).to(before)
        expected = axial @ before if self.kind.channels == 4 else before
        close(after, expected)
        close(self.kind.charge(self.kind.rotated(d.values, r)), self.kind.charge(d.values))

    def test_time_reversal_twice_is_the_matrix_and_turns_moments(self):
        m = self.matrix()
        back = m.time_reversed()
        close(back.time_reversed().values, m.values)
        close(back.dagger().values, m.dagger().time_reversed().values)
        close(self.kind.charge(back.values), self.kind.charge(m.values))
        close(self.kind.moment(back.values), -self.kind.moment(m.values))
        close(torch.linalg.eigvalsh(back.at_k(-K)).sum(0), torch.linalg.eigvalsh(m.at_k(K)).sum(0))

    def test_time_reversal_commutes_with_rotations(self):
        m, r = self.matrix(), cases.random_rotation(5)
        close(m.time_reversed().rotate(r).values, m.rotate(r).time_reversed().values)

    def test_potentials_are_the_adjoint_of_densities(self):
        """Tr[D V] = sum over channels of density x potential, for real symmetric orbital products."""
        d = self.matrix().values
        g = torch.Generator().manual_seed(3)
        v = torch.randn(self.kind.channels, d.shape[1], generator=g, dtype=torch.float64).to(self.device)
        by_channels = (self.kind.densities(d) * v).sum()
        potential = self.kind.potentials(v)
        dagger = potential[list(self.kind.dagger)]
        product = d * dagger  # V_ts of the elements where D_st stands: products of orbitals are symmetric
        close(product.real.sum() if product.is_complex() else product.sum(), by_channels)

    def test_channels_give_the_charge_and_the_moment(self):
        d = self.matrix().values
        channels = self.kind.densities(d)
        assert len(channels) == self.kind.channels
        close(self.kind.channel_charge(channels), self.kind.charge(d))
        close(self.kind.channel_moment(channels), self.kind.moment(d))

    def test_hermitian_at_every_k(self):
        h = self.matrix().at_k(K)
        assert h.shape[:2] == (self.kind.matrices, len(K)) and h.shape[2] == 15 * self.kind.size_factor
        close(h, h.mH)

    @pytest.mark.parametrize("complex_values", [False, True])
    def test_there_and_back_again(self, complex_values):
        """At all points of a mesh that tells the cells apart, M(k) gives M(R) back."""
        m = self.matrix(complex_values=complex_values)
        k = kpoints.mesh((7, 7, 7), time_reversal=not complex_values)
        close(m.from_k(m.at_k(k.k), k.k, k.weights).values, m.values)

    def test_one_of_k_and_minus_k_is_enough_with_its_symmetry(self):
        m = self.matrix()
        even = m.with_values(0.5 * (m.values + self.kind.at_minus_k(m.values)))
        half, full = (kpoints.mesh((3, 3, 2), time_reversal=t) for t in (True, False))
        assert len(half) < len(full)
        one, two = (k.integrate(torch.linalg.matrix_power(even.at_k(k.k), 2), even) for k in (half, full))
        close(one.values, two.values)

    def test_sparse_matrices_are_the_dense_ones(self):
        m = self.matrix()
        for n, k in enumerate(K):
            for sparse, dense in zip(m.to_csr(k), m.at_k(K)[:, n].cpu(), strict=True):
                close(torch.as_tensor(sparse.toarray()), dense)


def test_half_a_turn_twice_is_minus_one():
    """A rotation by 2 pi changes the sign of a spinor: T^2 = -1 and D(1/2)(pi)^2 = -1."""
    u = spin_half(torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)))
    close(u @ u, -torch.eye(2, dtype=u.dtype))
    t = torch.tensor([[0, 1], [-1, 0]], dtype=u.dtype)  # i sigma_y, of T = i sigma_y K
    close(t @ t.conj(), -torch.eye(2, dtype=u.dtype))
    g = torch.Generator().manual_seed(0)
    block = torch.randn(4, 3, dtype=u.dtype, generator=g)
    by_hand = torch.einsum("as,stn,bt->abn", t, block.reshape(2, 2, 3).conj(), t).reshape(4, 3)
    close(SPINS["spinor"].time_reversed(block), by_hand)

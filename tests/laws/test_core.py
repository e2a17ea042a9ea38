"""Laws of rotations, pairs and block matrices."""

from __future__ import annotations

import pytest
import torch

from nearsight.core import so3
from nearsight.core.basis import Basis
from nearsight.core.bloch import BlochSum
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import SPINOR
from nearsight.core.structure import supercell
from nearsight.electrons import kpoints
from tests import cases

close = torch.testing.assert_close


def random_matrix(seed: int = 0, complex_values: bool = False) -> BlockMatrix:
    s = cases.skew()
    layout = BlockLayout(Basis.of(s.numbers, {8: (0, 1, 2), 6: (0, 0, 1), 1: (0,)}), Pairs.within(s, 8.0))
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(1, layout.size, generator=g, dtype=torch.complex128 if complex_values else torch.float64)
    return BlockMatrix(layout, values).hermitian()


@pytest.mark.parametrize("l", range(7))
def test_wigner_matrices_turn_harmonics_and_form_a_group(l):
    a, b = cases.random_rotation(1), cases.random_rotation(2, improper=True)
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(l))
    close(so3.solid_harmonics(l, x @ a.T)[l], so3.solid_harmonics(l, x)[l] @ so3.wigner(l, a).T, atol=1e-11, rtol=1e-11)
    close(so3.wigner(l, a @ b), so3.wigner(l, a) @ so3.wigner(l, b), atol=1e-13, rtol=0)
    close(so3.wigner(l, -torch.eye(3, dtype=torch.float64)), (-1.0) ** l * torch.eye(2 * l + 1, dtype=torch.float64))


@pytest.mark.parametrize("ls", [(0, 0, 0), (1, 1, 2), (2, 1, 3), (2, 2, 4), (1, 1, 1), (3, 2, 4), (3, 3, 6)])
def test_coupling_tensors_are_invariant_and_orthonormal(ls):
    r = cases.random_rotation(3)
    c = torch.as_tensor(so3.clebsch_gordan(*ls))
    turned = torch.einsum("abc,ax,by,cz->xyz", c, *(so3.wigner(l, r) for l in ls))
    close(turned, c, atol=1e-13, rtol=0)
    close(torch.einsum("abc,abd->cd", c, c), torch.eye(2 * ls[2] + 1, dtype=torch.float64), atol=1e-13, rtol=0)


def test_gaunt_coefficients_are_integrals_of_three_harmonics():
    g = torch.einsum("p,pa,pb,pc->abc", *_sphere((1, 2, 3)))
    close(g, torch.as_tensor(so3.gaunt(1, 2, 3)), atol=1e-13, rtol=0)


def _sphere(ls):
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(16)
    phi = np.arange(32) * 2 * np.pi / 32
    z, p = np.meshgrid(x, phi, indexing="ij")
    s = np.sqrt(1 - z * z)
    directions = torch.as_tensor(np.stack([s * np.cos(p), s * np.sin(p), z], -1).reshape(-1, 3))
    y = so3.solid_harmonics(max(ls), directions)
    return torch.as_tensor(np.repeat(w, 32) * 2 * np.pi / 32), *(y[l] for l in ls)


def test_conventional_order_of_p_and_d_harmonics():
    x, y, z = v = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    p, d = so3.solid_harmonics(2, v)[1:]
    close(p / p[1] * z, torch.stack([y, z, x]))
    close(
        d / d[0] * x * y, torch.stack([x * y, y * z, (2 * z * z - x * x - y * y) / 12**0.5, x * z, (x * x - y * y) / 2])
    )


def test_each_pair_has_its_reverse_and_a_search_finds_it():
    s = cases.skew()
    pairs = Pairs.within(s, 9.0)
    back = pairs.reverse
    close(back[back], torch.arange(len(pairs)))
    close(pairs.vectors(s)[back], -pairs.vectors(s))
    assert int(pairs.find(torch.tensor([0]), torch.tensor([0]), torch.tensor([[90, 0, 0]]))) == len(pairs)
    assert bool((pairs.vectors(s).norm(dim=1) < 9.0).all())


def test_pairs_of_a_supercell_are_those_of_the_cell():
    s = cases.skew()
    count = len(Pairs.within(s, 9.0))
    assert len(Pairs.within(supercell(s, (2, 1, 2)), 9.0)) == 4 * count


def test_hermitian_matrices_are_hermitian_at_every_k_and_real_at_gamma():
    m = random_matrix()
    k = torch.tensor([[0.0, 0, 0], [0.1, -0.3, 0.27], [0.5, 0.5, 0.0]], dtype=torch.float64)
    h = m.at_k(k)
    close(h, h.mH)
    close(m.at_k(k[:1])[0, 0].to(h.dtype), h[0, 0])
    close(torch.as_tensor(m.to_csr(k[1])[0].toarray()), h[0, 1])


def test_from_k_is_the_adjoint_of_at_k():
    m, other = random_matrix(0), random_matrix(1)
    k = torch.tensor([[0.1, -0.3, 0.27], [0.5, 0.25, 0.0]], dtype=torch.float64)
    w = torch.tensor([0.4, 0.6], dtype=torch.float64)
    left = (m.at_k(k).conj() * other.at_k(k)).real.sum((0, 2, 3)) @ w
    close(left, (m.from_k(m.at_k(k), k, w).values * other.values).sum())


def test_half_of_the_cells_tell_a_hermitian_matrix():
    m = random_matrix()
    k = kpoints.mesh((3, 2, 2))
    sums = BlochSum.at(m.layout, k.k)
    assert sums.spread is not None
    dense = m.at(sums) * torch.linspace(0.3, 2.0, len(k), dtype=torch.float64)[:, None, None]
    whole = sums.elements(dense, k.weights)
    half = sums.elements(dense, k.weights, hermitian=True)
    close(half, whole)
    close(half, half[:, m.layout.transposed])


def test_traces_halves_and_rotations():
    a, b = random_matrix(0), random_matrix(1)
    close(a.trace(b), (a.values * b.values).sum())
    close(BlockMatrix.from_half(a.layout, a.half_values()).values, a.values)
    r = cases.random_rotation(5, improper=True)
    close(a.rotate(r).trace(b.rotate(r)), a.trace(b))
    close(a.rotate(r).rotate(r.T).values, a.values)
    close((a + b - b).values, a.values)
    close((2.0 * a).on(b.layout).values, 2 * a.values)
    assert a.layout.half.numel() < 0.6 * a.layout.size


def test_spinor_layout_puts_spin_outermost():
    m = random_matrix()
    z = torch.zeros_like(m.values[0])
    spinor = BlockMatrix(m.layout, torch.stack([m.values[0], z, z, 2 * m.values[0]]).to(torch.complex128), SPINOR)
    k = torch.tensor([[0.2, 0.1, 0.4]], dtype=torch.float64)
    n = m.basis.size
    h = spinor.at_k(k)
    assert h.shape == (1, 1, 2 * n, 2 * n)
    close(h[0, 0, n:, n:], 2 * m.at_k(k)[0, 0])


@pytest.mark.parametrize("complex_values", [False, True])
def test_sums_over_cells_are_the_same_where_the_cells_are_sparse(complex_values):
    """A chain of atoms along z, each of which reaches a few cells only: no array of all cells is made."""
    s = cases.structure([[9, 0, 0], [0, 9, 0], [0, 0, 26]], [[0, 0, 2.0 * n] for n in range(13)], [6, 1] * 6 + [8])
    layout = BlockLayout(Basis.of(s.numbers, {8: (0, 1), 6: (0, 0, 1), 1: (0,)}), Pairs.within(s, 9.5))
    g = torch.Generator().manual_seed(0)
    dtype = torch.complex128 if complex_values else torch.float64
    m = BlockMatrix(layout, torch.randn(1, layout.size, generator=g, dtype=dtype)).hermitian()
    k = kpoints.mesh((3, 3, 3), time_reversal=not complex_values)
    sums = BlochSum.at(layout, k.k)
    assert sums.spread is None
    dense = m.at(sums)
    for n in range(0, len(k), 5):
        close(dense[0, n], torch.as_tensor(m.to_csr(k.k[n])[0].toarray(), dtype=torch.complex128))
    close(m.of(dense, sums, k.weights).values, m.values)
    whole = torch.cat([b.elements.flatten() for b in layout.bundles])
    close(whole.sort().values, torch.arange(layout.size))
    close(torch.cat([p.elements.flatten() for b in layout.bundles for p in b.split(50)]), whole)


def test_matrices_on_different_layouts_do_not_add():
    s = cases.skew()
    m = random_matrix()
    other = BlockLayout(m.basis, Pairs.within(s, 5.0))
    with pytest.raises(NearsightError, match="on"):
        _ = m + m.on(other)
    with pytest.raises(NearsightError, match="shape"):
        BlockMatrix(other, m.values)

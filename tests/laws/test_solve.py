"""Laws of k-meshes, occupations and the density matrix as a function of the Hamiltonian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.electrons import kpoints
from nearsight.electrons.density_matrix import density_matrix
from nearsight.electrons.eigen import eigenvalues, factorise
from nearsight.electrons.levels import Filling, fermi_level
from nearsight.electrons.smearing import SMEARINGS, FermiDirac
from nearsight.electrons.solvers.dense import Dense
from tests import cases
from tests.laws.test_core import random_matrix

close = torch.testing.assert_close


def near_identity(m: BlockMatrix) -> BlockMatrix:
    """A positive definite overlap on the same pairs."""
    values = 0.02 * m.values.clone()
    for pair in m.pairs.on_site.tolist():
        n = int(m.layout.shapes[pair, 0])
        a = int(m.layout.boundaries[pair])
        values[0, a : a + n * n] += torch.eye(n, dtype=values.dtype).flatten()
    return m.with_values(values)


@pytest.mark.parametrize("size", [(1, 1, 1), (4, 4, 1), (3, 2, 5)])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.5, 0.5, 0.0)])
def test_time_reversal_keeps_the_weight_of_every_point(size, shift):
    k = kpoints.mesh(size, shift)
    n = size[0] * size[1] * size[2]
    close(k.weights.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert n / 2 <= len(k) <= n / 2 + 4
    phase = torch.exp(2j * torch.pi * (k.k @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))).real @ k.weights
    if size[0] > 1:
        close(phase, torch.zeros_like(phase), atol=1e-14, rtol=0)


def test_a_k_mesh_of_zero_is_refused():
    with pytest.raises(NearsightError, match="at least 1"):
        kpoints.mesh((4, 0, 1))


def test_band_path_of_graphene_stays_in_the_plane():
    path = kpoints.band_path(cases.graphene(30.0), 60)
    assert [name for _, name in path.labels][:2] == ["GAMMA", "M"] and float(path.k[:, 2].abs().max()) == 0
    assert bool((path.distance.diff() >= 0).all())
    with pytest.raises(NearsightError, match="no point is named"):
        kpoints.band_path(cases.graphene(), 60, "GAMMA-Q")


def test_the_fermi_level_holds_the_electrons_and_sits_in_the_middle_of_a_gap():
    e = torch.tensor([[[-1.0, -0.5, 0.5, 1.0]]], dtype=torch.float64)
    w = torch.ones(1, dtype=torch.float64)
    close(fermi_level(e, w, 4.0, 0.001), torch.tensor(0.0, dtype=torch.float64))
    mu = fermi_level(e, w, 3.3, 0.1)
    close(2 * FermiDirac().occupation((e - mu) / 0.1).sum(), torch.tensor(3.3, dtype=torch.float64))
    with pytest.raises(NearsightError, match="do not fit"):
        fermi_level(e, w, 9.0, 0.1)


@pytest.mark.parametrize("name", SMEARINGS)
def test_divided_differences_are_mean_slopes_and_smooth_at_degeneracy(name):
    smearing = SMEARINGS[name]
    for gap in (0.0, 1e-10, 1e-4, 0.0019, 0.0021, 0.1, 0.99, 1.01, 30.0):
        x = torch.tensor([-0.5, -0.5 + gap], dtype=torch.float64)
        k = smearing.divided_difference(x, smearing.occupation(x))
        nodes, w = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(200))
        mean = (smearing.slopes(x[0] + gap * (nodes + 1) / 2)[0] * w).sum() / 2
        close(k[0, 1], mean, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", SMEARINGS)
def test_slopes_and_entropy_belong_to_the_occupations(name):
    smearing = SMEARINGS[name]
    x = torch.linspace(-5, 5, 41, dtype=torch.float64).requires_grad_()
    (f1,) = torch.autograd.grad(smearing.occupation(x).sum(), x, create_graph=True)
    (s1,) = torch.autograd.grad(smearing.entropy(x).sum(), x)
    (f2,) = torch.autograd.grad(f1.sum(), x, create_graph=True)
    (f3,) = torch.autograd.grad(f2.sum(), x)
    close(smearing.slopes(x)[0], f1, rtol=1e-9, atol=1e-12)
    close(smearing.slopes(x)[1], f3, rtol=1e-8, atol=1e-10)
    close(s1, x * f1, rtol=1e-9, atol=1e-12)
    ends = smearing.occupation(torch.tensor([-9.0, 9.0], dtype=torch.float64))
    close(ends, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=2e-4, rtol=0)


@pytest.mark.parametrize("degenerate", [False, True])
@pytest.mark.parametrize(
    ("kT", "name"), [(0.05, "fermi-dirac"), (0.002, "fermi-dirac"), *((0.05, n) for n in SMEARINGS)]
)
def test_derivative_of_the_free_energy_in_the_hamiltonian(degenerate, kT, name):
    """dOmega/dH by the closed rule against central differences, to 1e-7, also with exactly degenerate levels at mu."""
    if degenerate:  # an atom on its own: three p levels and a half-filled shell at the Fermi level
        s = cases.structure([[30, 0, 0], [0, 30, 0], [0, 0, 30]], [[0, 0, 0]], [6])
        layout = BlockLayout(Basis.of(s.numbers, {6: (0, 1)}), Pairs.within(s, 5.0))
        h = BlockMatrix(layout, torch.diag(torch.tensor([-0.7, -0.2, -0.2, -0.2], dtype=torch.float64)).flatten()[None])
        overlap = h.with_values(torch.eye(4, dtype=torch.float64).flatten()[None])
        k, electrons = kpoints.mesh((1, 1, 1)), 4.0
    else:
        h = random_matrix(0)
        overlap, k, electrons = near_identity(random_matrix(1)), kpoints.mesh((2, 1, 2)), 9.0
    weight = random_matrix(2) if not degenerate else h.with_values(torch.arange(16.0, dtype=torch.float64)[None])
    weight = weight.hermitian()
    solver = Dense().bind(overlap, k, Filling(electrons, kT, SMEARINGS[name]))

    def omega(values: torch.Tensor) -> torch.Tensor:
        d = density_matrix(h.with_values(values), solver)
        linear = d.matrix.trace(weight)
        return linear + 0.1 * linear**2 - d.entropy_term

    x = h.values.clone().requires_grad_()
    omega(x).backward()
    if degenerate:
        direction = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        direction = (direction + direction.T).flatten()[None]
    else:
        direction = random_matrix(3).values
    step = 2e-3 * kT
    plus, minus = (omega(h.values + s * step * direction) for s in (1, -1))
    plus2, minus2 = (omega(h.values + 2 * s * step * direction) for s in (1, -1))
    numeric = (8 * (plus - minus) - (plus2 - minus2)) / (12 * step)
    close((x.grad * direction).sum(), numeric, rtol=1e-7, atol=1e-9)


def test_density_matrices_hold_the_electrons():
    h, overlap, k = random_matrix(0), near_identity(random_matrix(1)), kpoints.mesh((3, 2, 1))
    d = density_matrix(h, Dense().bind(overlap, k, Filling(7.0, 0.01)))
    close(d.matrix.trace(overlap), torch.tensor(7.0, dtype=torch.float64))
    close(d.matrix.values, d.matrix.hermitian().values)
    assert float(d.entropy_term) > 0


def test_eigenvalues_do_not_depend_on_the_orientation():
    h, overlap = random_matrix(0), near_identity(random_matrix(1))
    k = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    r = cases.random_rotation(4, improper=True)
    close(eigenvalues(h.rotate(r), overlap.rotate(r), k), eigenvalues(h, overlap, k))


def test_an_indefinite_overlap_is_refused_with_its_eigenvalue():
    h = random_matrix(0)
    with pytest.raises(NearsightError, match="not positive definite"):
        factorise(h, torch.zeros(1, 3, dtype=torch.float64))

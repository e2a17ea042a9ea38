"""Laws of the DFT engine: symmetry, derivatives, adjoints, sum rules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.mixing import Kerker, Pulay
from nearsight.dft.scf import SCF
from nearsight.electrons import kpoints
from nearsight.electrons.density_matrix import density_matrix
from nearsight.electrons.levels import Filling
from nearsight.electrons.solvers.dense import Dense
from nearsight.integrals import two_center
from nearsight.integrals.atomic_functions import orbitals_of
from nearsight.integrals.mesh import Mesh, fft_size, mesh_shape
from nearsight.integrals.projections import nonlocal_potential
from nearsight.integrals.window import Window
from tests import cases

close = torch.testing.assert_close


@cache
def functional(name: str = "skew", xc: str = "pbe", size: str = "sz") -> EnergyFunctional:
    s = getattr(cases, name)()
    return EnergyFunctional.of(s, cases.species_of(s, size), xc, mesh_shape(s.cell, 60.0))


def random_direction(f: EnergyFunctional, seed: int = 0) -> BlockMatrix:
    g = torch.Generator().manual_seed(seed)
    return BlockMatrix(f.layout, torch.randn(1, f.layout.size, generator=g, dtype=torch.float64)).hermitian()


@pytest.mark.parametrize("improper", [False, True])
def test_rotating_the_crystal_rotates_its_two_centre_matrices(improper):
    s, r = cases.skew(), cases.random_rotation(7, improper)
    species = cases.species_of(s)
    layout = two_center.matrix_layout(s, species)
    turned = s.rotate(r)
    kinetic = two_center.orbital_tables(species, two_center.kinetic)
    for matrix in (
        lambda x: two_center.overlap(x, species, layout),
        lambda x: two_center.assemble(layout, x, kinetic),
        lambda x: nonlocal_potential(x, species, layout),
    ):
        close(matrix(turned).values, matrix(s).rotate(r).values, atol=1e-10, rtol=0)
        close(matrix(s).values, matrix(s).dagger().values, atol=1e-12, rtol=0)


def test_orbitals_are_normalised_in_the_overlap():
    f = functional("skew", size="dzp")
    for pair in f.layout.pairs.on_site.tolist():
        close(
            torch.diagonal(f.overlap.block(pair)[0]),
            torch.ones(1, dtype=torch.float64).expand(int(f.layout.shapes[pair, 0])),
            atol=2e-6,
            rtol=0,
        )


def test_matrix_kernel_is_the_adjoint_of_the_density_kernel():
    f = functional()
    d = random_direction(f)
    v = torch.randn(1, *f.mesh.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left = (f.grid.density(d) * v).sum() * f.mesh.volume_element
    close(left, (f.grid.matrix(v).values * d.values).sum(), rtol=1e-12, atol=0)


def test_orbitals_on_the_mesh_are_those_of_the_species_whether_kept_dense_or_not():
    f = functional("skew", size="dzp")
    packed = replace(f.grid, batches=tuple(replace(b, dense=None) for b in f.grid.batches))
    sums = torch.zeros(f.layout.basis.size, dtype=torch.float64)
    for b, kept in zip(packed.batches, f.grid.batches, strict=True):
        assert kept.dense is not None
        close(b.orbitals(), kept.dense, rtol=0, atol=0)
    offsets = f.layout.basis.offsets.tolist()
    for atom, z in enumerate(f.structure.numbers.tolist()):  # point by point, from the functions themselves
        _, vectors = f.mesh.sphere(f.structure.positions[atom], f.species[z].orbital_cutoff)
        values = orbitals_of(f.species[z])(vectors)
        sums[offsets[atom] : offsets[atom + 1]] = values.square().sum(0) * f.mesh.volume_element
    d = random_direction(f)
    diagonal = f.grid.matrix(torch.ones(1, *f.mesh.shape, dtype=torch.float64))
    on_site = [torch.diagonal(diagonal.block(p)[0]) for p in f.layout.pairs.on_site.tolist()]
    close(torch.cat(on_site), sums, rtol=1e-10, atol=0)
    close(packed.density(d), f.grid.density(d), rtol=0, atol=1e-13)
    a = torch.randn(1, f.mesh.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for one, other in zip(packed.by_structure(d.values, a), f.grid.by_structure(d.values, a), strict=True):
        close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["graphene", "skew"])
def test_the_density_on_the_mesh_agrees_with_the_overlap(name):
    """int n = Tr[D S] up to the mesh's error: the kernels see every image of every orbital."""
    s = getattr(cases, name)()
    f = EnergyFunctional.of(s, cases.species_of(s, "sz"), "lda", mesh_shape(s.cell, 250.0))
    d = f.overlap * (f.electrons / float(f.overlap.trace(f.overlap)))
    close(f.grid.density(d).sum() * f.mesh.volume_element, d.trace(f.overlap), rtol=3e-5, atol=0)


@pytest.mark.parametrize("xc", ["lda", "pbe"])
def test_the_kohn_sham_matrix_is_the_derivative_of_the_energy(xc):
    f = functional(xc=xc)
    solver = Dense().bind(f.overlap, kpoints.mesh((1, 1, 1)), Filling(f.electrons, 0.01))
    d = solver.solve(f.initial_hamiltonian()).density_matrix
    values = d.values.clone().requires_grad_()
    f.energy(d.with_values(values)).backward()
    evaluation = f.evaluate(d)
    close(evaluation.hamiltonian.values, values.grad, atol=1e-9, rtol=1e-9)
    close(evaluation.total, f.energy(d), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["skew", "diamond"])
def test_derivative_of_omega_in_the_hamiltonian_against_differences(name):
    """dOmega/dH of the whole functional to 1e-7 relative; diamond has exactly degenerate levels."""
    f = functional(name)
    k = kpoints.mesh((2, 1, 1))
    solver = Dense().bind(f.overlap, k, Filling(f.electrons, 0.02))
    h = f.initial_hamiltonian()

    def omega(values):
        d = density_matrix(h.with_values(values), solver)
        return f.energy(d.matrix) - d.entropy_term

    x = h.values.clone().requires_grad_()
    omega(x).backward()
    direction = random_direction(f).values
    step = 1e-5
    d1, d2 = (omega(h.values + n * step * direction) - omega(h.values - n * step * direction) for n in (1, 2))
    close((x.grad * direction).sum(), (8 * d1 - d2) / (12 * step), rtol=1e-7, atol=1e-10)


def test_moving_all_atoms_by_whole_mesh_steps_changes_nothing():
    s = cases.skew()
    shape = mesh_shape(s.cell, 60.0)
    species = cases.species_of(s, "sz")
    moved = replace(s, positions=s.positions + 3 * s.cell[0] / shape[0] - 2 * s.cell[2] / shape[2])
    energies = []
    for x in (s, moved):
        f = EnergyFunctional.of(x, species, "pbe", shape)
        energies.append(ground_state(f, kpoints.mesh((1, 1, 1)), 0.01).total)
    assert abs(energies[0] - energies[1]) < 1e-9


def test_energy_per_atom_of_a_supercell_is_that_of_the_cell_with_its_k_points():
    from nearsight.core.structure import supercell

    s = cases.diamond()
    shape = mesh_shape(s.cell, 60.0)
    species = cases.species_of(s, "sz")
    one = ground_state(EnergyFunctional.of(s, species, "pbe", shape), kpoints.mesh((2, 1, 1)), 0.01)
    double = EnergyFunctional.of(supercell(s, (2, 1, 1)), species, "pbe", (2 * shape[0], shape[1], shape[2]))
    two = ground_state(double, kpoints.mesh((1, 1, 1)), 0.01)
    assert abs(two.total - 2 * one.total) < 1e-7


def test_poisson_of_a_gaussian_and_gradients_on_a_skew_mesh():
    cell = cases.skew().cell * 3
    mesh = Mesh((64, 64, 72), cell)
    window = Window.around(mesh, torch.ones(mesh.shape, dtype=torch.bool))
    index, vectors = mesh.sphere(cell.sum(0) / 2, 8.0)
    n = torch.zeros(mesh.size, dtype=torch.float64)
    r2 = vectors.square().sum(-1)
    n[mesh.fold(index)[0]] = torch.exp(-r2 / 2) / (2 * torch.pi) ** 1.5
    n = n.reshape(mesh.shape)
    close(n.sum() * mesh.volume_element, torch.tensor(1.0, dtype=torch.float64), atol=1e-8, rtol=0)
    gradient = window.gradient(n).flatten(1)[:, mesh.fold(index)[0]].T
    close(gradient, -vectors * torch.exp(-r2 / 2)[:, None] / (2 * torch.pi) ** 1.5, atol=3e-5, rtol=0)
    v = mesh.hartree_potential(n).flatten()[mesh.fold(index)[0]]
    exact = torch.erf(r2.sqrt() / 2**0.5) / r2.sqrt().clamp(min=1e-9)
    inner = (r2 < 1.0) & (r2 > 1e-3)
    differences = v[inner] - exact[inner]  # the images and the background add a nearly constant shift and a parabola
    assert float(differences.max() - differences.min()) < 0.01


def test_a_window_leaves_out_nothing_but_zeros():
    mesh = Mesh((20, 24, 30), torch.diag(torch.tensor([8.0, 9.0, 10.0], dtype=torch.float64)))
    f = torch.zeros(mesh.shape, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    f[-3:, 5:9], f[:4, 5:9] = (torch.randn(n, 4, 30, generator=g, dtype=torch.float64) for n in (3, 4))
    part, whole = Window.around(mesh, f != 0), Window(mesh, (0, 0, 0), mesh.shape)
    assert part.lengths == (7, 4, 30)
    close(part.paste(part.cut(f)), f)
    for x in range(3):
        close(
            part.paste(part.gradient(part.cut(f))[x]),
            whole.gradient(f)[x] * (part.paste(torch.ones(part.lengths, dtype=torch.float64))),
        )


def test_mesh_sizes_are_products_of_2_3_5_and_as_fine_as_asked():
    assert [fft_size(n) for n in (1, 7, 22.2, 156.3, 127.9)] == [2, 8, 24, 160, 128]
    assert mesh_shape(cases.diamond().cell, 300.0) == (24, 24, 24)


@pytest.mark.parametrize("mixing", [Pulay(), Pulay(kerker=Kerker(0.8))], ids=["hamiltonian", "kerker"])
def test_every_mixing_reaches_the_same_ground_state_and_harris_agrees(mixing):
    f = functional("diamond")
    gs = ground_state(f, kpoints.mesh((2, 2, 2)), 0.001, SCF(mixing=mixing))
    assert gs.converged and abs(gs.total - gs.harris) < 1e-9
    assert abs(gs.total - (-11.28)) < 0.1
    close(gs.density_matrix.trace(f.overlap), torch.tensor(8.0, dtype=torch.float64))
    best = ground_state(f, kpoints.mesh((2, 2, 2)), 0.001)
    assert abs(gs.total - best.total) < 1e-9


def test_a_cycle_that_does_not_converge_says_so():
    gs = ground_state(functional("diamond"), kpoints.mesh((1, 1, 1)), 0.001, SCF(max_iterations=2))
    assert not gs.converged and len(gs.steps) == 2


def test_water_in_a_window_of_its_box_has_the_electrons():
    f = functional("water")
    gs = ground_state(f, kpoints.mesh((1, 1, 1)), 0.001)
    assert gs.converged
    close(gs.density.sum() * f.mesh.volume_element, torch.tensor(8.0, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("name", "kT"), [("skew", 0.002), ("diamond", 0.02)])
def test_forces_and_stress_are_the_derivatives_of_the_free_energy(name, kT):
    """Against central differences of Omega: insulator-like and smeared; the mesh's own ripple is part of both."""
    s = getattr(cases, name)()
    s = replace(s, positions=s.positions + torch.tensor([[0.1, 0.05, -0.07]] + [[0.0] * 3] * (len(s) - 1)))
    species, shape = cases.species_of(s, "szp"), mesh_shape(s.cell, 60.0)

    def solve(x):
        f = EnergyFunctional.of(x, species, "pbe", shape)
        return ground_state(f, kpoints.mesh((2, 1, 1)), kT, SCF(tolerance=1e-8))

    derivatives = forces_and_stress(solve(s))
    g = torch.Generator().manual_seed(0)
    move = torch.randn(len(s), 3, generator=g, dtype=torch.float64)
    h = 1e-3
    up, down = (solve(replace(s, positions=s.positions + x * h * move)).free for x in (1, -1))
    assert abs((up - down) / (2 * h) + float((derivatives.forces * move).sum())) < 2e-5
    strain = torch.randn(3, 3, generator=g, dtype=torch.float64)
    strain = strain + strain.T
    up, down = (
        solve(replace(s, cell=s.cell @ d, positions=s.positions @ d)).free
        for d in (torch.eye(3, dtype=torch.float64) + x * h * strain for x in (1, -1))
    )
    assert abs((up - down) / (2 * h) - float((derivatives.stress * strain).sum() * s.volume)) < 5e-5

"""Laws of space-group symmetry: fewer k-points, the same crystal."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.spin import COLLINEAR, SPINOR, SPINS, Spin
from nearsight.core.structure import Structure, supercell
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import GroundState, ground_state
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.mixing import Kerker, Pulay
from nearsight.dft.result import Result
from nearsight.dft.scf import SCF
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import chosen_kpoints
from nearsight.electrons import kpoints
from nearsight.electrons.density_matrix import density_matrix
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.levels import Filling
from nearsight.electrons.solvers.dense import Dense
from nearsight.electrons.symmetry import SpaceGroup, Symmetrisation, reduced_mesh
from tests import cases

close = torch.testing.assert_close
GAMMA = (0.0, 0.0, 0.0)


def rocksalt() -> Structure:
    a = 4.2
    return cases.structure([[0, a, a], [a, 0, a], [a, a, 0]], [[0, 0, 0], [a, a, a]], [14, 6])


def monoclinic() -> Structure:
    """Four operations only; no atom is fixed by all of them."""
    return cases.structure(
        [[5.2, 0, 0.4], [0, 6.0, 0], [0.3, 0, 6.6]],
        [[0.5, 0, 0.7], [-0.5, 0, -0.7], [2.0, 3.0, 1.0], [-2.0, -3.0, -1.0]],
        [6, 6, 1, 1],
    )


def hydrogen() -> Structure:
    """Two hydrogen atoms at the corner and the centre of a cube: an antiferromagnet when it is wide."""
    a = 6.5
    return cases.structure([[a, 0, 0], [0, a, 0], [0, 0, a]], [[0, 0, 0], [a / 2] * 3], [1, 1])


def doubled_diamond() -> Structure:
    """A cell with a translation among its operations."""
    return supercell(cases.diamond(), (2, 1, 1))


# real-space mesh, k-mesh, its shift, moments, how many k-points are left of how many
CRYSTALS = {
    "diamond": (cases.diamond, (20, 20, 20), (4, 4, 4), GAMMA, None, 8, 36),
    "diamond_odd": (cases.diamond, (18, 18, 18), (3, 3, 3), GAMMA, None, 4, 14),
    "doubled_diamond": (doubled_diamond, (40, 20, 20), (2, 3, 3), GAMMA, None, 8, 10),
    "graphene": (cases.graphene, (18, 18, 72), (12, 12, 1), GAMMA, None, 19, 74),
    "graphene_oblong": (cases.graphene, (18, 18, 72), (4, 2, 1), GAMMA, None, 5, 6),
    "rocksalt": (rocksalt, (20, 20, 20), (4, 4, 4), (0.5, 0.5, 0.5), None, 10, 32),
    "monoclinic": (monoclinic, (20, 20, 24), (3, 3, 2), GAMMA, None, 8, 10),
    "antiferromagnet": (hydrogen, (24, 24, 24), (3, 3, 3), GAMMA, (0.9, -0.9), 4, 14),
}


@cache
def functional(name: str, xc: str = "lda") -> EnergyFunctional:
    s = CRYSTALS[name][0]()
    return EnergyFunctional.of(s, cases.species_of(s, "sz", xc), xc, CRYSTALS[name][1])


@cache
def meshes(name: str, xc: str = "lda") -> tuple[KPoints, KPoints]:
    """Reduced by the space group; by time reversal alone."""
    f = functional(name, xc)
    _, shape, size, shift, moments, _, _ = CRYSTALS[name]
    group = SpaceGroup.of(f.structure, moments).on_mesh(shape)
    return reduced_mesh(size, shift, group, f.layout), kpoints.mesh(size, shift)


def solved(name: str, k: KPoints, xc: str = "lda", method: SCF | DirectMinimisation | None = None) -> GroundState:
    gs = ground_state(functional(name, xc), k, 0.002, method or SCF(tolerance=1e-10), moments=CRYSTALS[name][4])
    assert gs.converged
    return gs


def random_matrix(f: EnergyFunctional, seed: int = 0, spin: Spin = COLLINEAR) -> BlockMatrix:
    g = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if spin is SPINOR else torch.float64
    return BlockMatrix(
        f.layout, torch.randn(spin.components, f.layout.size, generator=g, dtype=dtype), spin
    ).hermitian()


@pytest.mark.parametrize("name", CRYSTALS)
def test_stars_fill_the_mesh(name):
    """Every point of the full mesh is +-W^T k of exactly one irreducible k, and its weight counts them."""
    _, _, size, _, _, left, full = CRYSTALS[name]
    reduced, plain = meshes(name)
    assert (len(reduced), len(plain)) == (left, full)
    close(reduced.weights.sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-14, rtol=0)
    star = torch.einsum("ka,gab->kgb", reduced.k, reduced.symmetry.group.rotations.double())
    for weight, images in zip(reduced.weights, torch.cat([star, -star], 1), strict=True):
        n = torch.tensor(size, dtype=torch.float64)
        points = torch.unique(
            (images * n * 2).round() % (2 * n), dim=0
        )  # integers: the shifts here are halves of a step
        assert len(points) == round(float(weight) * size[0] * size[1] * size[2])


@pytest.mark.parametrize("shift", [GAMMA, (0.5, 0.5, 0.0), (0.25, 0.25, 0.25)], ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 3, 3), (4, 4, 2)], ids=str)
@pytest.mark.parametrize(("spin", "time_reversal"), [(COLLINEAR, True), (SPINOR, True), (SPINOR, False)], ids=str)
def test_the_integral_over_the_zone_is_that_of_the_full_mesh(size, shift, spin, time_reversal):
    """Spinors without time reversal: moments along a diagonal of the cube, which some of the operations keep."""
    f = functional("diamond")
    moments = None if time_reversal else [[0.3, 0.3, 0.3], [0.3, 0.3, 0.3]]
    reduced = reduced_mesh(size, shift, SpaceGroup.of(f.structure, moments), f.layout, time_reversal)
    full = kpoints.mesh(size, shift, time_reversal=time_reversal)
    m = reduced.closed(random_matrix(f, spin=spin))
    one, two = (k.integrate(torch.linalg.matrix_power(m.at_k(k.k), 2), m) for k in (reduced, full))
    close(one.values, two.values, atol=1e-11, rtol=0)


@pytest.mark.parametrize("spin", SPINS.values(), ids=repr)
@pytest.mark.parametrize("name", CRYSTALS)
def test_symmetrisation_is_a_projection_that_leaves_the_crystal_unchanged(name, spin):
    f = functional(name)
    group = SpaceGroup.of(f.structure, CRYSTALS[name][4])
    p = Symmetrisation.of(group, f.layout)
    a, b = random_matrix(f, spin=spin), random_matrix(f, 1, spin)
    once = p(a)
    close(p(once).values, once.values, atol=1e-13, rtol=0)
    close(p(a).trace(b), a.trace(p(b)), atol=1e-10, rtol=0)
    close(once.dagger().values, once.values, atol=1e-13, rtol=0)
    one_body = [t.matrix for t in f.terms if t.name in ("Ekin", "Enl")]
    assert len(one_body) == 2
    for term in (f.overlap, *one_body):
        same = term.embed(spin)
        close(p(same).values, same.values + 0 * p(same).values, atol=1e-13, rtol=0)


@pytest.mark.parametrize("spin", SPINS.values(), ids=repr)
def test_every_operation_maps_a_symmetrised_matrix_onto_itself(spin):
    f = functional("diamond")
    group = SpaceGroup.of(f.structure)
    m = Symmetrisation.of(group, f.layout)(random_matrix(f, spin=spin))
    pairs = f.layout.pairs
    for g in range(len(group)):
        turned = m.rotate(group.cartesian[g])
        image = pairs.find(*group.image(g, pairs.i, pairs.j, pairs.R))
        for pair in range(0, len(pairs), 7):
            close(turned.block(pair), m.block(int(image[pair])), atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", CRYSTALS)
def test_the_space_group_changes_nothing_but_the_work(name):
    reduced, full = (solved(name, k) for k in meshes(name))
    assert abs(reduced.total - full.total) < 1e-9
    assert abs(reduced.free - full.free) < 1e-9
    close(reduced.hamiltonian.values, full.hamiltonian.values, atol=5e-9, rtol=0)
    close(reduced.density_matrix.values, full.density_matrix.values, atol=5e-8, rtol=0)
    one, two = forces_and_stress(reduced), forces_and_stress(full)
    close(one.forces, two.forces, atol=5e-9, rtol=0)
    close(one.stress, two.stress, atol=5e-9, rtol=0)
    if CRYSTALS[name][4]:
        up, down = reduced.populations[0] - reduced.populations[1]
        assert up > 0.3 and abs(up + down) < 1e-8


@pytest.mark.parametrize("name", ["diamond", "graphene_oblong", "monoclinic"])
def test_gradient_corrections_have_the_symmetry_of_the_mesh_lines_only(name):
    """The energy is that of the full mesh with the same average over operations; without it they differ by the mesh's error."""
    reduced, full = meshes(name, "pbe")
    one, same, other = (solved(name, k, "pbe") for k in (reduced, replace(full, symmetry=reduced.symmetry), full))
    assert abs(one.total - same.total) < 1e-11
    close(one.hamiltonian.values, same.hamiltonian.values, atol=1e-9, rtol=0)
    close(forces_and_stress(one).forces, forces_and_stress(same).forces, atol=1e-9, rtol=0)
    assert abs(one.total - other.total) < 1e-7


@pytest.mark.parametrize(
    "method",
    [SCF(Pulay(kerker=Kerker()), tolerance=1e-8), DirectMinimisation(tolerance=1e-6)],
    ids=["kerker", "variational"],
)
def test_every_method_finds_the_same_symmetric_state(method):
    reduced, _ = meshes("diamond_odd", "pbe")
    best = solved("diamond_odd", reduced, "pbe")
    assert abs(solved("diamond_odd", reduced, "pbe", method).total - best.total) < 1e-9


def test_forces_are_the_derivative_of_the_symmetric_energy():
    """Moved along a symmetric displacement, so that the group stays."""
    base, step = monoclinic(), 2e-4
    energies = []
    direction = torch.tensor([[1.0, 0, 0.5], [-1.0, 0, -0.5], [0, 0, 1.0], [0, 0, -1.0]], dtype=torch.float64)
    for sign in (0, 1, -1):
        s = replace(base, positions=base.positions + sign * step * direction)
        f = EnergyFunctional.of(s, cases.species_of(s, "sz"), "pbe", (20, 20, 24))
        k = reduced_mesh((2, 2, 2), GAMMA, SpaceGroup.of(s).on_mesh((20, 20, 24)), f.layout)
        assert len(k.symmetry.group) == 4
        gs = ground_state(f, k, 0.005, SCF(tolerance=1e-9))
        if sign == 0:
            slope = -(forces_and_stress(gs).forces * direction).sum()
        else:
            energies.append(gs.free)
    assert abs((energies[0] - energies[1]) / (2 * step) - float(slope)) < 1e-6


def test_density_matrix_is_differentiable_with_symmetry():
    f = functional("diamond_odd")
    k, _ = meshes("diamond_odd")
    solver = Dense().bind(f.overlap, k, Filling(f.electrons, 0.02))
    h0, step = f.initial_hamiltonian(), 1e-5
    weight, direction = random_matrix(f).values[:1], random_matrix(f, 1).values[:1]

    def value(values: torch.Tensor) -> torch.Tensor:
        d = density_matrix(h0.with_values(values), solver)
        return (weight * d.matrix.values).sum() - d.entropy_term

    x = h0.values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        slope = (value(h0.values + step * direction) - value(h0.values - step * direction)) / (2 * step)
    close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_what_an_operation_must_keep():
    diamond, graphene = SpaceGroup.of(cases.diamond()), SpaceGroup.of(cases.graphene())
    assert (diamond.symbol, len(diamond)) == ("Fd-3m", 48)
    assert len(diamond.on_mesh((20, 20, 20))) == 48
    assert len(diamond.on_mesh((18, 18, 18))) == 24  # the glides are by a quarter of the cell
    assert len(diamond.on_mesh((20, 20, 24))) == 4
    assert len(graphene) == 24
    assert len(SpaceGroup.of(cases.graphene(), [1.0, -1.0])) == 12
    assert len(SpaceGroup.of(cases.graphene(), [1.0, 1.0])) == 24
    assert len(SpaceGroup.of(cases.skew())) == 1
    close(diamond.cartesian.det().abs(), torch.ones(48, dtype=torch.float64))


def test_moments_are_axial_vectors():
    """Along z graphene keeps what turns about z, with or without a mirror plane; along x what leaves that axis alone."""
    s = cases.graphene()
    assert len(SpaceGroup.of(s, [[0, 0, 1.0]] * 2)) == 12
    assert len(SpaceGroup.of(s, [[0, 0, 1.0], [0, 0, -1.0]])) == 12
    assert len(SpaceGroup.of(s, [[1.0, 0, 0]] * 2)) == 4
    assert len(SpaceGroup.of(s, [[0.0, 0, 0]] * 2)) == 24


def test_a_vector_field_and_a_tensor_are_averaged():
    s = monoclinic()
    group = SpaceGroup.of(s)
    v = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = group.symmetric_vectors(v)
    close(mean[0], -mean[1])  # inversion
    close(mean[:, 1], torch.zeros(4, dtype=torch.float64), atol=1e-14, rtol=0)  # the mirror plane
    tensor = SpaceGroup.of(cases.diamond()).symmetric_tensor(torch.diag(v[0]))
    close(tensor, torch.eye(3, dtype=torch.float64) * v[0].mean())


def test_settings_choose_and_the_result_reports():
    f = functional("diamond")
    settings = ScfSettings(xc="lda", kmesh=(2, 2, 2), symmetry="space-group", basis="sz")
    k = chosen_kpoints(f, settings)
    assert len(k) == 3
    result = Result.of(ground_state(f, k, 0.002), settings, 0.0, None)
    assert (result.k_points, result.space_group, result.symmetry_operations) == (3, "Fd-3m", 48)
    assert chosen_kpoints(f, settings.model_copy(update={"symmetry": "time-reversal"})).symmetry is None


def test_atoms_on_top_of_each_other_are_refused():
    s = cases.structure([[8, 0, 0], [0, 8, 0], [0, 0, 8]], [[0, 0, 0], [0, 0, 0]], [6, 6])
    with pytest.raises(NearsightError, match="coincide"):
        SpaceGroup.of(s)

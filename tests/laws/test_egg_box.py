"""Laws of band-limited fields and of the refined exchange-correlation mesh, and the egg box that they leave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.scf import SCF
from nearsight.dft.terms import ExchangeCorrelation, Hartree, NeutralAtom, State, System
from nearsight.dft.terms.ripple import ripples
from nearsight.electrons import kpoints
from nearsight.integrals import band_limited
from nearsight.integrals.atomic_functions import Spherical, superpose
from nearsight.integrals.fine_spheres import FineSphere, Share, fine_spheres, shares
from nearsight.integrals.mesh import Mesh, mesh_shape
from nearsight.xc.functionals import PBE
from tests import cases

close = torch.testing.assert_close
GAMMA = kpoints.mesh((1, 1, 1))


def test_interpolation_is_exact_for_waves_and_its_own_adjoint():
    r = band_limited.Refinement((8, 9, 10), 2)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 9, 10, generator=g, dtype=torch.float64)
    y = torch.randn(16, 18, 20, generator=g, dtype=torch.float64)
    close((r.up(x) * y).sum() / y.numel(), (x * r.down(y)).sum() / x.numel())
    i, j, k = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in (8, 9, 10)), indexing="ij")
    wave = torch.cos(2 * torch.pi * (3 * i - 2 * j + 4 * k))
    i, j, k = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in (16, 18, 20)), indexing="ij")
    close(r.up(wave), torch.cos(2 * torch.pi * (3 * i - 2 * j + 4 * k)), atol=1e-12, rtol=0)


def test_a_band_limited_sum_agrees_with_the_sum_over_atoms_and_moves_rigidly():
    s = cases.skew()
    functions = {z: q.neutral_atom_potential for z, q in cases.species_of(s, "sz").items()}
    mesh = Mesh(mesh_shape(s.cell, 500.0), s.cell)
    plain, limited = superpose(mesh, s, Spherical.each(functions)), band_limited.superpose(mesh, s, functions)
    close(limited.mean(), plain.mean(), atol=2e-5, rtol=0)
    assert float((limited - plain).abs().mean()) < 2e-3
    coarse = Mesh(mesh_shape(s.cell, 100.0), s.cell)
    moved = replace(s, positions=s.positions + torch.tensor([0.11, 0.05, -0.08], dtype=torch.float64))
    norms = [band_limited.superpose(coarse, x, functions).square().sum() for x in (s, moved)]
    close(norms[0], norms[1], rtol=1e-10, atol=0)


def test_values_of_a_fine_sphere_are_those_of_smooth_fields_and_go_back_by_the_adjoint():
    """Interpolated waves of half the limit of the mesh are exact to 1e-5; sum f up(g) / factor^3 = sum down(f) g."""
    cell = torch.tensor([[6.0, 0.4, -0.3], [0.2, 7.0, 0.5], [-0.6, 0.3, 8.0]], dtype=torch.float64)
    mesh = Mesh((24, 27, 30), cell)
    sphere = FineSphere.around(mesh, torch.tensor([0.3, 6.5, 2.0], dtype=torch.float64), 3)
    corner, lengths = sphere.corner, sphere.window.lengths
    places = [
        (a + torch.arange(n, dtype=torch.float64)) / (3 * m)
        for a, n, m in zip(corner, lengths, mesh.shape, strict=True)
    ]

    def wave(x, y, z):
        return torch.cos(2 * torch.pi * (5 * x[:, None, None] - 6 * y[:, None] + 7 * z) + 0.3)

    coarse = wave(*(torch.arange(n, dtype=torch.float64) / n for n in mesh.shape))
    close(sphere.up(coarse[None])[0], wave(*places), atol=1e-5, rtol=0)
    g = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(1, *mesh.shape, generator=g, dtype=torch.float64),
        torch.randn(1, *lengths, generator=g, dtype=torch.float64),
    )
    down = torch.zeros_like(x)
    sphere.add_down(down, y)
    close((sphere.up(x) * y).sum() / 27, (x * down).sum())


def test_shares_of_atoms_sum_up_and_what_is_finer_around_them_changes_no_smooth_integral():
    """int e = sum_coarse (1 - sum w) e + sum_a sum_fine w_a e, for e that the mesh holds; neighbours' spheres overlap."""
    s = cases.skew()
    mesh = Mesh(mesh_shape(s.cell, 250.0), s.cell)
    x, y, z = (torch.arange(n, dtype=torch.float64) / n for n in mesh.shape)
    e = 2 + torch.cos(2 * torch.pi * (2 * x[:, None, None] - y[:, None] + 3 * z))
    whole = float(e.sum() * mesh.volume_element)
    total = float((e * (1 - shares(mesh, s, {8, 6, 1}))).sum() * mesh.volume_element)
    assert abs(total - whole) > 1
    for sphere, images in fine_spheres(mesh, s, {8, 6, 1}, 2, 0.0):
        w = sphere.superpose(s, images[:1], {z: Share() for z in (8, 6, 1)})
        total += float((w * sphere.up(e[None])[0]).sum() * sphere.window.mesh.volume_element)
    assert abs(total - whole) < 1e-5 * whole


def test_elements_without_a_steep_nucleus_have_no_spheres():
    species = {x: cases.species(x, "sz") for x in ("H", "C", "O", "Si")}
    assert {x: ripples(s, PBE) for x, s in species.items()} == {"H": False, "C": True, "O": True, "Si": False}


REMEDIES = {"all over": {"xc_refinement": 2}, "near nuclei": {"xc_near_nuclei": 3}}


def shifted(s, shape, direction):
    """The structure moved to five places along one step of the mesh, or along all three."""
    steps = s.cell / s.cell.new_tensor(shape)[:, None]
    return [
        replace(s, positions=s.positions + part * (s.cell.new_tensor(direction) @ steps))
        for part in torch.arange(5) / 5
    ]


@pytest.mark.parametrize(("name", "direction"), [("diamond", (0.31, -0.62, 0.45)), ("water", (1.0, 1.0, 1.0))])
def test_the_egg_box_at_the_default_mesh(name, direction):
    """Largest less smallest energy (meV an atom) of one density matrix as all atoms move: below 0.05, a fifth of what it is.

    Terms that the mesh has no part in are left out.
    """
    s = cases.diamond() if name == "diamond" else cases.water(10.0)
    shape, species = mesh_shape(s.cell, 300.0), cases.species_of(s)
    found = []
    for x in shifted(s, shape, direction):
        state = neutral_atoms(System.of(x, species, shape, limited=True))
        electrostatic = sum(term.on(state.system).energy(state) for term in (NeutralAtom(), Hartree()))
        found.append(
            [float(electrostatic + ExchangeCorrelation(PBE, 1, m).on(state.system).energy(state)) for m in (1, 3)]
        )
    without, remedied = ((max(e) - min(e)) * 27211.4 / len(s) for e in zip(*found, strict=True))
    assert remedied < 0.05 and without > 5 * remedied


def neutral_atoms(system):
    """Not bonded, but with some electrons in every orbital and between them: P^1/2 S P^1/2."""
    layout = system.layout
    diagonal = torch.cat(
        [torch.as_tensor(system.species[z].orbital_populations) for z in system.structure.numbers.tolist()]
    )
    p = (diagonal.double() + 0.02).sqrt()
    values = 0.5 * p[layout.row] * system.overlap.values * p[layout.column]
    return State.of(system, BlockMatrix(layout, values * 0.9, "none"))


@pytest.mark.parametrize("name", ["diamond", "graphene"])
def test_the_egg_box_at_200_ry_is_below_a_fifth_of_a_mev_per_atom(name):
    s = getattr(cases, name)()
    shape = mesh_shape(s.cell, 200.0)
    step = s.cell[0] / shape[0] + s.cell[1] / shape[1] + s.cell[2] / shape[2]
    energies = []
    for part in (0.0, 0.25, 0.5):
        x = replace(s, positions=s.positions + part * step)
        f = EnergyFunctional.of(x, cases.species_of(s), "pbe", shape, band_limited=True, xc_refinement=2)
        energies.append(ground_state(f, kpoints.mesh((2, 2, 1)), 0.002).total * 27211.4 / len(s))
    assert max(energies) - min(energies) < 0.2


@pytest.mark.parametrize("remedy", REMEDIES)
def test_forces_and_stress_with_the_remedies(remedy):
    """At a mesh that holds the density: below it, interpolated densities ripple and the energy has kinks."""
    s = cases.skew()
    species, shape = cases.species_of(s, "sz"), mesh_shape(s.cell, 120.0)

    def solve(x):
        f = EnergyFunctional.of(x, species, "pbe", shape, band_limited=True, **REMEDIES[remedy])
        return ground_state(f, GAMMA, 0.01, SCF(tolerance=1e-8))

    found = forces_and_stress(solve(s))
    g = torch.Generator().manual_seed(0)
    move, strain = (torch.randn(3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    strain = strain + strain.T
    h = 1e-3
    up, down = (solve(replace(s, positions=s.positions + x * h * move)).free for x in (1, -1))
    assert abs((up - down) / (2 * h) + float((found.forces * move).sum())) < 2e-5
    eye = torch.eye(3, dtype=torch.float64)
    up, down = (
        solve(replace(s, cell=s.cell @ (eye + x * h * strain), positions=s.positions @ (eye + x * h * strain))).free
        for x in (1, -1)
    )
    assert abs((up - down) / (2 * h) - float((found.stress * strain).sum() * s.volume)) < 5e-5

"""Properties: the laws of their contract, and of each one's physics."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import acos, pi
from pathlib import Path

import numpy as np
import pytest
import torch

import nearsight
from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.registry import kinds
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, by_components
from nearsight.core.structure import Structure
from nearsight.core.units import DEBYE_AU
from nearsight.formats.deeph import write_folder
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.properties.brillouin import Gaussian, Sampling, Tetrahedra, electrons_below, fermi_energy
from nearsight.properties.contract import Options, Property, Result, option
from nearsight.properties.density import fields_of
from nearsight.properties.eigenstates import levels
from nearsight.properties.kdotp import Expansion, Lattice
from nearsight.properties.mesh_orbitals import MeshOrbitals
from nearsight.properties.occupied import Occupied
from nearsight.properties.partition import mulliken
from tests import cases
from tests.laws.properties import KINDS, PropertyLaws, graphene, with_spin
from tests.reference.test_other_codes import species_in

REFERENCE = Path(__file__).parents[1] / "reference"

close = torch.testing.assert_close


class TestDos(PropertyLaws):
    kind = "dos"
    given = {"project": "element,l", "kmesh": (6, 6, 1)}  # noqa: RUF012

    def invariants(self, result):
        return torch.cat([result.below.sum(0), result.projected.flatten()])


class TestGap(PropertyLaws):
    kind = "gap"
    given = {"kmesh": (6, 6, 1), "points": 10}  # noqa: RUF012
    tolerance = 1e-7

    def invariants(self, result):
        speeds = [result.conduction.cone[0], result.valence.cone[1]]
        return torch.tensor([result.valence.energy, result.conduction.energy, result.fermi_level, *speeds])


class TestCharges(PropertyLaws):
    kind = "charges"
    given = {"kmesh": (4, 4, 1)}  # noqa: RUF012

    def invariants(self, result):
        orders = torch.tensor([b.order for b in result.bonds])
        return torch.cat([result.electrons["mulliken"], result.electrons["lowdin"], orders, result.valences])


class TestLevels(PropertyLaws):
    kind = "levels"
    given = {"window": (-12, 12)}  # noqa: RUF012

    def invariants(self, result):
        e = result.energies
        return torch.stack([e.mean(), e.min(), e.max(), torch.tensor(result.fermi_level)])


class TestMoire(PropertyLaws):
    kind = "moire"
    given = {"flat": 2, "points": 9}  # noqa: RUF012

    def invariants(self, result):
        return torch.tensor([result.width, *result.gaps, result.speed])

    @pytest.mark.parametrize("kind", KINDS[1:], ids=repr)
    def test_more_spin_than_there_is_changes_nothing(self, kind):
        """It is refused, in a line that names another way."""
        with pytest.raises(BadInput, match="without spin; take `bands --states`"):
            self.result(with_spin(self.calculation(), kind))


def test_every_property_is_under_the_laws():
    assert {c.kind for c in PropertyLaws.__subclasses__()} >= set(kinds("properties"))


# --- densities of states


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("method", ["tetrahedron", "gaussian"])
@pytest.mark.parametrize("project", ["atom", "element,l", "orbital", "atom,orbital"])
@pytest.mark.parametrize("populations", ["mulliken", "lowdin"])
def test_dos_integrates_to_the_electrons_and_projections_to_the_total(kind, method, project, populations):
    c = with_spin(replace(graphene(), electrons=8.0), kind)
    words = project if kind is NONE else f"{project},spin"
    found = nearsight.dos(c, method=method, project=words, populations=populations, kmesh=(5, 5, 1), window=(-30, 30))
    below_fermi = (found.energies < found.fermi_level).double()
    electrons = float((found.total.sum(0) * below_fermi).sum() * found.step + found.below[:, 0].sum())
    assert electrons == pytest.approx(8.0, abs=1e-6)
    close(found.projections.sum(0), found.total.sum(0), atol=1e-8, rtol=1e-8)
    held = found.step * float(found.total.sum()) + float(found.below[:, 0].sum())
    full = float(found.below[:, -1].sum())
    assert held == pytest.approx(full, abs=1e-9)


@pytest.mark.parametrize("method", ["tetrahedron", "gaussian"])
def test_all_states_are_counted(method):
    c = replace(graphene(), electrons=8.0)
    found = nearsight.dos(c, method=method, kmesh=(3, 3, 1), window=(-60, 60), step_ev=0.5)
    assert float(found.below[:, -1].sum()) == pytest.approx(16.0, abs=1e-9)
    assert float(found.below[:, 0].sum()) == pytest.approx(0.0, abs=1e-9)


def chain(hoppings: list[list[float]], on_site: list[float] | None = None, length: float = 5.0):
    """A chain along x of atoms with one s orbital each, orthonormal, in a wide box.

    hoppings[d][a]: from atom a of a cell to the atom d + 1 further on.
    """
    atoms = len(hoppings[0])
    s = cases.structure(
        [[length, 0, 0], [0, 60.0, 0], [0, 0, 60.0]], [[length * a / atoms, 30, 30] for a in range(atoms)], [1] * atoms
    )
    entries = [(a, a, 0, (on_site or [0.0] * atoms)[a]) for a in range(atoms)]
    for d, row in enumerate(hoppings, start=1):
        for a, t in enumerate(row):
            entries += [(a, (a + d) % atoms, (a + d) // atoms, t), ((a + d) % atoms, a, -((a + d) // atoms), t)]
    i, j, x = (torch.tensor([e[n] for e in entries]) for n in range(3))
    R = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], 1)
    layout = BlockLayout(Basis.of(s.numbers, {1: (0,)}), Pairs.of(i, j, R, atoms))
    values = torch.zeros(1, layout.size, dtype=torch.float64)
    place = layout.boundaries[layout.pairs.find(i, j, R)]
    values[0].index_add_(0, place, torch.tensor([e[3] for e in entries], dtype=torch.float64))
    overlap = torch.zeros(1, layout.size, dtype=torch.float64)
    overlap[0, layout.boundaries[layout.pairs.on_site]] = 1.0
    return Calculation(s, BlockMatrix(layout, overlap), BlockMatrix(layout, values), electrons=float(atoms))


def test_dos_of_a_chain_is_the_known_one():
    """e(k) = 2 t cos k has N(E) = 2 - (2 / pi) arccos(E / 2t) below E."""
    c = chain([[-0.1]])
    found = nearsight.dos(c, kmesh=(400, 1, 1), window=(-6, 6), step_ev=0.05)
    assert found.kmesh == (400, 1, 1)
    inside = found.edges.abs() < 0.19
    exact = torch.tensor([2 - 2 / pi * acos(float(e) / 0.2) for e in found.edges[inside]])
    close(found.below[0, inside], exact.double(), atol=2e-4, rtol=0)


def test_vacuum_has_no_k_points():
    assert nearsight.dos(chain([[-0.1]])).kmesh[1:] == (1, 1)
    assert nearsight.dos(graphene()).kmesh[2] == 1


def test_tetrahedra_on_a_reduced_mesh_are_those_of_the_full_one():
    c = graphene()
    energies = torch.linspace(-1.0, 0.5, 40, dtype=torch.float64)
    found = []
    for reduced in (True, False):
        mesh = Sampling.of((5, 4, 2), time_reversal=reduced)
        e = levels(c.hamiltonian, c.overlap, mesh.k)
        way = Tetrahedra.of(mesh, c.structure)
        found.append(electrons_below(energies, e, mesh, way, 2.0)[0])
        assert float(mesh.weights.sum()) == pytest.approx(1.0)
    close(found[0], found[1], atol=1e-10, rtol=0)


def test_tetrahedra_integrate_a_linear_band_exactly_and_quadratic_ones_to_second_order():
    """A parabola in the middle of a cubic zone: n(E) = 4 pi E^1.5 / 3 of the sphere that it fills."""
    s = Structure(2 * pi * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([1]))
    errors = []
    for n in (12, 24):
        mesh = Sampling.of((n, n, n), time_reversal=True)
        e = mesh.k.square().sum(1)[None, :, None]
        E = torch.tensor([0.16], dtype=torch.float64)
        count = electrons_below(E, e, mesh, Tetrahedra.of(mesh, s), 1.0)[0]
        errors.append(abs(float(count) - 4 * pi / 3 * 0.4**3))
    assert errors[1] < 0.35 * errors[0] < 0.02


def test_narrow_gaussians_and_tetrahedra_agree_on_a_fine_mesh():
    c = replace(graphene(), electrons=8.0)
    found = [nearsight.dos(c, method=m, kmesh=(40, 40, 1), width_ev=0.1) for m in ("tetrahedron", "gaussian")]
    assert found[0].fermi_level == pytest.approx(found[1].fermi_level, abs=2e-4)
    middle = [f.at_fermi(f.below).sum() for f in found]
    assert float(middle[0]) == pytest.approx(float(middle[1]), abs=1e-6)


def test_fermi_energy_is_in_the_middle_of_a_gap():
    e = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    way = Gaussian(torch.ones(1, dtype=torch.float64), 1e-3)
    assert fermi_energy(e, way, 2.0, 2.0) == pytest.approx(0.5, abs=1e-2)
    with pytest.raises(BadInput, match="do not fit"):
        fermi_energy(e, way, 5.0, 2.0)


def test_fat_bands_and_projected_dos_share_their_projections():
    c = graphene()
    found = nearsight.bands(c, points=12, project="l")
    assert found.names == ("s", "p")
    close(found.shares.sum(2), torch.ones_like(found.energies), atol=1e-10, rtol=0)


def test_words_of_projections():
    with pytest.raises(BadInput, match="did you mean element"):
        nearsight.dos(graphene(), project="elment")
    with pytest.raises(BadInput, match="without spin"):
        nearsight.dos(graphene(), project="spin")
    with pytest.raises(BadInput, match="--window"):
        nearsight.dos(graphene(), window=(1, 2))


# --- k.p


def general(kind, seed: int = 3) -> Lattice:
    """A crystal without symmetry, with random hermitian H and a positive S."""
    s = cases.skew()
    g = torch.Generator().manual_seed(seed)
    layout = BlockLayout(Basis.of(s.numbers, {8: (0, 1), 6: (0, 1), 1: (0,)}), Pairs.within(s, 7.0))
    dtype = torch.complex128 if kind is SPINOR else torch.float64
    h = torch.randn(kind.components, layout.size, generator=g, dtype=dtype)
    o = 0.02 * torch.randn(1, layout.size, generator=g, dtype=torch.float64)
    diagonal = (layout.pairs.i == layout.pairs.j) & (layout.pairs.R == 0).all(1)
    o[0, diagonal[layout.pair] & (layout.local[0] == layout.local[1])] = 1.0
    return Lattice(BlockMatrix(layout, h, kind).hermitian(), BlockMatrix(layout, o).hermitian(), s)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_velocities_and_curvatures_are_derivatives_of_the_levels(kind):
    lattice = general(kind)
    k = torch.tensor([0.13, -0.21, 0.34], dtype=torch.float64)
    step = 1e-4
    inverse = torch.linalg.inv(lattice.structure.reciprocal)

    def energies(q):
        return lattice.states(k + torch.as_tensor(q, dtype=torch.float64) @ inverse)[0]

    axes = np.eye(3) * step
    e0, c0 = lattice.states(k)
    v = lattice.velocities(k[None], e0[:, None], c0[:, None])[:, :, 0]
    for component in range(kind.matrices):
        for level in (0, 3, 6):
            found = Expansion.of(lattice, k, component, [level])
            slope = torch.stack([(energies(a) - energies(-a))[component, level] / (2 * step) for a in axes])
            close(found.velocity, slope, atol=1e-5, rtol=1e-5)
            close(v[:, component, level], found.velocity, atol=1e-9, rtol=0)
            curvature = torch.stack([
                torch.stack([
                    (energies(a + b) - energies(a - b) - energies(b - a) + energies(-a - b))[component, level]
                    / (4 * step**2)
                    for a in axes
                ])
                for b in axes
            ])  # fmt: skip
            close(found.second[:, :, 0, 0].real, curvature, atol=1e-3, rtol=1e-4)
            assert found.tensor() is not None


def test_degenerate_levels_leave_by_the_eigenvalues_of_matrices():
    """The sigma bands at Gamma of graphene: two levels, no velocity, two curvatures along any direction."""
    c = graphene()
    lattice = Lattice(c.hamiltonian, c.overlap.hermitian(), c.structure)
    k = torch.zeros(3, dtype=torch.float64)
    e = lattice.states(k)[0][0]
    pair = next([n, n + 1] for n in range(len(e) - 1) if float(e[n + 1] - e[n]) < 1e-5)
    found = Expansion.of(lattice, k, 0, pair)
    close(found.first.abs(), torch.zeros_like(found.first.abs()), atol=1e-5, rtol=0)
    direction = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    step = 2e-3
    q = step * direction @ torch.linalg.inv(c.structure.reciprocal)
    there = lattice.states(k + q)[0][0, pair]
    close(found.curvatures(direction), 2 * (there - e[pair].mean()) / step**2, atol=2e-2, rtol=5e-3)


# --- gaps


def test_dimerised_chain_has_the_known_gap_and_mass():
    """E = (t1^2 + t2^2 + 2 t1 t2 cos ka)^1/2: gap 2 |t1 - t2| at the zone's edge, mass |t1 - t2| / (t1 t2 a^2)."""
    t1, t2, a = -0.12, -0.08, 5.0
    found = nearsight.gap(chain([[t1, t2]]))
    assert found.metal is None
    assert found.same_k
    assert found.gap == pytest.approx(2 * abs(t1 - t2), abs=1e-9)
    assert found.valence.masses[0] == pytest.approx(abs(t1 - t2) / (t1 * t2 * a * a), rel=1e-6)
    assert found.conduction.masses == pytest.approx(found.valence.masses, rel=1e-6)
    assert len(found.valence.masses) == 1
    assert float(found.valence.k[0].abs()) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_an_extremum_between_points_of_the_mesh_is_found(kind):
    """e = 2 t1 cos x + 2 t2 cos 2x is highest at cos x = -t1 / 4 t2."""
    t1, t2, far = 0.02, -0.03, 1.0
    c = chain([[0.0, 0.0], [t1, t1 / 2], [0.0, 0.0], [t2, t2 / 2]], [0.0, far])
    found = nearsight.gap(with_spin(c, kind))
    x = acos(-t1 / (4 * t2)) / (2 * pi)
    assert float(found.valence.k[0].abs()) == pytest.approx(x, abs=1e-6)
    assert found.valence.energy == pytest.approx(-2 * t2 - t1**2 / (4 * t2), abs=1e-10)


def test_metals_are_said_so():
    found = nearsight.gap(chain([[-0.1]]))
    assert "cross" in found.metal
    assert found.gap == 0
    assert found.fermi_speed == pytest.approx(2 * 0.1 * 5.0, rel=0.02)  # v = 2 t a sin k at half filling
    assert "metal" in found.summary()[0]


def test_graphene_touches_at_k_with_one_speed_in_all_directions():
    found = nearsight.gap(replace(graphene(), electrons=8.0))
    assert "touch at K" in found.metal
    assert found.valence.cone[0] == pytest.approx(found.valence.cone[1], rel=1e-3)
    lattice = Lattice(graphene().hamiltonian, graphene().overlap, graphene().structure)
    step = 1e-4
    q = torch.tensor([step, 0, 0], dtype=torch.float64) @ torch.linalg.inv(graphene().structure.reciprocal)
    e = lattice.states(found.conduction.k + q)[0][0]
    assert float(e[4] - e[3]) / (2 * step) == pytest.approx(found.conduction.cone[0], rel=1e-3)


def test_levels_of_a_molecule_have_no_mass():
    c = chain([[0.0, 0.0]], [0.0, 1.0])
    apart = replace(c, structure=Structure(c.structure.cell * 12, c.structure.positions, c.structure.numbers))
    found = nearsight.gap(apart)
    assert found.gap == pytest.approx(1.0)
    assert found.kmesh == (1, 1, 1)
    assert found.valence.masses == ()


def test_collinear_spins_share_the_electrons_as_the_gap_says():
    c = with_spin(chain([[0.0, 0.0]], [0.0, 1.0]), COLLINEAR)
    shifted = c.hamiltonian.values.clone()
    shifted[0] -= 3.0 * c.overlap.values[0]  # up is far below: both electrons are up
    found = nearsight.gap(replace(c, hamiltonian=c.hamiltonian.with_values(shifted)))
    assert (found.valence.spin, found.conduction.spin) == ("up", "down")
    assert found.gap == pytest.approx(2.0, abs=1e-9)


# --- charges


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """Folders as SIESTA's: matrices, and the species beside them; no settings of ours."""
    found = {}
    for name, electrons in (("h2o_pbe_dzp", 8.0), ("o2_pbe_dzp_spin", 12.0)):
        with np.load(REFERENCE / f"{name}.npz") as file:
            data = dict(file)
        s = Structure(*(torch.as_tensor(data[k]) for k in ("cell", "positions", "numbers")))
        species = {x.number: x for x in (species_in(data, symbol) for symbol in dict.fromkeys(s.symbols))}
        table = torch.as_tensor(data["pairs"])
        basis = Basis.of(s.numbers, {z: x.shells for z, x in species.items()})
        layout = BlockLayout(basis, Pairs(table[:, 0], table[:, 1], table[:, 2:], len(s)))
        overlap = BlockMatrix(layout, torch.as_tensor(data["overlap"]))
        h = torch.as_tensor(data["hamiltonian_ha"])
        folder = tmp_path_factory.mktemp(name) / "folder"
        hamiltonian = BlockMatrix(layout, h, by_components(len(h)))
        write_folder(folder, Calculation(s, overlap, hamiltonian, electrons=electrons))
        (folder / "species").mkdir()
        for x in species.values():
            write_ion_xml(x, folder / "species" / f"{x.symbol}.ion.xml")
        found[name] = nearsight.read(folder)
    return found


def test_charges_of_water_obey_their_sum_rules(molecules):
    found = nearsight.charges(molecules["h2o_pbe_dzp"], mesh_cutoff_ry=150)
    assert set(found.charges) == {"mulliken", "lowdin", "hirshfeld"}
    for name, n in found.electrons.items():
        assert float(n.sum()) == pytest.approx(8.0, abs=1e-4 if name == "hirshfeld" else 1e-9)
        assert float(n[1]) == pytest.approx(float(n[2]), abs=1e-3)
    assert -0.35 < float(found.charges["hirshfeld"][0]) < -0.15  # -0.23: both hydrogens give to oxygen
    assert [round(b.order, 1) for b in found.bonds[:2]] == [1.4, 1.4]
    assert found.dipole is not None
    debye = found.dipole / DEBYE_AU
    assert float(debye.norm()) == pytest.approx(1.3506, abs=2e-3)  # of these short orbitals; the same by r n(r) in full
    assert not found.notes


def test_the_dipole_is_that_of_nuclei_and_electrons(molecules):
    """sum_a Z_a (R_a - O) - int (r - O) n(r), all of it on the mesh, to what a mesh of whole atoms is good for."""
    c = molecules["h2o_pbe_dzp"]
    wanted = nearsight.charges(c, mesh_cutoff_ry=200)
    orbitals = MeshOrbitals.of(c, 200)
    n = orbitals.density(Occupied.of(c).density_matrix)[0]
    points = torch.stack(torch.meshgrid(*(torch.arange(m).double() / m for m in n.shape), indexing="ij"), -1)
    away = points - wanted.origin @ torch.linalg.inv(c.structure.cell)
    electrons = (((away - away.round()) @ c.structure.cell) * n[..., None]).sum(
        (0, 1, 2)
    ) * orbitals.mesh.volume_element
    apart = (c.structure.positions - wanted.origin) @ torch.linalg.inv(c.structure.cell)
    nuclei = (wanted.valence[:, None] * ((apart - apart.round()) @ c.structure.cell)).sum(0)
    close(nuclei - electrons, wanted.dipole, atol=1e-3, rtol=0)


def test_closed_shells_have_bond_orders_that_sum_to_twice_the_electrons(molecules):
    """(D S)^2 = 2 D S, so that sum_b B_ab with b = a among them is 2 N_a."""
    c = molecules["h2o_pbe_dzp"]
    occupied = Occupied.of(c)
    atom = c.basis.atom_of_orbital
    total = torch.zeros(3, dtype=torch.float64).index_add(0, atom, occupied.square)
    close(total, 2 * mulliken(occupied.density_matrix, c.overlap)[0], atol=1e-9, rtol=0)


def test_moments_of_oxygen_are_those_of_a_triplet(molecules):
    found = nearsight.charges(molecules["o2_pbe_dzp_spin"], mesh_cutoff_ry=150)
    for name, m in found.moments.items():
        close(m[:, 2], torch.ones(2, dtype=torch.float64), atol=1e-3 if name == "hirshfeld" else 1e-6, rtol=0)
        assert float(m[:, :2].abs().max()) == 0
    turned = nearsight.charges(with_turned_spin(molecules["o2_pbe_dzp_spin"]), mesh_cutoff_ry=150)
    for name, m in turned.moments.items():
        close(m, found.moments[name] @ TURN.T, atol=1e-6, rtol=0)
    for name, n in turned.electrons.items():
        close(n, found.electrons[name], atol=1e-6, rtol=0)
    assert turned.bonds[0].order == pytest.approx(found.bonds[0].order, abs=1e-6)


TURN = cases.random_rotation(5)


def with_turned_spin(calculation):
    """Collinear spin as spinors whose axis is turned."""
    h = calculation.hamiltonian
    up, down = h.values.to(torch.complex128)
    spinor = torch.stack([up, torch.zeros_like(up), torch.zeros_like(up), down])
    turned = SPINOR.rotated(spinor, TURN)
    return replace(calculation, hamiltonian=BlockMatrix(h.layout, turned, SPINOR), density_matrix=None)


def test_the_dipole_does_not_know_where_the_box_begins(molecules):
    c = molecules["h2o_pbe_dzp"]
    wanted = nearsight.charges(c, mesh_cutoff_ry=150).dipole
    shift = c.structure.cell.sum(0) * 0.5  # whole steps of the mesh, and across the faces of the box
    s = Structure(c.structure.cell, c.structure.positions + shift, c.structure.numbers)
    close(nearsight.charges(replace(c, structure=s), mesh_cutoff_ry=150).dipole, wanted, atol=1e-9, rtol=0)


def test_charges_of_a_ground_state_need_no_folder():
    state = nearsight.ground_state(cases.water(), basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=60)
    found = nearsight.charges(state)
    assert not found.notes
    assert found.dipole is not None
    assert float(found.dipole[2]) > 0.3  # from oxygen to the hydrogens
    assert float(found.charges["hirshfeld"].sum()) == pytest.approx(0.0, abs=1e-3)


def test_what_has_no_dipole_is_refused(molecules):
    with pytest.raises(BadInput, match="periodic along a b"):
        nearsight.charges(graphene(), dipole=True)
    c = replace(molecules["h2o_pbe_dzp"], electrons=7.0)
    assert any("origin" in note for note in nearsight.charges(c, mesh_cutoff_ry=60).notes)


def test_without_species_there_are_electrons_and_a_note():
    found = nearsight.charges(graphene(), kmesh=(2, 2, 1))
    assert found.charges == {}
    assert "species/C.ion.xml" in found.notes[0]
    assert len([b for b in found.bonds if b.order > 1]) == 3


# --- densities on the mesh, and the command line


def test_spin_densities_of_another_program(molecules, tmp_path):
    folder = molecules["o2_pbe_dzp_spin"].provenance.path
    c = molecules["o2_pbe_dzp_spin"]
    density = Occupied.of(c).density_matrix
    whole = replace(c, density_matrix=density, provenance=replace(c.provenance, path=folder))
    found = fields_of(whole, ("density", "spin", "mx", "mz", "m"), mesh_cutoff_ry=100)
    step = float(c.structure.volume) / found["density"][0].values.numel()
    sums = {word: float(volume.values.sum()) * step for word, (volume, _) in found.items()}
    assert sums["density"] == pytest.approx(12.0, abs=5e-3)
    assert sums["spin"] == sums["mz"] == pytest.approx(2.0, abs=5e-3)
    assert sums["mx"] == 0
    turned = with_turned_spin(c)
    turned = replace(turned, density_matrix=Occupied.of(turned).density_matrix)
    other = fields_of(turned, ("density", "spin", "mx", "my", "mz"), mesh_cutoff_ry=100)
    close(other["density"][0].values, found["density"][0].values, atol=1e-6, rtol=0)
    vector = torch.stack([other[w][0].values for w in ("mx", "my", "mz")], -1)
    close((vector @ TURN)[..., 2], found["mz"][0].values, atol=1e-6, rtol=0)
    close(other["spin"][0].values, found["mz"][0].values.abs(), atol=1e-6, rtol=0)
    with pytest.raises(MissingData, match="--mesh-cutoff"):
        fields_of(whole, ("density",))
    with pytest.raises(MissingData, match="does not say its mesh"):
        fields_of(whole, ("potential",))


def test_commands_of_properties(molecules, tmp_path, capsys, monkeypatch):
    import sys

    from nearsight import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nearsight", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    folder = molecules["h2o_pbe_dzp"].provenance.path
    for name, options in (
        ("dos", ["--project", "element,l", "--width", "0.2"]),
        ("gap", []),
        ("charges", ["--mesh-cutoff", 60]),
    ):
        picture, numbers = tmp_path / f"{name}.png", tmp_path / f"{name}.json"
        status, out, err = run(name, folder, "-o", picture, "--json", numbers, *options)
        assert status == 0, err
        assert picture.stat().st_size > 5000
        assert json.loads(numbers.read_text())["version"] == 1
        assert len(out.splitlines()) > 2
    status, out, _ = run("--help")
    assert status == 0
    assert all(name in out for name in ("dos", "gap", "charges", "bands"))
    status, _, err = run("dos", folder, "--method", "gausian")
    assert status == 1
    assert "did you mean gaussian?" in err
    status, _, err = run("charges", tmp_path / "nowhere")
    assert (status, err.strip().count("\n")) == (1, 0)


def test_a_flat_cell_is_called_broken():
    """There are no k-points then; what can be said without them is said."""
    c = graphene()
    cell = c.structure.cell.clone()
    cell[2] = 0
    found = nearsight.check(replace(c, structure=Structure(cell, c.structure.positions, c.structure.numbers)))
    assert not found[0].holds
    assert "zero volume" in found[0].found
    assert any("hermitian" in f.law and f.holds for f in found)


class Spread(Options):
    factor: float = option(1.0, "what the width is multiplied with", gt=0)
    word: str | None = option(None, "said in the summary")


@dataclass(frozen=True)
class Width(Result):
    value: float
    word: str | None

    def to_json(self):
        return {"version": self.version, "width_eV": self.value}

    def summary(self):
        return [f"width {self.value:.3f} eV {self.word or ''}"]


class Bandwidth(Property[Spread, Width]):
    """A property of somebody else's, in a file of its own."""

    name = "bandwidth"
    options = Spread
    picture = False

    def compute(self, calculation, options, progress=None):
        e = levels(calculation.require_hamiltonian(), calculation.require_overlap(), torch.zeros(1, 3).double())
        return Width(options.factor * float(e.max() - e.min()), options.word)


bandwidth = Bandwidth()


def test_a_property_from_outside_gets_its_command_and_function(monkeypatch, capsys):
    import sys

    from nearsight import cli
    from nearsight.core import registry

    class Entry:
        name, value = "bandwidth", f"{__name__}:bandwidth"

        def load(self):
            return bandwidth

    found = registry._foreign
    monkeypatch.setattr(
        registry, "_foreign", lambda group: {"bandwidth": Entry()} if group == "properties" else found(group)
    )
    assert nearsight.bandwidth(graphene(), factor=2.0).value == pytest.approx(2 * nearsight.bandwidth(graphene()).value)
    folder = Path(__file__).parents[1] / "formats" / "data" / "graphene_lda_sz"
    monkeypatch.setattr(sys, "argv", ["nearsight", "bandwidth", str(folder), "--factor", "2", "--word", "hello"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert capsys.readouterr().out.strip().endswith("eV hello")

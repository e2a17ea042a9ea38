"""Laws of spinors in the engine: spin-orbit coupling, and moments that turn from point to point."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

import nearsight
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput
from nearsight.core.so3 import angular_momentum
from nearsight.core.species import Projector, Species
from nearsight.core.spin import COLLINEAR, NONE, SPINOR
from nearsight.core.structure import Structure
from nearsight.dft.forces import derivatives_at_fixed_density_matrix, forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import GroundState, ground_state
from nearsight.dft.scf import SCF
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup
from nearsight.dft.terms import BoundTerm, State
from nearsight.dft.terms.exchange_correlation import ExchangeCorrelation
from nearsight.dft.terms.one_body import NonLocal, SpinOrbit
from nearsight.electrons import kpoints
from nearsight.electrons.eigen import eigenvalues
from nearsight.integrals.mesh import mesh_shape
from nearsight.xc.functionals import LDA, PBE
from tests import cases
from tests.laws.terms import central, direction, inner, positive_density_matrix, same_orbitals, system_of

close = torch.testing.assert_close
GAMMA = kpoints.mesh((1, 1, 1), time_reversal=False)
OUTER = {8: 1.5, 6: 1.0, 1: 0.5}  # moments in mu_B
MEV = 1 / 27211.386


def relativistic(s: Species) -> Species:
    """The species with each projector split by j, whose average it is; as strong as in a heavy atom."""
    split = []
    for p in s.projectors:
        if p.l == 0:
            split.append(replace(p, j=0.5))
        else:
            split.append(Projector(p.radial, p.energy * (1 + 0.2 * p.l), p.l + 0.5))
            split.append(Projector(p.radial, p.energy * (1 - 0.2 * (p.l + 1)), p.l - 0.5))
    return replace(s, relativistic_projectors=tuple(split))


@cache
def by_j(name: str = "skew") -> dict[int, Species]:
    return {z: relativistic(s) for z, s in cases.species_of(getattr(cases, name)(), "sz").items()}


def functional(s: Structure, spin_orbit: bool = False, xc: str = "pbe", **keys) -> EnergyFunctional:
    species = {z: relativistic(x) for z, x in cases.species_of(s, "sz").items()}
    return EnergyFunctional.of(s, species, xc, mesh_shape(s.cell, 60.0), spin_orbit=spin_orbit, **keys)


def turning(f: EnergyFunctional, size: float = 1.0) -> BlockMatrix:
    """A density matrix with another direction of the moment on each atom."""
    d = positive_density_matrix(f.system, SPINOR)
    vectors = [[0.9, 0.0, 0.3], [-0.5, 0.8, 0.0], [0.0, -0.4, -0.3]]
    own = f.initial_density_matrix([[size * x for x in v] for v in vectors])
    none = f.initial_density_matrix(None, SPINOR)
    return 0.3 * d + own - 0.2 * none


def triangle(moved: float = 0.0) -> Structure:
    """Three hydrogens 3.6 Bohr apart, whose middle is a point of the mesh."""
    a = 3.6 / 3**0.5
    place = [[0.0, a, 0.0], [-a * 3**0.5 / 2, -a / 2, 0.0], [a * 3**0.5 / 2, -a / 2, 0.0]]
    around = [[6.0 + x + moved * (n == 0), 6.0 + y + 0.4 * moved * (n == 1), 6.0] for n, (x, y, _) in enumerate(place)]
    return cases.structure([[12.0, 0, 0], [0, 12.0, 0], [0, 0, 12.0]], around, [1, 1, 1])


AROUND = [[0.0, 0.9, 0.0], [-0.9 * 3**0.5 / 2, -0.45, 0.0], [0.9 * 3**0.5 / 2, -0.45, 0.0]]


@cache
def solved_triangle(xc: str = "pbe", moved: float = 0.0) -> GroundState:
    f = EnergyFunctional.of(triangle(moved), {1: cases.species("H", "sz")}, xc, (32, 32, 32))
    return ground_state(f, GAMMA, 0.002, SCF(tolerance=1e-8), moments=AROUND)


def test_angular_momentum_is_that_of_real_harmonics():
    for l in range(4):
        x, y, z = (torch.as_tensor(m) for m in angular_momentum(l))
        close(x @ y - y @ x, 1j * z)
        close(x @ x + y @ y + z @ z, l * (l + 1) * torch.eye(2 * l + 1, dtype=x.dtype))
        assert all(float(m.real.abs().max()) < 1e-15 for m in (x, y, z))
    lz = angular_momentum(1)[2]  # p = (y, z, x): L_z x = i y
    assert abs(lz[0, 2] - 1j) < 1e-15


class TestCoupling:
    def test_it_commutes_with_time_reversal_and_turns_with_atoms_and_spins(self):
        s = cases.skew()
        v = functional(s, True).terms[2].matrix
        scale = float(v.values.abs().max())
        close(v.time_reversed().values, v.values, rtol=0, atol=1e-13 * scale)
        close(v.dagger().values, v.values, rtol=0, atol=1e-12 * scale)
        r = cases.random_rotation(3, improper=True)
        close(functional(s.rotate(r), True).terms[2].matrix.values, v.rotate(r).values, rtol=0, atol=1e-9 * scale)
        apart = v.with_values(SPINOR.rotated(v.values, r))
        assert float((apart - v).values.abs().max()) > 1e-3 * scale  # spins alone do not

    def test_its_average_over_spin_is_the_scalar_potential(self):
        system = system_of("skew", 60.0, "cpu")
        own = replace(system, species=by_j())
        both = SpinOrbit().on(own).matrix
        alone = {z: replace(s, projectors=()) for z, s in by_j().items()}
        for species in (by_j(), alone):
            scalar = NonLocal().on(replace(system, species=species)).matrix
            close((0.5 * (both.values[0] + both.values[3])).real, scalar.values[0], rtol=0, atol=1e-12)
        same = {z: replace(s, relativistic_projectors=()) for z, s in by_j().items()}
        plain = SpinOrbit().on(replace(system, species=same)).matrix
        close(plain.values, scalar.embed(SPINOR).values.to(plain.values.dtype), rtol=0, atol=1e-13)

    def test_a_shell_splits_by_j(self):
        """One p projector of an atom alone: four levels of j = 3/2 and two of j = 1/2, at the strengths of each."""
        s = cases.structure([[30.0, 0, 0], [0, 30, 0], [0, 0, 30]], [[15.0, 15, 15]], [6])
        carbon = by_j()[6]
        f = EnergyFunctional.of(s, {6: carbon}, "pbe", (20, 20, 20), spin_orbit=True)
        v = f.terms[2].matrix.at_k(torch.zeros(1, 3, dtype=torch.float64))[0, 0]
        p = [1, 2, 3, 5, 6, 7]  # s, then p, of each spin
        levels = torch.linalg.eigvalsh(v[p][:, p])
        scalar = float(NonLocal().on(f.system).matrix.at_k(torch.zeros(1, 3, dtype=torch.float64))[0, 0, 1, 1].real)
        wanted = sorted([scalar * 1.2] * 4 + [scalar * 0.6] * 2)
        close(levels, torch.tensor(wanted, dtype=levels.dtype), rtol=1e-9, atol=1e-12)

    def test_the_gradient_and_the_forces_are_those_of_the_energy(self):
        system = replace(system_of("skew", 60.0, "cpu"), species=by_j())
        f = EnergyFunctional.bind(system, (SpinOrbit(),), 1.0)
        d, x = positive_density_matrix(system, SPINOR), direction(system, SPINOR)
        d = d + x
        numeric = central(lambda h: f.energy(d + h * x), 1e-3)
        close(inner(f.evaluate(d).hamiltonian, x), numeric, rtol=1e-9, atol=1e-10)
        found = derivatives_at_fixed_density_matrix(system, (SpinOrbit(),), d)
        move = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        s = system.structure

        def energy(h: float) -> torch.Tensor:
            there = same_orbitals(system, replace(s, positions=s.positions + h * move))
            return SpinOrbit().on(there).energy(State.of(there, d))

        close(-(found.forces * move).sum(), central(energy, 2e-3), rtol=1e-6, atol=2e-8)

    def test_levels_come_in_pairs_of_kramers(self):
        gs = ground_state(functional(cases.skew(), True), kpoints.mesh((2, 1, 1)), 0.01)
        assert gs.converged and gs.hamiltonian.spin is SPINOR and float(gs.moments.abs().max()) < 1e-12
        close(gs.hamiltonian.time_reversed().values, gs.hamiltonian.values, rtol=0, atol=1e-12)
        k = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.2, 0.1, -0.3], [-0.2, -0.1, 0.3]], dtype=torch.float64)
        e = eigenvalues(gs.hamiltonian, gs.functional.overlap, k)[0]
        assert float((e[:2, 1::2] - e[:2, ::2]).abs().max()) < 1e-9 * MEV * 1000  # 1e-9 eV
        assert float((e[2] - e[3]).abs().max()) < 1e-9 * MEV * 1000
        assert float((e[2, 1::2] - e[2, ::2]).abs().max()) > MEV  # no inversion: split elsewhere

    def test_half_of_the_k_points_give_what_all_do(self):
        f = functional(cases.skew(), True)
        one, two = (
            ground_state(f, kpoints.mesh((3, 1, 1), time_reversal=t), 0.01, SCF(tolerance=1e-8)) for t in (True, False)
        )
        assert len(one.kpoints) < len(two.kpoints) and abs(one.total - two.total) < 1e-8

    def test_a_density_matrix_without_spinors_is_refused(self):
        f = functional(cases.skew(), True)
        with pytest.raises(BadInput, match="spinor"):
            f.evaluate(positive_density_matrix(f.system, COLLINEAR))
        assert (
            f.initial_density_matrix().spin is SPINOR and functional(cases.skew()).initial_density_matrix().spin is NONE
        )


class TestTurningMoments:
    @pytest.mark.parametrize("xc", ["lda", "pbe"])
    @pytest.mark.parametrize("axes", ["variational", "siesta"])
    def test_along_one_axis_they_are_the_collinear_ones(self, xc, axes):
        """Also where the moment changes sign, as it does between these atoms, and whatever the axis."""
        f = functional(cases.skew(), xc=xc, axes=axes)
        collinear = f.evaluate(f.initial_density_matrix([1.5, -1.0, 0.5]))
        along_z = f.evaluate(f.initial_density_matrix([[0, 0, 1.5], [0, 0, -1.0], [0, 0, 0.5]]))
        close(along_z.total, collinear.total, rtol=0, atol=1e-11)
        embedded = torch.zeros_like(along_z.hamiltonian.values)
        embedded[0], embedded[3] = collinear.hamiltonian.values
        close(along_z.hamiltonian.values, embedded, rtol=0, atol=1e-10)
        r = cases.random_rotation(2)
        along = torch.tensor([[0, 0, 1.5], [0, 0, -1], [0, 0, 0.5]], dtype=torch.float64)
        turned = f.evaluate(f.initial_density_matrix((along @ r.T).tolist()))
        close(turned.hamiltonian.values, SPINOR.rotated(embedded, r), rtol=0, atol=1e-7)

    def test_the_hamiltonian_turns_with_them(self):
        """U H U^dagger of turned moments, on one mesh: spin space knows no direction without spin-orbit coupling."""
        f = functional(cases.skew())
        d, r = turning(f), cases.random_rotation(7)
        one, two = f.evaluate(d), f.evaluate(d.with_values(SPINOR.rotated(d.values, r)))
        close(two.total, one.total, rtol=0, atol=1e-11)
        close(two.hamiltonian.values, SPINOR.rotated(one.hamiltonian.values, r), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("functional_of", [LDA, PBE], ids=["lda", "pbe"])
    def test_potential_and_kernel_are_derivatives_of_the_energy(self, functional_of):
        system = system_of("skew", 60.0, "cpu")
        f = EnergyFunctional.bind(system, (ExchangeCorrelation(functional_of),), 1.0)
        d, x, y = turning(f), direction(system, SPINOR), direction(system, SPINOR, 1)
        x = 0.1 * x
        close(inner(f.evaluate(d).hamiltonian, x), central(lambda h: f.energy(d + h * x), 1e-4), rtol=1e-6, atol=1e-9)
        state = f.state(d)
        automatic, closed = BoundTerm.evaluate(f.terms[0], state)[1], f.terms[0].evaluate(state)[1]
        close(f._matrix([automatic], SPINOR).values, f._matrix([closed], SPINOR).values, rtol=1e-9, atol=1e-10)
        x = 0.1 * x + 0.3 * d
        numeric = central(lambda h: inner(f.evaluate(d + h * x).hamiltonian, y), 1e-4)
        close(inner(f.kernel(d, x), y), numeric, rtol=1e-5, atol=1e-7)

    def test_forces_are_derivatives_at_fixed_density_matrix(self):
        system = system_of("skew", 60.0, "cpu")
        term = ExchangeCorrelation(PBE)
        s, d = system.structure, turning(EnergyFunctional.bind(system, (term,), 1.0))
        found = derivatives_at_fixed_density_matrix(system, (term,), d)
        g = torch.Generator().manual_seed(0)
        move, strain = torch.randn(3, 3, generator=g, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
        strain[0, 1] = strain[1, 0] = 0.7

        def energy(moved: Structure) -> torch.Tensor:
            there = same_orbitals(system, moved)
            return term.on(there).energy(State.of(there, d))

        numeric = central(lambda h: energy(replace(s, positions=s.positions + h * move)), 2e-3)
        close(-(found.forces * move).sum(), numeric, rtol=2e-6, atol=5e-8)
        eye = torch.eye(3, dtype=torch.float64)
        numeric = central(
            lambda h: energy(replace(s, cell=s.cell @ (eye + h * strain), positions=s.positions @ (eye + h * strain))),
            4e-4,
        )
        close((found.stress * strain).sum() * s.volume, numeric, rtol=2e-6, atol=1e-7)

    @pytest.mark.parametrize("size", [1e-2, 1e-6, 1e-13, 1e-16, 1e-30, 0.0])
    def test_nothing_explodes_where_moments_vanish(self, size):
        f = functional(cases.skew())
        none = f.evaluate(f.initial_density_matrix(None, SPINOR))
        vectors = [[size, 0.0, 0.0], [0.0, -size, 0.0], [0.0, 0.0, size]]
        small = f.evaluate(f.initial_density_matrix(vectors))
        apart = float((small.hamiltonian - none.hamiltonian).values.abs().max())
        moved = 3e-6 / 27.2 * f.electrons if size > 1e-10 else 0.0  # where |m| is made smooth
        assert apart < 2 * size + 1e-12 and abs(float(small.total - none.total)) < 2 * size**2 + moved + 1e-11


class TestSelfConsistent:
    def test_collinear_is_non_collinear_along_any_axis(self):
        f = functional(cases.skew())
        method = SCF(tolerance=1e-8)
        one = ground_state(f, GAMMA, 0.02, method, moments=[1.5, 1.0, 0.5])
        r = cases.random_rotation(4)
        vectors = torch.tensor([[0, 0, 1.5], [0, 0, 1.0], [0, 0, 0.5]], dtype=torch.float64)
        for start in (vectors, vectors @ r.T):
            two = ground_state(f, GAMMA, 0.02, method, moments=start.tolist())
            assert one.converged and two.converged and abs(one.free - two.free) < 1e-6 * MEV * 1000
            close(two.moments.norm(dim=1), one.moments.norm(dim=1), rtol=0, atol=1e-5)
        e = [g.electrons.levels.energies.flatten().sort().values for g in (one, two)]
        assert float((e[0] - e[1]).abs().max()) < 1e-6 * MEV * 1000

    def test_moments_turn_by_120_degrees_and_point_out(self):
        gs = solved_triangle()
        wanted = torch.tensor(AROUND, dtype=torch.float64) / 0.9
        assert gs.converged
        assert float((gs.moments / gs.moments.norm(dim=1, keepdim=True) - wanted).abs().max()) < 0.05

    @pytest.mark.parametrize("xc", ["lda", "pbe"])
    def test_forces_are_those_of_the_energy(self, xc):
        h = 4e-3
        gs = solved_triangle(xc, 0.3)
        move = torch.tensor([[1.0, 0, 0], [0, 0.4, 0], [0, 0, 0]], dtype=torch.float64)
        up, down = (solved_triangle(xc, 0.3 + x * h) for x in (1, -1))
        along = float((forces_and_stress(gs).forces * move).sum())
        error = (up.free - down.free) / (2 * h) + along
        assert gs.converged and abs(error) < 1.9e-5  # 1 meV/Angstrom


class TestSettings:
    def setup_of(self, s: Structure, **keys) -> Setup:
        settings = Settings(mesh_cutoff_ry=40, kmesh=(1, 1, 3), **keys)
        return Setup.of(s, settings, {z: relativistic(x) for z, x in cases.species_of(s, "sz").items()})

    def test_k_points_are_halved_where_time_reversal_holds(self):
        s = cases.skew()
        assert len(self.setup_of(s, spin="spinor", spin_orbit=True).kpoints) == 2
        moments = [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
        assert len(self.setup_of(s, spin="spinor", spin_orbit=True, moments=moments).kpoints) == 3
        assert len(self.setup_of(s, spin="non-collinear").kpoints) == 3

    def test_moments_are_vectors_of_spinors(self):
        s = cases.skew()
        assert self.setup_of(s, spin="spinor").moments is None
        assert self.setup_of(s, spin="non-collinear", moments=[1, 2, 0]).moments == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]
        stated = replace(s, moments=torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.float64))
        assert self.setup_of(stated, spin="non-collinear").moments == stated.moments.tolist()
        one = cases.structure([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]], [[4.0, 4, 4]], [8])
        assert self.setup_of(one, spin="non-collinear", moments=[1, 0, 0]).moments == [[1, 0, 0]]

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ({"spin": "collinear", "spin_orbit": True}, "add --spin spinor"),
            ({"spin": "none", "spin_orbit": True}, "add --spin spinor"),
            ({"spin": "collinear", "moments": [[0, 0, 1]] * 3}, "non-collinear"),
            ({"spin": "spinor", "total_moment": 1.0}, "total moment"),
            ({"spin": "spinor", "moments": [[0, 0, 1]] * 2}, "2 moments for 3 atoms"),
            ({"spin": "non-collinear", "moments": [[5, 5, 1]] * 3}, "moment of 7.14"),
        ],
    )
    def test_what_cannot_be_is_refused(self, keys, words):
        with pytest.raises(BadInput, match=words):
            self.setup_of(cases.skew(), **keys).ground_state()

    def test_what_a_kind_of_spin_cannot_hold_is_not_dropped(self):
        f = functional(cases.skew())
        for kind, moments in ((COLLINEAR, [[0, 0.5, 0.3]] * 3), (NONE, [0.5] * 3)):
            with pytest.raises(BadInput, match="cannot have these moments"):
                f.initial_density_matrix(moments, kind)
        for moments in ([0.5] * 3, [[0, 0, 0.5]] * 3):
            close(f.initial_density_matrix(moments, COLLINEAR).values, f.initial_density_matrix([0.5] * 3).values)
        start = f.initial_hamiltonian([0.5] * 3)
        with pytest.raises(BadInput, match="to begin with has spin collinear, the calculation spin spinor"):
            ground_state(f, GAMMA, 0.02, start=start, kind=SPINOR)

    def test_a_scalar_pseudopotential_has_no_coupling(self):
        s = cases.skew()
        scalar = {z: replace(x, relativistic_projectors=()) for z, x in cases.species_of(s, "sz").items()}
        with pytest.raises(BadInput, match="scalar-relativistic"):
            Setup.of(s, Settings(mesh_cutoff_ry=40, spin="spinor", spin_orbit=True), scalar)


def test_a_folder_keeps_matrices_and_moments(tmp_path):
    """Complex blocks and vectors of moments there and back, the latter in info.json too, for other programs."""
    f = functional(cases.skew(), xc="lda")
    gs = ground_state(f, GAMMA, 0.02, SCF(max_iterations=2), moments=[[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.3]])
    nearsight.write(tmp_path / "out", gs.as_calculation())
    back = nearsight.read(tmp_path / "out").in_original_order()
    assert back.spin is SPINOR
    close(back.hamiltonian.on(f.layout).values, gs.hamiltonian.values, rtol=0, atol=1e-12)
    info = json.loads((tmp_path / "out" / "info.json").read_text())
    assert len(info["moments_mu_B"]) == 3 and len(info["moments_mu_B"][0]) == 3
    (tmp_path / "out" / "result.json").unlink()
    alone = nearsight.read(tmp_path / "out").in_original_order()
    close(alone.moments, gs.moments, rtol=0, atol=1e-12)

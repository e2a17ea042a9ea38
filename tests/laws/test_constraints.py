"""Laws of constrained moments: held to the last digit, by fields that are the derivative of the energy in the moment."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

import nearsight
from nearsight.core.errors import BadInput
from nearsight.core.species import Projector
from nearsight.core.spin import COLLINEAR, NONE, SPINOR
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import GroundState, ground_state
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.scf import SCF
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup
from nearsight.electrons import kpoints
from nearsight.electrons.constraint import MomentConstraint
from nearsight.electrons.populations import field_matrix, moments
from nearsight.formats.registry import read
from tests import cases
from tests.laws.terms import inner, positive_density_matrix, system_of
from tests.laws.test_spinors import GAMMA, relativistic, triangle

close = torch.testing.assert_close
TURNED = [[0.06, 0.36, 0.48], [0.49, -0.21, -0.28], [-0.45, -0.24, -0.31]]  # mu_B
MEV_ANG = 1 / 51422.1  # Ha/Bohr


@cache
def functional(moved: float = 0.0) -> EnergyFunctional:
    return EnergyFunctional.of(triangle(moved), {1: cases.species("H", "sz")}, "pbe", (32, 32, 32))


def held(hold: str, wanted: torch.Tensor, which: tuple[bool, ...] = (True,) * 3) -> MomentConstraint:
    return MomentConstraint.of(hold, wanted, which, "HHH", SPINOR)


def solved(
    hold: str, wanted: torch.Tensor, moved: float = 0.0, which: tuple[bool, ...] = (True,) * 3, method=None
) -> GroundState:
    f = functional(moved)
    constraint = held(hold, wanted, which)
    method = method or SCF(tolerance=1e-8)
    return ground_state(f, GAMMA, 0.002, method, moments=wanted.tolist(), constraint=constraint)


def wanted(change: float = 0.0) -> torch.Tensor:
    m = torch.tensor(TURNED, dtype=torch.float64)
    m[1] += change * torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64)
    return m


def test_a_field_is_the_derivative_of_its_energy_in_the_moment():
    system = system_of("skew", 60.0, "cpu")
    fields = torch.tensor([[0.3, -0.1, 0.2], [0.0, 0.4, -0.2], [-0.5, 0.1, 0.3]], dtype=torch.float64)
    for spin in (COLLINEAR, SPINOR):
        d = positive_density_matrix(system, spin)
        m = moments(d, system.overlap)
        close(inner(field_matrix(fields, system.overlap, spin), d), (fields * m).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hold", ["direction", "moment"])
def test_moments_are_held_and_the_cycle_is_as_short_as_without(hold: str):
    gs = solved(hold, wanted())
    assert gs.converged and len(gs.steps) < 15
    size, angle = gs.constraint.deviation(gs.moments)
    assert size < 1e-6 and angle < 1e-4
    if hold == "direction":  # what is free has no field along it, and is not where it began
        assert float((gs.fields * gs.moments).sum(1).abs().max()) < 1e-9
        assert float((gs.moments.norm(dim=1) - wanted().norm(dim=1)).abs().max()) > 0.05


@pytest.mark.parametrize("hold", ["direction", "moment"])
def test_magnetic_forces_are_the_derivative_of_the_energy(hold: str):
    """-dE/dM_i of one atom's moment, against a difference of whole runs."""
    h = 1e-2
    gs, more, less = (solved(hold, wanted(x)) for x in (0.0, h, -h))
    slope = (more.free - less.free) / (2 * h)
    if hold == "moment":
        change = torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64)
        close(slope, -float(gs.fields[1] @ change), rtol=2e-4, atol=1e-7)
        return
    axis = torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64) / float(wanted()[1].norm())  # d(direction)/dx
    close(slope, -float(gs.moments[1].norm() * gs.fields[1] @ axis), rtol=2e-3, atol=1e-7)


def test_forces_are_those_at_held_moments():
    h = 0.02
    found = forces_and_stress(solved("moment", wanted())).forces
    more, less = (solved("moment", wanted(), x).free for x in (h, -h))
    slope = (more - less) / (2 * h)
    close(slope, -float(found[0, 0] + 0.4 * found[1, 1]), rtol=0, atol=1 * MEV_ANG)


def test_a_ground_state_needs_no_field():
    """Held where it would be anyway: the same energy, and no field."""
    free = ground_state(functional(), GAMMA, 0.002, SCF(tolerance=1e-8), moments=wanted().tolist())
    there = solved("moment", free.moments)
    close(there.free, free.free, rtol=0, atol=1e-9)
    assert float(there.fields.abs().max()) < 1e-5
    away = solved("moment", 0.9 * free.moments)
    assert away.free > free.free + 1e-4


def test_some_atoms_are_held_and_minimisation_finds_the_same():
    which = (True, False, False)
    a = solved("moment", wanted(), 0.0, which)
    assert float(a.fields[1:].abs().max()) == 0 and float(a.fields[0].norm()) > 1e-4
    b = solved("direction", wanted())
    c = solved("direction", wanted(), method=DirectMinimisation(tolerance=1e-5, max_iterations=60))
    assert c.converged
    close(c.free, b.free, rtol=0, atol=1e-7)


def test_the_response_moves_no_condition():
    gs = solved("moment", wanted())
    electrons, overlap = gs.electrons, gs.functional.overlap
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, overlap.layout.size, dtype=torch.complex128, generator=generator)
    change = gs.hamiltonian.with_values(noise).hermitian()
    answer = electrons.response()(change)
    assert float(gs.constraint.along(moments(answer, overlap)).abs().max()) < 1e-8 * float(answer.values.abs().max())
    plain = electrons.found.response()(change)
    assert float(gs.constraint.along(moments(plain, overlap)).abs().max()) > 1e-4


def test_collinear_moments_are_held_too():
    f, size = functional(), torch.tensor([0.4, 0.3, -0.5], dtype=torch.float64)
    vectors = torch.nn.functional.pad(size[:, None], (2, 0))
    constraint = MomentConstraint.of("moment", vectors, (True,) * 3, "HHH", COLLINEAR)
    gs = ground_state(f, GAMMA, 0.002, SCF(tolerance=1e-8), moments=size.tolist(), constraint=constraint)
    assert gs.converged
    close(gs.moments, vectors, rtol=0, atol=1e-6)
    both = solved("moment", vectors)
    close(both.free, gs.free, rtol=0, atol=1e-6)
    close(both.fields, gs.fields, rtol=0, atol=1e-4)


def _factor(p: Projector) -> float:
    """By which `relativistic` multiplied a projector's strength."""
    if p.l == 0:
        return 1.0
    return 1 + 0.2 * p.l if p.j > p.l else 1 - 0.2 * (p.l + 1)


def test_with_spin_orbit_coupling_on_k_points():
    """An iron-like chain: oxygen whose projectors are split by j, its moment held away from its axis."""
    s = cases.structure([[6.5, 0, 0], [0, 14.0, 0], [0, 0, 14.0]], [[0.0, 7.0, 7.0]], [8])
    strong = relativistic(cases.species("O", "sz"))  # so much that no spin is left: a twentieth of it
    split = tuple(
        replace(p, energy=p.energy * (1 + 0.05 * (_factor(p) - 1)) / _factor(p)) for p in strong.relativistic_projectors
    )
    species = {8: replace(strong, relativistic_projectors=split)}
    f = EnergyFunctional.of(s, species, "pbe", (18, 40, 40), spin_orbit=True)
    found = []
    for x in (0.0, 0.01, -0.01):
        angle = torch.tensor(0.6 + x, dtype=torch.float64)
        m = 1.5 * torch.stack([angle.cos(), 0 * angle, angle.sin()])[None]
        c = MomentConstraint.of("direction", m, (True,), "O", SPINOR)
        grid = kpoints.mesh((3, 1, 1), time_reversal=False)
        gs = ground_state(f, grid, 0.005, SCF(tolerance=1e-8), moments=m.tolist(), constraint=c)
        assert gs.converged and gs.constraint.deviation(gs.moments)[1] < 1e-3
        found.append(gs)
    torque = (found[1].free - found[2].free) / 0.02
    gs = found[0]
    axis = torch.tensor([-(0.6 + 0 * gs.fields[0, 0]).sin(), 0.0, (0.6 + 0 * gs.fields[0, 0]).cos()]).to(gs.fields)
    close(torque, -float(gs.moments[0].norm() * gs.fields[0] @ axis), rtol=2e-3, atol=1e-8)


def test_a_moment_that_vanishes_is_not_held():
    f = EnergyFunctional.of(triangle(), {1: cases.species("H", "sz")}, "pbe", (32, 32, 32))
    m = torch.tensor([[0.3, 0.1, 0.0]] * 3, dtype=torch.float64)
    gs = ground_state(
        f, GAMMA, 0.2, moments=m.tolist(), constraint=MomentConstraint.of("direction", m, (True,) * 3, "HHH", SPINOR)
    )
    assert not gs.converged and "vanishes" in gs.why_not()


class TestSettings:
    def test_a_folder_has_both_hamiltonians_and_the_fields(self, tmp_path):
        """Of atoms that stand in another order on disk."""
        s = cases.structure(
            [[9.0, 0, 0], [0, 9, 0], [0, 0, 9]], [[3.6, 4.5, 4.5], [5.2, 4.5, 4.5], [4.5, 6.4, 4.5]], [1, 8, 1]
        )
        about = {"basis": "sz", "mesh_cutoff_ry": 60, "kmesh": (1, 1, 1), "spin": "non-collinear", "smearing_ev": 0.3}
        vectors = ((0.0, 0.0, 0.2), (0.8, 0.0, 0.6), (0.0, 0.1, 0.2))
        settings = Settings(**about, moments=vectors, constrain="moment:O")
        out = tmp_path / "out"
        from nearsight.dft.run import run_scf

        gs = run_scf(s, settings, out)
        record = json.loads((out / "result.json").read_text())
        assert record["converged"] and record["constraint"]["hold"] == "moment"
        assert record["constraint"]["off_mu_B"] < 1e-3 and record["constraint"]["off_degrees"] < 0.1
        assert record["config"]["electrons"]["constrain"]["atoms"] == [False, False, True]  # of POSCAR's order
        back = read(out).in_original_order()
        close(back.moments[1], torch.tensor(vectors[1], dtype=torch.float64), rtol=0, atol=1e-5)
        at = back.atom_order or (0, 1, 2)
        fields = torch.tensor(back.result["magnetic_forces_eV_per_mu_B"], dtype=torch.float64) / 27.211386
        close(fields, gs.fields, rtol=0, atol=1e-7)
        assert at == (0, 1, 2) and float(fields[0].abs().max()) == 0
        own = field_matrix(fields, back.overlap, SPINOR)
        difference = back.constrained_hamiltonian - back.hamiltonian
        close(difference.values, own.on(back.overlap.layout).values, rtol=0, atol=1e-8)
        again = Setup.of(back.structure, Settings.stored(back.result["config"], "back"))
        assert again.constraint.held == (False, True, False)

    @pytest.mark.parametrize(
        ("about", "said"),
        [
            ({"constrain": "direction"}, "spin is none"),
            ({"constrain": "direction", "spin": "collinear", "moments": (1, 1, 1)}, "no direction"),
            (
                {"constrain": "direction", "spin": "non-collinear", "moments": ((0, 0, 1), (0, 0, 0), (1, 0, 0))},
                "atom 1",
            ),
            ({"constrain": "moment:H", "spin": "spinor"}, "no moment"),
            (
                {"constrain": "moment", "spin": "non-collinear", "moments": ((0, 0, 1), (0, 0, 9), (1, 0, 0))},
                "needs more",
            ),
            ({"constrain": "moment:Fe", "spin": "non-collinear", "moments": ((0, 0, 1),) * 3}, "no atom"),
            ({"constrain": "moment:0,7", "spin": "non-collinear", "moments": ((0, 0, 1),) * 3}, "no atom"),
            ({"constrain": {"atoms": [0]}, "spin": "non-collinear"}, "hold"),
            ({"constrain": "size", "spin": "non-collinear"}, "direction"),
            ({"constrain": "moment", "spin": "collinear", "moments": (1, 1, 1), "total_moment": 1}, "total moment"),
        ],
    )
    def test_what_cannot_be_held_is_said_in_one_line(self, about: dict, said: str):
        with pytest.raises(BadInput) as error:
            Setup.of(triangle(), Settings(basis="sz", mesh_cutoff_ry=60, kmesh=(1, 1, 1), **about))
        text = str(error.value)
        assert said in text and "\n" not in text

    def test_the_keyword_is_known(self):
        assert Settings(constrain="direction:Fe,Cr").electrons.constrain.atoms == ("Fe", "Cr")
        assert Settings(constrain={"hold": "moment", "atoms": [0, 2]}).electrons.constrain.atoms == (0, 2)
        assert nearsight.Settings(constrain="direction").electrons.constrain.hold == "direction"


def test_no_spin_has_no_moments_to_hold():
    with pytest.raises(BadInput):
        MomentConstraint.of("moment", torch.zeros(1, 3), (True,), ["H"], NONE)


def test_atoms_named_by_number_are_not_taken_for_true_and_false() -> None:
    """direction:1 of two atoms holds the second, moment:0,1 both: one and nought are indices there."""
    for said, atoms in (("direction:1", (1,)), ("moment:0,1", (0, 1)), ("moment:H", ("H",))):
        found = Settings(constrain=said).electrons.constrain
        assert found.atoms == atoms and not any(isinstance(x, bool) for x in found.atoms)
        again = Settings.model_validate(Settings(constrain=said).model_dump(mode="json")).electrons.constrain
        assert again == found and not any(isinstance(x, bool) for x in again.atoms)
    flags = Settings(electrons={"constrain": {"hold": "moment", "atoms": [True, False]}}).electrons.constrain.atoms
    assert flags == (True, False) and all(isinstance(x, bool) for x in flags)

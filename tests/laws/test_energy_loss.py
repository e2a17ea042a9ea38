"""Laws of training on the energy functional."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.core.spin import SPINOR
from nearsight.dft.ground_state import ground_state
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.settings import ScfSettings
from nearsight.learn.energy import EnergyLoss, ProblemCache, descend, harris_excess
from tests import cases
from tests.laws.test_spinors import relativistic

KT_EV = 0.05


@cache
def problems() -> ProblemCache:
    s = cases.water(12.0)
    settings = ScfSettings(xc="lda", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=80, smearing_ev=KT_EV)
    return ProblemCache(settings, cases.species_of(s, "sz", "lda"))


def converged():
    s = cases.water(12.0)
    problem = problems()("water", s)
    return s, problem, ground_state(problem.functional, problem.kpoints, problem.kT, DirectMinimisation(1e-9))


def minimised(weight: float, steps: int) -> tuple[torch.Tensor, float]:
    """The freest of networks, H itself, trained by quasi-Newton steps on the energy."""
    s, problem, _ = converged()
    loss = EnergyLoss(problems(), weight)
    theta = problem.functional.initial_hamiltonian().values[0].clone().requires_grad_()
    optimiser = torch.optim.LBFGS([theta], lr=0.3, max_iter=1, history_size=30)
    free = 0.0

    def closure():
        nonlocal free
        optimiser.zero_grad()
        outcome = descend(lambda: theta * 1.0, loss, "water", s)
        free = outcome.free
        return torch.tensor(outcome.free)

    for _ in range(steps):
        optimiser.step(closure)
    return theta.detach(), free


def test_the_gradient_is_the_derivative_of_omega_in_the_weights():
    s, problem, _ = converged()
    loss = EnergyLoss(problems(), 0.0)
    start = problem.functional.initial_hamiltonian().hermitian().values[0]
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(3, len(start), generator=g, dtype=torch.float64)
    theta = torch.tensor([0.01, -0.02, 0.005], dtype=torch.float64, requires_grad=True)
    descend(lambda: start + theta @ directions, loss, "water", s)
    for n in range(3):
        free = []
        for sign in (1, -1, 2, -2):
            moved = theta.detach().clone()
            moved[n] += sign * 1e-5
            free.append(loss("water", s, (start + moved @ directions)[None]).free)
        numeric = (8 * (free[0] - free[1]) - (free[2] - free[3])) / 12e-5
        assert abs(float(theta.grad[n]) - numeric) < 1e-7 * abs(numeric) + 1e-9


@pytest.mark.parametrize("spin_orbit", [False, True], ids=["moments", "coupling"])
def test_the_gradient_is_the_derivative_of_omega_for_spinors(spin_orbit: bool):
    """Complex elements, moments that turn or spin-orbit coupling, two k-points that time reversal does not join."""
    s = cases.skew()
    species = {z: relativistic(x) for z, x in cases.species_of(s, "sz").items()}
    keys = {"basis": "sz", "kmesh": (2, 1, 1), "mesh_cutoff_ry": 40, "smearing_ev": 0.3}
    moments = None if spin_orbit else ((0.9, 0.0, 0.3), (-0.5, 0.8, 0.0), (0.0, -0.4, -0.3))
    settings = ScfSettings(**keys, spin="spinor", spin_orbit=spin_orbit, moments=moments)
    cache = ProblemCache(settings, species)
    loss, problem = EnergyLoss(cache, 0.0), cache("skew", s)
    start = problem.functional.initial_hamiltonian(moments, SPINOR)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(3, *start.values.shape, generator=g, dtype=torch.complex128)
    made = [start.with_values(x).hermitian() for x in noise]
    directions = torch.stack([(m + m.time_reversed()).values if spin_orbit else m.values for m in made])
    theta = torch.tensor([0.01, -0.02, 0.005], dtype=torch.float64, requires_grad=True)

    def values(t: torch.Tensor) -> torch.Tensor:
        return start.values + torch.tensordot(t.to(torch.complex128), directions, 1)

    outcome = descend(lambda: values(theta), loss, "skew", s)
    assert outcome.excess > 0 and outcome.gradient.is_complex()
    for n in range(3):
        free = []
        for sign in (1, -1, 2, -2):
            moved = theta.detach().clone()
            moved[n] += sign * 1e-5
            free.append(loss("skew", s, values(moved)).free)
        numeric = (8 * (free[0] - free[1]) - (free[2] - free[3])) / 12e-5
        assert abs(float(theta.grad[n]) - numeric) < 1e-6 * abs(numeric) + 1e-8


def test_the_energy_alone_leaves_the_empty_states_open_and_the_residual_closes_them():
    _, problem, gs = converged()
    c = gs.electrons.coefficients[0, 0]
    best = gs.hamiltonian.at_k(problem.kpoints.k)[0, 0]
    errors = {}
    for weight in (0.0, 3.0):
        theta, free = minimised(weight, 40)
        assert -1e-9 < free - gs.free < 1e-7  # both find the energy
        h = gs.hamiltonian.with_values(theta[None]).hermitian()
        difference = c.T @ (h.at_k(problem.kpoints.k)[0, 0] - best) @ c
        errors[weight] = float(difference[4:, 4:].abs().max()), float(difference[:4, 4:].abs().max())
    assert errors[0.0][0] > 1e-3  # the unoccupied block: tens of meV wrong without the residual
    assert errors[3.0][0] < 0.02 * errors[0.0][0]
    assert errors[0.0][1] < 1e-3 and errors[3.0][1] < 1e-3  # occupied-unoccupied: what the energy sees


def test_harris_and_kohn_sham_energies_bound_the_error():
    _, problem, gs = converged()
    state = problem(problem.functional.initial_hamiltonian())
    excess = harris_excess(problem, state)
    assert excess < 0 and 0.2 < -excess / (state.free - gs.free) < 5


def test_a_hamiltonian_that_is_no_number_is_refused():
    s, problem, _ = converged()
    values = problem.functional.initial_hamiltonian().values.clone()
    values[0, 0] = float("nan")
    with pytest.raises(NearsightError, match="not finite"):
        EnergyLoss(problems())("water", s, values)


def test_the_quadratic_model_has_its_minimum_nearer_than_one_step_of_self_consistency_leads():
    s, problem, gs = converged()
    h0 = problem.functional.initial_hamiltonian().values
    loss = EnergyLoss(problems(), 1.0, reuse=20)
    first = loss("water", s, h0)
    model = loss._models["water"]
    step, left = problem(gs.hamiltonian.with_values(h0)).evaluation.hamiltonian.values, model.centre.values
    goal = gs.hamiltonian.values
    assert (left - goal).norm() < 0.5 * (step - goal).norm() < 0.5 * (h0 - goal).norm()
    assert first.evaluated and not loss("water", s, model.centre.values).evaluated  # the first one serves twice
    assert float(loss("water", s, goal).gradient.norm()) < 1e-6 and loss._models["water"].life == 20


def test_what_is_kept_of_many_structures_stays_below_the_cap():
    converged()
    kept = problems()
    size = next(iter(kept._kept.values())).size
    few = ProblemCache(kept.settings, kept.species, limit=3.5 * size)
    loss, free = EnergyLoss(few, 1.0, reuse=20), {}
    for n in range(2):
        for k in range(6):
            s = cases.water(12.0)
            values = few(k, s).functional.initial_hamiltonian().values
            free[n, k] = loss(k, s, values).free
            assert sum(h.size for h in few._kept.values()) + few.reserved <= few.limit
    assert few.reserved > 0 and 1 <= len(few._kept) < 6
    assert max(free.values()) - min(free.values()) < 1e-12

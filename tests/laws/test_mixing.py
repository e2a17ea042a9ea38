"""Mixing: the response of the electrons, the dielectric operator as a preconditioner, and what a good start saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.spin import COLLINEAR
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.dft.dielectric import Dielectric, Screening, generalised_minimal_residual
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import GroundState, ground_state
from nearsight.dft.mixing import Pulay
from nearsight.dft.problem import Problem
from nearsight.dft.scf import SCF
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import method_for, resolved
from nearsight.dft.trace import iterations_to, saved_iterations
from nearsight.electrons import kpoints
from nearsight.electrons.kpoints import KPoints
from tests import cases

KT = 0.002


def functional_of(s: Structure, mesh: tuple[int, int, int], size: str = "sz", xc: str = "pbe") -> EnergyFunctional:
    return EnergyFunctional.of(s, cases.species_of(s, size), xc, mesh, band_limited=True)  # type: ignore[arg-type]


def noise(like: BlockMatrix, size: float, seed: int = 0) -> BlockMatrix:
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(like.values.shape, generator=generator, dtype=torch.float64)
    return like.with_values(size * e).hermitian()


@pytest.fixture(scope="module")
def skew() -> tuple[EnergyFunctional, KPoints]:
    return functional_of(cases.skew(), (24, 24, 24)), kpoints.mesh((2, 1, 1))


@pytest.fixture(scope="module")
def water() -> tuple[EnergyFunctional, KPoints]:
    s = cases.water(12.0)
    generator = torch.Generator().manual_seed(1)
    s = replace(s, positions=s.positions + 0.08 * torch.randn(3, 3, generator=generator, dtype=torch.float64))
    return functional_of(s, (40, 40, 40), "dzp"), kpoints.mesh((1, 1, 1))


@pytest.mark.parametrize("moment", [None, 1.0])
def test_the_response_is_the_derivative_of_the_density_matrix(skew, moment):
    functional, k = skew
    h = functional.initial_hamiltonian()
    if moment is not None:
        h = BlockMatrix(h.layout, torch.cat([h.values, 1.01 * h.values]), COLLINEAR)
    problem = Problem.of(functional, k, 0.02, moment)
    change = noise(h, 1.0)
    step = 1e-5
    d = [problem.solver.solve(h.with_values(h.values + x * change.values)).density_matrix.values for x in (step, -step)]
    found = problem.solver.solve(h).response()(change).values
    assert (found - (d[0] - d[1]) / (2 * step)).abs().max() < 1e-5 * found.abs().max()
    assert abs(float((found * functional.overlap.values).sum())) < 1e-9  # no electron comes or goes


def test_the_response_leaves_out_nothing_that_counts(skew):
    functional, k = skew
    h = functional.initial_hamiltonian()
    problem = Problem.of(functional, k, 0.01)
    electrons, change = problem.solver.solve(h), noise(h, 1.0)
    part = electrons.response()(change)
    assert electrons.levels.filled < functional.layout.basis.size
    electrons.levels.know(0, functional.layout.basis.size)
    whole = electrons.response()(change)
    assert torch.allclose(part.values, whole.values, atol=1e-9)


def test_generalised_minimal_residual_solves_what_it_says():
    generator = torch.Generator().manual_seed(0)
    a = torch.eye(12, dtype=torch.float64) + 0.3 * torch.rand(12, 12, generator=generator, dtype=torch.float64)
    b = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    product = lambda x: (a @ x.flatten()).reshape(x.shape)  # noqa: E731
    for tolerance, limit in ((1e-2, 12), (1e-10, 12)):
        x = generalised_minimal_residual(product, b, tolerance, limit)
        assert (product(x) - b).norm() < tolerance * b.norm()
    assert generalised_minimal_residual(product, 0 * b, 0.1, 3).abs().max() == 0
    assert torch.allclose(
        generalised_minimal_residual(lambda x: 2 * x, b, 1e-12, 5), b / 2
    )  # an exact space ends early


def test_the_dielectric_operator_is_that_of_the_calculation_itself():
    """With LDA and the full mesh, (1 - f chi0) dH = dH - dF to first order."""
    functional, k = functional_of(cases.water(12.0), (36, 36, 36), xc="lda"), kpoints.mesh((1, 1, 1))
    problem = Problem.of(functional, k, KT)
    state = problem(functional.initial_hamiltonian())
    change, step = noise(state.hamiltonian, 1.0), 1e-3
    moved = problem(state.hamiltonian.with_values(state.hamiltonian.values + step * change.values))
    residual = change.values - (moved.evaluation.hamiltonian.values - state.evaluation.hamiltonian.values) / step
    screening = Screening.of(functional, Dielectric(cutoff_ry=1e4, tolerance=1e-6, max_products=40))
    assert (screening(problem, state, residual) - change.values).abs().max() < 0.02 * change.values.abs().max()


def test_every_preconditioner_reaches_the_same_ground_state_and_this_one_sooner(water):
    functional, k = water
    plain, default = (ground_state(functional, k, KT, m) for m in (SCF(Pulay()), SCF()))
    assert plain.converged and default.converged
    assert abs(plain.total - default.total) < 1e-9
    assert len(default.steps) <= 0.7 * len(plain.steps)


@pytest.mark.parametrize("mixing", [Pulay(), SCF().mixing], ids=["plain", "dielectric"])
def test_a_cycle_goes_on_to_the_limit_of_arithmetic(skew, mixing):
    """Residuals of many orders in one history: the newest counts as much as the first did."""
    functional, k = skew
    found = ground_state(functional, k, KT, SCF(mixing, tolerance=1e-10, max_iterations=40))
    assert found.converged


def test_a_start_close_by_pays(water):
    functional, k = water
    plain = ground_state(functional, k, KT)
    error = noise(plain.hamiltonian, 3e-4 / HARTREE_EV)  # uncorrelated, so mostly no matrix of any potential
    started = ground_state(
        functional, k, KT, start=plain.hamiltonian.with_values(plain.hamiltonian.values + error.values)
    )
    assert abs(plain.total - started.total) < 1e-9
    assert len(started.steps) <= len(plain.steps) - 2
    assert "saved" in saved_iterations(started, plain) and str(len(plain.steps)) in saved_iterations(started, plain)


def test_a_state_that_is_no_minimum_does_not_attract():
    """Two hydrogen atoms far apart: from small moments the order grows, though no moment at all is stationary too."""
    s = cases.structure([[12.0, 0, 0], [0, 12.0, 0], [0, 0, 18.0]], [[0, 0, 0], [0, 0, 6.0]], [1, 1])
    functional, k = functional_of(s, (36, 36, 54)), kpoints.mesh((1, 1, 1))
    none = ground_state(functional, k, KT)
    ordered = ground_state(functional, k, KT, moments=[0.3, -0.3])
    assert ordered.converged and ordered.free < none.free - 0.01


def test_iterations_to_an_end_are_read_off_a_run():
    class Step:
        def __init__(self, iteration: int, residual: float) -> None:
            self.iteration, self.residual = iteration, residual

    class Run:
        steps = tuple(Step(n + 1, r) for n, r in enumerate([1.0, 0.05, 0.2, 0.01, 0.001]))

    run: GroundState = Run()  # type: ignore[assignment]
    assert [iterations_to(run, r) for r in (10.0, 0.1, 0.005, 1e-4)] == [1, 4, 5, None]


def test_the_weight_follows_the_preconditioner():
    s = cases.diamond()
    for words, weight in (({}, 1.0), ({"dielectric": None}, 0.4), ({"kerker": 1.0}, 0.4), ({"weight": 0.2}, 0.2)):
        settings = resolved(s, ScfSettings.model_validate({"mixing": words}))
        method = method_for(settings.solver)
        assert settings.solver.mixing.weight == weight and isinstance(method, SCF) and method.mixing.weight == weight
        assert (method.mixing.dielectric is None) == ("dielectric" in words or "kerker" in words)

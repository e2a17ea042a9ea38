"""Laws of Gauss-Newton steps in the weights of a network."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.structure import Structure
from nearsight.dft.dielectric import Dielectric, Screening
from nearsight.dft.ground_state import GroundState, ground_state
from nearsight.dft.problem import Problem, SCFState
from nearsight.dft.scf import SCF
from nearsight.dft.settings import ScfSettings
from nearsight.learn.energy import ProblemCache
from nearsight.learn.gauss_newton import GaussNewton, LastLayers, WeightCycle
from nearsight.learn.model_files import build
from nearsight.models.deeph2 import PRESETS, DeepH2
from nearsight.models.graph import Graph
from nearsight.models.targets import Inputs
from tests import cases


def water(k: int) -> Structure:
    """Two molecules: one symmetric, one with its bonds stretched unequally."""
    s = cases.water(12.0)
    stretch = torch.tensor([[0.0, 0, 0], [0.1, 0, 0.05], [0.05, 0, -0.1]], dtype=torch.float64)
    return Structure(s.cell, s.positions + k * stretch, s.numbers)


@cache
def problem(k: int) -> Problem:
    settings = ScfSettings(xc="lda", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=80, symmetry="space-group")
    return ProblemCache(settings, cases.species_of(water(k), "sz", "lda"))(k, water(k))


@cache
def h0(k: int) -> BlockMatrix:
    p = problem(k)
    return p.kpoints.symmetric(p.functional.initial_hamiltonian())


@cache
def converged(k: int) -> GroundState:
    p = problem(k)
    return ground_state(p.functional, p.kpoints, p.kT, SCF(tolerance=1e-10))


def network(*which: int) -> tuple[DeepH2, Graph]:
    """A new network of H - H0, and the structures as one graph."""
    layouts = [problem(k).functional.layout for k in which]
    reach = max(
        float(layout.pairs.vectors(water(k)).norm(dim=1).max()) for k, layout in zip(which, layouts, strict=True)
    )
    shells = {str(z): list(s.shells) for z, s in problem(which[0]).functional.species.items()}
    arguments = {"cutoff": 8.0, "reach": reach, "neighbours": 2.0, "radial": 8, **PRESETS["small"]}
    made = build({"kind": "deeph2", "shells": shells, "arguments": arguments}).double()
    graphs = [made.geometry(water(k), layout, Inputs()) for k, layout in zip(which, layouts, strict=True)]
    made.fit_scales([(g, problem(k)(h0(k)).difference) for k, g in zip(which, graphs, strict=True)], share=1.0)
    return made, Graph.batch([made.complete(g) for g in graphs])


def states(made: DeepH2, graph: Graph, which: tuple[int, ...]) -> list[SCFState]:
    with torch.no_grad():
        parts = made(graph).parts()
    return [problem(k)(h0(k).with_values(h0(k).values + x.values)) for k, x in zip(which, parts, strict=True)]


def residual(found: list[SCFState]) -> Tensor:
    return torch.cat([t.difference[0] for t in found])


def test_products_with_the_jacobian_are_differences_of_predictions_and_each_other_s_adjoints() -> None:
    made, graph = network(0)
    generator = torch.Generator().manual_seed(1)
    layers = LastLayers(made, graph, 1e-7)
    v = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in layers.weights.values()]
    u = torch.randn(len(layers.values), generator=generator, dtype=torch.float64)
    pushed = layers.push(v)
    layers.add(made, v)
    with torch.no_grad():
        torch.testing.assert_close(made(graph).values[0], layers.values + pushed, rtol=1e-10, atol=1e-12)
    pulled = sum((a * b).sum() for a, b in zip(layers.pull(u), v, strict=True))
    torch.testing.assert_close(pulled, u @ pushed, rtol=1e-10, atol=1e-10)


def test_a_move_that_the_network_can_make_is_made() -> None:
    made, graph = network(0)
    goal = converged(0).hamiltonian.values[0] - h0(0).values[0]
    before = made(graph).values[0].detach()
    move = GaussNewton(accuracy=1e-6).move(made, graph, goal)
    assert move.left < 2e-6 and move.products <= 30
    torch.testing.assert_close(move.reached, before + goal, rtol=0, atol=1e-6)


@pytest.mark.parametrize("screened", [False, True], ids=["bare", "screened"])
def test_an_untrained_network_reaches_the_ground_state(screened: bool) -> None:
    made, graph = network(0)
    p, gs, cycle = problem(0), converged(0), WeightCycle()
    screening = Screening.of(p.functional, Dielectric())
    for _ in range(7 if screened else 12):
        found = states(made, graph, (0,))
        conditions = [lambda r, t=found[0]: partial(screening, p, t)(r[None])[0]] if screened else None
        cycle.step(made, graph, residual(found), conditions)
    [last] = states(made, graph, (0,))
    assert abs(last.free - gs.free) < 1e-9
    assert float((last.hamiltonian.values - gs.hamiltonian.values).abs().max()) < 1e-6


def test_two_structures_are_brought_to_their_ground_states_by_one_network() -> None:
    made, graph = network(0, 1)
    cycle = WeightCycle()
    for _ in range(14):
        cycle.step(made, graph, residual(states(made, graph, (0, 1))))
    for k, state in enumerate(states(made, graph, (0, 1))):
        assert abs(state.free - converged(k).free) < 1e-9


def test_a_cycle_that_was_cut_off_goes_on_to_the_same_bits() -> None:
    made, graph = network(0)
    cycle = WeightCycle()
    for n in range(6):
        if n == 3:
            state, weights = cycle.state_dict(), {k: x.clone() for k, x in made.state_dict().items()}
        cycle.step(made, graph, residual(states(made, graph, (0,))))
    again, _ = network(0)
    again.load_state_dict(weights)
    resumed = WeightCycle()
    resumed.load_state_dict(state)
    for _ in range(3):
        resumed.step(again, graph, residual(states(again, graph, (0,))))
    assert all(torch.equal(x, again.state_dict()[k]) for k, x in made.state_dict().items())


def test_a_residual_that_rises_or_is_no_number_sends_the_weights_back() -> None:
    made, graph = network(0)
    cycle = WeightCycle()
    cycle.step(made, graph, residual(states(made, graph, (0,))))
    for bad in (1e3, float("nan")):
        share = cycle.share
        move = cycle.step(made, graph, bad * torch.ones(graph.sizes[0], dtype=torch.float64))
        assert move.retreat and cycle.share == 0.5 * share
        assert float(made(graph).values.detach().abs().max()) == 0.0  # where it began
        cycle.step(made, graph, residual(states(made, graph, (0,))))


def test_single_precision_is_refused() -> None:
    made, graph = network(0)
    with pytest.raises(NearsightError, match="float64"):
        GaussNewton().move(made.float(), graph, torch.ones(graph.sizes[0]))


def test_equal_scales_leave_no_element_without_a_way_to_move() -> None:
    made, _ = network(0)
    scales = [made.readout.site_scale, made.readout.log_scale.coefficients.exp()]
    for x in scales:
        assert float(x.min()) == pytest.approx(float(x.max())) and float(x.min()) > 1e-4

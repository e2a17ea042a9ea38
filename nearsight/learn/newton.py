"""Gauss-Newton steps of a training on the energy: all structures at once, to the minimum of their energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NotConverged
from nearsight.dft.problem import SCFState
from nearsight.learn.gauss_newton import WeightCycle
from nearsight.learn.losses import MEV
from nearsight.learn.samples import SampleStore
from nearsight.learn.structures import StructureData
from nearsight.models.contract import HamiltonianModel
from nearsight.models.targets import Prediction

CONVERGED = 1e-11  # mean |F - H| at which rounding begins to rule [Ha]
STUCK = 3  # steps in a row that moved the prediction by less than STUCK_SHARE of what they should
STUCK_SHARE = 0.02


class NewtonSteps:
    """Steps of a `WeightCycle` for the structures of a store (mutable: it knows whether it is done)."""

    def __init__(self, data: StructureData, store: SampleStore) -> None:
        self.data, self.store = data, store
        self.cycle = WeightCycle()
        self.done = False
        self._stuck = 0

    def state_dict(self) -> dict[str, Any]:
        """What a training that was cut off goes on from."""
        return {**self.cycle.state_dict(), "done": self.done, "stuck": self._stuck}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.cycle.load_state_dict(state)
        self.done, self._stuck = state.get("done", False), state.get("stuck", 0)

    def step(self, network: HamiltonianModel) -> float:
        """One step; the energy above the minimum before it, by its quadratic model, meV per atom (mean over structures).

        Raises NearsightError where the functional gives no number.
        """
        indices = list(range(len(self.store)))
        sample = self.store.together(indices)
        with torch.no_grad():
            parts = network(sample.prepared).parts()
        states = [self._state(k, part) for k, part in zip(indices, parts, strict=True)]
        difference = torch.cat([t.difference for t in states], -1).flatten()
        excess = sum(self._excess(k, t) for k, t in zip(indices, states, strict=True)) / len(states)
        if float(difference.abs().mean()) < CONVERGED:
            self.done = True
            return excess
        move = self.cycle.step(network, sample.prepared, difference, self._preconditions(indices, states))
        self._stuck = self._stuck + 1 if move.left > 1 - STUCK_SHARE or move.retreat else 0
        self.done = self._stuck >= STUCK
        return excess

    def _state(self, index: int, prediction: Prediction) -> SCFState:
        problem = self.data.problem(index)
        layout = problem.functional.layout
        h = BlockMatrix(layout, self.data.matrix(index, prediction).to(layout.device)).hermitian()
        state = problem(problem.kpoints.symmetric(h))
        if not bool(torch.isfinite(state.difference).all()):
            raise NotConverged(f"{self.data.name(index)}: the functional gives no finite energy for the prediction")
        return state

    def _excess(self, index: int, state: SCFState) -> float:
        gradient = self.data.problem(index).gradient(state)
        return -0.5 * float((gradient * state.difference).sum()) * MEV / len(self.data.structure(index))

    def _preconditions(self, indices: Sequence[int], states: Sequence[SCFState]):  # type: ignore[no-untyped-def]
        def screened(index: int, state: SCFState, residual: Tensor) -> Tensor:
            shape = state.difference.shape
            return self.data.screening(index)(self.data.problem(index), state, residual.view(shape)).flatten()

        return [partial(screened, k, t) for k, t in zip(indices, states, strict=True)]

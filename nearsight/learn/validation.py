"""How good predicted Hamiltonians are by the functional: energies, densities, levels; against ground states where known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput, MissingData, NearsightError, NotConverged
from nearsight.core.gauge import gauge_shift
from nearsight.core.units import HARTREE_EV
from nearsight.dft.problem import Problem
from nearsight.dft.settings import Settings
from nearsight.electrons.levels import Levels
from nearsight.electrons.solvers.contract import Electrons
from nearsight.learn.config import DataConfig
from nearsight.learn.energy import ProblemCache, harris_excess
from nearsight.learn.losses import MEV, Loss
from nearsight.learn.metrics import Metrics
from nearsight.learn.model import TrainedModel
from nearsight.learn.reference import differences, recorded_settings
from nearsight.learn.split import split
from nearsight.learn.structures import StructureData, shared_settings
from nearsight.models.targets import Prediction

WINDOW_EV = 5.0  # bands up to this far above the Fermi level are compared


@dataclass(frozen=True)
class EnergyFigures:
    """One structure, or the mean over several. None where no ground state is known to measure against.

    energy_error_ueV: Omega[H] above that of the ground state, per atom [micro-eV]; energy_error_cell_ueV: per cell.
    hamiltonian_mae_meV, gauge_mae_meV: of all stored elements; after the best shift H + mu S.
    occ_occ, occ_unocc, unocc_unocc _mae_meV: of the error between the ground state's levels, C^dagger (H - H_0) C.
    density_matrix_mae: of all stored elements.  density_error: integral of |n - n_0| by the number of electrons.
    bands_mae_meV: levels on the k-mesh up to 5 eV above the Fermi level.
    gradient_norm: |dOmega/dH| [1].  residual_mae_meV: mean |H - F|.  harris_ueV: |E_Harris - E_KS| per atom, a bound
    of the energy's error that needs no ground state.
    """

    energy_error_ueV: float | None
    energy_error_cell_ueV: float | None
    hamiltonian_mae_meV: float | None
    gauge_mae_meV: float | None
    occ_occ_mae_meV: float | None
    occ_unocc_mae_meV: float | None
    unocc_unocc_mae_meV: float | None
    density_matrix_mae: float | None
    density_error: float | None
    bands_mae_meV: float | None
    gradient_norm: float
    residual_mae_meV: float
    harris_ueV: float

    @staticmethod
    def mean(figures: Sequence[EnergyFigures]) -> EnergyFigures:
        """Each figure's mean over the structures that have it."""
        means: dict[str, float | None] = {}
        for f in fields(EnergyFigures):
            known = [x for e in figures if (x := getattr(e, f.name)) is not None]
            means[f.name] = sum(known) / len(known) if known else None
        return EnergyFigures(**means)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _GroundState:
    """free: Omega [Ha], of the label's Hamiltonian."""

    free: float
    hamiltonian: BlockMatrix
    electrons: Electrons


class Validator:
    """Figures of predicted Hamiltonians of held-out structures; the ground states are evaluated once and kept."""

    def __init__(self, data: StructureData, remember: bool = True) -> None:
        """remember: keep ground states, for structures that are asked for again."""
        self.data, self.remember = data, remember
        self.skipped: dict[str, str] = {}
        self._known: dict[int, _GroundState | None] = {}

    def __len__(self) -> int:
        return len(self.data)

    def check(self) -> None:
        """Raises NearsightError for labels of another functional, before any time is spent."""
        for k in range(len(self.data)):
            self.data.label(k)

    @torch.no_grad()
    def __call__(self, predict: Callable[[int], Prediction], indices: Sequence[int]) -> list[EnergyFigures]:
        """predict: what the model says of structure `index`. Structures that cannot be computed are skipped."""
        found = []
        for k in indices:
            if self.data.name(k) in self.skipped:
                continue
            try:
                found.append(self.figures(k, self.data.matrix(k, predict(k))))
            except (NearsightError, torch.linalg.LinAlgError) as error:
                self.skipped[self.data.name(k)] = " ".join(str(error).split())
        return found

    @torch.no_grad()
    def figures(self, index: int, values: Tensor) -> EnergyFigures:
        """values: H on the layout [components, size], Ha. Raises NearsightError where that gives no finite energy."""
        problem = self.data.problem(index)
        layout = problem.functional.layout
        state = problem(BlockMatrix(layout, values.to(layout.device)).hermitian())
        if not bool(torch.isfinite(state.evaluation.hamiltonian.values).all()):
            raise NotConverged("the functional gives no finite energy for the predicted Hamiltonian")
        atoms = len(problem.functional.structure)
        micro = 1e6 * HARTREE_EV / atoms
        known = self._ground_state(index, problem)
        own = {
            "gradient_norm": float(problem.gradient(state).norm()),
            "residual_mae_meV": float(state.difference.abs().mean()) * MEV,
            "harris_ueV": abs(harris_excess(problem, state)) * micro,
        }
        if known is None:
            return EnergyFigures(**{f.name: own.get(f.name) for f in fields(EnergyFigures)})  # type: ignore[arg-type]
        error = state.hamiltonian - known.hamiltonian
        shift = gauge_shift(error.values, problem.functional.overlap.values)
        density = problem.functional.grid.density(known.electrons.density_matrix)
        change = (state.evaluation.density - density).abs().sum() * problem.functional.mesh.volume_element
        return EnergyFigures(
            energy_error_ueV=(state.free - known.free) * micro,
            energy_error_cell_ueV=(state.free - known.free) * micro * atoms,
            hamiltonian_mae_meV=float(error.values.abs().mean()) * MEV,
            gauge_mae_meV=float((error.values + shift * problem.functional.overlap.values).abs().mean()) * MEV,
            **_by_space(problem, known.electrons, error),  # type: ignore[arg-type]
            density_matrix_mae=float((state.density_matrix - known.electrons.density_matrix).values.abs().mean()),
            density_error=float(change) / problem.functional.electrons,
            bands_mae_meV=_band_error(known.electrons.require_levels(), state.electrons.require_levels()),
            **own,
        )

    def _ground_state(self, index: int, problem: Problem) -> _GroundState | None:
        if index in self._known:
            return self._known[index]
        label, found = self.data.label(index), None
        if label is not None:
            state = problem(label.to(problem.functional.layout.device))
            found = _GroundState(state.free, state.hamiltonian, state.electrons)
        if self.remember:
            self._known[index] = found
        return found


def one_figure(mae: float, figures: EnergyFigures | None, loss: float | None) -> float:
    """What the best weights have lowest: the energy's error, else its bound, else the MAE, else the training's loss."""
    if figures is not None:
        known = figures.energy_error_ueV if figures.energy_error_ueV is not None else figures.harris_ueV
        if known is not None:
            return abs(known)
    elif math.isfinite(mae):
        return mae
    return math.inf if loss is None else loss


def name_of_figure(last: Metrics, loss: Loss) -> tuple[str, str]:
    """What `one_figure` is of a training, in words, and its unit."""
    energy = last.energy or {}
    if energy.get("energy_error_ueV") is not None:
        return "energy above the ground state", "ueV per atom"
    if energy.get("harris_ueV") is not None:
        return "energy above the minimum, by its bound", "ueV per atom"
    if last.validation_mae is not None:
        of = "Hamiltonians" if loss.labels is None or last.energy is not None else loss.labels.of
        return f"mean error of unseen {of}", last.unit
    [first, *more] = loss.terms
    if more:
        return "nothing was held out; weighted sum of the training losses", "meV"
    what, unit = first.of_training
    return f"nothing was held out; {what}", unit


def _by_space(problem: Problem, electrons: Electrons, error: BlockMatrix) -> dict[str, float | None]:
    """Mean |C^dagger dH C| [meV] between occupied and unoccupied levels of the ground state, over k-points."""
    levels, c = electrons.require_levels(), electrons.coefficients
    size = (c.mH @ error.at_k(problem.kpoints.k) @ c).abs() * MEV
    filled = (levels.occupations > 0.5).to(size)
    empty = 1 - filled
    weight = levels.weights[None, :, None, None]
    result: dict[str, float | None] = {}
    for name, a, b in (
        ("occ_occ_mae_meV", filled, filled),
        ("occ_unocc_mae_meV", filled, empty),
        ("unocc_unocc_mae_meV", empty, empty),
    ):
        mask = weight * a[..., :, None] * b[..., None, :]
        result[name] = float((mask * size).sum() / mask.sum()) if float(mask.sum()) else None
    return result


def _band_error(known: Levels, found: Levels) -> float | None:
    below = (known.energies < known.fermi_level + WINDOW_EV / HARTREE_EV) * known.weights[None, :, None]
    error = (found.energies - known.energies).abs() * MEV
    return float((below * error).sum() / below.sum()) if float(below.sum()) else None


def evaluate(
    model: TrainedModel | Path | str,
    data: str | list[str],
    scf: Mapping[str, Any] | None = None,
    told: Callable[[int, int], None] | None = None,
) -> tuple[list[EnergyFigures], dict[str, str]]:
    """Figures of a model's Hamiltonians of structures, and those that could not be computed with the reason.

    data, scf: as in a training (DataConfig.train, EnergyLossConfig.scf).  told: structures done, and all.
    Raises NearsightError for a model that does not know its orbitals, or ground states of another functional.
    """
    trained = model if isinstance(model, TrainedModel) else TrainedModel.load(model)
    if trained.reference is None:
        raise MissingData("the model does not know its orbitals, so there is no energy to evaluate")
    paths = split(DataConfig(train=data, validation_fraction=0.0), labelled=False).train
    recorded = recorded_settings(paths[0])
    given = validated(Settings, scf or {}, "scf")
    settings = shared_settings(given, recorded, trained.reference.settings)
    wrong = differences(trained.reference, settings, {})
    if wrong:
        raise BadInput(f"the model was trained with another functional: {'; '.join(wrong)}")
    problems = ProblemCache(settings, dict(trained.reference.species), limit=1e9)
    data_ = StructureData(paths, settings, given, problems)
    validator = Validator(data_, remember=False)
    network = trained.network

    def prepared(index: int) -> Any:
        inputs = data_.inputs(index, network.needs)
        return network.prepare(data_.structure(index), data_.layout(index), inputs)

    found = []
    for k in range(len(data_)):
        found += validator(lambda k: network(prepared(k)), [k])
        if told:
            told(k + 1, len(data_))
    return found, validator.skipped

"""How wrong predictions are: by labels, by the energy functional, or both; structures that spoil a batch are set aside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from statistics import median
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import NearsightError
from nearsight.core.units import HARTREE_EV
from nearsight.learn.config import BlocksLossConfig, EnergyLossConfig
from nearsight.learn.energy import EnergyLoss, EnergyOutcome
from nearsight.learn.packing import in_order
from nearsight.learn.samples import Sample, SampleStore
from nearsight.learn.structures import StructureData
from nearsight.models.contract import HamiltonianModel
from nearsight.models.targets import Prediction

Own = Callable[[int], bool]
MEV = 1000 * HARTREE_EV  # 1 Ha in meV
ENOUGH = 8  # structures whose energy must be known before one is called an outlier
OUTLIER = 1e4  # energy above the minimum against the median: a hundred times its error of H
PATIENCE = 4  # evaluations in a row as an outlier


def gauge_shifts(error: Tensor, overlap: Tensor, sizes: Sequence[int]) -> Tensor:
    """mu S of each structure that brings error + mu S nearest to zero in least squares [..., size].

    H and H + mu S are the same physics: the zero of energy of a periodic system has no meaning.
    """
    parts = zip(error.split(list(sizes), -1), overlap.split(list(sizes), -1), strict=True)
    return torch.cat([-(e * s).sum().real / (s * s).sum() * s for e, s in parts], -1)


@dataclass(frozen=True, eq=False)
class LossValue:
    """A loss and its derivative. value: meV.  gradient: in the prediction's values, of their shape."""

    value: float
    gradient: Tensor

    __repr__ = one_line


@dataclass(frozen=True)
class BlockLoss:
    """Mean over all stored elements of |error| (mae), error^2 (mse, meV^2), or MAE and root mean square averaged (mixed).

    gauge_invariant: the error is taken after the best shift H + mu S of each structure.
    """

    kind: Literal["mae", "mse", "mixed"] = "mae"
    gauge_invariant: bool = False

    def __call__(self, predicted: Tensor, target: Tensor, overlap: Tensor, sizes: Sequence[int]) -> Tensor:
        """predicted, target, overlap [..., size], Ha; sizes: elements of each structure. -> scalar."""
        error = (predicted - target) * MEV
        if self.gauge_invariant:
            error = error + gauge_shifts(error, overlap, sizes)
        if self.kind == "mae":
            return error.abs().mean()
        if self.kind == "mse":
            return error.abs().square().mean()
        return 0.5 * (error.abs().mean() + (error.abs().square().mean() + 1e-6).sqrt())

    def with_gradient(self, predicted: Tensor, target: Tensor, overlap: Tensor, sizes: Sequence[int]) -> LossValue:
        """The loss with its derivative in `predicted`."""
        free = predicted.detach().requires_grad_()
        with torch.enable_grad():
            loss = self(free, target, overlap, sizes)
        [gradient] = torch.autograd.grad(loss, free)
        return LossValue(float(loss.detach()), gradient)


class LossTerm(ABC):
    """One of the losses whose weighted sum is trained on.

    keeps: whether it remembers something of each structure, which must then always be of the same process.
    of_training: what its value is, in words, and the unit.
    """

    weight: float
    keeps: bool = False
    of_training: tuple[str, str]

    @property
    def skipped(self) -> dict[str, str]:
        """Structures that are set aside, with the reason."""
        return {}

    def forget(self) -> None:  # noqa: B027  # most terms remember nothing
        """Drop what was learnt near predictions that are given up."""

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, in numbers, words and tensors: what a training that was cut off goes on from."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], own: Own) -> None:  # noqa: B027
        """Go on from a `state_dict`. own: whether the structure of an index belongs to this process."""

    @abstractmethod
    def size(self, sample: Sample) -> float:
        """What a mean over a batch is divided by."""

    @abstractmethod
    def __call__(self, predicted: Prediction, sample: Sample) -> LossValue:
        """The mean over the sample."""


class LabelTerm(LossTerm):
    """A loss that compares predictions with labels.

    of: what is compared, in words.  unit: of `errors`.
    """

    of: ClassVar[str]
    unit: str

    @abstractmethod
    def errors(self, network: HamiltonianModel, held_out: SampleStore, edges: int) -> tuple[float, float, float]:
        """The mean error of labelled samples, and that of on-site and off-site elements (nan without any).

        edges: in one batch.
        """


class BlocksTerm(LabelTerm):
    """Predicted matrix elements against labels."""

    of, unit = "Hamiltonians", "meV"

    def __init__(self, config: BlocksLossConfig) -> None:
        self.loss, self.weight = BlockLoss(config.error, config.gauge_invariant), config.weight
        mean, unit = ("mean square", "meV^2") if config.error == "mse" else ("mean", "meV")
        self.of_training = f"{mean} error of the Hamiltonians trained on", unit

    def size(self, sample: Sample) -> float:
        """Elements of all its structures."""
        return float(sum(sample.sizes))

    def __call__(self, predicted: Prediction, sample: Sample) -> LossValue:
        """Of the block loss, for a sample that has labels."""
        assert sample.target is not None and sample.overlap is not None
        return self.loss.with_gradient(predicted.values, sample.target, sample.overlap, sample.sizes)

    def errors(self, network: HamiltonianModel, held_out: SampleStore, edges: int) -> tuple[float, float, float]:
        """MAE over all elements, over on-site and over off-site ones."""
        sums = [torch.zeros(()) for _ in range(4)]
        for sample in in_order(held_out, edges):
            assert sample.target is not None
            error = ((network(sample.prepared).values - sample.target).abs() * MEV).double().cpu()
            on_site = sample.on_site.cpu().expand_as(error)
            parts: list[Tensor] = [error[on_site].sum(), on_site.sum(), error[~on_site].sum(), (~on_site).sum()]
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
        a, n, b, m = (float(x) for x in sums)
        return _ratio(a + b, n + m), _ratio(a, n), _ratio(b, m)


def _ratio(a: float, b: float) -> float:
    return a / b if b else nan


class EnergyTerm(LossTerm):
    """The mean over structures of the energy above the minimum [meV per atom], or of its square root, with the residual.

    A structure whose functional cannot be built or gives no number, or which stays 10^4 times further from its minimum than
    the median, is set aside: told once, listed in `skipped`, and no longer part of any batch.
    """

    keeps = True

    def __init__(
        self, config: EnergyLossConfig, data: StructureData, loss: EnergyLoss, say: Callable[[str], None]
    ) -> None:
        self.config, self.data, self.loss, self.say = config, data, loss, say
        self.weight = config.weight
        unit = "meV per atom" if config.measure == "energy" else "meV^0.5 per atom"
        self.of_training = "energy above the minimum in training", unit
        self._skipped: dict[str, str] = {}
        self._excess: dict[int, float] = {}
        self._strikes: dict[int, int] = {}

    @property
    def skipped(self) -> dict[str, str]:
        """Structures that were set aside, with the reason."""
        return self._skipped

    def forget(self) -> None:
        """Drop the quadratic models."""
        self.loss.forget()

    def state_dict(self) -> dict[str, Any]:
        """Structures set aside, how far each was from its minimum, and the quadratic models."""
        index: dict[Hashable, int] = {source: k for k, source in enumerate(self.data.sources)}
        models = [{"index": index[key], **model} for key, model in self.loss.models()]
        return {
            "skipped": dict(self._skipped),
            "excess": dict(self._excess),
            "strikes": dict(self._strikes),
            "models": models,
        }

    def load_state_dict(self, state: Mapping[str, Any], own: Own) -> None:
        """The functional is evaluated anew for each quadratic model. Raises NearsightError as the functional does."""
        self._skipped |= state["skipped"]
        self._excess |= {k: x for k, x in state["excess"].items() if own(k)}
        self._strikes |= {k: n for k, n in state["strikes"].items() if own(k)}
        for model in state["models"]:
            if own(k := model["index"]):
                self.loss.remake(self.data.sources[k], self.data.structure(k), model, self.data.settings(k))

    def size(self, sample: Sample) -> float:
        """Structures that are not set aside."""
        return float(sum(self.data.name(k) not in self._skipped for k in sample.members))

    def outcome(self, index: int, hamiltonian: Tensor) -> EnergyOutcome | None:
        """What the functional says of one structure's H [components, size], Ha; None if it is set aside."""
        name = self.data.name(index)
        if name in self._skipped:
            return None
        try:
            values = hamiltonian.detach().cpu()
            found = self.loss(self.data.sources[index], self.data.structure(index), values, self.data.settings(index))
        except (NearsightError, torch.linalg.LinAlgError) as error:
            self.set_aside(index, " ".join(str(error).split()))
            return None
        if found.evaluated and self._outlier(index, found.excess / len(self.data.structure(index))):
            self.set_aside(
                index, f"does not converge: {found.excess * MEV:.3g} meV above its minimum, the others far less"
            )
            return None
        return found

    def __call__(self, predicted: Prediction, sample: Sample) -> LossValue:
        """The mean over structures that are not set aside; NaN where the network gives no number."""
        values = predicted.values.detach().requires_grad_()
        nowhere = torch.zeros_like(values)
        value, count = 0.0, max(1.0, self.size(sample))
        with torch.enable_grad():
            parts = Prediction(values, predicted.sizes, predicted.target).parts()
            matrices, gradients = [], []
            for index, part in zip(sample.members, parts, strict=True):
                if not bool(torch.isfinite(part.values).all()):
                    return LossValue(float("nan"), nowhere)  # the network's fault, not the structure's
                if self.data.name(index) in self._skipped:
                    continue
                h = self._matrix(index, part)
                found = None if h is None else self.outcome(index, h)
                if h is None or found is None:
                    continue
                excess, g = self._measured(index, found)
                value += excess / count
                matrices.append(h)
                gradients.append((g / count).to(h))
            if not matrices:
                return LossValue(value, nowhere)
            [gradient] = torch.autograd.grad(matrices, values, gradients)
        return LossValue(value, gradient)

    def _matrix(self, index: int, part: Prediction) -> Tensor | None:
        try:
            return self.data.matrix(index, part)
        except NearsightError as error:
            self.set_aside(index, " ".join(str(error).split()))
            return None

    def _measured(self, index: int, found: EnergyOutcome) -> tuple[float, Tensor]:
        """The energy above the minimum, or its root, with its derivative in H [components, size]."""
        per_atom = MEV / len(self.data.structure(index))
        excess, g = found.excess * per_atom, found.gradient * per_atom
        if self.config.measure == "root":
            excess = sqrt(max(excess, 0.0))
            return excess, g / (2 * max(excess, 1e-6))
        return excess, g * self._limit(index)

    def _limit(self, index: int) -> float:
        """Factor that keeps one structure from drowning the others: at most 30 times the median's gradient."""
        if len(self._excess) < ENOUGH:
            return 1.0
        typical = median(self._excess.values())
        return min(1.0, sqrt(900 * typical / max(self._excess.get(index, 0.0), 1e-300)))

    def _outlier(self, index: int, excess: float) -> bool:
        if not isfinite(excess):
            return True
        self._excess[index] = max(excess, 0.0)
        if len(self._excess) < ENOUGH:
            return False
        far = excess > OUTLIER * median(self._excess.values()) and excess * MEV > 1e-3
        self._strikes[index] = self._strikes.get(index, 0) + 1 if far else 0
        return self._strikes[index] >= PATIENCE

    def set_aside(self, index: int, reason: str) -> None:
        """Leave a structure out from now on, and say so."""
        name = self.data.name(index)
        if name not in self._skipped:
            self._skipped[name] = reason = reason.removeprefix(f"{name}: ")
            self.say(f"{name} is set aside: {reason}")


class Loss:
    """The weighted sum of all terms of a training."""

    def __init__(self, terms: Sequence[LossTerm]) -> None:
        self.terms = tuple(terms)

    @property
    def labels(self) -> LabelTerm | None:
        """The term that compares with labels, or None."""
        return next((t for t in self.terms if isinstance(t, LabelTerm)), None)

    @property
    def keeps(self) -> bool:
        """Whether a structure must always be of the same process."""
        return any(t.keeps for t in self.terms)

    @property
    def skipped(self) -> dict[str, str]:
        """Structures that any term has set aside, with the reason."""
        return {k: reason for t in self.terms for k, reason in t.skipped.items()}

    def forget(self) -> None:
        """Drop what was learnt near predictions that are given up."""
        for term in self.terms:
            term.forget()

    def state_dict(self) -> list[dict[str, Any]]:
        """What each term remembers."""
        return [term.state_dict() for term in self.terms]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], own: Own) -> None:
        """Go on from a `state_dict`. own: whether the structure of an index belongs to this process."""
        for term, state in zip(self.terms, states, strict=True):
            term.load_state_dict(state, own)

    def sizes(self, sample: Sample | None) -> list[float]:
        """For each term what its mean over this sample is divided by."""
        return [0.0 if sample is None else t.size(sample) for t in self.terms]

    def __call__(self, predicted: Prediction, sample: Sample, shares: Sequence[float]) -> LossValue:
        """shares: the part that this sample is of each term's batch, where several processes share it."""
        fixed = Prediction(predicted.values.detach(), predicted.sizes, predicted.target)
        found = [t(fixed, sample) for t in self.terms]
        factors = [t.weight * s for t, s in zip(self.terms, shares, strict=True)]
        gradient = torch.zeros_like(predicted.values)
        for f, value in zip(factors, found, strict=True):
            gradient += f * value.gradient
        return LossValue(sum(f * v.value for f, v in zip(factors, found, strict=True)), gradient)

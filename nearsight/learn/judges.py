"""How a batch is judged: by its labels, by the energy functional, or both; structures that spoil a batch are set aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, sqrt
from statistics import median

import torch
from torch import Tensor

from nearsight.core.errors import NearsightError
from nearsight.learn.config import BlocksLossConfig, EnergyLossConfig
from nearsight.learn.dataset import Sample
from nearsight.learn.energy import EnergyLoss, EnergyOutcome
from nearsight.learn.losses import MEV, BlockLoss, Judgement
from nearsight.learn.structures import StructureData

Say = Callable[[str], None]
ENOUGH = 8  # structures that must have been judged before one is called an outlier
OUTLIER = 1e4  # energy above the minimum against the median: a hundred times its error of H
PATIENCE = 4  # evaluations in a row as an outlier


class BlocksJudge:
    """Elements against labels."""

    def __init__(self, config: BlocksLossConfig) -> None:
        self.loss, self.weight = BlockLoss(config.error, config.gauge_invariant), config.weight

    def size(self, sample: Sample) -> float:
        """What a mean over a batch is divided by."""
        return float(len(sample.graph.local))

    def __call__(self, predicted: Tensor, sample: Sample) -> Judgement:
        assert sample.target is not None and sample.overlap is not None
        return self.loss.judge(predicted, sample.target, sample.overlap, sample.graph.values)


class EnergyJudge:
    """The mean over structures of the energy above the minimum [meV per atom], or of its square root, with the residual.

    A structure whose functional cannot be built or gives no number, or which stays 10^4 times further from its minimum than
    the median, is set aside: told once, listed in `skipped`, and no longer part of any batch.
    """

    def __init__(self, config: EnergyLossConfig, data: StructureData, loss: EnergyLoss, say: Say) -> None:
        self.config, self.data, self.loss, self.say = config, data, loss, say
        self.weight = config.weight
        self.skipped: dict[str, str] = {}
        self._excess: dict[int, float] = {}
        self._strikes: dict[int, int] = {}

    def size(self, sample: Sample) -> float:
        return float(sum(self.data.name(k) not in self.skipped for k in sample.members))

    def outcome(self, index: int, elements: Tensor) -> EnergyOutcome | None:
        """What the functional says of the network's elements [size] for one structure; None if it is set aside."""
        name = self.data.name(index)
        if name in self.skipped:
            return None
        try:
            values = elements.detach().double().cpu() + self.data.offset(index)
            found = self.loss(
                self.data.sources[index], self.data.structure(index), values[None], self.data.settings(index)
            )
        except (NearsightError, torch.linalg.LinAlgError) as error:
            self.set_aside(index, " ".join(str(error).split()))
            return None
        if found.evaluated and self._outlier(index, found.excess / len(self.data.structure(index))):
            self.set_aside(
                index, f"does not converge: {found.excess * MEV:.3g} meV above its minimum, the others far less"
            )
            return None
        return found

    def __call__(self, predicted: Tensor, sample: Sample) -> Judgement:
        """predicted: the network's elements of all members, one after another."""
        gradient = torch.zeros_like(predicted)
        value, start = 0.0, 0
        count = max(1.0, self.size(sample))
        for index, size in zip(sample.members, sample.graph.values, strict=True):
            part = slice(start, start + size)
            start += size
            if not bool(torch.isfinite(predicted[part]).all()):
                return Judgement(float("nan"), gradient)  # the network's fault, not the structure's
            found = self.outcome(index, predicted[part])
            if found is None:
                continue
            per_atom = MEV / len(self.data.structure(index))
            excess, g = found.excess * per_atom, found.gradient[0] * per_atom
            if self.config.measure == "root":
                excess = sqrt(max(excess, 0.0))
                g = g / (2 * max(excess, 1e-6))
            else:
                g = g * self._limit(index)
            value += excess / count
            gradient[part] = (g / count).to(gradient)
        return Judgement(value, gradient)

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
        if name not in self.skipped:
            self.skipped[name] = reason = reason.removeprefix(f"{name}: ")
            self.say(f"{name} is set aside: {reason}")


class Judges:
    """The weighted sum of all losses of a training."""

    def __init__(self, judges: Sequence[BlocksJudge | EnergyJudge]) -> None:
        self.judges = tuple(judges)

    @property
    def energy(self) -> EnergyJudge | None:
        return next((j for j in self.judges if isinstance(j, EnergyJudge)), None)

    @property
    def skipped(self) -> dict[str, str]:
        return {} if self.energy is None else self.energy.skipped

    def sizes(self, sample: Sample | None) -> list[float]:
        """For each loss what its mean over this sample is divided by."""
        return [0.0 if sample is None else j.size(sample) for j in self.judges]

    def __call__(self, predicted: Tensor, sample: Sample, shares: Sequence[float]) -> Judgement:
        """shares: the part that this sample is of each loss's batch, where several processes share it."""
        found = [j(predicted.detach(), sample) for j in self.judges]
        factors = [j.weight * s for j, s in zip(self.judges, shares, strict=True)]
        gradient = torch.zeros_like(predicted)
        for f, judgement in zip(factors, found, strict=True):
            gradient += f * judgement.gradient
        return Judgement(sum(f * j.value for f, j in zip(factors, found, strict=True)), gradient)

"""Where a training is, and what it says of itself at each validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Where a training is. best: lowest validation figure so far.  rate: the factor of plateaus and of backing off."""

    epoch: int = 0
    position: int = 0  # batches of this epoch that are done
    batches: int = 1  # of this epoch
    step: int = 0
    elapsed: float = 0.0  # seconds of training in all runs
    best: float = math.inf
    waited: int = 0
    rate: float = 1.0
    validated: float = 0.0  # share of the budget at the last validation
    backed_off: int = 0  # times


@dataclass(frozen=True)
class Metrics:
    """One line of metrics.jsonl; errors are MAEs in meV over all stored elements, of the averaged weights.

    train_loss: mean since the last line: meV of elements; of the energy loss, meV per atom above the minimum as its quadratic
    model has it.  energy: means of `EnergyFigures` over the held-out structures, where the loss has an energy.  best: the
    lowest MAE, or with an energy loss the lowest energy error [micro-eV per atom] (without ground states its bound).
    skipped: structures that are set aside, with the reason.  backed_off: times that the training went back to a good state.
    unit: of validation_mae and best, where these are no energies.
    """

    epoch: int
    step: int
    minutes: float
    learning_rate: float
    train_loss: float | None
    validation_mae: float | None
    validation_on_site: float | None
    validation_off_site: float | None
    best: float | None
    energy: dict[str, float | None] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    backed_off: int = 0
    unit: str = "meV"

"""What a training shows while it runs: a bar with the time left on a terminal, a line at every validation."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.errors import LiveError
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nearsight.learn.config import TrainerConfig

LINE_EVERY = 30.0  # seconds, between lines of a preparation that no terminal watches


class TrainingProgress:
    """A context: `advance` moves the bar, `say` prints a line of figures."""

    def __init__(self, trainer: TrainerConfig, speaks: bool = True) -> None:
        """speaks: whether this process is the one that shows anything."""
        self.speaks = speaks
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.task = self.bar.add_task("training", total=1.0, figures="")
        self.begun = self.told = 0.0

    def __enter__(self) -> TrainingProgress:
        if self.speaks and self.bar.console.is_terminal:
            try:
                self.bar.start()
            except LiveError:  # the caller has a display of its own
                self.bar.disable = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    def prepared(self, done: int, total: int, what: str = "structures") -> None:
        """So many structures (or what else) are ready for training."""
        if not total:
            return
        if self.bar.live.is_started:
            figures = f"{done} of {total} {what}"
            self.bar.update(self.task, description="preparing", completed=done / total, figures=figures)
            if done == total:
                self.bar.reset(self.task, total=1.0, description="training", figures="")
            return
        now = time.monotonic()
        if done == 0:
            self.begun = self.told = now
        if now - self.told > LINE_EVERY and 0 < done < total:
            self.told = now
            left = (now - self.begun) / done * (total - done)
            self.note(f"preparing: {done} of {total} {what}, {left:.0f} s left")

    def advance(self, share: float, loss: float | None, progress: Any) -> None:
        """The bar stands at a share of the budget in 0..1, with the epoch and the loss beside it."""
        if self.bar.live.is_started:
            figures = f"epoch {progress.epoch + 1}" + ("" if loss is None else f", loss {loss:.3g}")
            self.bar.update(self.task, completed=share, figures=figures)

    def note(self, text: str) -> None:
        """A line of words."""
        if self.speaks:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def say(self, metrics: Any) -> None:
        """One line of figures for a look at the training."""
        if not self.speaks:
            return
        energy = metrics.energy
        loss, held_out, best = (
            "-" if x is None else f"{x:.4g}" for x in (metrics.train_loss, metrics.validation_mae, metrics.best)
        )
        self.bar.console.print(
            f"epoch {metrics.epoch:5d}  step {metrics.step:6d}  {metrics.minutes:6.1f} min  "
            f"lr {metrics.learning_rate:.1e}  train {loss:>8s}  "
            f"validation {held_out:>8s} {metrics.unit}  "
            + (f"(best {best})" if _no_energy(energy) else f"{_energies(energy)}  (best {best} ueV/atom)"),
            highlight=False,
            soft_wrap=True,
        )


def _no_energy(energy: dict[str, float | None] | None) -> bool:
    """Whether no held-out structure has an energy: the best is then another figure."""
    return energy is None or all(x is None for x in energy.values())


def _energies(energy: dict[str, float | None]) -> str:
    """Energy above the ground state, or the bound of it where no ground state is known."""
    error = energy["energy_error_ueV"]
    if error is not None:
        return f"E - E0 {error:.4g} ueV/atom"
    bound = energy["harris_ueV"]
    return "" if bound is None else f"|E_KS - E_Harris| {bound:.4g} ueV/atom"

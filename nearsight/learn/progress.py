"""What a training shows while it runs: a bar with the time left on a terminal, a line at every validation."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.errors import LiveError
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nearsight.learn.config import TrainerConfig


class TrainingProgress:
    """A context: `advance` moves the bar, `say` prints a line of figures."""

    def __init__(self, trainer: TrainerConfig) -> None:
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.task = self.bar.add_task("training", total=1.0, figures="")

    def __enter__(self) -> TrainingProgress:
        if self.bar.console.is_terminal:
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

    def advance(self, share: float, loss: float | None, progress: Any) -> None:
        if self.bar.live.is_started:
            figures = f"epoch {progress.epoch + 1}" + ("" if loss is None else f", loss {loss:.2f} meV")
            self.bar.update(self.task, completed=share, figures=figures)

    def say(self, metrics: Any) -> None:
        loss, held_out, best = (
            "-" if x is None else f"{x:.3f}" for x in (metrics.train_loss, metrics.validation_mae, metrics.best)
        )
        self.bar.console.print(
            f"epoch {metrics.epoch:5d}  step {metrics.step:6d}  {metrics.minutes:6.1f} min  "
            f"lr {metrics.learning_rate:.1e}  train {loss:>8s}  "
            f"validation {held_out:>8s} meV  (best {best})",
            highlight=False,
            soft_wrap=True,
        )

"""What the command line shows: bars, spinners, figures. Loads rich only where something is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def console() -> Console:
    """Standard output, the one console that bars of several authors share."""
    from rich import get_console

    return get_console()


def progress_bars(shared: Console | None = None) -> Progress:
    """Bars with a count, the time gone and the time left, on standard error or a console that is shared."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=shared or Console(stderr=True),
    )


class Bars:
    """A bar for each stage of a long run."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: Any = None

    def stage(self, text: str) -> None:
        """A new bar under this text, full at a total that the first `advance` tells."""
        self.task = self.progress.add_task(text, total=None)

    def advance(self, done: float, total: float, text: str = "") -> None:
        """The last bar stands at done of total; its text stays."""
        self.progress.update(self.task, completed=done, total=total)


def spinner(text: str) -> Any:
    """A context that shows the text while something works, on standard error."""
    from rich.console import Console

    return Console(stderr=True).status(text)


def print_json(content: Any) -> None:
    """One JSON object on standard output, indented by one."""
    import json

    print(json.dumps(content, indent=1))


def figure(value: Any) -> str:
    """A number to four digits, "unknown" for None, anything else as it prints itself."""
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""What the command line shows: bars, spinners, figures. Loads rich only where something is shown."""

from __future__ import annotations

from collections.abc import Mapping
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


MOST_ROWS = 12  # of one table within a table: the largest; all are in the JSON


def print_figures(result: Mapping[str, Any], title: str = "difference") -> None:
    """A table of a comparison's figures (`Comparison.to_json`), beside them those of superposed atoms, where it has them."""
    from rich.table import Table

    beside: Mapping[str, Any] = result.get("superposed_atoms") or {}
    columns = [title, "value", *(["superposed atoms"] if beside else [])]
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")

    def row(name: str, value: Any, other: Any) -> None:
        table.add_row(name, figure(value), *([figure(other)] if beside else []))

    for name, value in result.items():
        if name == "superposed_atoms":
            continue
        other = beside.get(name)
        if not isinstance(value, dict):
            row(name, value, other)
            continue
        largest = sorted(value, key=lambda k: -value[k])[:MOST_ROWS]
        for key in [k for k in value if k in largest]:
            row(f"{name} {key}", value[key], (other or {}).get(key))
        if len(value) > MOST_ROWS:
            table.add_row(f"{name}: {len(value) - MOST_ROWS} smaller ones", "", *([""] if beside else []))
    console().print(table)

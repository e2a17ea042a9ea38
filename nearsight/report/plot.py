"""Pictures of results. Draws what it is given and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsight.core.errors import BadInput
from nearsight.formats.files import whole_file
from nearsight.properties.contract import Result
from nearsight.properties.drawing import COLOURS, STYLE, draw_bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nearsight.dft.trace import TraceStep
    from nearsight.properties.spectra import Bands


def plot_bands(
    results: Sequence[tuple[str, Bands]],
    out: Path | str,
    *,
    window_ev: tuple[float, float] = (-10.0, 10.0),
    title: str | None = None,
    note: str | None = None,
) -> None:
    """Band structures over each other, written to `out` (png, pdf or svg).

    results: (name, bands) of one path each; the first is drawn as a solid line, the others dashed over it, all against
    the first known Fermi level.  window_ev: energies shown, relative to it [eV].  title, note: text above and below.
    Raises NearsightError where the paths differ or the file cannot be written.
    """
    save(band_figure(results, window_ev=window_ev, title=title, note=note), out)


def check_window(window_ev: tuple[float, float]) -> None:
    """Raises BadInput for energies [eV] between which nothing can be drawn."""
    low, high = window_ev
    if not (-1e6 < low < high < 1e6):
        raise BadInput(
            f"window {low:g} {high:g} eV: give the lower energy first, then the higher one, within a million eV"
        )


def band_figure(
    results: Sequence[tuple[str, Bands]],
    *,
    window_ev: tuple[float, float] = (-10.0, 10.0),
    title: str | None = None,
    note: str | None = None,
) -> Figure:
    """The figure of `plot_bands`. Raises NearsightError where the paths differ."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if not results:
        raise BadInput("no bands to draw")
    check_window(window_ev)
    lengths = {len(b.path.k) for _, b in results}
    if len(lengths) > 1:
        raise BadInput("bands on different paths cannot be drawn over each other: give one path to all")
    with rc_context(STYLE):  # type: ignore[arg-type]  # a plain dict is what matplotlib documents
        figure = Figure(figsize=(4.8, 4.0), layout="constrained")
        axes = figure.subplots()
        draw_bands(axes, results, window_ev)
        if len(results) > 1 or len(results[0][1].energies) > 1 or results[0][1].names:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)
        if title:
            figure.suptitle(title, fontsize=9)
        if note:
            figure.supxlabel(note, fontsize=7.5, color="0.35")
    return figure


def plot_result(result: Result, out: Path | str, size: tuple[float, float] = (4.8, 4.0)) -> None:
    """The picture of a property's result, written to `out` (png, pdf or svg).  size: [inch].

    Raises NearsightError for a result without a picture, or where the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):  # type: ignore[arg-type]  # a plain dict is what matplotlib documents
        figure = Figure(figsize=size, layout="constrained")
        result.draw(figure)
        save(figure, out)


def plot_trace(runs: Sequence[tuple[str, Sequence[TraceStep]]], out: Path | str, *, title: str | None = None) -> None:
    """How runs converged: the free energy above its last value and |D - D_final| against the step, on logarithmic scales.

    runs: (name, steps) each; energies below the last value are drawn at their distance.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(STYLE):  # type: ignore[arg-type]  # a plain dict is what matplotlib documents
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for n, (name, steps) in enumerate(runs):
            end = steps[-1].free_eV
            number = [s.iteration for s in steps]
            energy = [abs(s.free_eV - end) or None for s in steps]
            line: dict[str, Any] = {"color": COLOURS[n % len(COLOURS)], "marker": "o", "ms": 2.5, "lw": 1.0}
            left.plot(number, _gaps(energy), label=name or None, **line)
            right.plot(number, _gaps([s.density_matrix_to_final_norm or None for s in steps]), **line)
        left.axhline(1e-6, color="0.55", lw=0.6, ls=":", zorder=0)
        for axes, label in ((left, "energy above the last (eV)"), (right, "$|D - D_{final}|$")):
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("step")
            axes.set_ylabel(label)
        if any(name for name, _ in runs):
            figure.legend(loc="outside upper center", ncols=len(runs), fontsize=8)
        if title:
            figure.suptitle(title, fontsize=9)
        save(figure, out)


def _gaps(values: Sequence[float | None]) -> list[float]:
    """A logarithmic axis leaves out what is zero."""
    return [float("nan") if v is None else v for v in values]


def save(figure: Figure, out: Path | str) -> None:
    """Write a figure, whole or not at all, in the format of the name's ending.

    Raises NearsightError for an ending that is no picture's.
    """
    out = Path(out)
    kind = out.suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise BadInput(f"{out}: pictures can be written as png, pdf or svg, not .{kind}")
    with whole_file(out) as part:
        figure.savefig(part, format=kind)

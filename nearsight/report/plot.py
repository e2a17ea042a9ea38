"""Pictures of results. Draws what it is given and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsight.core.errors import BadInput
from nearsight.core.units import HARTREE_EV
from nearsight.formats.files import whole_file
from nearsight.properties.spectra import Bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nearsight.dft.trace import TraceStep

COLOURS = ("#30424f", "#d1495b", "#2a9d8f", "#e09f3e", "#6d597a")
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.linewidth": 0.7,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "ytick.right": True,
    "ytick.minor.visible": True,
    "xtick.major.size": 0,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "mathtext.default": "regular",
}


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
    lengths = {len(b.path.k) for _, b in results}
    if len(lengths) > 1:
        raise BadInput("bands on different paths cannot be drawn over each other: give one path to all")
    with rc_context(STYLE):  # type: ignore[arg-type]  # a plain dict is what matplotlib documents
        figure = Figure(figsize=(4.8, 4.0), layout="constrained")
        axes = figure.subplots()
        _draw(axes, results, window_ev)
        if len(results) > 1 or len(results[0][1].energies) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)
        if title:
            figure.suptitle(title, fontsize=9)
        if note:
            figure.supxlabel(note, fontsize=7.5, color="0.35")
    return figure


def _draw(axes: Axes, results: Sequence[tuple[str, Bands]], window_ev: tuple[float, float]) -> None:
    zero = next((b.fermi_level for _, b in results if b.fermi_level is not None), None)
    for n, (name, bands) in enumerate(results):
        x = bands.path.distance.numpy()
        energies = (bands.energies - (zero or 0.0)).numpy() * HARTREE_EV
        for s, component in enumerate(energies):
            line: dict[str, Any] = {"ls": "-", "lw": 1.5, "alpha": 0.65} if n == 0 else {"ls": (0, (3, 2)), "lw": 1.0}
            colour = COLOURS[(n + (2 * s if len(results) == 1 else 0)) % len(COLOURS)]
            label = name + ("" if len(energies) == 1 else (" ↑", " ↓")[s])
            shown = component[:, (component.max(0) >= window_ev[0]) & (component.min(0) <= window_ev[1])]
            lines = axes.plot(x, shown, color=colour, **line)
            if lines:
                lines[0].set_label(label)
    places, names = results[0][1].ticks
    for place in places[1:-1]:
        axes.axvline(place, color="0.75", lw=0.6, zorder=0)
    if zero is not None:
        axes.axhline(0, color="0.55", lw=0.6, ls=":", zorder=0)
    axes.set_xticks(places, names)
    axes.set_xlim(places[0], places[-1])
    low, high = window_ev
    axes.set_ylim(low, high)
    axes.set_ylabel("$E - E_F$ (eV)" if zero is not None else "E (eV)")


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

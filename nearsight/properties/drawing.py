"""How results are drawn: style and colours, and band structures. Loads matplotlib only where something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nearsight.core.units import HARTREE_EV

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from nearsight.properties.spectra import Bands

COLOURS = ("#30424f", "#d1495b", "#2a9d8f", "#e09f3e", "#6d597a", "#6a994e", "#3a86ff", "#9c6644")
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


def draw_bands(axes: Axes, results: Sequence[tuple[str, Bands]], window_ev: tuple[float, float]) -> None:
    """Bands of one path over each other, the first solid, the others dashed; or one with the shares of its groups as dots.

    window_ev: energies shown, from the first known Fermi level [eV].
    """
    zero = next((b.fermi_level for _, b in results if b.fermi_level is not None), None)
    for n, (name, bands) in enumerate(results):
        x = bands.path.distance.numpy()
        energies = (bands.energies - (zero or 0.0)).numpy() * HARTREE_EV
        for s, component in enumerate(energies):
            line: dict[str, Any] = {"ls": "-", "lw": 1.5, "alpha": 0.65} if n == 0 else {"ls": (0, (3, 2)), "lw": 1.0}
            colour = COLOURS[(n + (2 * s if len(results) == 1 else 0)) % len(COLOURS)]
            label = name + ("" if len(energies) == 1 else (" ↑", " ↓")[s])
            if bands.names:
                line, colour, label = {"lw": 0.0}, "none", ""
            shown = component[:, (component.max(0) >= window_ev[0]) & (component.min(0) <= window_ev[1])]
            lines = axes.plot(x, shown, color=colour, **line)
            if lines:
                lines[0].set_label(label)
        if n == 0 and bands.shares is not None:
            _draw_shares(axes, x, energies, bands)
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


def _draw_shares(axes: Axes, x: NDArray[np.float64], energies: NDArray[np.float64], bands: Bands) -> None:
    """Each band in the colours of its groups, mixed by their shares."""
    import numpy as np
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    assert bands.shares is not None
    shares = bands.shares.clamp(min=0).numpy()  # [s, k, groups, n]
    shares = shares / shares.sum(2, keepdims=True)
    tones = np.array([to_rgb(COLOURS[(g + 1) % len(COLOURS)]) for g in range(len(bands.names))])
    mixed = np.einsum("skgn,gc->sknc", shares, tones)
    jumps = {a for (a, _), (b, _) in zip(bands.path.labels[:-1], bands.path.labels[1:], strict=True) if b == a + 1}
    for s in range(len(energies)):
        for band in range(energies.shape[2]):
            points = np.stack([x, energies[s, :, band]], 1)
            pieces = [n for n in range(len(x) - 1) if n not in jumps]
            segments = [points[n : n + 2] for n in pieces]
            colours = [0.5 * (mixed[s, n, band] + mixed[s, n + 1, band]) for n in pieces]
            axes.add_collection(LineCollection(segments, colors=colours, linewidths=2.2, capstyle="round"))
    for g, name in enumerate(bands.names):
        axes.plot([], [], color=tones[g], lw=2.2, label=name)

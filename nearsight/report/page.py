"""One self-contained page about calculations: what was asked of them, what was found, and pictures of their matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nearsight.core.calculation import Calculation
from nearsight.core.laws import Finding
from nearsight.formats.files import whole_file
from nearsight.properties.drawing import COLOURS, STYLE, draw_bands
from nearsight.report import notebook

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nearsight.properties.portrait import Portrait

_WINDOW_EV = (-12.0, 8.0)  # of the bands, from the Fermi level
_UNIT = {"S": "", "H": " (eV)"}
_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #24313a; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; border-top: 1px solid #ccd5da; padding-top: 1.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } td, th { text-align: left; padding: .15rem .8rem .15rem 0;
vertical-align: top; } .holds { color: #2a7d6f; } .broken { color: #c22f43; font-weight: 600; }
tr.bad td { background: #fbecee; }
figure { display: inline-block; margin: .4rem 1rem .8rem 0; vertical-align: top; } figure img { max-width: 100%; width: 30rem; }
figcaption { font-size: .85rem; color: #5a6972; max-width: 30rem; } .row { display: flex; gap: 2rem; flex-wrap: wrap; }
"""


@dataclass(frozen=True)
class Entry:
    """One calculation of a page.

    fault: why it could not be read, else empty.  formula, about: what it is, the latter as HTML.  pictures: (image, caption).
    """

    name: str
    findings: Sequence[Finding] = ()
    fault: str = ""
    formula: str = ""
    about: str = ""
    pictures: Sequence[tuple[str, str]] = ()

    @staticmethod
    def of(name: str, findings: Sequence[Finding], calculation: Calculation, portrait: Portrait | None) -> Entry:
        """Drawn at once, so that the matrices need not be kept.  portrait: None for no pictures."""
        pictures = [] if portrait is None else _pictures(portrait)
        about = notebook.calculation(calculation)
        return Entry(name, tuple(findings), "", calculation.structure.formula, about, tuple(pictures))

    @property
    def broken(self) -> list[str]:
        """Laws that do not hold, or why it cannot be read, in a sentence each."""
        return ([self.fault] if self.fault else []) + [f"{f.law}: {f.found}" for f in self.findings if not f.holds]


def write_page(out: Path | str, entries: Sequence[Entry]) -> None:
    """The page of some calculations as one HTML file, whole or not at all; nothing is loaded from elsewhere."""
    with whole_file(Path(out)) as part:
        part.write_text(page(entries), encoding="utf-8")


def page(entries: Sequence[Entry]) -> str:
    """The HTML of `write_page`."""
    title = f"Is {entries[0].name} sound?" if len(entries) == 1 else f"Are {len(entries)} calculations sound?"
    body = [f"<h1>{escape(title)}</h1>", _verdict(entries)]
    if len(entries) > 1:
        body.append(_overview(entries))
    for n, entry in enumerate(entries):
        body.append(_section(entry, n, len(entries) > 1))
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_CSS}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{chr(10).join(body)}\n</body></html>\n'


def _verdict(entries: Sequence[Entry]) -> str:
    bad = [e for e in entries if e.broken]
    if not bad:
        count = sum(len(e.findings) for e in entries)
        return f'<p class="holds">Sound: all {count} laws that were asked hold.</p>'
    lines = "".join(f"<li>{escape(e.name)}: {escape(words)}</li>" for e in bad for words in e.broken)
    return f'<p class="broken">Not sound:</p><ul>{lines}</ul>'


def _overview(entries: Sequence[Entry]) -> str:
    rows = []
    for n, e in enumerate(entries):
        word = '<span class="broken">broken</span>' if e.broken else '<span class="holds">sound</span>'
        rows.append(
            f'<tr><td><a href="#c{n}">{escape(e.name)}</a></td><td>{escape(e.formula)}</td><td>{word}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _section(entry: Entry, number: int, titled: bool) -> str:
    parts = [f'<h2 id="c{number}">{escape(entry.name)}</h2>'] if titled else []
    if entry.fault:
        return "".join([*parts, f'<p class="broken">{escape(entry.fault)}</p>'])
    rows = "".join(
        f'<tr class="{"" if f.holds else "bad"}"><td class="{"holds" if f.holds else "broken"}">'
        f"{'holds' if f.holds else 'broken'}</td><td>{escape(f.law)}</td><td>{escape(f.found)}</td></tr>"
        for f in entry.findings
    )
    parts.append(
        f'<div class="row"><table><tr><th></th><th>law</th><th>found</th></tr>{rows}</table><div>{entry.about}</div></div>'
    )
    parts += [_figure(picture, words) for picture, words in entry.pictures]
    return "\n".join(parts)


def _figure(picture: str, words: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(words)}</figcaption></figure>"


def _pictures(p: Portrait) -> list[tuple[str, str]]:
    """(image, caption) of each."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    def drawn(draw, size: tuple[float, float] = (4.8, 3.6)) -> str:  # type: ignore[no-untyped-def]
        with rc_context(STYLE):  # type: ignore[arg-type]  # a plain dict is what matplotlib documents
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, figure.subplots())
            return notebook.png(figure)

    name = "H" if "H" in p.sizes else "S"
    found = [
        (
            drawn(lambda figure, axes: _by_atoms(figure, axes, p, name)),
            f"The largest element of {name} between each two atoms, over all cells; white: none.",
        ),
        (
            drawn(lambda figure, axes: _decay(figure, axes, p)),
            "The largest element of each block against the distance of its atoms: it should fall off, without outliers.",
        ),
    ]
    if p.left_out:
        found.append(("", p.left_out))
    if p.lowest is not None:
        found.append(
            (
                drawn(lambda figure, axes: _lowest(axes, p)),
                f"Smallest eigenvalue of S(k), {float(p.lowest.min()):.2e} at least: it must be positive.",
            )
        )
    if p.bands is not None:
        found.append((drawn(lambda figure, axes: _bands(axes, p), (4.8, 4.0)), "Bands of H and S."))
    if p.asymmetry:
        found.append(
            (
                drawn(lambda figure, axes: _asymmetry(axes, p)),
                "How far each block is from what the crystal's symmetry makes of it: a mesh breaks it by some meV.",
            )
        )
    return found


def _by_atoms(figure: Figure, axes: Axes, p: Portrait, name: str) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    values = p.by_atoms[name].numpy()
    some = values[np.isfinite(values) & (values > 0)]
    high = float(some.max()) if len(some) else 1.0
    shown = np.where(values > 1e-8 * high, values, np.nan)
    low = float(np.nanmin(shown)) if np.isfinite(shown).any() else high
    norm = LogNorm(min(low, 0.999 * high), high)
    image = axes.imshow(shown, norm=norm, cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=axes, label=f"largest |{name}|{_UNIT[name]}")
    axes.tick_params(which="minor", length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("atom")
    axes.set_ylabel("atom")


def _decay(figure: Figure, axes: Axes, p: Portrait) -> None:
    kinds = sorted(set(p.kinds))
    of_kind = np.array([kinds.index(k) for k in p.kinds])
    for name, marker in (("H", "o"), ("S", "x")):
        if name in p.sizes:
            for n, kind in enumerate(kinds):
                _points(
                    axes, p, p.sizes[name].numpy(), of_kind == n, COLOURS[n % len(COLOURS)], marker, f"|{name}|, {kind}"
                )
    axes.set_yscale("log")
    axes.set_xlabel("distance (Å)")
    axes.set_ylabel("largest |H| (eV), |S|" if "H" in p.sizes else "largest |S|")
    figure.legend(loc="outside upper center", ncols=4, fontsize=7)


def _points(  # type: ignore[no-untyped-def]
    axes: Axes, p: Portrait, values, which, colour: str, marker: str, label: str
) -> None:
    shown = which & (values > 1e-16) & np.isfinite(values)
    axes.plot(
        p.distance.numpy()[shown], values[shown], marker, ms=3, color=colour, label=label, ls="", alpha=0.7, mew=0.8
    )


def _along(axes: Axes, p: Portrait) -> None:
    from nearsight.properties.spectra import Bands

    assert p.path is not None
    assert p.lowest is not None
    places, names = Bands(p.path, p.lowest[None, :, None]).ticks
    for place in places[1:-1]:
        axes.axvline(place, color="0.75", lw=0.6, zorder=0)
    axes.set_xticks(places, names)
    axes.set_xlim(places[0], places[-1])


def _lowest(axes: Axes, p: Portrait) -> None:
    assert p.path is not None
    assert p.lowest is not None
    values = p.lowest.numpy()
    axes.plot(p.path.distance.numpy(), values, color=COLOURS[0], lw=1.3)
    if values.min() > 0:
        axes.set_yscale("log")
        if values.max() < 1.01 * values.min():  # a molecule: the same for all k
            axes.set_ylim(values.min() / 3, values.max() * 3)
    else:
        axes.axhline(0, color=COLOURS[1], lw=0.8)
    _along(axes, p)
    axes.set_ylabel("smallest eigenvalue of S(k)")


def _bands(axes: Axes, p: Portrait) -> None:
    assert p.bands is not None
    window = _WINDOW_EV
    if p.bands.fermi_level is None:
        from nearsight.core.units import HARTREE_EV

        energies = p.bands.energies * HARTREE_EV
        window = (float(energies.min()) - 1, min(float(energies.min()) + 60, float(energies.max()) + 1))
    draw_bands(axes, [("", p.bands)], window)


def _asymmetry(axes: Axes, p: Portrait) -> None:
    every = np.ones(len(p.kinds), dtype=bool)
    for name, colour in (("H", COLOURS[0]), ("S", COLOURS[1])):
        if name in p.asymmetry:
            _points(axes, p, p.asymmetry[name].numpy(), every, colour, "o", f"|{name}|{_UNIT[name]}")
    axes.set_yscale("log")
    axes.set_xlabel("distance (Å)")
    axes.set_ylabel("deviation from the symmetry")
    axes.legend(fontsize=8)

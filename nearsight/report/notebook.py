"""Pictures of objects in notebooks: structures as inline SVG, bands and other results by matplotlib."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from nearsight.core.errors import NearsightError
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from nearsight.core.calculation import Calculation
    from nearsight.dft.ground_state import GroundState
    from nearsight.properties.spectra import Bands

_SIDE = 260  # pixels
_MOST_ATOMS = 500
_TURN = np.array(
    [[0.940, -0.342, 0.0], [0.117, 0.321, 0.940], [-0.321, -0.883, 0.342]]
)  # from the front, a little above


def structure(shown: Structure) -> str | None:
    """The atoms as spheres in their cell, as inline SVG, with the formula; None for no sound or a very large structure."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    cell, positions = (x.detach().cpu().double().numpy() * BOHR_ANG for x in (shown.cell, shown.positions))
    if not 0 < len(shown) <= _MOST_ATOMS or not (np.isfinite(cell).all() and np.isfinite(positions).all()):
        return None
    corners = np.array(list(product((0, 1), repeat=3))) @ cell
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]
    flat, frame = positions @ _TURN.T, corners @ _TURN.T
    every = np.concatenate([flat, frame])[:, :2]
    low, span = every.min(0) - 1, float((np.ptp(every, axis=0) + 2).max())
    scale = _SIDE / span

    def place(point: NDArray[np.float64]) -> tuple[float, float]:
        x, y = (point[:2] - low) * scale
        return round(float(x), 1), round(float(_SIDE - y), 1)

    lines = []
    for a, b in edges:
        (x1, y1), (x2, y2) = place(frame[a]), place(frame[b])
        lines.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#999" stroke-width="0.8"/>')
    numbers = shown.numbers.tolist()
    for n in np.argsort(flat[:, 2], kind="stable"):
        x, y = place(flat[n])
        red, green, blue = (int(255 * c) for c in jmol_colors[numbers[n]])
        radius = round(max(2.0, 0.55 * float(covalent_radii[numbers[n]]) * scale), 1)
        lines.append(
            f'<circle cx="{x}" cy="{y}" r="{radius}" fill="rgb({red},{green},{blue})" stroke="#333" stroke-width="0.7">'
            f"<title>{n} {shown.symbols[n]}</title></circle>"
        )
    picture = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIDE}" height="{_SIDE}">{"".join(lines)}</svg>'
    return _page(repr(shown), picture)


def calculation(shown: Calculation) -> str:
    """Its structure, and what is known of its electrons and energies."""
    rows = [
        ("orbitals", shown.basis.size if shown.matrices else None),
        ("spin", repr(shown.spin) if shown.matrices else None),
        ("electrons", shown.electrons),
        ("E (eV)", _ev(shown.energies.get("total"))),
        ("Fermi level (eV)", _ev(shown.fermi_level)),
        ("converged", shown.converged),
        ("matrices", ", ".join(shown.matrices) or None),
        ("from", shown.provenance.path),
    ]
    table = "".join(f"<tr><td>{name}</td><td>{escape(str(x))}</td></tr>" for name, x in rows if x is not None)
    return f"{structure(shown.structure) or ''}<table>{table}</table>"


def ground_state(shown: GroundState) -> str:
    """As the calculation that it is."""
    return calculation(shown.as_calculation())


def bands(shown: Bands) -> str | None:
    """The band structure within 10 eV of the Fermi level."""
    from nearsight.report.plot import band_figure

    return _page(repr(shown), png(band_figure([("", shown)])))


def result(shown: Any) -> str | None:
    """What a property found: its picture, where it has one, and the lines that it says of itself."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    try:
        shown.draw(figure)
        picture = png(figure)
    except NearsightError:  # it has none
        picture = ""
    return _page("\n".join(shown.summary()), picture)


def _ev(energy: float | None) -> str | None:
    return None if energy is None else f"{energy * HARTREE_EV:.6f}"


def png(figure: Figure) -> str:
    """A figure as an image element of a page, self-contained."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f'<img src="data:image/png;base64,{b64encode(file.getvalue()).decode()}"/>'


def _page(words: str, picture: str) -> str:
    lines = "<br/>".join(escape(line) for line in words.splitlines())
    return f'<div>{picture}<div style="font-family:monospace;font-size:smaller">{lines}</div></div>'

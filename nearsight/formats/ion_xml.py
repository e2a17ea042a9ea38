"""The `.ion.xml` file: a species as SIESTA writes it, in and out.

Tables are (r_i, R(r_i)/r_i^l) on r_i = i * delta; energies and V_NA in Ry, lengths in Bohr, `chlocal` in
electrons/Bohr^3 with the electron's sign (its integral is -valence). SIESTA has no place for j-resolved projectors
beside scalar ones, nor for a species' provenance: they go into elements of our own, which other readers skip.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from nearsight.core.errors import NearsightError
from nearsight.core.species import Orbital, Projector, RadialFunction, Species

RYDBERG = 0.5  # 1 Ry in Ha, exact


def read_ion_xml(path: str | os.PathLike[str], symbol: str | None = None) -> Species:
    """The species in an `.ion.xml` file (SIESTA >= 4.1, or `write_ion_xml`), energies converted from Ry to Ha.

    symbol: the element that the caller expects; any other one in the file is an error.
    Raises NearsightError: unreadable or truncated XML, a missing section, a value that is not finite, another element,
    a projector with energy zero (a known defect of some PSML files that silently removes the projector).
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise NearsightError(f"{path}: cannot be read ({error.strerror}); give the path of an .ion.xml file") from None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise NearsightError(
            f"{path}: not complete XML ({error}); the file is truncated or garbled, write or copy it again"
        ) from None
    ion = _Element(path, root)
    if root.tag != "ion":
        raise NearsightError(f"{path}: the root element is <{root.tag}>, not <ion>; this is not an .ion.xml file")

    found = ion.text("symbol")
    if symbol is not None and found != symbol:
        raise NearsightError(f"{path}: holds {found}, not {symbol}; give the file of the element {symbol}")
    orbitals = sorted((_orbital(e) for e in ion.child("paos").all("orbital")), key=_shell_order)
    if not orbitals:
        raise NearsightError(f"{path}: no <orbital> in <paos>; write the file again with a basis")
    projectors = tuple(_projector(e) for e in ion.child("kbs").all("projector"))
    own = ion.optional("relativistic_kbs")
    relativistic = tuple(_projector(e) for e in own.all("projector")) if own else ()
    if any(p.j is not None for p in projectors):  # SIESTA's of a run with spin-orbit coupling: it has no others
        projectors, relativistic = (), projectors
    core = ion.optional("core")
    provenance = {"file": path.name, "sha256": hashlib.sha256(text).hexdigest()}
    notes = ion.optional("provenance")
    if notes:
        provenance |= {e.attribute("name"): (e.node.text or "") for e in notes.all("entry")}
    valence = ion.number("valence")
    local_charge = _radial(ion.child("chlocal"), l=0)
    charge = 4 * np.pi * np.trapezoid(local_charge.values * local_charge.r**2, dx=local_charge.spacing)
    if abs(float(charge) + valence) > 0.02 * max(1.0, valence):
        raise NearsightError(
            f"{path}: <chlocal> integrates to {charge:.4f}, not to -valence = {-valence:g}; write the file again"
        )
    return Species(
        symbol=found,
        number=abs(int(ion.number("z"))),
        valence=valence,
        mass=ion.number("mass"),
        orbitals=tuple(orbitals),
        projectors=projectors,
        neutral_atom_potential=_radial(ion.child("vna"), l=0, unit=RYDBERG),
        local_charge=local_charge,
        core_density=_radial(core, l=0) if core else None,
        relativistic_projectors=relativistic,
        self_energy=ion.number("self_energy") * RYDBERG,
        provenance=provenance,
    )


def write_ion_xml(species: Species, path: str | os.PathLike[str]) -> None:
    """Write a species as `.ion.xml` with 16 significant digits; the file appears whole or not at all.

    Every section that SIESTA writes is there, with the self-energy (Ry) and r V_local + 2 Z [Ry Bohr] made from the
    local charge. Raises NearsightError where the file cannot be written.
    """
    path = Path(path)
    s = species
    self_energy, reduced = _local_electrostatics(s.local_charge, s.valence)
    lines = ['<ion version="0.1">']
    for tag, value in (
        ("symbol", s.symbol),
        ("label", s.symbol),
        ("z", s.number),
        ("valence", f"{s.valence:.15g}"),
        ("mass", f"{s.mass:.15g}"),
        ("self_energy", f"{self_energy / RYDBERG:.15g}"),
        ("lmax_basis", max(s.shells)),
        ("norbs_nl", len(s.orbitals)),
        ("lmax_projs", max((p.l for p in s.projectors), default=0)),
        ("nprojs_nl", len(s.projectors)),
    ):
        lines.append(f"<{tag}> {value} </{tag}>")
    lines.append("<preamble></preamble>")
    lines.append("<provenance>")
    lines += [f"<entry name={quoteattr(k)}>{escape(v)}</entry>" for k, v in s.provenance.items()]
    lines += ["</provenance>", "<paos>"]
    for o in s.orbitals:
        lines.append(
            f'<orbital l="{o.l}" n="{o.n}" z="{o.zeta}" ispol="{int(o.polarization)}" population="{o.population:.15g}">'
        )
        lines += [*_table(o.radial), "</orbital>"]
    lines.append("</paos>")
    lines += _projector_section("kbs", s.projectors)
    if s.relativistic_projectors:
        lines += _projector_section("relativistic_kbs", s.relativistic_projectors)
    lines += ["<vna>", *_table(s.neutral_atom_potential, unit=RYDBERG), "</vna>"]
    lines += ["<chlocal>", *_table(s.local_charge), "</chlocal>"]
    lines += ["<reduced_vlocal>", *_table(reduced, unit=RYDBERG), "</reduced_vlocal>"]
    if s.core_density is not None:
        lines += ["<core>", *_table(s.core_density), "</core>"]
    lines += ["</ion>", ""]
    _replace(path, "\n".join(lines))


def _shell_order(o: Orbital) -> tuple[bool, int, int, int]:
    """The project's order, SIESTA's too: by l, n (semicore first), zeta; polarisation shells after all others."""
    return (o.polarization, o.l, o.n, o.zeta)


class _Element:
    """One XML element together with the file it is from, so that every complaint names both."""

    def __init__(self, path: Path, node: ElementTree.Element) -> None:
        self.path, self.node = path, node

    def fail(self, what: str) -> NearsightError:
        return NearsightError(f"{self.path}: <{self.node.tag}>: {what}; write or copy the file again")

    def child(self, tag: str) -> _Element:
        node = self.node.find(tag)
        if node is None:
            raise self.fail(f"section <{tag}> is missing")
        return _Element(self.path, node)

    def optional(self, tag: str) -> _Element | None:
        node = self.node.find(tag)
        return None if node is None else _Element(self.path, node)

    def all(self, tag: str) -> list[_Element]:
        return [_Element(self.path, node) for node in self.node.findall(tag)]

    def text(self, tag: str) -> str:
        text = (self.child(tag).node.text or "").strip()
        if not text:
            raise self.fail(f"<{tag}> is empty")
        return text

    def number(self, tag: str) -> float:
        return self._finite(self.text(tag), tag)

    def attribute(self, name: str) -> str:
        value = self.node.get(name)
        if value is None:
            raise self.fail(f"attribute {name} is missing")
        return value

    def attribute_number(self, name: str) -> float:
        return self._finite(self.attribute(name), name)

    def _finite(self, text: str, name: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self.fail(f"{name} = {text.strip()!r} is not a number") from None
        if not np.isfinite(value):
            raise self.fail(f"{name} = {text.strip()} is not finite")
        return value


def _radial(section: _Element, *, l: int, unit: float = 1.0) -> RadialFunction:
    radfunc = section.child("radfunc")
    count, spacing = int(radfunc.number("npts")), radfunc.number("delta")
    try:
        data = np.array(radfunc.text("data").split(), dtype=np.float64)
    except ValueError:
        raise radfunc.fail("<data> holds something that is not a number") from None
    if data.size != 2 * count or count < 4:
        raise radfunc.fail(f"<data> holds {data.size} numbers where npts = {count} announces {2 * count}")
    if not np.isfinite(data).all() or spacing <= 0:
        raise radfunc.fail("<data> holds a value that is not finite, or <delta> is not positive")
    r, values = data.reshape(count, 2).T
    if np.abs(r - spacing * np.arange(count)).max() > 1e-6 * count * spacing:
        raise radfunc.fail("the radii in <data> are not the uniform grid i * delta")
    return RadialFunction(l, unit * values, spacing)


def _orbital(e: _Element) -> Orbital:
    l = int(e.attribute_number("l"))
    return Orbital(
        _radial(e, l=l),
        n=int(e.attribute_number("n")),
        zeta=int(e.attribute_number("z")),
        population=e.attribute_number("population"),
        polarization=bool(int(e.attribute_number("ispol"))),
    )


def _projector(e: _Element) -> Projector:
    energy = e.attribute_number("ref_energy")
    l = int(e.attribute_number("l"))
    if energy == 0.0:
        raise e.fail(
            f"the projector l = {l}, n = {e.attribute('n')} has energy zero: the pseudopotential it was made from is"
            " damaged; take another pseudopotential"
        )
    j = float(e.attribute("j")) if e.node.get("j") else None
    return Projector(_radial(e, l=l), RYDBERG * energy, j)


def _projector_section(tag: str, projectors: tuple[Projector, ...]) -> list[str]:
    lines, count = [f"<{tag}>"], dict[tuple[int, float | None], int]()
    for p in projectors:
        n = count[p.l, p.j] = count.get((p.l, p.j), 0) + 1
        j = "" if p.j is None else f' j="{p.j:g}"'
        lines.append(f'<projector l="{p.l}" n="{n}"{j} ref_energy="{p.energy / RYDBERG:.15e}">')
        lines += [*_table(p.radial), "</projector>"]
    return [*lines, f"</{tag}>"]


def _table(f: RadialFunction, unit: float = 1.0) -> list[str]:
    rows = "\n".join(f"{r:.15e} {v:.15e}" for r, v in zip(f.r, f.values / unit, strict=True))
    return [
        "<radfunc>",
        f"<npts> {len(f.values)} </npts>",
        f"<delta> {f.spacing:.15e} </delta>",
        f"<cutoff> {f.cutoff:.15e} </cutoff>",
        f"<data>\n{rows}\n</data>",
        "</radfunc>",
    ]


def _local_electrostatics(local_charge: RadialFunction, valence: float) -> tuple[float, RadialFunction]:
    """U_local = 1/2 int V_local n_local [Ha], and r V_local + Z [Ha Bohr], from the enclosed charge q(r) = int_0^r n.

    V_local(r) = -Z/r outside; dV_local/dr = -q(r)/r^2 with the electron's sign (q < 0 attracts electrons);
    U = 1/2 int_0^inf q^2/r^2 dr.
    """
    r, h = local_charge.r, local_charge.spacing
    shell = 4 * np.pi * r**2 * local_charge.values
    enclosed = _running_integral(shell, h)
    field = np.zeros_like(r)  # q/r^2, which goes as r near the nucleus
    field[1:] = enclosed[1:] / r[1:] ** 2
    inside: NDArray[np.float64] = _running_integral(field * enclosed, h)
    self_energy = 0.5 * (inside[-1] + enclosed[-1] ** 2 / r[-1])
    outward = _running_integral(field, h)
    potential = enclosed[-1] / r[-1] + (outward[-1] - outward)
    return float(self_energy), RadialFunction(0, -(r * -potential) + valence, h)


def _running_integral(f: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """int_0^r f by the integral of the cubic spline through f."""
    return np.asarray(CubicSpline(spacing * np.arange(len(f)), f).antiderivative()(spacing * np.arange(len(f))))


def _replace(path: Path, text: str) -> None:
    """Write to a temporary neighbour and rename, so that no reader sees half a file."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise NearsightError(f"{path}: cannot be written ({error.strerror}); give a folder that exists") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

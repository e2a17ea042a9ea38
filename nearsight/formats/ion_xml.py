"""The `.ion.xml` file: a species as SIESTA writes it, in and out.

Tables are (r_i, R(r_i)/r_i^l) on r_i = i * delta; energies and V_NA in Ry, lengths in Bohr, `chlocal` in
electrons/Bohr^3 with the electron's sign (its integral is -valence). SIESTA has no place for j-resolved projectors
beside scalar ones, nor for a species' provenance: they go into elements of our own, which other readers skip.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from nearsight.core.errors import BadInput
from nearsight.core.species import Orbital, Projector, RadialFunction, Species
from nearsight.formats.basis_files import BasisFormat
from nearsight.formats.soundness import HIGHEST_L, check_species
from nearsight.formats.xml import LARGEST_COUNT, read_xml

RYDBERG = 0.5  # 1 Ry in Ha, exact
_SIESTA_XC = {"ca": "lda", "pz": "lda", "pb": "pbe", "ps": "pbesol"}  # words of a pseudopotential's header


class IonXML(BasisFormat):
    """`.ion.xml`: see the file's head."""

    name = "SIESTA's .ion.xml"
    endings = ("ion.xml",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """By its root element."""
        return b"<ion" in head

    def read(self, path: Path, symbol: str | None = None, shells: str | None = None) -> Species:
        """The species, with all its orbitals. Raises BadInput as `read_ion_xml`, and for a choice of shells."""
        if shells is not None:
            raise BadInput(f"{path} is taken with all its orbitals: leave {shells} out of --orbitals")
        return read_ion_xml(path, symbol)


def read_ion_xml(path: str | os.PathLike[str], symbol: str | None = None) -> Species:
    """The species in an `.ion.xml` file (SIESTA >= 4.1, or `write_ion_xml`), energies converted from Ry to Ha.

    symbol: the element that the caller expects; any other one in the file is an error.
    Raises BadInput: unreadable or truncated XML, a missing section, a value that is not finite, another element,
    a projector with energy zero (a known defect of some PSML files that silently removes the projector), and what
    cannot be: see `soundness`.
    """
    path = Path(path)
    root, sha256 = read_xml(path, "ion", "species file (.ion.xml)")
    ion = _Element(path, root)
    found = ion.text("symbol")
    if symbol is not None and found != symbol:
        raise BadInput(f"{path}: holds {found}, not {symbol}; give the file of the element {symbol}")
    orbitals = sorted((_orbital(e) for e in ion.child("paos").all("orbital")), key=_shell_order)
    if not orbitals:
        raise BadInput(f"{path}: no <orbital> in <paos>; write the file again with a basis")
    projectors = tuple(_projector(e) for e in ion.child("kbs").all("projector"))
    for tag, shells in (("norbs_nl", orbitals), ("nprojs_nl", projectors)):
        if ion.optional(tag) and ion.count(tag) != len(shells):
            raise ion.fail(f"<{tag}> announces {ion.count(tag)} shells, {len(shells)} are there")
    own = ion.optional("relativistic_kbs")
    relativistic = tuple(_projector(e) for e in own.all("projector")) if own else ()
    if any(p.j is not None for p in projectors):  # SIESTA's of a run with spin-orbit coupling: it has no others
        projectors, relativistic = (), projectors
    core = ion.optional("core")
    provenance = {"file": path.name, "sha256": sha256}
    notes = ion.optional("provenance")
    if notes:
        provenance |= {e.attribute("name"): (e.node.text or "") for e in notes.all("entry")[:100]}
    header = ion.node.findtext("preamble/pseudopotential_header", "").split()[:2]
    if "xc" not in provenance and header[:1] == [found] and header[-1] in _SIESTA_XC:
        provenance["xc"] = _SIESTA_XC[header[-1]]
    number = ion.count("z")
    if number < 0:
        raise ion.fail(f"<z> is {number}: a ghost atom has orbitals and no nucleus, which cannot be computed")
    species = Species(
        symbol=found,
        number=number,
        valence=ion.number("valence"),
        mass=ion.number("mass"),
        orbitals=tuple(orbitals),
        projectors=projectors,
        neutral_atom_potential=_radial(ion.child("vna"), l=0, unit=RYDBERG),
        local_charge=_radial(ion.child("chlocal"), l=0),
        core_density=_radial(core, l=0) if core else None,
        relativistic_projectors=relativistic,
        self_energy=ion.number("self_energy") * RYDBERG,
        provenance=provenance,
    )
    check_species(species, str(path))
    return species


def write_ion_xml(species: Species, path: str | os.PathLike[str]) -> None:
    """Write a species as `.ion.xml` with 16 significant digits; the file appears whole or not at all.

    Every section that SIESTA writes is there, with the self-energy (Ry) and r V_local + 2 Z [Ry Bohr] made from the
    local charge. Raises BadInput where the file cannot be written.
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

    def fail(self, what: str) -> BadInput:
        return BadInput(f"{self.path}: <{self.node.tag}>: {what}; write or copy the file again")

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

    def count(self, tag: str) -> int:
        return self._whole(self.number(tag), tag)

    def attribute_count(self, name: str) -> int:
        return self._whole(self.attribute_number(name), name)

    def _whole(self, value: float, name: str) -> int:
        if value != int(value) or abs(value) > LARGEST_COUNT:
            raise self.fail(f"{name} = {value:g} is no whole number that such a file has")
        return int(value)

    def _finite(self, text: str, name: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self.fail(f"{name} = {text.strip():.40} is not a number") from None
        if not np.isfinite(value):
            raise self.fail(f"{name} = {text.strip():.40} is not finite")
        return value


def _radial(section: _Element, *, l: int, unit: float = 1.0) -> RadialFunction:
    radfunc = section.child("radfunc")
    count, spacing, cutoff = radfunc.count("npts"), radfunc.number("delta"), radfunc.number("cutoff")
    words = radfunc.text("data").split()
    if len(words) != 2 * count or count < 4:
        raise radfunc.fail(f"<data> holds {len(words)} numbers where npts = {count} announces {2 * count}")
    try:
        values = np.fromiter(map(float, words[1::2]), np.float64, count)
        some = range(0, count, max(1, count // 16))  # radii: the rest says nothing that is used
        r = np.array([float(words[2 * n]) for n in some])
    except ValueError:
        raise radfunc.fail("<data> holds something that is not a number") from None
    if not np.isfinite(values).all() or not 0 < spacing < 1:
        raise radfunc.fail("<data> holds a value that is not finite, or <delta> is no spacing")
    end = spacing * (count - 1)
    if not np.abs(r - spacing * np.array(some)).max() <= 1e-6 * end + 1e-6 or not abs(cutoff - end) <= 1e-3 * end:
        raise radfunc.fail("<cutoff> and the radii in <data> are not those of the uniform grid i * delta")
    return RadialFunction(l, unit * values, spacing)


def _orbital(e: _Element) -> Orbital:
    return Orbital(
        _radial(e, l=_l(e)),
        n=e.attribute_count("n"),
        zeta=e.attribute_count("z"),
        population=e.attribute_number("population"),
        polarization=bool(e.attribute_count("ispol")),
    )


def _l(e: _Element) -> int:
    l = e.attribute_count("l")
    if not 0 <= l <= HIGHEST_L:
        raise e.fail(f"l = {l}, where 0 to {HIGHEST_L} (s, p, d, f) can be computed")
    return l


def _projector(e: _Element) -> Projector:
    energy = e.attribute_number("ref_energy")
    l = _l(e)
    if energy == 0.0:
        raise e.fail(
            f"the projector l = {l}, n = {e.attribute('n')} has energy zero: the pseudopotential it was made from is"
            " damaged; take another pseudopotential"
        )
    j = e.attribute_number("j") if e.node.get("j") else None
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
        raise BadInput(f"{path}: cannot be written ({error.strerror}); give a folder that exists") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

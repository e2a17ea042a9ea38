"""PSML, the XML format of norm-conserving pseudopotentials (Garcia et al., Comput. Phys. Commun. 227, 51 (2018)).

Hartree and Bohr. Radial functions stand as f(r), on one grid; a shorter table goes on as zero, or as -Z/r for the local
potential. Charges have 4 pi: int r^2 f dr = electrons. Projectors are chi(r), with int r^2 chi^2 dr = 1.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from nearsight.formats.pseudopotential import (
    Beta,
    Pseudopotential,
    PseudopotentialFormat,
    ReferenceShell,
    diagonal,
    j_resolved,
)
from nearsight.formats.valence import uniform_grid
from nearsight.formats.xml import XmlSections, read_xml

_SPACING = 0.01  # Bohr

#: Pairs of libxc's numbers of exchange and correlation.
_FUNCTIONALS: dict[tuple[int, ...], str] = {(1, 12): "lda", (1, 9): "lda", (101, 130): "pbe", (116, 133): "pbesol"}

Projectors = list[tuple[Beta, float]]


class PSML(PseudopotentialFormat):
    """See the module."""

    name, endings = "PSML", ("psml",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """The element `psml` at the head, or the ending."""
        return b"<psml" in head or path.suffix.lower() == ".psml"

    def read(self, path: Path, symbol: str | None = None, xc: str | None = None) -> Pseudopotential:
        """As `read_psml`; a file has one element and one functional."""
        return read_psml(path)


def read_psml(path: str | os.PathLike[str]) -> Pseudopotential:
    """Read a PSML file: scalar-relativistic projectors, or by j where the file has them (set `lj`, or `spin_orbit`).

    Raises BadInput: unreadable, truncated or not PSML; no separable projectors; a projector with energy zero
    (such files exist, and give nonsense); a value that is not finite; other units.
    """
    path = Path(path)
    root, sha256 = read_xml(path, "psml", "PSML file")
    return _Psml(path, root).pseudopotential(sha256)


class _Psml(XmlSections):
    """The sections of one PSML file, with its path for every complaint."""

    def __init__(self, path: Path, root: Element) -> None:
        super().__init__(path, root)
        units = (root.get("energy_unit", "hartree"), root.get("length_unit", "bohr"))
        if units != ("hartree", "bohr"):
            self.fail(f"is in {units[0]} and {units[1]}; a file in hartree and bohr is needed")
        self.grid = self._table(self.section("grid/grid-data"))
        self.r = uniform_grid(_SPACING)

    def _table(self, node: Element) -> NDArray[np.float64]:
        data = self.array(node)
        if len(data) < 4 or (node.get("npts") and self.number(node, "npts") != len(data)):
            self.fail(f"<{node.tag}> holds {len(data)} numbers, not as many as it announces; copy the file again")
        return data

    def _radial(self, node: Element) -> NDArray[np.float64]:
        """f(r) on the uniform grid, zero beyond the file's table."""
        data = node.find("radfunc/data")
        if data is None:
            self.fail(f"<{node.tag}> has no radial function; the file is incomplete, copy it again")
        own = node.find("radfunc/grid/grid-data")
        grid, values = self.grid if own is None else self._table(own), self._table(data)
        if len(values) > len(grid) or (np.diff(grid) <= 0).any():
            self.fail(f"<{node.tag}> has more points than the grid, or a grid that does not rise; copy the file again")
        last = grid[len(values) - 1]
        return np.where(self.r <= last, CubicSpline(grid[: len(values)], values)(np.minimum(self.r, last)), 0.0)

    def pseudopotential(self, sha256: str) -> Pseudopotential:
        spec = self.section("pseudo-atom-spec")
        number, valence = self.whole(spec, "atomic-number"), self.number(spec, "z-pseudo")
        if not 0 < number < len(chemical_symbols):
            self.fail(f"Z = {number} is no element; check <pseudo-atom-spec>")
        potential = self.section("local-potential")
        local = self._radial(potential)
        if not local.any():
            self.fail("the local potential is zero; copy the file again")
        last = np.nonzero(local)[0][-1]
        local[last + 1 :] = -valence / self.r[last + 1 :]
        core = self.root.find("pseudocore-charge")
        if core is None and spec.get("core-corrections", "no") == "yes":
            self.fail("announces a core correction but has no <pseudocore-charge>; copy the file again")
        sets = self._sets()
        relativistic = "lj" in sets or "spin_orbit" in sets
        betas, coupling = self._separable(sets)
        return Pseudopotential(
            symbol=chemical_symbols[number],
            number=number,
            valence=valence,
            r=self.r,
            local=local,
            betas=betas,
            coupling=coupling,
            core_density=None if core is None else self._radial(core) / (4 * np.pi),
            radial_density=self._radial(self.section("valence-charge")) * self.r**2,
            shells=self._shells(relativistic),
            xc=self._functional(),
            fully_relativistic=relativistic,
            sha256=sha256,
            path=self.path,
        )

    def _sets(self) -> dict[str, Projectors]:
        """The projectors by the name of their set."""
        found: dict[str, Projectors] = {}
        for section in self.root.findall("nonlocal-projectors"):
            for node in section.findall("proj"):
                l, energy = self._l(node), self.number(node, "ekb")
                name = node.get("set") or section.get("set") or "scalar_relativistic"
                if energy == 0.0:
                    self.fail(
                        f"the projector l = {l}, seq = {node.get('seq')} of the set {name} has energy zero: the file is"
                        " damaged; take another pseudopotential"
                    )
                j = self.number(node, "j") if name == "lj" else None
                wave = self.r * self._radial(node)
                norm = float(np.trapezoid(wave**2, self.r))
                if abs(norm - 1) > 0.01:
                    self.fail(f"a projector of l = {l} has the norm {norm:.3f}, not 1: its table was cut or scaled")
                found.setdefault(name, []).append((Beta(l, j, wave), energy))
        return found

    def _separable(self, sets: dict[str, Projectors]) -> tuple[tuple[Beta, ...], NDArray[np.float64]]:
        scalar = next((sets[name] for name in ("scalar_relativistic", "non_relativistic") if name in sets), None)
        if "lj" in sets:
            return tuple(b for b, _ in sets["lj"]), diagonal([e for _, e in sets["lj"]])
        if scalar is None:
            self.fail("holds no separable projectors; take a file that has them, for example from ONCVPSP")
        if "spin_orbit" in sets:
            return j_resolved(scalar, sets["spin_orbit"])
        return tuple(b for b, _ in scalar), diagonal([e for _, e in scalar])

    def _l(self, node: Element) -> int:
        text = node.get("l", "").strip().lower()
        if text in ("s", "p", "d", "f", "g"):
            return "spdfg".index(text)
        return self.whole(node, "l")

    def _shells(self, relativistic: bool) -> tuple[ReferenceShell, ...]:
        """The valence configuration, with the energies at which the projectors of each l were made (ONCVPSP: the levels)."""
        shells = self.section("pseudo-atom-spec/valence-configuration").findall("shell")
        if not shells:
            self.fail("states no valence shells in <valence-configuration>; take another file")
        levels = self._levels()
        found, count = [], dict[int, int]()
        for node in sorted(shells, key=lambda s: self.number(s, "n")):
            n, l, f = self.whole(node, "n"), self._l(node), self.number(node, "occupation")
            index = count[l] = count.get(l, -1) + 1
            for j in ((l - 0.5, l + 0.5) if l else (0.5,)) if relativistic else (None,):
                known = levels.get((l, j), levels.get((l, None), []))
                energy = known[index] if index < len(known) else float("nan")
                part = 1.0 if j is None else (2 * j + 1) / (4 * l + 2)
                found.append(ReferenceShell(n, l, j, f * part, energy, np.zeros_like(self.r)))
        return tuple(found)

    def _levels(self) -> dict[tuple[int, float | None], list[float]]:
        """eref [Ha] of the projectors of each (l, j), in their order; only of the sets that state it."""
        levels: dict[tuple[int, float | None], list[float]] = {}
        for section in self.root.findall("nonlocal-projectors"):
            for node in section.findall("proj"):
                if node.get("eref") is not None:
                    j = self.number(node, "j") if node.get("j") else None
                    levels.setdefault((self._l(node), j), []).append(self.number(node, "eref"))
        return levels

    def _functional(self) -> str:
        nodes = self.root.findall("pseudo-atom-spec/exchange-correlation/libxc-info/functional")
        ids = tuple(sorted(self.whole(node, "id") for node in nodes))
        return _FUNCTIONALS.get(ids, "libxc " + "+".join(str(i) for i in ids))

"""UPF, version 2: Quantum ESPRESSO's XML format of pseudopotentials. Rydberg and Bohr."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.formats.pseudopotential import (
    Beta,
    Pseudopotential,
    PseudopotentialFormat,
    ReferenceShell,
    oncvpsp_shells,
)
from nearsight.formats.xml import XmlSections, read_xml

RYDBERG = 0.5  # 1 Ry in Ha, exact

#: The exchange-correlation names that UPF files use for the functionals that we have, in lower case, one blank apart.
_FUNCTIONALS = {
    "pbe": "pbe",
    "sla pw pbx pbc": "pbe",
    "sla pw pbe pbe": "pbe",
    "pbesol": "pbesol",
    "sla pw psx psc": "pbesol",
    "sla pw nogx nogc": "lda",
    "pw": "lda",
    "lda": "lda",
}


class UPF(PseudopotentialFormat):
    """See the module."""

    name, endings = "UPF version 2", ("upf",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """The element `UPF` or one of version 1 at the head, whatever the ending."""
        return b"<UPF" in head or b"<PP_" in head

    def read(self, path: Path, symbol: str | None = None, xc: str | None = None) -> Pseudopotential:
        """As `read_upf`; a file has one element and one functional."""
        return read_upf(path)


def read_upf(path: str | os.PathLike[str]) -> Pseudopotential:
    """Read a norm-conserving UPF version 2 file; Ry -> Ha.

    Raises BadInput: unreadable, truncated or not UPF 2; ultrasoft or PAW; D_ij all zero although there are
    projectors; a value that is not finite.
    """
    path = Path(path)
    remedy = "convert it with upfconv or take a version 2 file"
    root, sha256 = read_xml(path, "UPF", "UPF version 2 file", remedy)
    if not root.get("version", "").startswith("2"):
        raise BadInput(f"{path}: not a UPF version 2 file; {remedy}")
    return _Upf(path, root).pseudopotential(sha256)


class _Upf(XmlSections):
    """The sections of one UPF file, with its path for every complaint."""

    def __init__(self, path: Path, root: Element) -> None:
        super().__init__(path, root)
        self.header = dict(self.section("PP_HEADER").attrib)

    def _flag(self, name: str) -> bool:
        return self.header.get(name, "F").strip().lower() in {"t", "true", ".true.", "1"}

    def pseudopotential(self, sha256: str) -> Pseudopotential:
        kind = self.header.get("pseudo_type", "NC").strip().upper()
        if kind not in {"NC", "SL"} or self._flag("is_ultrasoft") or self._flag("is_paw"):
            self.fail(f"pseudopotential of type {kind}; a norm-conserving one (NC) is needed, for example from ONCVPSP")
        symbol = self.header.get("element", "").strip().capitalize()
        if symbol not in atomic_numbers or symbol == "X":
            self.fail(f"element {symbol!r} is unknown; check PP_HEADER")
        r = self.array(self.section("PP_MESH/PP_R"))
        if self.header.get("mesh_size") and self.whole(self.section("PP_HEADER"), "mesh_size") != r.size:
            self.fail(
                f"PP_R has {r.size} points where the header announces {self.header['mesh_size']}; copy the file again"
            )
        relativistic = self.header.get("relativistic", "no").strip().lower() == "full" or self._flag("has_so")
        betas, coupling = self._betas(r, relativistic)
        functional = " ".join(self.header.get("functional", "").lower().split())
        core = self.root.find("PP_NLCC")
        if core is None and self._flag("core_correction"):
            self.fail("core_correction is set but PP_NLCC is missing; the file is incomplete, copy it again")
        return Pseudopotential(
            symbol=symbol,
            number=atomic_numbers[symbol],
            valence=self.number(self.section("PP_HEADER"), "z_valence"),
            r=r,
            local=RYDBERG * self.array(self.section("PP_LOCAL"), r.size),
            betas=betas,
            coupling=coupling,
            core_density=self.array(core, r.size) if core is not None and self._flag("core_correction") else None,
            radial_density=self.array(self.section("PP_RHOATOM"), r.size),
            shells=self._shells(r, relativistic),
            xc=_FUNCTIONALS.get(functional, functional),
            fully_relativistic=relativistic,
            sha256=sha256,
            path=self.path,
        )

    def _betas(self, r: NDArray[np.float64], relativistic: bool) -> tuple[tuple[Beta, ...], NDArray[np.float64]]:
        section = self.section("PP_NONLOCAL")
        nodes = [node for node in section if node.tag.startswith("PP_BETA")]
        announced = self.whole(self.section("PP_HEADER"), "number_of_proj")
        if len(nodes) != announced:
            self.fail(f"{len(nodes)} projectors where the header announces {announced}; copy the file again")
        betas = []
        for i, node in enumerate(nodes, start=1):
            j = None
            if relativistic:
                j = self.number(self.section(f"PP_SPIN_ORB/PP_RELBETA.{i}"), "jjj")
            data = self.array(node)
            if data.size > r.size:
                self.fail(f"{node.tag} has {data.size} points, the mesh {r.size}; copy the file again")
            values = np.zeros_like(r)
            values[: data.size] = data
            betas.append(Beta(self.whole(node, "angular_momentum"), j, values))
        if not betas:
            return (), np.zeros((0, 0))
        D = RYDBERG * self.array(self.section("PP_NONLOCAL/PP_DIJ"), len(betas) ** 2).reshape(len(betas), -1)
        if (~D.any(axis=1)).any():
            self.fail("PP_DIJ has a row of zeros: a projector without energy; the file is damaged, take another one")
        return tuple(betas), 0.5 * (D + D.T)

    def _shells(self, r: NDArray[np.float64], relativistic: bool) -> tuple[ReferenceShell, ...]:
        section = self.root.find("PP_PSWFC")
        if section is None or len(section) == 0:
            return self._input_shells(r)
        shells = []
        for i, node in enumerate(section, start=1):
            label = node.get("label", "").strip()
            if not label[:1].isdigit():
                self.fail(f"{node.tag} has the label {label!r}; a label such as 3S is needed to know the shell")
            j = None
            if relativistic:
                j = self.number(self.section(f"PP_SPIN_ORB/PP_RELWFC.{i}"), "jchi")
            shells.append(
                ReferenceShell(
                    n=int(label[0]),
                    l=self.whole(node, "l"),
                    j=j,
                    occupation=max(0.0, self.number(node, "occupation")),
                    energy=RYDBERG * self.number(node, "pseudo_energy") if node.get("pseudo_energy") else float("nan"),
                    wave=self.array(node, r.size),
                )
            )
        return tuple(shells)

    def _input_shells(self, r: NDArray[np.float64]) -> tuple[ReferenceShell, ...]:
        """The valence shells as ONCVPSP's input states them, for files without pseudo-wavefunctions; else none."""
        found = oncvpsp_shells(self.root.findtext("PP_INFO/PP_INPUTFILE") or "")
        return tuple(ReferenceShell(n, l, None, f, float("nan"), np.zeros_like(r)) for n, l, f in found)

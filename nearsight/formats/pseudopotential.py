"""A norm-conserving pseudopotential, read from a UPF file (version 2) into Hartree atomic units."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from nearsight.core.errors import NearsightError

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


@dataclass(frozen=True, eq=False)
class Beta:
    """One radial projector as the file has it: r beta(r) on the file's grid [Bohr^(-1/2)]; j is None if scalar."""

    l: int
    j: float | None
    r_beta: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReferenceShell:
    """A shell of the reference atom: occupation in electrons, energy [Ha; NaN if not stated],
    and r R(r) on the file's grid (zeros if not stated)."""

    n: int
    l: int
    j: float | None
    occupation: float
    energy: float
    wave: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SeparableChannel:
    """V_l = sum_k |chi_k> energy_k <chi_k| with orthonormal chi: r chi_k(r) in rows (k, r) and energies (k,) [Ha]."""

    l: int
    j: float | None
    waves: NDArray[np.float64]
    energies: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pseudopotential:
    """V = V_local(r) + sum_ij |beta_i> D_ij <beta_j|, the reference atom, and where it all came from.

    r: radial grid [Bohr].  local: V_local [Ha].  betas, coupling: projectors and D_ij [Ha].
    core_density: partial core density n_core(r) [1/Bohr^3] or None.
    radial_density: 4 pi r^2 n(r) of the valence [1/Bohr].
    xc: "lda", "pbe", "pbesol", or the file's own words for another functional.
    wave_number: [1/Bohr] up to which its atom's functions reach: 16 (256 Ry) makes ONCV levels exact to 1e-5 Ry.
    """

    symbol: str
    number: int
    valence: float
    r: NDArray[np.float64]
    local: NDArray[np.float64]
    betas: tuple[Beta, ...]
    coupling: NDArray[np.float64]
    core_density: NDArray[np.float64] | None
    radial_density: NDArray[np.float64]
    shells: tuple[ReferenceShell, ...]
    xc: str
    fully_relativistic: bool
    sha256: str
    path: Path = field(default_factory=Path)
    wave_number: float = 16.0

    def relativistic_channels(self) -> tuple[SeparableChannel, ...]:
        """One channel per (l, j), diagonalised; empty unless the pseudopotential is fully relativistic."""
        if not self.fully_relativistic:
            return ()
        keys = sorted({(b.l, b.j or 0.0) for b in self.betas})
        return tuple(self._channel(l, j, [(1.0, j)]) for l, j in keys)

    def scalar_channels(self) -> tuple[SeparableChannel, ...]:
        """One channel per l. Of a fully relativistic pseudopotential: the average over the spin-orbit pair,

        V_l = (l V_{l-1/2} + (l+1) V_{l+1/2}) / (2l+1),

        exact as an operator: the projectors of both j together, orthogonalised.
        """
        channels = []
        for l in sorted({b.l for b in self.betas}):
            parts: list[tuple[float, float | None]] = [(1.0, None)]
            if self.fully_relativistic:
                parts = [(l / (2 * l + 1), l - 0.5), ((l + 1) / (2 * l + 1), l + 0.5)]
            channels.append(self._channel(l, None, parts))
        return tuple(channels)

    def _channel(self, l: int, j: float | None, parts: list[tuple[float, float | None]]) -> SeparableChannel:
        """Orthonormal chi and their energies of sum over (weight, j) of weight * V_lj."""
        rows = [(i, w) for w, part in parts for i, b in enumerate(self.betas) if b.l == l and b.j == part]
        index = [i for i, _ in rows]
        weight = np.array([w for _, w in rows])
        beta = np.array([self.betas[i].r_beta for i in index])
        D = self.coupling[np.ix_(index, index)] * np.sqrt(weight[:, None] * weight[None, :])
        # Scaled to unit norm first, so that "nearly dependent" means the same for large and small projectors.
        norm = np.sqrt(np.trapezoid(beta**2, self.r, axis=1))
        beta, D = beta / norm[:, None], D * norm[:, None] * norm[None, :]
        overlap = np.trapezoid(beta[:, None] * beta[None], self.r, axis=2)
        s, U = np.linalg.eigh(overlap)
        keep = s > 1e-12
        root, U = np.sqrt(s[keep]), U[:, keep]
        energies, mix = np.linalg.eigh(root[:, None] * (U.T @ D @ U) * root[None, :])
        waves = mix.T @ ((U / root).T @ beta)
        strong = np.abs(energies) > 1e-5  # Ha; <chi|psi>^2 <= 1, so dropping these changes no level by more
        order = np.argsort(-np.abs(energies[strong]))
        return SeparableChannel(l, j, waves[strong][order], energies[strong][order])


def oncvpsp_shells(text: str) -> tuple[tuple[int, int, float], ...]:
    """(n, l, occupation) of the valence shells in an input of ONCVPSP; none where it is not one.

    The input: symbol, Z, core shells, valence shells, ...; then one line n, l, occupation for each shell.
    """
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        core, valence = int(rows[0][2]), int(rows[0][3])
        return tuple((int(row[0]), int(row[1]), float(row[2])) for row in rows[1 + core : 1 + core + valence])
    except (IndexError, ValueError):
        return ()


def j_resolved(
    scalar: list[tuple[Beta, float]], spin_orbit: list[tuple[Beta, float]]
) -> tuple[tuple[Beta, ...], NDArray[np.float64]]:
    """Projectors by j and their diagonal coupling [Ha] from V_SR and V_SO, V = V_SR + V_SO L.S:

    V_{l+1/2} = V_SR + l/2 V_SO,    V_{l-1/2} = V_SR - (l+1)/2 V_SO.

    scalar, spin_orbit: (projector, energy in Ha). The projectors of one (l, j) overlap; `Pseudopotential` diagonalises.
    """
    betas, energies = [], []
    for l in sorted({b.l for b, _ in (*scalar, *spin_orbit)}):
        for j, factor in ((l - 0.5, -(l + 1) / 2), (l + 0.5, l / 2)):
            if j < 0:
                continue
            parts = [(b, e) for b, e in scalar if b.l == l]
            parts += [(b, e * factor) for b, e in spin_orbit if b.l == l and factor]
            betas += [Beta(l, j, b.r_beta) for b, _ in parts]
            energies += [e for _, e in parts]
    return tuple(betas), diagonal(energies)


def diagonal(energies: list[float]) -> NDArray[np.float64]:
    """The coupling of projectors that each have an energy of their own (n, n); (0, 0) without projectors."""
    return np.diag(np.array(energies, dtype=np.float64)) if energies else np.zeros((0, 0))


def read_upf(path: str | os.PathLike[str]) -> Pseudopotential:
    """Read a norm-conserving UPF version 2 file; Ry -> Ha.

    Raises NearsightError: unreadable, truncated or not UPF 2; ultrasoft or PAW; D_ij all zero although there are
    projectors; a value that is not finite.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NearsightError(f"{path}: cannot be read ({error.strerror}); give the path of a UPF file") from None
    try:
        root = ElementTree.fromstring(raw)
    except ElementTree.ParseError as error:
        if b"</UPF>" not in raw and b"<UPF" in raw:
            raise NearsightError(f"{path}: ends before </UPF>; the file is truncated, copy it again") from None
        raise NearsightError(
            f"{path}: not a UPF version 2 file ({error}); convert it with upfconv or take a version 2 file"
        ) from None
    if root.tag != "UPF" or not root.get("version", "").startswith("2"):
        raise NearsightError(f"{path}: not a UPF version 2 file; convert it with upfconv or take a version 2 file")
    return _Upf(path, root).pseudopotential(hashlib.sha256(raw).hexdigest())


class _Upf:
    """The sections of one UPF file, with its path for every complaint."""

    def __init__(self, path: Path, root: ElementTree.Element) -> None:
        self.path, self.root = path, root
        self.header = dict(self._section("PP_HEADER").attrib)

    def fail(self, what: str) -> NoReturn:
        raise NearsightError(f"{self.path}: {what}")

    def _section(self, tag: str) -> ElementTree.Element:
        node = self.root.find(tag)
        if node is None:
            self.fail(f"section {tag} is missing; the file is incomplete, copy it again")
        return node

    def _flag(self, name: str) -> bool:
        return self.header.get(name, "F").strip().lower() in {"t", "true", ".true.", "1"}

    def _array(self, node: ElementTree.Element, count: int | None = None) -> NDArray[np.float64]:
        try:
            data = np.array((node.text or "").replace("D", "E").split(), dtype=np.float64)
        except ValueError:
            self.fail(f"{node.tag} holds something that is not a number; copy the file again")
        if count is not None and data.size != count:
            self.fail(f"{node.tag} holds {data.size} numbers where {count} are needed; copy the file again")
        if not np.isfinite(data).all():
            self.fail(f"{node.tag} holds a value that is not finite; take another pseudopotential")
        return data

    def _field(self, node: ElementTree.Element, name: str) -> float:
        text = node.get(name)
        try:
            return float(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            self.fail(f"{node.tag} has no number {name} (it says {text!r}); take another file")

    def pseudopotential(self, sha256: str) -> Pseudopotential:
        kind = self.header.get("pseudo_type", "NC").strip().upper()
        if kind not in {"NC", "SL"} or self._flag("is_ultrasoft") or self._flag("is_paw"):
            self.fail(f"pseudopotential of type {kind}; a norm-conserving one (NC) is needed, for example from ONCVPSP")
        symbol = self.header.get("element", "").strip().capitalize()
        if symbol not in atomic_numbers or symbol == "X":
            self.fail(f"element {symbol!r} is unknown; check PP_HEADER")
        r = self._array(self._section("PP_MESH/PP_R"))
        relativistic = self.header.get("relativistic", "no").strip().lower() == "full" or self._flag("has_so")
        betas, coupling = self._betas(r, relativistic)
        functional = " ".join(self.header.get("functional", "").lower().split())
        core = self.root.find("PP_NLCC")
        if core is None and self._flag("core_correction"):
            self.fail("core_correction is set but PP_NLCC is missing; the file is incomplete, copy it again")
        return Pseudopotential(
            symbol=symbol,
            number=atomic_numbers[symbol],
            valence=self._field(self._section("PP_HEADER"), "z_valence"),
            r=r,
            local=RYDBERG * self._array(self._section("PP_LOCAL"), r.size),
            betas=betas,
            coupling=coupling,
            core_density=self._array(core, r.size) if core is not None and self._flag("core_correction") else None,
            radial_density=self._array(self._section("PP_RHOATOM"), r.size),
            shells=self._shells(r, relativistic),
            xc=_FUNCTIONALS.get(functional, functional),
            fully_relativistic=relativistic,
            sha256=sha256,
            path=self.path,
        )

    def _betas(self, r: NDArray[np.float64], relativistic: bool) -> tuple[tuple[Beta, ...], NDArray[np.float64]]:
        section = self._section("PP_NONLOCAL")
        nodes = [node for node in section if node.tag.startswith("PP_BETA")]
        announced = int(self._field(self._section("PP_HEADER"), "number_of_proj"))
        if len(nodes) != announced:
            self.fail(f"{len(nodes)} projectors where the header announces {announced}; copy the file again")
        betas = []
        for i, node in enumerate(nodes, start=1):
            j = None
            if relativistic:
                j = self._field(self._section(f"PP_SPIN_ORB/PP_RELBETA.{i}"), "jjj")
            data = self._array(node)
            values = np.zeros_like(r)
            values[: min(data.size, r.size)] = data[: r.size]
            betas.append(Beta(int(self._field(node, "angular_momentum")), j, values))
        if not betas:
            return (), np.zeros((0, 0))
        D = RYDBERG * self._array(self._section("PP_NONLOCAL/PP_DIJ"), len(betas) ** 2).reshape(len(betas), -1)
        if not D.any():
            self.fail("PP_DIJ is all zero although there are projectors; the file is damaged, take another one")
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
                j = self._field(self._section(f"PP_SPIN_ORB/PP_RELWFC.{i}"), "jchi")
            shells.append(
                ReferenceShell(
                    n=int(label[0]),
                    l=int(self._field(node, "l")),
                    j=j,
                    occupation=max(0.0, self._field(node, "occupation")),
                    energy=RYDBERG * self._field(node, "pseudo_energy") if node.get("pseudo_energy") else float("nan"),
                    wave=self._array(node, r.size),
                )
            )
        return tuple(shells)

    def _input_shells(self, r: NDArray[np.float64]) -> tuple[ReferenceShell, ...]:
        """The valence shells as ONCVPSP's input states them, for files without pseudo-wavefunctions; else none."""
        found = oncvpsp_shells(self.root.findtext("PP_INFO/PP_INPUTFILE") or "")
        return tuple(ReferenceShell(n, l, None, f, float("nan"), np.zeros_like(r)) for n, l, f in found)

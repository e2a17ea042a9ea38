"""Goedecker-Teter-Hutter pseudopotentials in CP2K's text form (`GTH_POTENTIALS`): analytic, tabulated here.

    V_local(r) = -Z/r erf(r / (sqrt2 r_loc)) + exp(-x^2/2) sum_{i=1..4} C_i x^(2i-2),   x = r / r_loc
    V_NL = sum_l sum_ij |p_i^l> h^l_ij <p_j^l|,   p_i^l(r) ~ r^(l+2i-2) exp(-r^2 / (2 r_l^2)), normalised

Phys. Rev. B 54, 1703 (1996); 58, 3641 (1998). The core density of the variant NLCC, c exp(-r^2 / (2 r_core^2)) / 4 pi:
J. Chem. Phys. 138, 104109 (2013).
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray
from scipy.special import erf, gamma

from nearsight.core.errors import BadInput, MissingData
from nearsight.core.reading import read_bytes
from nearsight.formats.pseudopotential import Beta, Pseudopotential, PseudopotentialFormat
from nearsight.formats.valence import reference_shells, shells_of, starting_density, uniform_grid
from nearsight.formats.xml import LARGEST

_NARROWEST, _WIDEST = 0.05, 10.0  # Bohr: of the Gaussians; published ones are 0.1 to 3 wide
_SPACING = 0.005  # Bohr: the hardest Gaussians are 0.1 Bohr wide

_NAME = re.compile(r"(.*_)?GTH_POTENTIALS.*|(GTH|NLCC)(_POTENTIALS)?\..*|.*\.gth", re.IGNORECASE)

#: Words in the names of potentials. PADE is the parametrisation of PW92 that the LDA set was fitted with.
_FUNCTIONALS = {"PADE": "lda", "LDA": "lda", "PBE": "pbe", "PBESOL": "pbesol"}


class GTH(PseudopotentialFormat):
    """See the module; one file often holds many elements."""

    name, endings = "GTH", ("gth",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """A line `Symbol ...GTH...` at the head, or a name that CP2K gives such files."""
        return re.search(rb"^\s*[A-Z][a-z]?[ \t]+\S*GTH", head, re.MULTILINE) is not None or self.holds_many(path)

    def read(self, path: Path, symbol: str | None = None, xc: str | None = None) -> Pseudopotential:
        """As `read_gth`."""
        return read_gth(path, symbol, xc)

    def holds_many(self, path: Path) -> bool:
        """By its name: one of those of CP2K's collections, such as GTH_POTENTIALS, or ending in .gth."""
        return _NAME.fullmatch(path.name) is not None


@dataclass(frozen=True)
class _Entry:
    """One potential of the file: its names, and the numbers of its lines one after another."""

    symbol: str
    names: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def xc(self) -> str:
        words = {w for name in self.names for w in name.upper().split("-")}
        return next((_FUNCTIONALS[w] for w in ("PBESOL", "PBE", "LDA", "PADE") if w in words), self.names[0])

    @property
    def usual(self) -> bool:
        """Whether one of the names is without the number of electrons: CP2K's mark of the usual choice."""
        return any(not re.search(r"-q\d+$", name) for name in self.names)

    @property
    def old(self) -> bool:
        """Whether the file keeps it beside the one that replaced it."""
        return self.names[0].endswith("_old")


def read_gth(path: str | os.PathLike[str], symbol: str | None = None, xc: str | None = None) -> Pseudopotential:
    """The potential of an element for a functional, of a file with one or many.

    symbol, xc: None where the file holds only one.  Of several with different valence the one that has a name without
    `-q` is taken.  Raises BadInput: an element or functional that the file lacks; several that fit; a file cut
    short; an entry whose electrons leave no core that is known.
    """
    path = Path(path)
    raw = read_bytes(path, LARGEST, "GTH file")
    entries = _entries(path, raw.decode("utf-8", "replace"))
    entry = _chosen(path, entries, symbol, xc)
    return _Gth(path, entry).pseudopotential(hashlib.sha256(raw).hexdigest())


def _entries(path: Path, text: str) -> list[_Entry]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    starts = [n for n, line in enumerate(lines) if re.match(r"[A-Z][a-z]?\s+\S*GTH", line)]
    if not starts or starts[0] != 0:
        raise BadInput(f"{path}: is not a GTH file; it begins with a line such as `C GTH-PBE-q4 GTH-PBE`")
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        symbol, *names = lines[start].split()
        found.append(_Entry(symbol, tuple(names), tuple(lines[start + 1 : end])))
    return found


def _chosen(path: Path, entries: list[_Entry], symbol: str | None, xc: str | None) -> _Entry:
    elements = list(dict.fromkeys(e.symbol for e in entries))
    if symbol is None and len(elements) > 1:
        raise BadInput(f"{path}: holds {len(elements)} elements; say which one is meant")
    fitting = [e for e in entries if symbol in (None, e.symbol)]
    if not fitting:
        known = ", ".join(elements[:8]) + (", ..." if len(elements) > 8 else "")
        raise MissingData(f"{path}: has no potential of {symbol} (it has {known}); add one, or take another file")
    if xc is not None:
        right = [e for e in fitting if e.xc == xc]
        if not right:
            known = ", ".join(e.names[0] for e in fitting)
            raise MissingData(f"{path}: has no {xc.upper()} potential of {symbol} (it has {known}); add one")
        fitting = right
    fitting = [e for e in fitting if not e.old] or fitting
    if len(fitting) > 1:
        fitting = [e for e in fitting if e.usual] or fitting
    if len(fitting) > 1:
        known = ", ".join(e.names[0] for e in fitting)
        raise BadInput(f"{path}: has several potentials of {fitting[0].symbol} ({known}); keep one of them")
    return fitting[0]


class _Gth:
    """The numbers of one entry in their order, with the file's path for every complaint."""

    def __init__(self, path: Path, entry: _Entry) -> None:
        self.path, self.entry = path, entry
        self.words = " ".join(entry.lines[1:]).split()
        self.widths: list[float] = []
        self.position = 0

    def fail(self, what: str) -> NoReturn:
        raise BadInput(f"{self.path}: {self.entry.symbol} {self.entry.names[0]}: {what}")

    def _next(self) -> float:
        if self.position >= len(self.words):
            self.fail("ends too early; the file is truncated, copy it again")
        word = self.words[self.position]
        self.position += 1
        try:
            value = float(word)
        except ValueError:
            self.fail(f"{word!r} is not a number; copy the file again, or take a potential without that section")
        if not np.isfinite(value):
            self.fail(f"{word} is not finite; copy the file again")
        return value

    def _count(self) -> int:
        value = self._next()
        if value != int(value) or not 0 <= value <= 6:
            self.fail(f"{value:g} is no count of coefficients; copy the file again")
        return int(value)

    def _width(self) -> float:
        value = self._next()
        if not _NARROWEST <= value <= _WIDEST:
            self.fail(f"a radius of {value:g} Bohr, where {_NARROWEST} to {_WIDEST} are known; copy the file again")
        self.widths.append(value)
        return value

    def pseudopotential(self, sha256: str) -> Pseudopotential:
        symbol = self.entry.symbol
        if symbol not in atomic_numbers:
            self.fail(f"{symbol!r} is no element")
        if not self.entry.lines:
            self.fail("ends too early; the file is truncated, copy it again")
        try:
            electrons = [float(w) for w in self.entry.lines[0].split()]
            if not all(0 <= n <= 30 for n in electrons):
                raise ValueError("a number of electrons that no shell has")
            shells = shells_of(atomic_numbers[symbol], electrons)
        except (ValueError, BadInput) as error:
            self.fail(f"the electrons of s, p, d, ... ({self.entry.lines[0]}) are not a valence: {error}")
        valence = sum(electrons)
        named = {int(n) for name in self.entry.names for n in re.findall(r"-q(\d{1,3})$", name)}
        if named - {round(valence)}:
            self.fail(
                f"its name says {sorted(named)[0]} valence electrons, its first line {valence:g}; copy the file again"
            )
        r = uniform_grid(_SPACING)
        local = self._local(r, valence)
        core = self._core(r)
        betas, coupling = self._separable(r)
        if self.position != len(self.words):
            self.fail(f"{len(self.words) - self.position} numbers more than its projectors need; copy the file again")
        return Pseudopotential(
            symbol=symbol,
            number=atomic_numbers[symbol],
            valence=valence,
            r=r,
            local=local,
            betas=betas,
            coupling=coupling,
            core_density=core,
            radial_density=starting_density(shells, r),
            shells=reference_shells(shells, r, by_j=False),
            xc=self.entry.xc,
            fully_relativistic=False,
            sha256=sha256,
            path=self.path,
            states_density=False,
            wave_number=max(16.0, 4 / min(self.widths)),  # where exp(-(k width)^2 / 2) has died
        )

    def _local(self, r: NDArray[np.float64], valence: float) -> NDArray[np.float64]:
        width = self._width()
        coefficients = [self._next() for _ in range(self._count())]
        x = r / width
        coulomb = np.full_like(r, np.sqrt(2 / np.pi) / width)  # erf(r / (sqrt2 w)) / r at r = 0
        coulomb[1:] = erf(x[1:] / np.sqrt(2)) / r[1:]
        gaussian = sum(c * x ** (2 * i) for i, c in enumerate(coefficients)) * np.exp(-0.5 * x**2)
        return np.asarray(gaussian - valence * coulomb)

    def _core(self, r: NDArray[np.float64]) -> NDArray[np.float64] | None:
        if self.position >= len(self.words) or self.words[self.position] != "NLCC":
            return None
        self.position += 1
        total = np.zeros_like(r)
        for _ in range(self._count()):
            width, coefficients = self._width(), [self._next() for _ in range(self._count())]
            x = r / width
            polynomial = sum(c * x ** (2 * i) for i, c in enumerate(coefficients))
            total += polynomial * np.exp(-0.5 * x**2) / (4 * np.pi)
        return total

    def _separable(self, r: NDArray[np.float64]) -> tuple[tuple[Beta, ...], NDArray[np.float64]]:
        betas: list[Beta] = []
        blocks: list[NDArray[np.float64]] = []
        for l in range(self._count()):
            width, size = self._width(), self._count()
            h = np.zeros((size, size))
            for i in range(size):
                for j in range(i, size):
                    h[i, j] = h[j, i] = self._next()
            for i in range(size):
                power = l + 2 * i + 1.5  # int (r p)^2 dr = 1
                norm = np.sqrt(2 / gamma(power)) / width**power
                betas.append(Beta(l, None, norm * r ** (l + 2 * i + 1) * np.exp(-0.5 * (r / width) ** 2)))
            blocks.append(h)
        coupling = np.zeros((len(betas), len(betas)))
        start = 0
        for h in blocks:
            coupling[start : start + len(h), start : start + len(h)] = h
            start += len(h)
        return tuple(betas), coupling

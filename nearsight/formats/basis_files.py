"""Files of atomic orbitals of any form, told apart by one table: our own forms, and third parties' by entry point.

A form is a class that keeps the contract `BasisFormat`, registered in the group `bases`. What is read has its shells in the
order of the program and is a Species (which has a pseudopotential too) or an AtomicBasis.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nearsight.core import registry
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.reading import MEBIBYTE, regular_file
from nearsight.core.species import AtomicBasis, HasOrbitals, RadialFunction
from nearsight.core.structure import SYMBOLS

GROUP = "bases"
LARGEST = 64 * MEBIBYTE  # the longest known file has 4
HIGHEST_L = 6  # of orbitals whose overlaps are computed
LONGEST = 16.0  # Bohr: two radii must stay below the 32 Bohr to which Bessel transforms are free of aliasing
SPACING = 0.01  # Bohr, of tables made here
_HEAD = 4096  # bytes that a form is recognised by
_NORM = 0.1  # OpenMX's optimised d orbitals of Mo are 1.5 % off; what is cut or scaled is farther
_DEPENDENT = 1e-6  # of the functions of one l on one atom


class BasisFormat(ABC):
    """One form of file with the orbitals of an element. A third party's is an entry point of the group `nearsight.bases`.

    name: for messages.  endings: of file names, in lower case.
    """

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file is of this form, by its name and its first 4096 bytes."""

    @abstractmethod
    def read(self, path: Path, symbol: str | None = None, shells: str | None = None) -> HasOrbitals:
        """The orbitals in a file.

        symbol: the element that is meant.  shells: which of many to take, such as s2p2d1; None: all, where that is what a
        file means.  Raises BadInput for a file that is damaged or of another element, MissingData where `shells` is needed.
        """


@dataclass(frozen=True)
class BasisChoice:
    """The file of an element's orbitals, its form, and which of its shells are taken (None: all)."""

    path: Path
    form: BasisFormat
    shells: str | None = None

    def read(self, symbol: str) -> HasOrbitals:
        """The orbitals. Raises BadInput or MissingData as the form does, and for functions that cannot be a basis."""
        regular_file(self.path, LARGEST, "file of orbitals")
        found = self.form.read(self.path, symbol, self.shells)
        if found.symbol != symbol:
            raise BadInput(f"{self.path}: holds {found.symbol}, not {symbol}; rename the file")
        return check_basis(found, self.path)


def forms() -> list[BasisFormat]:
    """All forms, in the order in which a file is asked whether it is one. Raises Unavailable as `core.registry.load`."""
    return [registry.load(GROUP, kind)() for kind in registry.kinds(GROUP)]


def form_of(path: Path, known: Sequence[BasisFormat] | None = None) -> BasisFormat | None:
    """The form of a file; None for one that is of none, or cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    return next((f for f in known or forms() if f.recognises(path, head)), None)


def read_basis(path: str | os.PathLike[str], symbol: str | None = None, shells: str | None = None) -> HasOrbitals:
    """A file of orbitals of any known form. Raises BadInput for another file, and as `BasisFormat.read`."""
    path = Path(path)
    regular_file(path, LARGEST, "file of orbitals")
    known = forms()
    form = form_of(path, known)
    if form is None:
        raise BadInput(f"{path}: holds no orbitals of a known form ({', '.join(f.name for f in known)})")
    found = form.read(path, symbol, shells)
    if symbol is not None and found.symbol != symbol:
        raise BadInput(
            f"{path} holds orbitals of {found.symbol}, not of {symbol}: it is damaged, or another file's name"
        )
    return check_basis(found, path)


def is_folder_of_orbitals(path: Path) -> bool:
    """Whether a folder is the `species/` of a data set or a model: what its calculations are made of, none itself."""
    return path.name == "species" and path.is_dir() and any(p.name.endswith(".ion.xml") for p in path.iterdir())


def choose(folder: Path, symbol: str, names: Sequence[str] = ()) -> BasisChoice | None:
    """The file of an element in a folder; None where no file of orbitals is named after it.

    names: which one, where there are several, and which shells of it: the name of a file without its ending, with the shells
    after a hyphen, as OpenMX has it (C6.0-s2p2d1).
    Raises MissingData for no such folder, BadInput for several files, or a name that no file has.
    """
    known, listed = forms(), _listed(folder)
    for name in names:
        if not any(_shells_of(name, stem) is not None for _, stem, _ in listed):
            raise BadInput(
                f"--orbitals {name}: {folder} has no such file (there: {_some(p.name for p, _, _ in listed)})"
            )
    own = [(p, stem, ending) for p, stem, ending in listed if re.fullmatch(rf"{symbol}([^a-z].*)?", stem)]
    named = [(entry, shells) for name in names for entry in own if (shells := _shells_of(name, entry[1])) is not None]
    if len(named) > 1:
        raise BadInput(
            f"--orbitals names two files of {symbol} ({named[0][0][0].name}, {named[1][0][0].name}): name one"
        )
    if not named and len(own) > 1:
        raise BadInput(
            f"{folder}: several files of orbitals of {symbol} ({_some(p.name for p, _, _ in own)}); name one by --orbitals"
        )
    for (path, _, ending), shells in named or [(entry, "") for entry in own]:
        form = form_of(path, known) or next(f for f in known if ending in f.endings)
        return BasisChoice(path, form, shells or None)
    return None


def _listed(folder: Path) -> list[tuple[Path, str, str]]:
    """(path, name without ending, ending) of the files of orbitals in a folder, by their names."""
    if not folder.is_dir():
        raise MissingData(f"no such folder of orbitals: {folder}")
    endings = sorted({e for f in forms() for e in f.endings}, key=len, reverse=True)
    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        ending = next((e for e in endings if path.name.lower().endswith(f".{e}")), None)
        if ending is not None:
            found.append((path, path.name[: -len(ending) - 1], ending))
    return found


def _shells_of(name: str, stem: str) -> str | None:
    """What a name says of the shells of a file: empty where nothing; None where it names another file."""
    if name == stem:
        return ""
    return name[len(stem) + 1 :] if name.startswith(f"{stem}-") else None


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "") if listed else "none"


def tabulated(
    l: int, r: NDArray[np.float64], values: NDArray[np.float64], cutoff: float, inner: float
) -> RadialFunction:
    """R(r) on any rising grid as R/r^l on the uniform one from 0 to exactly `cutoff` [Bohr].

    Within `inner` [Bohr], where division by r^l loses digits, R/r^l is the even polynomial a + b r^2 + c r^4 through its
    values around there.
    """
    from scipy.interpolate import CubicSpline

    intervals = max(8, int(np.ceil(cutoff / SPACING - 1e-9)))
    grid = np.linspace(0.0, cutoff, intervals + 1)
    used = r > 0.5 * inner
    reduced = values[used] / r[used] ** l
    spline = CubicSpline(r[used], values[used])
    around = r[used] < 3 * inner
    powers = np.arange(0, 5, 2)
    a = np.linalg.lstsq(r[used][around, None] ** powers, reduced[around], rcond=None)[0]
    outside = np.maximum(grid, inner)
    table = np.where(grid < inner, grid[:, None] ** powers @ a, spline(np.minimum(outside, r[-1])) / outside**l)
    return RadialFunction(l, table, cutoff / intervals)


def check_basis(basis: HasOrbitals, path: Path) -> HasOrbitals:
    """The basis itself, if it can be one. Raises BadInput, in one line with the law that is broken, for one that cannot.

    A Species is checked where it is read (soundness.py).
    """
    if not isinstance(basis, AtomicBasis):
        return basis

    def fail(what: str) -> BadInput:
        return BadInput(f"{path}: {what}; the file is damaged or of another program, copy it again")

    if not 0 < basis.number < len(SYMBOLS) or SYMBOLS[basis.number] != basis.symbol:
        raise fail(f"Z = {basis.number} is not {basis.symbol}")
    if not basis.orbitals:
        raise fail("it holds no orbitals")
    for o in basis.orbitals:
        what, f = f"orbital {o.zeta} of l = {o.l}", o.radial
        if not 0 <= o.l <= HIGHEST_L:
            raise BadInput(f"{path}: {what}, where l = 0 to {HIGHEST_L} can be computed; take another basis")
        if not np.isfinite(f.values).all() or not 0 < np.abs(f.values * f.r**o.l).max() < 1e4:
            raise fail(f"the {what} is zero, not finite or beyond all bounds")
        if f.cutoff > LONGEST:
            raise BadInput(
                f"{path}: the {what} reaches to {f.cutoff:g} Bohr, more than the {LONGEST:g} that can be integrated; "
                "take shorter orbitals"
            )
        norm = _product(f, f)
        if not abs(norm - 1) < _NORM:
            raise fail(f"the {what} has the norm {norm:.4f}, not 1: its table was cut, stretched or scaled")
    for l in sorted(set(basis.shells)):
        own = [o.radial for o in basis.orbitals if o.l == l]
        lowest = float(np.linalg.eigvalsh([[_product(f, g) for g in own] for f in own])[0])
        if lowest < _DEPENDENT:
            raise fail(f"its {len(own)} orbitals of l = {l} are linearly dependent (lowest eigenvalue {lowest:.1e})")
    return basis


def _product(f: RadialFunction, g: RadialFunction) -> float:
    """int r^2 f g dr, by the finer of the two grids."""
    fine = f if f.spacing <= g.spacing else g
    r = fine.r
    a, b = (np.interp(r, x.r, x.values, right=0.0) * r**x.l for x in (f, g))
    return float(np.trapezoid(r**2 * a * b, r))

"""ABINIT's format 8 (`.psp8`), as ONCVPSP writes it.

Hartree and Bohr; uniform radial grid from 0. Projectors stand as r chi(r) with energies, spin-orbit ones after the local
potential; the core density with 4 pi; after it, in newer files, the valence density; last the input of ONCVPSP.
Description: psp8_info in ABINIT's documentation for developers.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.core.reading import read_bytes
from nearsight.formats.pseudopotential import (
    Beta,
    Pseudopotential,
    PseudopotentialFormat,
    diagonal,
    j_resolved,
    oncvpsp_shells,
)
from nearsight.formats.soundness import HIGHEST_L, MOST_POINTS
from nearsight.formats.valence import ground_configuration, reference_shells, shells_of, starting_density, uniform_grid
from nearsight.formats.xml import LARGEST

#: ABINIT's own numbers, and libxc's (negative, exchange * 1000 + correlation), of the functionals that we have.
_FUNCTIONALS = {
    **dict.fromkeys((1, 2, 7, -1, -20, -1012, -1009), "lda"),
    **dict.fromkeys((11, -101130), "pbe"),
    **dict.fromkeys((-116133,), "pbesol"),
}


class PSP8(PseudopotentialFormat):
    """See the module."""

    name, endings = "psp8", ("psp8",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """A third line that begins with 8 (pspcod), or the ending."""
        return re.match(rb"[^\n]*\n[^\n]*\n\s*8\s", head) is not None or path.suffix.lower() == ".psp8"

    def read(self, path: Path, symbol: str | None = None, xc: str | None = None) -> Pseudopotential:
        """As `read_psp8`; a file has one element and one functional."""
        return read_psp8(path)


def read_psp8(path: str | os.PathLike[str]) -> Pseudopotential:
    """Read a psp8 file.

    The valence shells are those of ONCVPSP's input at the end of the file; without it, the valence electrons fill
    shells by n + l.  Raises BadInput: unreadable, truncated or another format; a projector with energy zero; a
    value that is not finite; a core that is not known.
    """
    path = Path(path)
    raw = read_bytes(path, LARGEST, "psp8 file")
    return _Psp8(path, raw.decode("utf-8", "replace")).pseudopotential(hashlib.sha256(raw).hexdigest())


class _Psp8:
    """The numbers of one psp8 file in their order, with its path for every complaint."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        body, _, self.input = text.partition("<INPUT>")
        lines = body.splitlines()
        head = [self._leading_numbers(line) for line in lines[1:6]]
        if len(head) < 5 or len(head[0]) < 2 or len(head[1]) < 5 or head[1][0] != 8 or not head[3] or not head[4]:
            self.fail("is not a psp8 file: lines 2 to 6 are not its header; take a file with pspcod = 8")
        self.z, self.valence = head[0][:2]
        self.xc, self.lmax, self.lloc, self.points = (self._whole(x) for x in head[1][1:5])
        if not 0 <= self.lmax <= HIGHEST_L + 1 or not 20 <= self.points <= MOST_POINTS or self.valence <= 0:
            self.fail("its header is damaged; copy the file again")
        self.has_core = len(head[2]) > 1 and head[2][1] > 0
        self.extension = self._whole(head[4][0])
        self.counts = [self._whole(x) for x in head[3][: self.lmax + 1]]
        self.spin_orbit_counts: list[int] = []
        first = 6
        if self.extension in (2, 3):
            numbers = self._leading_numbers(lines[6]) if len(lines) > 6 else []
            self.spin_orbit_counts = [self._whole(x) for x in numbers[: self.lmax]]
            first = 7
        counts = [*self.counts, *self.spin_orbit_counts]
        if len(self.counts) != self.lmax + 1 or any(not 0 <= n <= 10 for n in counts):
            self.fail("its header is damaged; copy the file again")
        self.tokens = " ".join(lines[first:]).replace("D", "E").replace("d", "e").split()
        self.position = 0

    def fail(self, what: str) -> NoReturn:
        raise BadInput(f"{self.path}: {what}")

    def _whole(self, value: float) -> int:
        if value != int(value):
            self.fail(f"its header has {value:g} where a whole number belongs; copy the file again")
        return int(value)

    @staticmethod
    def _leading_numbers(line: str) -> list[float]:
        found: list[float] = []
        for word in line.split():
            try:
                value = float(word.replace("D", "E").replace("d", "e"))
            except ValueError:
                break
            if not np.isfinite(value):
                break
            found.append(value)
        return found

    def _take(self, count: int, what: str) -> NDArray[np.float64]:
        words = self.tokens[self.position : self.position + count]
        if len(words) < count:
            self.fail(f"ends within {what}; the file is truncated, copy it again")
        self.position += count
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError:
            self.fail(f"{what} holds something that is not a number; copy the file again")
        if not np.isfinite(values).all():
            self.fail(f"{what} holds a value that is not finite; take another pseudopotential")
        return values

    def _rows(self, columns: int, what: str) -> NDArray[np.float64]:
        """The columns after index and radius [columns, points]; the grid is checked."""
        table = self._take(self.points * (2 + columns), what).reshape(self.points, 2 + columns)
        r, spacing = table[:, 1], table[1, 1] - table[0, 1]
        uniform = spacing > 0 and np.abs(r - spacing * np.arange(self.points)).max() < 1e-3 * spacing
        if not uniform or not np.array_equal(table[:, 0], np.arange(1, self.points + 1)):
            self.fail(f"{what}: its rows are not numbered on a uniform grid from 0; copy the file again")
        self.spacing = float(r[-1] / (self.points - 1))
        return table[:, 2:].T

    def _projectors(self, l: int, count: int, what: str) -> list[tuple[Beta, float]]:
        header = self._take(1 + count, what)
        if header[0] != l:
            self.fail(f"{what}: the block begins with {header[0]:g}, not l = {l}; copy the file again")
        if (header[1:] == 0).any():
            self.fail(
                f"{what}: a projector of l = {l} has energy zero: the file is damaged; take another pseudopotential"
            )
        return [(Beta(l, None, w), float(e)) for w, e in zip(self._rows(count, what), header[1:], strict=True)]

    def _local(self) -> NDArray[np.float64]:
        self._take(1, "the local potential")
        return self._rows(1, "the local potential")[0]

    def pseudopotential(self, sha256: str) -> Pseudopotential:
        number = self._whole(self.z)
        if not 0 < number < len(chemical_symbols):
            self.fail(f"Z = {self.z:g} is no element; check the second line")
        scalar, spin_orbit, local = [], [], None
        for l, count in enumerate(self.counts):
            if l == self.lloc:
                local = self._local()
            elif count:
                scalar += self._projectors(l, count, f"the projectors of l = {l}")
        if local is None:
            local = self._local()
        for l, count in enumerate(self.spin_orbit_counts, start=1):
            if count:
                spin_orbit += self._projectors(l, count, f"the spin-orbit projectors of l = {l}")
        core = self._rows(5, "the core density")[0] / (4 * np.pi) if self.has_core else None
        r = uniform_grid(self.spacing, self.points)
        relativistic = self.extension in (2, 3)
        shells = self._shells(number)
        betas, coupling = self._separable(scalar, spin_orbit, relativistic, len(r))
        density, stated = self._density(shells, r)
        return Pseudopotential(
            symbol=chemical_symbols[number],
            number=number,
            valence=self.valence,
            r=r,
            local=np.concatenate([local, -self.valence / r[self.points :]]),
            betas=betas,
            coupling=coupling,
            core_density=None if core is None else self._padded(core, len(r)),
            radial_density=density,
            shells=reference_shells(shells, r, relativistic),
            xc=_FUNCTIONALS.get(self.xc, f"number {self.xc} of ABINIT"),
            fully_relativistic=relativistic,
            sha256=sha256,
            path=self.path,
            states_density=stated,
        )

    def _separable(
        self, scalar: list[tuple[Beta, float]], spin_orbit: list[tuple[Beta, float]], relativistic: bool, points: int
    ) -> tuple[tuple[Beta, ...], NDArray[np.float64]]:
        long = [
            [(Beta(b.l, None, self._padded(b.r_beta, points)), e) for b, e in part] for part in (scalar, spin_orbit)
        ]
        if relativistic:
            return j_resolved(*long)
        return tuple(b for b, _ in long[0]), diagonal([e for _, e in long[0]])

    @staticmethod
    def _padded(values: NDArray[np.float64], points: int) -> NDArray[np.float64]:
        return np.concatenate([values, np.zeros(points - len(values))])

    def _shells(self, number: int) -> tuple[tuple[int, int, float], ...]:
        shells = oncvpsp_shells(self.input.partition("</INPUT>")[0])
        if shells and abs(sum(f for _, _, f in shells) - self.valence) < 1e-2:
            return shells
        try:
            return shells_of(number, ground_configuration(number, self.valence))
        except BadInput as error:
            self.fail(f"{error}; take a file that ends with ONCVPSP's <INPUT>, which states the shells")

    def _density(
        self, shells: tuple[tuple[int, int, float], ...], r: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], bool]:
        """4 pi r^2 n of the file and true, where the file has it; else a guess and false."""
        left = len(self.tokens) - self.position
        if left and (self.extension not in (1, 3) or left % self.points):
            self.fail(f"{left} numbers are left at its end; the file is damaged, copy it again")
        if left >= 3 * self.points:
            n = self._rows(left // self.points - 2, "the valence density")[0]
            if (n >= 0).all() and n.any():
                density = self._padded(n, len(r)) * r**2
                total = float(np.trapezoid(density, r))  # with 4 pi or without
                return density * (4 * np.pi if total < 0.5 * self.valence else 1.0), True
        return starting_density(shells, r), False

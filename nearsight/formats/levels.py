"""Levels as a program printed them: what the eigenvalues of the matrices that were read from it must equal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_text
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.formats.files import first_line

KEY = "program_levels"  # of a calculation's record
SIESTA4_EV = 2 * 13.60580  # the Hartree of SIESTA before version 5 [eV]
_FARTHEST_K, _FARTHEST = 1e3, 1e4  # fractional; Ha
ABACUS_EV = 2 * 13.605698066  # and of ABACUS


@dataclass(frozen=True, eq=False)
class Levels:
    """The lowest levels at some k-points.

    k: fractional [k, 3].  energies: [matrices, k, n], Ha, ascending: as many matrices as the spin has (core/spin.py).
    resolution: [Ha] to which they were printed.  source: the file.
    """

    k: Tensor
    energies: Tensor
    resolution: float
    source: str

    __repr__ = one_line

    def to_record(self) -> dict[str, Any]:
        """As a table of a record, in eV."""
        return {
            "source": self.source,
            "k": self.k.tolist(),
            "energies_eV": (self.energies * HARTREE_EV).tolist(),
            "printed_to_eV": self.resolution * HARTREE_EV,
        }

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> Levels | None:
        """Of a calculation's record; None where there are none, or where they are none."""
        table = record.get(KEY)
        try:
            k = torch.tensor(table["k"], dtype=torch.float64)  # type: ignore[index]
            energies = torch.tensor(table["energies_eV"], dtype=torch.float64) / HARTREE_EV  # type: ignore[index]
            found = Levels(k, energies, float(table["printed_to_eV"]) / HARTREE_EV, str(table["source"]))  # type: ignore[index]
        except (KeyError, TypeError, ValueError, RuntimeError):
            return None
        return found if k.ndim == 2 and energies.ndim == 3 and energies.shape[1] == len(k) else None


def levels_beside(path: Path, structure: Structure, fermi_level: float | None = None) -> Levels | None:
    """The levels that stand in the same folder as a calculation, in the form of any program that is known; None if none do.

    fermi_level: [Ha] of the calculation, by which a printed one tells the program's own eV.
    """
    folder = path if path.is_dir() else path.parent
    for pattern, reader in _READERS.items():
        for found in sorted(folder.glob(pattern)):
            if found.is_file():
                try:
                    levels = reader(found, structure, fermi_level)
                except (ValueError, IndexError, OSError, ArithmeticError, RuntimeError) as error:
                    raise BadInput(f"{found} is not a whole file of levels: {first_line(error):.120}") from error
                if levels is not None:
                    return _sound(levels, found)
    return None


def _sound(levels: Levels, path: Path) -> Levels:
    """The levels themselves, if they are some. Raises BadInput for none, or for numbers that no level has."""
    k, e = levels.k, levels.energies
    whole = k.ndim == 2 and k.shape[1] == 3 and e.ndim == 3 and e.shape[1] == len(k) and e.numel() > 0
    if not whole:
        raise BadInput(f"{path} is not a whole file of levels: {len(k)} k-points, levels {list(e.shape)}")
    if not float(k.abs().max()) < _FARTHEST_K or not float(e.abs().max()) < _FARTHEST:
        raise BadInput(f"{path} is not a whole file of levels: a k-point or level is beyond any that there is")
    if not 0 < levels.resolution < 1:
        raise BadInput(f"{path} is not a whole file of levels: it has no digits")
    return levels


def read_siesta_levels(path: Path, structure: Structure, fermi_level: float | None) -> Levels | None:
    """`.EIG` [eV] with the `.KP` beside it [1/Bohr]; without one where there is one k-point, which is Gamma.

    The eV is SIESTA's own before version 5 (1 Ry = 13.60580 eV), as the Fermi level in the first line tells.
    """
    words = read_text(path, LARGEST, "file of levels").split()
    bands, spins, points = (int(w) for w in words[1:4])
    matrices = spins if spins <= 2 else 1  # spinors: one list of all
    stride = 1 + bands * matrices  # the number of the k-point, then the levels of each spin
    if len(words) != 4 + stride * points:
        raise ValueError(f"{len(words) - 4} numbers where {stride * points} are promised")
    table = torch.tensor([float(w) for w in words[4:]], dtype=torch.float64).reshape(points, stride)
    energies = table[:, 1:].reshape(points, matrices, bands).transpose(0, 1).contiguous()
    listed = path.with_suffix(".KP")
    if listed.is_file():
        lines = [line.split() for line in read_text(listed, LARGEST, "list of k-points").splitlines()[1:]]
        k = torch.tensor([[float(w) for w in line[1:4]] for line in lines if line], dtype=torch.float64)
    else:
        k = torch.zeros(1, 3, dtype=torch.float64)
    if k.shape != (points, 3):
        return None
    unit = HARTREE_EV
    if fermi_level:
        unit = min((HARTREE_EV, SIESTA4_EV), key=lambda e: abs(float(words[0]) / fermi_level - e))
    last_digit = max(_last_digit(w) for w in words[5 : 4 + stride])
    fractional = _on_mesh(k @ structure.cell.double().T / (2 * torch.pi), 3e-6)
    return Levels(fractional, energies / unit, last_digit / unit, path.name)


def _on_mesh(k: torch.Tensor, printed_to: float) -> torch.Tensor:
    """Fractional k [k, 3] free of the rounding of its print, where along an axis all are multiples of one step to it."""
    k = k.clone()
    for axis in k.T:
        for steps in range(1, 257):
            whole = (axis * steps).round()
            if bool(((axis * steps - whole).abs() < steps * printed_to).all()):
                axis.copy_(whole / steps)
                break
    return k


def _last_digit(word: str) -> float:
    """The value of a printed number's last digit: 1e-8 of -0.140945941E+02."""
    mantissa, _, power = word.upper().partition("E")
    return 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))


def read_openmx_bands(path: Path, structure: Structure, fermi_level: float | None) -> Levels | None:
    """`.Band` [Ha], 15 decimals: a header of n, spin and chemical potential, then k and its levels, up before down."""
    lines = read_text(path, LARGEST, "file of levels").splitlines()
    head = lines[0].split()
    polarised = head[1] == "1"
    first = 3 + int(lines[2].split()[0])
    k, energies = [], []
    for n in range(first, len(lines) - 1, 2):
        told = lines[n].split()
        if len(told) != 4:
            break
        k.append([float(w) for w in told[1:]])
        energies.append([float(w) for w in lines[n + 1].split()])
        if len(energies[-1]) != int(told[0]):
            raise ValueError(f"line {n + 2} does not have the {told[0]} levels it promises")
    e, points = torch.tensor(energies, dtype=torch.float64), torch.tensor(k, dtype=torch.float64)
    if polarised:
        e, points = torch.stack([e[0::2], e[1::2]]), points[0::2]
    else:
        e = e[None]
    return Levels(points, e, 1e-15, path.name)


def read_openmx_out(path: Path, structure: Structure, fermi_level: float | None) -> Levels | None:
    """Levels of a molecule in an OpenMX `.out` [Ha]; those of a crystal stand there at shifted k-points and are left."""
    text = read_text(path, LARGEST, "output", lossy=True)
    found = re.search(r"Eigenvalues\s+Up-spin\s+Down-spin\s*\n((?:\s+\d+\s+-?\d+\.\d+\s+-?\d+\.\d+\s*\n)+)", text)
    if found is None:
        return None
    table = torch.tensor(
        [[float(w) for w in line.split()[1:]] for line in found.group(1).strip().splitlines()], dtype=torch.float64
    ).T
    if torch.equal(table[0], table[1]):
        table = table[:1]
    return Levels(torch.zeros(1, 3, dtype=torch.float64), table[:, None], 1e-14, path.name)


def read_abacus_levels(path: Path, structure: Structure, fermi_level: float | None) -> Levels | None:
    """`istate.info` [ABACUS's eV]: blocks `BAND Energy(ev) Occupation Kpoint = n (k)`, one or two spins a line."""
    k: list[list[float]] = []
    energies: list[list[list[float]]] = []
    for line in read_text(path, LARGEST, "file of levels").splitlines():
        head = re.search(r"Kpoint = \d+\s+\(([^)]*)\)", line)
        words = line.split()
        if head:
            k.append([float(w) for w in head.group(1).split()])
            energies.append([])
        elif energies and words and words[0].isdigit():
            energies[-1].append([float(w) for w in words[1::2]])
    if not k:
        return None
    e = torch.tensor(energies, dtype=torch.float64).permute(2, 0, 1)
    return Levels(torch.tensor(k, dtype=torch.float64), e.contiguous() / ABACUS_EV, 1e-8 / ABACUS_EV, path.name)


_READERS = {
    "*.Band": read_openmx_bands,
    "*.EIG": read_siesta_levels,
    "istate.info": read_abacus_levels,
    "OUT.*/istate.info": read_abacus_levels,
    "*.out": read_openmx_out,
}

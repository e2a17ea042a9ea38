"""Laws that the matrices of any calculation keep, whoever made it: asked where one is read, and told by `check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV

#: name of a matrix -> symbol, unit of disk, and the largest deviation from hermiticity in it; the share of single precision
_HERMITIAN = {
    "overlap": ("S", 1.0, 1e-5),
    "hamiltonian": ("H", HARTREE_EV, 1e-3),
    "density_matrix": ("D", 1.0, 1e-4),
    "constrained_hamiltonian": ("H in its fields", HARTREE_EV, 1e-3),
}
_SINGLE = 1e-6
_FARTHEST_LEVEL = 1e3  # Ha, from zero: of a Fermi level
_COSINE = 1.001  # of two functions, with the rounding of files in single precision


@dataclass(frozen=True)
class Finding:
    """One law: what it is, what was found, whether it holds."""

    law: str
    found: str
    holds: bool

    def to_json(self) -> dict[str, object]:
        """As a table of names and values."""
        return asdict(self)


def matrix_findings(calculation: Calculation) -> Iterator[Finding]:
    """Every matrix is hermitian and of a size that can be; S is that of functions; H is another matrix than S."""
    for name, matrix in calculation.matrices.items():
        symbol, unit, limit = _HERMITIAN[name]
        yield _hermitian(symbol, matrix, unit, limit)
        yield _bounded(symbol, matrix, calculation)
    yield from _numbers(calculation)
    if calculation.overlap is not None:
        yield _of_functions(calculation.overlap)
        if calculation.hamiltonian is not None:
            yield _another(calculation.overlap, calculation.hamiltonian)


def require_lawful(calculation: Calculation, name: object) -> Calculation:
    """The calculation itself, if its matrices keep the laws. Raises BadInput, in one line, for the first that is broken."""
    for finding in matrix_findings(calculation):
        if not finding.holds:
            raise BadInput(
                f"{name} is unsound: {finding.law} is broken: {finding.found}: write or copy it again (`nearsight check`)"
            )
    return calculation


def _hermitian(symbol: str, matrix: BlockMatrix, unit: float, limit: float) -> Finding:
    error = _largest(matrix.values.detach() - matrix.dagger().values.detach()) * unit
    room = max(limit, _SINGLE * unit * _largest(matrix.values.detach()))
    text = f"largest deviation {error:.1e}" + (" eV" if symbol.startswith("H") else "")
    return Finding(f"{symbol} is hermitian", text, error <= room)


def _bounded(symbol: str, matrix: BlockMatrix, c: Calculation) -> Finding:
    """|H| stays below what the deepest core level and the kinetic energy of the tightest function can be."""
    largest = _largest(matrix.values.detach())
    room, unit = {"S": (100.0, ""), "H": (largest_energy(c.structure), " Ha"), "D": (1e4, "")}[symbol[0]]
    return Finding(f"no element of {symbol} is beyond bounds", f"largest {largest:.3g}{unit}", largest <= room)


def largest_energy(structure: Structure) -> float:
    """A bound of |H_ij| [Ha]: ten times the deepest core level of the heaviest atom, and room for tight functions."""
    return 2e3 + 10.0 * int(structure.numbers.max()) ** 2


def _numbers(c: Calculation) -> Iterator[Finding]:
    """The numbers beside the matrices, where they are known."""
    basis = next((m.basis for m in c.matrices.values()), None)
    if c.electrons is not None and basis is not None:
        text = f"{c.electrons:g} electrons, {basis.size} orbitals"
        yield Finding("the orbitals hold the electrons", text, 0 <= c.electrons <= 2 * basis.size + 1e-6)
    if c.fermi_level is not None:
        text = f"{c.fermi_level * HARTREE_EV:g} eV"
        yield Finding("the Fermi level is one", text, abs(c.fermi_level) < _FARTHEST_LEVEL)


def _of_functions(overlap: BlockMatrix) -> Finding:
    """<i|i> > 0 and |<i|j>|^2 <= <i|i> <j|j>."""
    layout, values = overlap.layout, overlap.values[0].detach()
    norms = _norms(overlap)
    lowest, largest = float(norms.min()), _largest(values)
    if lowest <= 0:
        return Finding("S is an overlap of functions", f"a norm of {lowest:.3g}", False)
    if largest > _COSINE * lowest:  # else it holds whichever pair the largest is of
        root = norms.sqrt()
        largest = _largest(values / (root[layout.row] * root[layout.column]))
    text = f"norms from {lowest:.4f} on, largest cosine {largest:.4f}"
    return Finding("S is an overlap of functions", text, largest <= _COSINE)


def _norms(overlap: BlockMatrix) -> torch.Tensor:
    """<i|i> of every orbital [orbitals]."""
    layout, values = overlap.layout, overlap.values[0].detach()
    counts = layout.basis.counts
    first = layout.boundaries[layout.pairs.on_site]
    atom = torch.repeat_interleave(torch.arange(len(counts)), counts)
    within = torch.arange(layout.basis.size) - layout.basis.offsets[atom]
    return values[first[atom] + within * (counts[atom] + 1)].real.double()


def _another(overlap: BlockMatrix, hamiltonian: BlockMatrix) -> Finding:
    s, h = overlap.values.detach(), hamiltonian.values.detach()
    same = s.shape == h.shape and all(
        bool(((h[:, part] * HARTREE_EV - s[:, part]).abs() < 1e-6).all()) for part in (slice(0, 500), slice(500, None))
    )
    return Finding("H is another matrix than S", "a copy of it" if same else "different", not same)


def _largest(values: torch.Tensor) -> float:
    """The largest absolute value."""
    if values.is_complex():
        return float(values.abs().max())
    low, high = torch.aminmax(values)
    return max(abs(float(low)), abs(float(high)))

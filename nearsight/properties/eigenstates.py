"""Levels and states of a calculation at many k-points, a bounded chunk of them at a time, whatever its spin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.memory import check_room
from nearsight.electrons.eigen import factorise
from nearsight.properties.contract import SILENT, Progress

HELD = 4 * 16  # bytes that each element of a dense matrix takes at least
CHUNK_ELEMENTS = 8_000_000  # of the dense matrices of a chunk, of which six or so are held at once


@dataclass(frozen=True, eq=False)
class Eigenstates:
    """H(k) C = S(k) C e at some k-points.

    k: fractional [k, 3].  energies: [s, k, n], ascending [Ha].  coefficients: [s, k, n, n], columns, C^dagger S C = 1.
    overlap: S(k) [s, k, n, n], with spin.  s: independent matrices; n: orbitals, twice as many for spinors (spin outermost).
    """

    k: Tensor
    energies: Tensor
    coefficients: Tensor
    overlap: Tensor

    __repr__ = one_line


def eigenstates(
    hamiltonian: BlockMatrix,
    overlap: BlockMatrix,
    k: Tensor,
    progress: Progress = SILENT,
    elements: int = CHUNK_ELEMENTS,
) -> Iterator[Eigenstates]:
    """The states at k [k, 3], chunk after chunk. Raises NearsightError where S(k) is not positive definite."""
    exact = overlap.hermitian()
    for part in _chunks(hamiltonian, k, progress, elements):
        energies, coefficients = factorise(exact, part).solve(hamiltonian.at_k(part))
        full = exact.embed(hamiltonian.spin).at_k(part).to(coefficients.dtype)
        yield Eigenstates(part, energies, coefficients, full)


def levels(
    hamiltonian: BlockMatrix,
    overlap: BlockMatrix,
    k: Tensor,
    progress: Progress = SILENT,
    elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """e(k) [s, k, n], ascending [Ha], on the CPU. Raises NearsightError where S(k) is not positive definite."""
    exact, found = overlap.hermitian(), []
    for part in _chunks(hamiltonian, k, progress, elements):
        found.append(torch.linalg.eigvalsh(factorise(exact, part).transform(hamiltonian.at_k(part))).cpu())
    return torch.cat(found, 1)


def _chunks(hamiltonian: BlockMatrix, k: Tensor, progress: Progress, elements: int) -> Iterator[Tensor]:
    """k [k, 3] in parts whose dense matrices have so many elements; progress is told after each."""
    kind = hamiltonian.spin
    size = hamiltonian.basis.size * kind.size_factor
    check_room(
        HELD * kind.matrices * size**2,
        f"diagonalising dense matrices of {size} orbitals",
        "take what the sparse solver does: `levels`, `bands --states`, `dos --window` (pip install 'nearsight[sparse]')",
        hamiltonian.values.device,
    )
    done = 0
    for part in k.to(hamiltonian.values.device).split(max(1, elements // (kind.matrices * size * size))):
        yield part
        done += len(part)
        progress.advance(done, len(k))

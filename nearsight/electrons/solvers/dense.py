"""Diagonalisation of dense H(k): levels, states and responses, exact to rounding. The work grows as n^3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.memory import check_room
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.levels import Filling, Levels
from nearsight.electrons.solvers.contract import BoundSolver, DensitySolver, Electrons
from nearsight.electrons.solvers.processes import RemoteShare, RemoteSolved, remote_shares
from nearsight.electrons.solvers.share import Share, Solved

HELD_AT_ONCE = 12  # dense complex matrices [n, n] that one k-point of a chunk takes while it is solved
TIME_REVERSAL = 1e-5  # of the largest element: how far a Hamiltonian may be from its time-reversed


@dataclass(frozen=True)
class Dense(DensitySolver):
    """memory: bytes that the temporary matrices of k-points that are done together may take; the states of all k-points
    are held besides, 16 n^2 bytes each.
    processes: among which the k-points are shared, on CPUs.  worth: the least n^3, summed over k-points, for which they are
    started: a second's work an iteration, against the seconds that a process takes to begin.
    """

    memory: float = 1e9
    processes: int = 1
    worth: float = 1e8

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= 1024 or not 0 < self.memory < 1e18:
            raise BadInput(
                f"solver dense: processes ({self.processes:g}) and memory ({self.memory:g}) must be positive, and within reason"
            )

    def bind(self, overlap: BlockMatrix, kpoints: KPoints, filling: Filling) -> DenseBound:
        """The inverse Cholesky factors of S(k). Raises NearsightError for linearly dependent orbitals."""
        kpoints = kpoints.to(overlap.layout.device)
        n = overlap.basis.size
        _check_room(n, 1, kpoints, overlap)
        processes = min(self.processes, len(kpoints))
        if processes > 1 and overlap.values.device.type == "cpu" and len(kpoints) * n**3 >= self.worth:
            chunk = self._chunk(n, self.memory / processes)
            return DenseBound(overlap, kpoints, filling, remote_shares(overlap, kpoints, chunk, processes))
        share = Share.of(overlap, kpoints.k, kpoints.weights, self._chunk(n, self.memory))
        return DenseBound(overlap, kpoints, filling, (share,))

    @staticmethod
    def _chunk(orbitals: int, memory: float) -> int:
        return max(1, int(memory / (HELD_AT_ONCE * 16 * orbitals**2)))


@dataclass(frozen=True, eq=False)
class DenseBound(BoundSolver):
    """Dense diagonalisation for one overlap. shares: of the k-points, one a process."""

    overlap: BlockMatrix
    kpoints: KPoints
    filling: Filling
    shares: tuple[Share | RemoteShare, ...]

    __repr__ = one_line

    def solve(self, hamiltonian: BlockMatrix) -> DenseElectrons:
        """Levels and states, each share of the k-points by itself, filled up to one mu over all (or one a spin)."""
        self._check(hamiltonian)
        spin = hamiltonian.spin
        if spin.components > 1:  # more than was seen to when the solver was bound, which knows no spin
            _check_room(spin.size_factor * self.overlap.basis.size, spin.matrices, self.kpoints, self.overlap)
        solved = _all(self.shares, "solve", hamiltonian)
        energies = torch.cat([e for e, _ in solved], 1)
        levels = Levels.of(energies, self.kpoints.weights, hamiltonian.spin, self.filling)
        return DenseElectrons(hamiltonian, levels, self.kpoints, tuple(s for _, s in solved))

    def _check(self, hamiltonian: BlockMatrix) -> None:
        if not (hamiltonian.values.is_complex() and self.kpoints.time_reversal):
            return
        v = hamiltonian.values
        away, size = ((v - hamiltonian.spin.at_minus_k(v)).abs().max(), v.abs().max())
        if bool(away > TIME_REVERSAL * size):
            raise BadInput(
                "the Hamiltonian has no time reversal (moments, or a magnetic field), but only one of k and -k is given: "
                "take all k-points, kpoints.mesh(..., time_reversal=False)"
            )


def _check_room(rows: int, matrices: int, kpoints: KPoints, overlap: BlockMatrix) -> None:
    """Of so many matrices at each k-point, whose states are held; each of so many rows, twice the orbitals of spinors."""
    check_room(
        16 * rows**2 * (HELD_AT_ONCE + matrices * len(kpoints)),
        f"diagonalising dense matrices of {rows} orbitals at {len(kpoints)} k-points",
        "take a smaller basis, a smaller cell or fewer k-points",
        overlap.layout.device,
    )


def _all(shares: Any, method: str, *arguments: Any) -> list[Any]:
    """The answers of all shares; other processes work at the same time."""
    return _answers([s.ask(method, *arguments) for s in shares])


def _each(shares: Any, sizes: list[int], method: str, x: tuple[Tensor, ...], *arguments: Any) -> list[Any]:
    """As `_all`, with tensors x [s, k, ...] of which each share gets its own k."""
    parts = list(zip(*(t.split(sizes, 1) for t in x), strict=True))
    return _answers([s.ask(method, *part, *arguments) for s, part in zip(shares, parts, strict=True)])


def _answers(asked: list[Callable[[], Any]]) -> list[Any]:
    """All answers are heard, also where one of them is an error, so that no other call takes them for its own."""
    answers: list[Any] = []
    for answer in asked:
        try:
            answers.append(answer())
        except NearsightError as error:
            answers.append(error)
    for found in answers:
        if isinstance(found, NearsightError):
            raise found
    return answers


@dataclass(frozen=True, eq=False, repr=False)
class DenseElectrons(Electrons):
    """Levels and states at all k-points. solved: the states, by share."""

    hamiltonian: BlockMatrix
    levels: Levels
    kpoints: KPoints
    solved: tuple[Solved | RemoteSolved, ...]

    __repr__ = one_line

    @cached_property
    def density_matrix(self) -> BlockMatrix:  # type: ignore[override]
        """D_ij(R) = sum_k w_k g exp(-2 pi i k.R) sum_n f_n C_in C*_jn, over the whole zone."""
        return self._of_levels(self.levels.electrons)

    @cached_property
    def energy_weighted(self) -> BlockMatrix:
        """W_ij(R) = sum_k w_k g exp(-2 pi i k.R) sum_n f_n e_n C_in C*_jn, over the whole zone [Ha]."""
        return self._of_levels(self.levels.electrons * self.levels.energies)

    @property
    def entropy_term(self) -> Tensor:  # type: ignore[override]
        """T S [Ha]."""
        return self.levels.entropy_term

    @property
    def fermi_level(self) -> Tensor:  # type: ignore[override]
        """mu [Ha]; the higher one where each spin has its own."""
        return self.levels.fermi_level.max()

    @property
    def coefficients(self) -> Tensor:
        """C [s, k, n, n] of all k-points, in their order."""
        return torch.cat(_all(self.solved, "coefficients"), 1)

    def response(self) -> DenseResponse:
        """chi0 from the states at hand, made ready share by share."""
        levels, m = self.levels, self.levels.filled
        about = (levels.reduced, levels.occupations)
        solved = tuple(_each(self.solved, self._sizes, "with_kernel", about, levels.smearing, levels.kT, m))
        first = min(levels.full, m)
        slope = levels.slopes[..., first:m]
        axes = (1, 2) if levels.fermi_level.ndim else (0, 1, 2)
        total = (levels.weights[None, :, None] * slope).sum(axes)
        g = levels.spin.electrons_per_level
        return DenseResponse(self.kpoints, solved, g, self._of_levels(slope, first), total)

    @property
    def _sizes(self) -> list[int]:
        return [len(s) for s in self.solved]

    def _of_levels(self, x: Tensor, first: int = 0) -> BlockMatrix:
        """sum_k w_k exp(-2 pi i k.R) C diag(x) C^dagger over the whole zone, x [s, k, m] of m levels from `first`."""
        parts = _each(self.solved, self._sizes, "of_levels", (x,), first)
        return self.kpoints.closed(self.hamiltonian.with_values(_sum(parts)))


@dataclass(frozen=True, eq=False)
class DenseResponse:
    """dD = g C [K o (C^dagger dH C)] C^dagger + N Tr[N dH] / Tr[N S], K = (f_i - f_j) / (e_i - e_j).

    The second term is the shift of the Fermi level at fixed number of electrons, that of each spin where its moment is held.
    solved: the states with their kernels.  electrons: of a full level, g.
    at_fermi_level: N = dD/dmu = -g C f' C^dagger.  total: Tr[N S], a number or [s].
    """

    kpoints: KPoints
    solved: tuple[Solved | RemoteSolved, ...]
    electrons: float
    at_fermi_level: BlockMatrix
    total: Tensor

    __repr__ = one_line

    def __call__(self, change: BlockMatrix) -> BlockMatrix:
        """dD of a hermitian dH on the layout of H, both with the symmetry of the k-points."""
        raw = self.electrons * _sum(_all(self.solved, "response", change))
        n = self.at_fermi_level.values
        shared = (n.conj() * change.values).real if n.is_complex() else n * change.values
        along = shared.sum(1) if self.total.ndim else shared.sum()
        moved = along / torch.where(self.total != 0, self.total, torch.full_like(self.total, 1e-300))
        found = self.kpoints.closed(change.with_values(raw))
        return found.with_values(found.values + (moved[:, None] if moved.ndim else moved) * n)


def _sum(parts: list[Tensor]) -> Tensor:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first

"""The k-points of one process: H(k) C = S(k) C e there, and sums over the states that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from nearsight.core.bloch import BlochSum
from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.spin import Spin
from nearsight.core.threads import each
from nearsight.electrons.eigen import InverseCholeskyFactor, factorise_dense
from nearsight.electrons.smearing import Smearing

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class States:
    """C [s, k, n, n] at some k-points, and what sums over them need.

    real: whether matrices on the layout have real elements.
    kernel: (f_i - f_j) / (e_i - e_j) [s, k, m, n] of the m lowest states, above which none is occupied.
    """

    sums: BlochSum
    weights: Tensor
    spin: Spin
    real: bool
    coefficients: Tensor
    kernel: Tensor | None = None

    __repr__ = one_line

    def of_levels(self, x: Tensor, first: int = 0) -> Tensor:
        """sum_k w_k exp(-2 pi i k.R) C diag(x) C^dagger on the layout [components, size], x [s, k, m] from level `first`."""
        c = self.coefficients[..., first : first + x.shape[-1]]
        return self._on_layout((c * x.to(c.dtype)[..., None, :]) @ c.mH)

    def with_kernel(self, x: Tensor, f: Tensor, smearing: Smearing, kT: float, m: int) -> States:
        """The same with K = df/de of reduced energies x and occupations f, both [s, k, n]."""
        return replace(self, kernel=smearing.divided_difference(x, f, m) / kT)

    def response(self, change: BlockMatrix) -> Tensor:
        """sum_k w_k exp(-2 pi i k.R) C [K o (C^dagger dH C)] C^dagger on the layout [components, size]."""
        assert self.kernel is not None
        m = self.kernel.shape[-2]
        lowest = self.coefficients[..., :m]
        p = self.kernel * (lowest.mH @ change.at(self.sums).to(lowest.dtype) @ self.coefficients)
        p[..., :m] *= 0.5  # the pairs of occupied states come twice below
        half = lowest @ (p @ self.coefficients.mH)  # m n^2 each, m occupied states of n
        return self._on_layout(half + half.mH)

    def _on_layout(self, dense: Tensor) -> Tensor:
        return self.sums.elements(self.spin.from_dense(dense), self.weights, self.real, hermitian=True)


@dataclass(frozen=True, eq=False)
class Solved:
    """The states of one Hamiltonian at the k-points of a share, chunk after chunk."""

    chunks: tuple[States, ...]

    __repr__ = one_line

    def __len__(self) -> int:
        return sum(len(c.weights) for c in self.chunks)

    def ask(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """The answer of a method, when it is called for: other processes are asked first and work meanwhile."""
        return partial(getattr(self, method), *arguments)

    def coefficients(self) -> Tensor:
        """C [s, k, n, n]"""
        return (
            self.chunks[0].coefficients
            if len(self.chunks) == 1
            else torch.cat([c.coefficients for c in self.chunks], 1)
        )

    def of_levels(self, x: Tensor, first: int = 0) -> Tensor:
        """As `States.of_levels`, summed over all k of the share; x [s, k, m]."""
        parts = tuple(zip(self.chunks, self._split(x), strict=True))
        return _sum(_each(lambda part: part[0].of_levels(part[1], first), parts, x.device))

    def with_kernel(self, x: Tensor, f: Tensor, smearing: Smearing, kT: float, m: int) -> Solved:
        """As `States.with_kernel`; x, f [s, k, n]."""
        parts = tuple(zip(self.chunks, self._split(x), self._split(f), strict=True))
        return Solved(tuple(_each(lambda part: part[0].with_kernel(*part[1:], smearing, kT, m), parts, x.device)))

    def response(self, change: BlockMatrix) -> Tensor:
        """As `States.response`, summed over all k of the share."""
        return _sum(_each(lambda c: c.response(change), self.chunks, change.values.device))

    def _split(self, x: Tensor) -> Sequence[Tensor]:
        return x.split([len(c.weights) for c in self.chunks], 1)


def _each(work: Callable[[Any], Result], pieces: Sequence[Any], device: torch.device) -> list[Result]:
    """The work on chunks of k-points, shared among the threads of a CPU."""
    return each(work, pieces) if device.type == "cpu" else [work(piece) for piece in pieces]


def _sum(parts: Any) -> Tensor:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


@dataclass(frozen=True, eq=False)
class Share:
    """The k-points of one process, in chunks that are done together, with the factors of S there."""

    sums: tuple[BlochSum, ...]
    weights: tuple[Tensor, ...]
    factors: tuple[InverseCholeskyFactor, ...]

    __repr__ = one_line

    @staticmethod
    def of(overlap: BlockMatrix, k: Tensor, weights: Tensor, chunk: int) -> Share:
        """k [k, 3] in chunks of so many points, fewer where threads share them. Raises NearsightError for linearly dependent
        orbitals."""
        if overlap.values.device.type == "cpu":
            chunk = min(chunk, -(-len(k) // torch.get_num_threads()))
        sums = tuple(BlochSum.at(overlap.layout, part) for part in k.split(chunk))
        factors = tuple(factorise_dense(overlap.at(s)[0], s.k) for s in sums)
        return Share(sums, tuple(weights.split(chunk)), factors)

    def __len__(self) -> int:
        return sum(len(w) for w in self.weights)

    def ask(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """As `Solved.ask`."""
        return partial(getattr(self, method), *arguments)

    def solve(self, hamiltonian: BlockMatrix) -> tuple[Tensor, Solved]:
        """Energies [s, k, n] and states. Raises BadInput for an H that is not finite."""

        def of_chunk(part: tuple[BlochSum, Tensor, InverseCholeskyFactor]) -> tuple[Tensor, States]:
            sums, weights, factor = part
            if hamiltonian.layout is not sums.layout:
                sums = BlochSum.at(hamiltonian.layout, sums.k)
            e, c = factor.solve(hamiltonian.at(sums))
            return e, States(sums, weights, hamiltonian.spin, not hamiltonian.values.is_complex(), c)

        parts = tuple(zip(self.sums, self.weights, self.factors, strict=True))
        energies, chunks = zip(*_each(of_chunk, parts, hamiltonian.values.device), strict=True)
        return torch.cat(energies, 1), Solved(chunks)

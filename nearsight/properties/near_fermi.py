"""Levels about the Fermi level of systems too large for dense matrices; and who takes dense ones, who sparse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.memory import available
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.sparse.levels import MOST_STATES, SparseLevels
from nearsight.electrons.sparse.pardiso import library
from nearsight.properties.brillouin import Thermal, fermi_energy, sampling
from nearsight.properties.contract import SILENT, Progress

Solver = Literal["auto", "dense", "sparse"]
DENSE_ROWS = 3000  # of H(k), from which 50 states of the sparse solver cost less than all of the dense one
HELD = 6 * 16  # bytes for each element of H(k) that dense diagonalisation takes
STATES = 50
FEW = 16  # with which the search for the Fermi level begins
TAILS = 12  # k_B T: beyond, levels count as full or empty (6e-6 each)


def solver_for(hamiltonian: BlockMatrix, told: Solver = "auto") -> Literal["dense", "sparse"]:
    """dense where that is cheaper and fits, or MKL is not there; sparse elsewhere."""
    if told != "auto":
        return told
    rows = hamiltonian.basis.size * hamiltonian.spin.size_factor
    large = rows > DENSE_ROWS or HELD * rows**2 > available(hamiltonian.values.device)
    return "sparse" if large and library() is not None else "dense"


def around(filled: Sequence[int], states: int, rows: int) -> tuple[int, ...]:
    """First of so many levels about the highest filled one, of each spin; rows: levels of each spin.  filled: how many are."""
    return tuple(min(max(0, n - states // 2), rows - states) for n in filled)


@dataclass(frozen=True, eq=False)
class NearFermi:
    """The sparse problem of a calculation, with its Fermi level [Ha] and how many levels of each spin are below it at Gamma."""

    levels: SparseLevels
    fermi_level: float
    filled: tuple[int, ...]

    __repr__ = one_line

    @staticmethod
    def of(
        calculation: Calculation, electrons: float | None, spacing: float, smearing: float, progress: Progress = SILENT
    ) -> NearFermi:
        """The Fermi level is the calculation's; else that of its electrons, on a k-mesh of a spacing [1/angstrom], Fermi and
        Dirac's with a width [Ha].

        Raises MissingData where neither is known, NearsightError as the sparse solver does.
        """
        c, gamma = calculation, torch.zeros(3, dtype=torch.float64)
        hamiltonian = c.require_hamiltonian()
        solver = SparseLevels(hamiltonian, c.require_overlap())
        fermi = c.fermi_level
        if fermi is None:
            if electrons is None:
                raise MissingData(
                    "neither the Fermi level nor the number of electrons is known: add `occupation` to info.json"
                )
            progress.stage("Fermi level")
            fermi = _fermi_level(c, solver, electrons, spacing, smearing, progress)
        filled = tuple(solver.count(fermi, gamma, s) for s in range(solver.spins))
        return NearFermi(solver, fermi, filled)

    def first(self, states: int, k: Tensor | None = None) -> tuple[int, ...]:
        """First of so many levels about the Fermi level at k [3], of each spin; None: at Gamma.

        Raises BadInput for more than there are.
        """
        if not 0 < states <= min(MOST_STATES, self.levels.rows):
            most = min(MOST_STATES, self.levels.rows)
            raise BadInput(f"--states {states}: give from 1 to {most}, or a solver of all states (--solver dense)")
        filled = self.filled
        if k is not None and bool((k != 0).any()):
            filled = tuple(self.levels.count(self.fermi_level, k, s) for s in range(self.levels.spins))
        return around(filled, states, self.levels.rows)

    def inside(self, window_ev: tuple[float, float]) -> tuple[tuple[int, ...], int]:
        """First and number of the levels in a window [eV from the Fermi level] at Gamma, with some room for other k.

        Raises BadInput for a window that holds too many.
        """
        gamma = torch.zeros(3, dtype=torch.float64)
        ends = [self.fermi_level + e / HARTREE_EV for e in window_ev]
        counts = [[self.levels.count(e, gamma, s) for e in ends] for s in range(self.levels.spins)]
        states = max(high - low for low, high in counts)
        if states > 0.8 * MOST_STATES:
            raise BadInput(
                f"--window {window_ev[0]:g} {window_ev[1]:g} eV holds {states} states at Gamma, more than the sparse solver "
                f"takes ({MOST_STATES}): take a narrower one, or --states"
            )
        states = min(states + max(4, states // 5), self.levels.rows)
        middle = [(low + high) // 2 for low, high in counts]
        return around(middle, states, self.levels.rows), states

    def covering(
        self, k: Tensor, window_ev: tuple[float, float], progress: Progress = SILENT
    ) -> tuple[Tensor, tuple[int, ...]]:
        """All levels of a window [eV from the Fermi level] at every k, some beyond it, and the first of each spin.

        Raises BadInput for a window that holds too many.
        """
        low, high = (self.fermi_level + e / HARTREE_EV for e in window_ev)
        first, states = self.inside(window_ev)
        rows = self.levels.rows
        most = min(MOST_STATES, rows)
        while True:
            e = self.at(k, first, states, progress)
            under = [n > 0 and float(x[:, 0].max()) > low for n, x in zip(first, e, strict=True)]
            over = [n + states < rows and float(x[:, -1].min()) < high for n, x in zip(first, e, strict=True)]
            if not any(under) and not any(over):
                return e, first
            more = min(2 * max(4, states // 5), most - states)
            if not more:
                raise BadInput(
                    f"--window {window_ev[0]:g} {window_ev[1]:g} eV holds too many states: take a narrower one"
                )
            states += more
            first = tuple(max(0, min(n - more // 2, rows - states)) for n in first)

    def at(self, k: Tensor, first: tuple[int, ...], states: int, progress: Progress = SILENT) -> Tensor:
        """Levels first .. first + states - 1 of each spin at k [k, 3]: [s, k, n], ascending [Ha]."""
        return self.levels.window(k.cpu().double(), first, states, self.fermi_level, progress.advance).energies


def _fermi_level(
    c: Calculation, solver: SparseLevels, electrons: float, spacing: float, smearing: float, progress: Progress
) -> float:
    hamiltonian = c.require_hamiltonian()
    mesh = sampling(c.structure, hamiltonian, None, spacing)
    per_level = hamiltonian.spin.electrons_per_level
    start = solver.zero_temperature(electrons, mesh.k[0])
    filled = [solver.count(start, mesh.k[0], s) for s in range(solver.spins)]
    most = min(MOST_STATES, solver.rows)
    states = min(FEW, most)
    while True:
        first = around(filled, states, solver.rows)
        e = solver.window(mesh.k, first, states, start, progress.advance).energies
        held = electrons - per_level * sum(first)
        if 0 <= held <= per_level * states * solver.spins:
            fermi = fermi_energy(e, Thermal(mesh.weights, smearing), held, per_level)
            far = TAILS * smearing
            below = all(n == 0 or float(e[s, :, 0].max()) < fermi - far for s, n in enumerate(first))
            above = all(
                n + states == solver.rows or float(e[s, :, -1].min()) > fermi + far for s, n in enumerate(first)
            )
            if (below and above) or states == most:
                return fermi
            start = fermi
        elif states == most:
            raise BadInput("the Fermi level was not found: its window would hold too many states")
        states = min(2 * states, most)

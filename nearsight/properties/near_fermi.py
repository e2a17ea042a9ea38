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
from nearsight.electrons.sparse.fragments import Fragments
from nearsight.electrons.sparse.levels import SparseLevels
from nearsight.electrons.sparse.nearby import MORE, MOST_STATES
from nearsight.electrons.sparse.pardiso import library
from nearsight.properties.brillouin import Thermal, fermi_energy, sampling
from nearsight.properties.contract import SILENT, Progress

Solver = Literal["auto", "dense", "sparse"]
DENSE_ROWS = 3000  # of H(k), from which 50 states of the sparse solver cost less than all of the dense one
HELD = 6 * 16  # bytes for each element of H(k) that dense diagonalisation takes
STATES = 50
FEW = 16  # by which a window that was too narrow grows
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
    """Where the levels of a k-mesh hold the electrons; all that are neither full nor empty are computed.

    Raises BadInput where these are more than the sparse solver takes.
    """
    hamiltonian = c.require_hamiltonian()
    mesh = sampling(c.structure, hamiltonian, None, spacing)
    per_level = hamiltonian.spin.electrons_per_level
    shape = Fragments.of(solver.problem, c.structure) if solver.rows > DENSE_ROWS else None
    start = solver.zero_temperature(electrons, mesh.k[0], shape=shape)
    first, states, fermi = _partly_filled(solver, mesh.k[0], start, electrons, per_level, smearing)
    if len(mesh.k) > 1:
        states = min(states + max(4, states // 4), MOST_STATES, solver.rows)
        first = tuple(max(0, min(n - states // 10, solver.rows - states)) for n in first)
    far = TAILS * smearing
    while True:
        e = solver.window(mesh.k, first, states, fermi, progress.advance).energies
        held = electrons - per_level * sum(first)
        inside = 0 <= held <= per_level * states * solver.spins
        if inside:
            fermi = fermi_energy(e, Thermal(mesh.weights, smearing), held, per_level)
        low = [n > 0 and (not inside or float(e[s, :, 0].max()) > fermi - far) for s, n in enumerate(first)]
        high = [
            n + states < solver.rows and (not inside or float(e[s, :, -1].min()) < fermi + far)
            for s, n in enumerate(first)
        ]
        if inside and not any(low) and not any(high):
            return fermi
        most = min(MOST_STATES, solver.rows)
        if states == most:
            raise BadInput(
                f"more than {most} levels at a k are neither full nor empty at a smearing of {smearing * HARTREE_EV:g} eV: "
                "give the Fermi level (`fermi_energy_eV` in info.json)"
            )
        more = min(max(FEW, states // 2), most - states)
        share = 0.5 if any(low) == any(high) else float(any(low))
        states += more
        first = tuple(max(0, min(n - round(share * more), solver.rows - states)) for n in first)


def _partly_filled(
    solver: SparseLevels, k: Tensor, start: float, electrons: float, per_level: float, smearing: float
) -> tuple[tuple[int, ...], int, float]:
    """First and number of the levels at one k that are neither full nor empty, and the Fermi level of that k alone."""
    far, fermi = TAILS * smearing, start
    one = Thermal(torch.ones(1, dtype=torch.float64), smearing)
    least = STATES // 2 + MORE  # so that few states need no second proof
    counts = [solver.count(start, k, s) for s in range(solver.spins)]
    missing = round((electrons / per_level - sum(counts)) / solver.spins)
    while True:
        found = [solver.about(start, k, s, fermi - far, fermi + far, least, missing) for s in range(solver.spins)]
        states = max(len(x.energies) for x in found)
        first = tuple(max(0, min(x.first, solver.rows - states)) for x in found)
        held = electrons - per_level * sum(x.first for x in found)
        if not 0 <= held <= per_level * sum(len(x.energies) for x in found):
            return first, min(states, MOST_STATES), fermi
        e = torch.full((len(found), 1, states), 1e3, dtype=torch.float64)  # what is not there stays empty
        for s, x in enumerate(found):
            e[s, 0, : len(x.energies)] = torch.from_numpy(x.energies)
        before, fermi = fermi, fermi_energy(e, one, held, per_level)
        low = min((float(x.energies[0]) for x in found if x.first > 0), default=-1e3)
        high = min((float(x.energies[-1]) for x in found if x.last < solver.rows), default=1e3)
        if (low < fermi - far and high > fermi + far) or fermi == before or states >= MOST_STATES:
            return first, min(states, MOST_STATES), fermi

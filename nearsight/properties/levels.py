"""Levels about the Fermi level at given k-points, with their indices: of any size, by dense or sparse matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.units import HARTREE_EV
from nearsight.properties.contract import SILENT, Options, Progress, Property, Result, option
from nearsight.properties.eigenstates import levels as all_levels
from nearsight.properties.near_fermi import STATES, NearFermi, around, solver_for
from nearsight.properties.spectra import K_SPACING, SMEARING_EV, electrons_of, fermi_level_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LevelsOptions(Options):
    """Where, how many, and by which solver."""

    k: tuple[float, float, float] = option((0.0, 0.0, 0.0), "fractional k-point", unit="K K K")
    states: int | None = option(None, "how many states about the Fermi level (50, or those of --window)", ge=1)
    window: tuple[float, float] | None = option(
        None, "energies from the Fermi level, in place of --states", unit="eV eV"
    )
    solver: Literal["auto", "dense", "sparse"] = option("auto", "dense, sparse, or auto: what fits")


@dataclass(frozen=True, eq=False, repr=False)
class FoundLevels(Result):
    """Levels first .. first + n - 1 of each spin at one k.

    k: fractional [3].  energies: [s, n], ascending [Ha].  first: index of the lowest, from 0, of each spin.
    fermi_level: [Ha].  solver: dense or sparse; of sparse ones the number of levels below both ends was counted.
    """

    k: Tensor
    energies: Tensor
    first: tuple[int, ...]
    fermi_level: float
    solver: str

    __repr__ = one_line

    def to_json(self) -> dict[str, Any]:
        """k, energies [eV], index of the lowest level of each spin, Fermi level [eV]."""
        return {
            "version": self.version,
            "k": self.k.tolist(),
            "solver": self.solver,
            "fermi_energy_eV": self.fermi_level * HARTREE_EV,
            "first_state": list(self.first),
            "energies_eV": (self.energies * HARTREE_EV).tolist(),
        }

    def summary(self) -> list[str]:
        """Solver, Fermi level, and the levels next to it."""
        lines = [
            f"{self.energies.shape[1]} states at k = {' '.join(f'{x:g}' for x in self.k.tolist())}, {self.solver} solver",
            f"Fermi level {self.fermi_level * HARTREE_EV:.4f} eV",
        ]
        for s, first in enumerate(self.first):
            e = (self.energies[s] - self.fermi_level) * HARTREE_EV
            spin = "" if len(self.first) == 1 else (" up", " down")[s]
            n = int((e < 0).sum())
            near = [f"{x:+.4f}" for x in e[max(0, n - 3) : n + 3].tolist()]
            lines.append(f"levels {first} to {first + len(e) - 1}{spin}; next to it: {' '.join(near)} eV")
        return lines

    def draw(self, figure: Figure) -> None:
        """A line for each level."""
        axes = figure.subplots()
        for s, e in enumerate((self.energies - self.fermi_level) * HARTREE_EV):
            axes.hlines(e.numpy(), s, s + 0.8, lw=0.8)
        axes.axhline(0, color="0.55", lw=0.6, ls=":")
        axes.set_xticks([])
        axes.set_ylabel("$E - E_F$ (eV)")


class Levels(Property[LevelsOptions, FoundLevels]):
    """e_n(k) about the Fermi level."""

    name = "levels"
    options = LevelsOptions
    size = (2.4, 4.0)

    def compute(self, calculation: Calculation, options: LevelsOptions, progress: Progress = SILENT) -> FoundLevels:
        """The levels of a calculation at one k. Raises NearsightError: no Hamiltonian, a Fermi level that cannot be known, more
        states than there are."""
        c, k = calculation, torch.tensor(options.k, dtype=torch.float64)
        hamiltonian, overlap = c.require_hamiltonian(), c.require_overlap()
        window = options.window
        if window is not None and (options.states is not None or not window[0] < window[1]):
            raise BadInput("give --states, or --window with the lower energy first")
        if solver_for(hamiltonian, options.solver) == "sparse":
            near = NearFermi.of(c, electrons_of(c), K_SPACING, SMEARING_EV / HARTREE_EV, progress)
            progress.stage("states")
            if window is not None:
                e, first = near.covering(k[None], window, progress)
                return _inside(window, k, e[:, 0], first, near.fermi_level, "sparse")
            states = options.states or min(STATES, near.levels.rows)
            first = near.first(states, k)
            return FoundLevels(k, near.at(k[None], first, states, progress)[:, 0], first, near.fermi_level, "sparse")
        fermi = fermi_level_of(c)
        if fermi is None:
            raise MissingData(
                "neither the Fermi level nor the number of electrons is known: add `occupation` to info.json"
            )
        progress.stage("diagonalising")
        e = all_levels(hamiltonian, overlap, k[None], progress)[:, 0]
        if window is not None:
            return _inside(window, k, e, (0,) * len(e), fermi, "dense")
        n = e.shape[1]
        states = options.states or min(STATES, n)
        if states > n:
            raise BadInput(f"--states {states}: there are {n}")
        first = around((e < fermi).sum(1).tolist(), states, n)
        return FoundLevels(k, _part(e, first, states), first, fermi, "dense")


def _part(e: Tensor, first: tuple[int, ...], states: int) -> Tensor:
    """So many levels of e [s, n] from the first of each spin on [s, states]."""
    return torch.stack([x[a : a + states] for x, a in zip(e, first, strict=True)])


def _inside(
    window: tuple[float, float], k: Tensor, e: Tensor, first: tuple[int, ...], fermi: float, solver: str
) -> FoundLevels:
    """Those of the levels e [s, n] that are in a window [eV from the Fermi level]; one at least, as many of each spin."""
    counts = [[int((x < fermi + end / HARTREE_EV).sum()) for end in window] for x in e]
    states = max(1, *(high - low for low, high in counts))
    begin = tuple(min(low, e.shape[1] - states) for low, _ in counts)
    return FoundLevels(k, _part(e, begin, states), tuple(map(sum, zip(first, begin, strict=True))), fermi, solver)


levels = Levels()

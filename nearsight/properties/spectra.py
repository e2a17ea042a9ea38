"""Band structures, and how much of each state is on which orbitals (fat bands)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import AsCalculation, Calculation
from nearsight.core.display import drawn_by, shortened
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.kpoints import BandPath, band_path, path_in
from nearsight.properties.brillouin import Thermal, fermi_energy, sampling
from nearsight.properties.contract import SILENT, Progress
from nearsight.properties.eigenstates import levels
from nearsight.properties.near_fermi import STATES, NearFermi, Solver, around, solver_for
from nearsight.properties.projections import MULLIKEN, Populations, Projection, states_and_shares
from nearsight.properties.subspace import NearHamiltonian, without_ghosts

K_SPACING = 0.25  # 1/angstrom
SMEARING_EV = 0.025
LABELS = {"GAMMA": "Γ", "SIGMA": "Σ", "DELTA": "Δ", "LAMBDA": "Λ"}


@dataclass(frozen=True, eq=False)
class Bands:
    """Energies e_n(k) along a path.

    path: k-points and distances [1/Bohr].  energies: [s, k, n], Ha, ascending in n; two s are up and down.
    fermi_level: Ha, or None.  names: groups of orbitals; shares: of each in each state [s, k, groups, n], sum 1.
    first: index of the lowest level, from 0, of each spin; empty: all levels are there.
    solver: dense or sparse.  ceiling: up to which levels are those of a prediction, in the span of the states of superposed
    atoms [Ha]; None: all are those of H (`subspace.py`).
    """

    path: BandPath
    energies: Tensor
    fermi_level: float | None = None
    names: tuple[str, ...] = ()
    shares: Tensor | None = None
    first: tuple[int, ...] = ()
    solver: str = "dense"
    ceiling: float | None = None

    _repr_html_ = drawn_by("nearsight.report.notebook:bands")

    def __repr__(self) -> str:
        spins, points, levels = self.energies.shape
        corners = "-".join(name for _, name in self.path.labels)
        return shortened(f"Bands({spins} spin components, {points} k-points, {levels} levels, {corners}", ")")

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Distances [1/Bohr] and names of the path's corners; where two stand at one place, both: `U|K`."""
        places: dict[float, list[str]] = {}
        for index, label in self.path.labels:
            name = LABELS.get(label.split("_")[0], label.split("_")[0]) + "".join(
                f"$_{s}$" for s in label.split("_")[1:]
            )
            names = places.setdefault(round(float(self.path.distance[index]), 9), [])
            if name not in names:
                names.append(name)
        return list(places), ["|".join(names) for names in places.values()]

    def to_json(self) -> dict[str, Any]:
        """Energies and Fermi level [eV], k (fractional), distances [1/Bohr], corners."""
        return {
            "k": self.path.k.tolist(),
            "distance_per_bohr": self.path.distance.tolist(),
            "labels": [[i, name] for i, name in self.path.labels],
            "fermi_energy_eV": None if self.fermi_level is None else self.fermi_level * HARTREE_EV,
            "energies_eV": (self.energies * HARTREE_EV).tolist(),
            "solver": self.solver,
            **({"first_state": list(self.first)} if self.first else {}),
            **({} if self.ceiling is None else {"levels_of_superposed_atoms_from_eV": self.ceiling * HARTREE_EV}),
        } | ({} if self.shares is None else {"projections": list(self.names), "shares": self.shares.tolist()})


def bands(
    hamiltonian: BlockMatrix | AsCalculation,
    overlap: BlockMatrix | None = None,
    path: BandPath | str | None = None,
    fermi_level: float | None = None,
    *,
    points: int | None = None,
    project: str | None = None,
    populations: Populations = MULLIKEN,
    solver: Solver = "auto",
    states: int | None = None,
    window_ev: tuple[float, float] | None = None,
    progress: Progress = SILENT,
) -> Bands:
    """e_n(k) of H(k) c = e S(k) c along a path [Ha], of any spin: of a calculation, a ground state, or of H with S on a path.

    path: None is the standard one (`electrons.kpoints.band_path`), a text the corners to visit, e.g. "GAMMA-M-K".
    points: how many k in all; by default as many as take about a minute.
    project: groups of orbitals whose shares are told too, such as `element,l` (`projections.KEYS`); populations: their rule.
    solver: dense, or sparse (states about the Fermi level of large systems); auto takes what fits.  states: how many of them,
    by default 50, or those in a window [eV from the Fermi level].
    Raises NearsightError where S(k) is not positive definite; for a word of `project` that is not known; for H without S and
    path.
    """
    structure = None
    if not isinstance(hamiltonian, BlockMatrix):
        c = hamiltonian.as_calculation()
        structure = c.structure
        hamiltonian, overlap = c.require_hamiltonian(), c.require_overlap()
        if solver_for(hamiltonian, solver) == "dense":
            c = without_ghosts(c)
            hamiltonian = c.require_hamiltonian()
        else:
            if project is not None:
                raise BadInput(
                    "the sparse solver tells no shares of orbitals yet: leave --project out, or --solver dense"
                )
            return _few_bands(c, path, fermi_level, points, states, window_ev, progress)
        fermi_level = fermi_level_of(c) if fermi_level is None else fermi_level
        if not isinstance(path, BandPath):
            size = hamiltonian.basis.size * hamiltonian.spin.size_factor
            path = band_path(c.structure, points or affordable_points(size), path)
    if overlap is None or not isinstance(path, BandPath):
        raise BadInput("bands of a Hamiltonian need its overlap and a path: bands(H, S, band_path(structure))")
    if project is None:
        found = Bands(path, levels(hamiltonian, overlap, path.k, progress), fermi_level)
    else:
        groups = Projection.of(hamiltonian.basis, hamiltonian.spin, project, structure)
        energies, shares = states_and_shares(hamiltonian, overlap, path.k, groups, populations, progress)
        found = Bands(path, energies, fermi_level, groups.names, shares)
    if isinstance(hamiltonian, NearHamiltonian):
        found = replace(found, ceiling=hamiltonian.ceiling)
    return found if states is None else _cut(found, states)


def _few_bands(
    c: Calculation,
    path: BandPath | str | None,
    fermi_level: float | None,
    points: int | None,
    states: int | None,
    window_ev: tuple[float, float] | None,
    progress: Progress,
) -> Bands:
    known = c if fermi_level is None else replace(c, fermi_level=fermi_level)
    near = NearFermi.of(known, electrons_of(c), K_SPACING, SMEARING_EV / HARTREE_EV, progress)
    if states is None and window_ev is not None:
        first, states = near.inside(window_ev)
    else:
        states = min(STATES, near.levels.rows) if states is None else states
        first = near.first(states)
    if not isinstance(path, BandPath):
        path = band_path(c.structure, points or max(8, min(60, 400_000 // near.levels.rows)), path)
    progress.stage(f"{states} states at each k")
    return Bands(path, near.at(path.k, first, states, progress), near.fermi_level, first=first, solver="sparse")


def _cut(found: Bands, states: int) -> Bands:
    """The states about the Fermi level, of all. Raises BadInput where it is not known, or for more than there are."""
    n = found.energies.shape[2]
    if found.fermi_level is None:
        raise MissingData("the Fermi level is not known, so that no states are near it: add `occupation` to info.json")
    if not 0 < states <= n:
        raise BadInput(f"--states {states}: give from 1 to {n}")
    first = around((found.energies[:, 0] < found.fermi_level).sum(1).tolist(), states, n)

    def part(of_states: Tensor) -> Tensor:
        return torch.stack([x[..., a : a + states] for x, a in zip(of_states, first, strict=True)])

    shares = None if found.shares is None else part(found.shares)
    return replace(found, energies=part(found.energies), shares=shares, first=first)


def bands_together(
    calculations: Sequence[AsCalculation],
    path: str | None = None,
    points: int | None = None,
    fold: bool = False,
    progress: Progress = SILENT,
    **words: Any,
) -> list[Bands]:
    """The bands of several calculations along one path, to be drawn over each other: that of the first.

    path, points: as of `bands`.  fold: whether one may be a supercell of another; k is the same in space then, and each level
    of the primitive cell is one of the supercell (`electrons.kpoints.path_in`).  words: further ones of `bands`.
    Raises BadInput for cells that have no path in common, and as `bands`.
    """
    first, *others = (c.as_calculation() for c in calculations)
    found = [bands(first, path=path, points=points, progress=progress, **words)]
    for c in others:
        shared = path_in(found[0].path, first.structure, c.structure, fold)
        found.append(bands(c, path=shared, progress=progress, **words))
    return found


def electrons_of(calculation: Calculation) -> float | None:
    """Electrons in the cell as the calculation tells them, else Tr[D S] rounded to a hundredth; None where neither is there."""
    c = calculation
    if c.electrons is not None or c.density_matrix is None:
        return c.electrons
    overlap = c.require_overlap()
    return round(float(c.density_matrix.on(overlap.layout).trace(overlap)), 2)


def fermi_level_of(calculation: Calculation) -> float | None:
    """[Ha], as the calculation tells it; else from its number of electrons, on a k-mesh with steps of 0.25 / angstrom and
    k_B T = 0.025 eV, as `scf` has them by default; None if that number is not known."""
    c = calculation
    electrons = electrons_of(c)
    if c.fermi_level is not None or electrons is None or c.hamiltonian is None:
        return c.fermi_level
    kind = c.hamiltonian.spin
    if solver_for(c.hamiltonian) == "sparse":
        return NearFermi.of(c, electrons, K_SPACING, SMEARING_EV / HARTREE_EV).fermi_level
    k = sampling(c.structure, c.hamiltonian, None, K_SPACING)
    e = levels(c.hamiltonian, c.require_overlap(), k.k)
    spread = Thermal(k.weights, SMEARING_EV / HARTREE_EV)
    return fermi_energy(e, spread, electrons, kind.electrons_per_level)


def affordable_points(orbitals: int) -> int:
    """k-points on a path that keep the n^3 work of diagonalisation below a minute: between 24 and 120."""
    return max(24, min(120, int(2.5e9 / orbitals**3)))

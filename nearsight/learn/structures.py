"""Structures for the energy functional: no labels are needed, and where there are any they serve validation alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput, MissingData, NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import NONE
from nearsight.core.structure import Structure
from nearsight.core.tables import merged
from nearsight.dft.dielectric import Screening
from nearsight.dft.problem import Problem
from nearsight.dft.settings import Settings, differing
from nearsight.formats.registry import find, read, read_structure
from nearsight.formats.structures import check_structure
from nearsight.integrals.two_center import matrix_layout, overlap
from nearsight.learn.energy import ProblemCache
from nearsight.learn.reference import recorded_settings


@dataclass(frozen=True)
class Copies:
    """Random displacements of structures: count of each, sigma of every coordinate [Bohr], cut at 2.5 sigma."""

    count: int
    sigma: float
    seed: int = 0

    def copy(self, structure: Structure, index: int, name: str) -> Structure:
        """A function of (seed, index) alone. Raises NearsightError where atoms come too close."""
        random = np.random.default_rng([self.seed, index])
        steps = self.sigma * np.clip(random.normal(size=(len(structure), 3)), -2.5, 2.5)
        moved = replace(structure, positions=structure.positions + torch.from_numpy(steps))
        return check_structure(moved, name)


class StructureData:
    """Structures with their functionals, by index.

    paths: calculation folders, folders with a POSCAR, or frames of structure files.  settings: of all functionals; those in
    `given`, which the user chose, hold against what a folder records of itself.  problems: the functionals.
    delta: the network gives H - H0.  labelled: the folders' Hamiltonians are targets.  copies: distorted ones of each
    structure, which follow all others.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: Settings,
        given: Settings,
        problems: ProblemCache,
        delta: bool,
        labelled: bool = False,
        vacuum: float | None = None,
        copies: Copies | None = None,
    ) -> None:
        self.shared, self.given, self.problems = settings, given, problems
        self.delta, self.labelled, self.vacuum, self.copies = delta, labelled, vacuum, copies
        count = 1 + (copies.count if copies else 0)
        self.sources = tuple((p, n) for n in range(count) for p in paths)
        self._structures: dict[int, Structure] = {}
        self._offsets: dict[int, Tensor] = {}
        self._settings: dict[int, Settings] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def name(self, index: int) -> str:
        path, copy = self.sources[index]
        return f"{path}, copy {copy}" if copy else str(path)

    def structure(self, index: int) -> Structure:
        """Raises NearsightError for one that cannot be computed."""
        if index not in self._structures:
            path, copy = self.sources[index]
            structure = read_structure(path, self.vacuum)
            if copy and self.copies:
                structure = self.copies.copy(structure, index, self.name(index))
            self._structures[index] = structure
        return self._structures[index]

    def layout(self, index: int) -> BlockLayout:
        """The pairs of the DFT engine."""
        structure = self.structure(index)
        return matrix_layout(structure, self._species(structure))

    def overlap(self, index: int) -> Tensor | None:
        if not self.labelled:
            return None
        structure = self.structure(index)
        return overlap(structure, self._species(structure), self.layout(index)).values[0]

    def target(self, index: int) -> Tensor | None:
        if not self.labelled:
            return None
        label = self.label(index)
        if label is None:
            raise MissingData(f"{self.name(index)} has no hamiltonian.h5: there is nothing to learn from it")
        return label.values[0] - self.offset(index)

    def settings(self, index: int) -> Settings:
        """Of this structure: what all share, and what its folder records of its own cell."""
        if index not in self._settings:
            self._settings[index] = self._own_settings(index)
        return self._settings[index]

    def _own_settings(self, index: int) -> Settings:
        recorded = self._recorded(index)
        own = recorded.of_one_cell
        own["electrons"] = {k: v for k, v in own["electrons"].items() if k == "charge_e"}  # networks have no spin yet
        if self.shared.mesh.cutoff_ry != recorded.mesh.cutoff_ry:
            own["mesh"] = {}
        return self.shared.model_copy(update=merged(own, self.given.of_one_cell))

    def problem(self, index: int) -> Problem:
        """The functional, built or remembered. Raises NearsightError where there is none (linearly dependent orbitals)."""
        return self.problems(self.sources[index], self.structure(index), self.settings(index))

    def screening(self, index: int) -> Screening:
        """The dielectric operator of the functional."""
        return self.problems.screening(self.sources[index], self.structure(index), self.settings(index))

    def offset(self, index: int) -> Tensor:
        """What is added to the network's elements to give H [size], Ha: H0, or zero."""
        if not self.delta:
            return torch.zeros(1, dtype=torch.float64)
        if index not in self._offsets:
            self._offsets[index] = self.problem(index).functional.initial_hamiltonian().values[0].cpu()
        return self._offsets[index]

    def label(self, index: int) -> BlockMatrix | None:
        """The folder's Hamiltonian [Ha] on the layout, None without one.

        Raises NearsightError for one of another functional, with the difference spelled out.
        """
        path, copy = self.sources[index]
        found = None if copy or not path.exists() or find(path) is None else read(path).hamiltonian
        if found is None:
            return None
        recorded = self._recorded(index)
        ours = self.settings(index)
        wrong = [
            f"{key} {theirs} (folder) against {mine}"
            for key, theirs, mine in (
                *differing(recorded, ours, ("functional", "mesh", "electrons")),
                ("kpoints.mesh", recorded.kpoints.mesh or ours.kpoints.mesh, ours.kpoints.mesh),
                ("kpoints.shift", recorded.kpoints.shift, ours.kpoints.shift),
            )
            if theirs != mine
        ]
        if wrong:
            raise BadInput(
                f"{path} was computed with another functional: {'; '.join(wrong)}. Leave these out of loss.scf, or give "
                "structures without Hamiltonians"
            )
        layout = self.layout(index)
        if found.spin is not NONE:
            raise BadInput(f"{path} is spinful: networks for spin are not available yet")
        if not found.basis.same_as(layout.basis):
            raise BadInput(f"{path} was computed with another basis: give its orbitals as data.species")
        return found.on(layout)

    def without(self, broken: Mapping[int, str]) -> StructureData:
        """The same data without some structures."""
        same = (self.shared, self.given, self.problems, self.delta, self.labelled, self.vacuum, self.copies)
        rest = StructureData((), *same)
        rest.sources = tuple(s for k, s in enumerate(self.sources) if k not in broken)
        return rest

    def broken(self) -> dict[int, str]:
        """Structures that cannot be computed, with the reason: found without computing anything."""
        found = {}
        for k in range(len(self)):
            try:
                self.layout(k)
            except NearsightError as error:
                found[k] = str(error)
        return found

    def _species(self, structure: Structure) -> dict[int, Species]:
        missing = {z for z in structure.numbers.tolist() if z not in self.problems.species}
        if missing:
            raise MissingData(f"no orbitals for atomic number {min(missing)}: data.species must hold every element")
        return {z: self.problems.species[z] for z in sorted(set(structure.numbers.tolist()))}

    def _recorded(self, index: int) -> Settings:
        """What the folder says of its structure; of a file, or a folder that says nothing, what all share."""
        path, _ = self.sources[index]
        return recorded_settings(path) or self.shared


def shared_settings(given: Settings, recorded: Settings | None, model: Settings | None) -> Settings:
    """The functional of a training: what the user gives, else what the samples record, else the model to begin with.

    Raises BadInput for what a network cannot serve.
    """
    tables: list[Mapping[str, Any]] = [] if model is None else [model.of_the_operator]
    if recorded is not None:
        kept = recorded.of_all_cells
        tables.append({**kept, "basis": {k: v for k, v in kept["basis"].items() if k != "species"}})
    settings = Settings(**merged(*tables, given.given))
    if settings.electrons.spin != "none" or settings.electrons.moments_mu_b is not None:
        raise BadInput("loss.scf: networks for spin are not available yet; leave spin and moments out")
    return settings

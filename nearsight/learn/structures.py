"""Structures for the energy functional: no labels are needed, and where there are any they serve validation alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, MissingData, NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import NONE
from nearsight.core.structure import Structure
from nearsight.core.tables import merged
from nearsight.dft.dielectric import Screening
from nearsight.dft.problem import Problem
from nearsight.dft.response import density_response
from nearsight.dft.settings import Settings, differing
from nearsight.formats.registry import find, read, read_structure
from nearsight.formats.structures import check_structure
from nearsight.integrals.two_center import matrix_layout, overlap
from nearsight.learn.data import Source, content, hash_of, require_ground_state
from nearsight.learn.energy import ProblemCache
from nearsight.learn.reference import recorded_settings
from nearsight.models.contract import HamiltonianModel
from nearsight.models.targets import Inputs, Prediction


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
    labelled: the folders' Hamiltonians are labels.  copies: distorted ones of each structure, which follow all others.
    looked_at: Hamiltonians are what predictions are validated by.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: Settings,
        given: Settings,
        problems: ProblemCache,
        labelled: bool = False,
        vacuum: float | None = None,
        copies: Copies | None = None,
        looked_at: bool = False,
    ) -> None:
        self.shared, self.given, self.problems = settings, given, problems
        self.labelled, self.vacuum, self.copies, self.looked_at = labelled, vacuum, copies, looked_at
        count = 1 + (copies.count if copies else 0)
        self.sources = tuple((p, n) for n in range(count) for p in paths)
        self._structures: dict[int, Structure] = {}
        self._initial: dict[int, Tensor] = {}
        self._responses: dict[int, Tensor] = {}
        self._digests: dict[int, str] = {}
        self._settings: dict[int, Settings] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def name(self, index: int) -> str:
        """For messages: the path, and which copy."""
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

    def source(self, index: int, model: HamiltonianModel) -> Source:
        """What the store of samples is given. Raises NearsightError for a folder that should have a label and has none."""
        names = model.needs | (model.target.needs if self.labelled else frozenset())
        calculation = None
        if self.labelled:
            label = self.label(index)
            if label is None:
                raise MissingData(f"{self.name(index)} has no hamiltonian.h5: there is nothing to learn from it")
            calculation = self.calculation(index, label, names)
        return Source(self.structure(index), self.layout(index), self.inputs(index, names), calculation)

    def job(self, index: int, model: HamiltonianModel) -> Callable[[], Source]:
        """The source itself: functionals stay in this process."""
        return partial(_given, self.source(index, model))

    def digest(self, index: int, model: HamiltonianModel) -> str:
        """Of the structure and its pairs, and of labels and inputs where there are any."""
        if index not in self._digests:
            if self.labelled or model.needs:
                found = self.source(index, model)
                matrices = [] if found.calculation is None else [found.calculation.require_hamiltonian()]
                h0 = found.inputs.initial_hamiltonian
                offset = "" if h0 is None else hash_of(h0)
                self._digests[index] = f"{content(found.structure, found.layout, *matrices)} {offset}"
            else:
                self._digests[index] = content(self.structure(index), self.layout(index))
        return f"{self._digests[index]} {model.target.name} {sorted(model.needs)}"

    def content(self, index: int) -> str:
        """Digest of the structure, its pairs, and its label where there is one that is looked at."""
        label = self.label(index) if self.looked_at or self.labelled else None
        return content(self.structure(index), self.layout(index), *([] if label is None else [label]))

    def calculation(self, index: int, hamiltonian: BlockMatrix, names: frozenset[str] = frozenset()) -> Calculation:
        """The structure with a Hamiltonian on its layout [Ha]; with D of it, where the functional is among the names."""
        structure, layout = self.structure(index), hamiltonian.layout
        s = overlap(structure, self._species(structure), layout)
        density_matrix = None
        if "functional" in names:
            problem = self.problem(index)
            h = hamiltonian.to(problem.functional.layout.device)
            density_matrix = problem.solver.solve(h).density_matrix
        return Calculation(structure, s, hamiltonian, density_matrix)

    def inputs(self, index: int, names: frozenset[str]) -> Inputs:
        """Those named, of the functional. H0 [1, size], Ha."""
        functional = self.problem(index).functional if names & {"overlap", "functional", "response"} else None
        h0 = self._initial_hamiltonian(index) if "initial_hamiltonian" in names else None
        s = functional.overlap.values[0].cpu() if functional is not None and "overlap" in names else None
        response = self._response(index) if "response" in names else None
        return Inputs(s, h0, None, functional if "functional" in names else None, response)

    def matrix(self, index: int, prediction: Prediction) -> Tensor:
        """H [components, size], Ha, float64, of a prediction for one structure, on the CPU."""
        return prediction.matrix(self.inputs(index, prediction.target.needs)).cpu()

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

    def _initial_hamiltonian(self, index: int) -> Tensor:
        if index not in self._initial:
            self._initial[index] = self.problem(index).functional.initial_hamiltonian().values.cpu()
        return self._initial[index]

    def _response(self, index: int) -> Tensor:
        if index not in self._responses:
            self._responses[index] = density_response(self.problem(index)).cpu()
        return self._responses[index].to(self.problem(index).functional.mesh.cell.device)

    def label(self, index: int) -> BlockMatrix | None:
        """The folder's Hamiltonian [Ha] on the layout, None without one.

        Raises NearsightError for one of another functional, with the difference spelled out.
        """
        path, copy = self.sources[index]
        calculation = None if copy or not path.exists() or find(path) is None else read(path)
        found = None if calculation is None else calculation.hamiltonian
        if calculation is None or found is None:
            return None
        require_ground_state(calculation, path)
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
            raise BadInput(
                f"{path} has spin {found.spin}: the energy loss trains networks without spin; take loss blocks"
            )
        if not found.basis.same_as(layout.basis):
            raise BadInput(f"{path} was computed with another basis: give its orbitals as data.species")
        return found.on(layout)

    def without(self, broken: Mapping[int, str]) -> StructureData:
        """The same data without some structures."""
        same = (self.shared, self.given, self.problems, self.labelled, self.vacuum, self.copies, self.looked_at)
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


def _given(source: Source) -> Source:
    return source


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
        raise BadInput(
            "loss.scf: the energy loss trains networks without spin; leave spin and moments out, or take loss blocks"
        )
    return settings

"""What relaxation and dynamics share: how they begin, what they are told, what a calculator's memory is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from pydantic import Field

from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.core.tables import Table
from nearsight.dft.settings import Settings
from nearsight.formats.structures import check_structure, read_atoms
from nearsight.motion.forces import Balanced, named_calculator

NetForce = Literal["removed", "kept"]


class Mover(Table):
    """Whose forces: the settings of our ground states, or an ASE calculator `module:Class` with its keywords."""

    scf: Settings = Settings()
    calculator: str | None = None
    calculator_settings: dict[str, Any] = Field(default_factory=dict)

    def build(self, told: Callable[[int], None] | None = None, atoms: Atoms | None = None) -> Calculator:
        """The calculator.  told: the number of each iteration of a cycle of ours.  atoms: that it is for, if they are known.

        Raises BadInput or Unavailable.
        """
        if self.calculator is not None:
            if self.scf.given:
                raise BadInput(
                    f"calculator {self.calculator} is given with settings of our own ground state: leave one of them out"
                )
            return named_calculator(self.calculator, self.calculator_settings)
        if self.calculator_settings:
            raise BadInput("calculator_settings are given without a calculator: add one, or leave them out")
        from nearsight.calculator import Nearsight
        from nearsight.dft.moments import spin_of
        from nearsight.dft.setup import check_charge

        spin_of(self.scf)  # what contradicts itself is said before there is a folder
        if atoms is not None:
            check_charge(Structure.from_ase(atoms), self.scf)
        listener = None if told is None else (lambda step: told(step.iteration))
        settings = self.scf.model_dump(exclude_unset=True, exclude={"schema_version"})
        return Nearsight(progress=listener, **settings)


@dataclass
class Counter:
    """Iterations of our cycles (mutable): of all, and how many cycles."""

    iterations: int = 0
    cycles: int = 0

    def __call__(self, iteration: int) -> None:
        """One iteration; the first of a cycle has the number 1."""
        self.iterations += 1
        self.cycles += iteration == 1


def begun(structure: Atoms | Structure | Path | str, vacuum: float | None = None) -> tuple[Atoms, str]:
    """The atoms of a run, with their name, sound, free of a calculator. Raises BadInput for what cannot be moved."""
    if isinstance(structure, Path | str):
        return read_atoms(structure, vacuum), str(structure)
    atoms = structure.to_ase() if isinstance(structure, Structure) else structure.copy()
    check_structure(Structure.from_ase(atoms))
    return atoms, atoms.get_chemical_formula()


def held(atoms: Atoms) -> np.ndarray:
    """Which coordinates are held fixed [atoms, 3]. Raises BadInput for another constraint, which would be lost on the disk."""
    from ase.constraints import FixAtoms, FixCartesian

    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms | FixCartesian):
            raise BadInput(f"a constraint of kind {type(constraint).__name__}: FixAtoms and FixCartesian are known")
        fixed[constraint.get_indices()] |= getattr(constraint, "mask", True)  # of FixCartesian: its directions alone
    return fixed


def digest(atoms: Atoms) -> str:
    """sha256 of what a run begins with, coordinates to 1e-9 angstrom."""
    told = [np.round(x, 9).tolist() for x in (atoms.cell.array, atoms.positions)]
    momenta = np.round(atoms.get_momenta(), 9).tolist() if atoms.has("momenta") else None
    constraints = [c.todict() for c in atoms.constraints]
    parts = [told, atoms.numbers.tolist(), momenta, constraints]
    if atoms.has("masses"):
        parts.append(np.round(atoms.get_masses(), 9).tolist())
    return hashlib.sha256(json.dumps(parts, default=lambda x: np.asarray(x).tolist()).encode()).hexdigest()


def memory(calculator: Calculator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What the calculator's next result depends on, where it is ours; of another nothing."""
    found = getattr(calculator, "memory", None)
    return found() if callable(found) else ({}, {})


def recall(calculator: Calculator, arrays: Mapping[str, np.ndarray], table: Mapping[str, Any]) -> None:
    """Give a calculator of ours its memory back."""
    again = getattr(calculator, "recall", None)
    if callable(again) and table:
        again(arrays, table)


def inside(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays under a prefix, by their names without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def free_energy(calculator: Balanced) -> float:
    """What the forces are derivatives of [eV]: the free energy, where the calculator tells it."""
    return float(calculator.results.get("free_energy", calculator.results["energy"]))


def snapshot(atoms: Atoms, calculator: Balanced) -> Atoms:
    """A frame for the trajectory: positions, cell, momenta, and what was computed there."""
    from ase.calculators.singlepoint import SinglePointCalculator

    made = atoms.copy()
    made.set_constraint()
    told = {k: v for k, v in calculator.results.items() if k in ("energy", "free_energy", "forces", "stress")}
    made.calc = SinglePointCalculator(made, **told)
    return made

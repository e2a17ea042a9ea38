"""A calculation: a structure with its matrices, however they were come by. Hartree and Bohr, the project's conventions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import drawn_by
from nearsight.core.errors import MissingData
from nearsight.core.layout import BlockLayout
from nearsight.core.order import reordered_layout
from nearsight.core.species import Species
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.structure import Structure

#: Entries of a record (result.json) that have one value an atom; a record names further ones in its own list `per_atom`.
PER_ATOM = (
    "forces_eV_per_Ang",
    "mulliken_charges",
    "mulliken_moments",
    "magnetic_forces_eV_per_mu_B",
    "config.moments",
    "config.electrons.moments_mu_b",
    "config.electrons.constrain.atoms",
)


class AsCalculation(Protocol):
    """What a property can be computed of: a Calculation, or whatever gives one (a ground state does)."""

    def as_calculation(self) -> Calculation:
        """Itself as a calculation."""


@dataclass(frozen=True)
class Provenance:
    """program, version: that made the numbers.  path: that they were read from.  notes: on conventions that were converted."""

    program: str | None = None
    version: str | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Calculation:
    """A structure with its matrices; whatever is not known is None, or empty.

    overlap: S, spin none.  hamiltonian: H [Ha].  density_matrix: D [electrons].  All on the structure's atoms in its order.
    constrained_hamiltonian: where moments were held, H with the fields that hold them [Ha], whose electrons D and the Fermi
    level are of; `hamiltonian` is dE/dD, without.
    fermi_level: [Ha].  electrons: in the cell.  moments: of each atom, [atoms] along one axis or vectors [atoms, 3] [mu_B].
    energies: by term [Ha], with `total` where it is known.  forces: [atoms, 3], Ha/Bohr.  stress: [3, 3], Ha/Bohr^3.
    converged: whether self-consistency was reached.  settings: what was recorded of the configuration.
    species: orbitals and pseudopotentials by atomic number, mesh: points of the real-space mesh, of a calculation that has
    them at hand, so that they need not be made again by the settings; no file holds them.
    atom_order: the index that each atom had before a format put the atoms in its own order; None where they stand as given.
    result: the raw record, in the units of its keys (result.json of a calculation folder).
    """

    structure: Structure
    overlap: BlockMatrix | None = None
    hamiltonian: BlockMatrix | None = None
    density_matrix: BlockMatrix | None = None
    constrained_hamiltonian: BlockMatrix | None = None
    fermi_level: float | None = None
    electrons: float | None = None
    moments: Tensor | None = None
    energies: Mapping[str, float] = field(default_factory=dict)
    forces: Tensor | None = None
    stress: Tensor | None = None
    converged: bool | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    species: Mapping[int, Species] = field(default_factory=dict)
    mesh: tuple[int, int, int] | None = None
    provenance: Provenance = Provenance()
    atom_order: tuple[int, ...] | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    def as_calculation(self) -> Calculation:
        """Itself: see AsCalculation."""
        return self

    @property
    def matrices(self) -> dict[str, BlockMatrix]:
        """Those that are there, by the names of their fields."""
        names = ("overlap", "hamiltonian", "density_matrix", "constrained_hamiltonian")
        return {name: m for name in names if (m := getattr(self, name)) is not None}

    @property
    def spin(self) -> Spin:
        """The richest of the matrices' spins; without H and D as the moments tell."""
        if self.hamiltonian is None and self.density_matrix is None and self.moments is not None:
            return SPINOR if self.moments.ndim == 2 else COLLINEAR
        return max((m.spin for m in self.matrices.values()), key=lambda s: s.components, default=NONE)

    @property
    def basis(self) -> Basis:
        """The orbitals. Raises MissingData for a calculation without any matrix."""
        for matrix in self.matrices.values():
            return matrix.basis
        raise MissingData(f"{self.name} has no matrices, so its orbitals are not known: compute it (scf) or predict it")

    @property
    def name(self) -> str:
        """Where it was read from, else its formula: how messages call it."""
        return self.structure.formula if self.provenance.path is None else str(self.provenance.path)

    def require_hamiltonian(self) -> BlockMatrix:
        """H [Ha]. Raises MissingData where there is none."""
        if self.hamiltonian is None:
            raise MissingData(f"{self.name} has no Hamiltonian: compute it (scf) or predict it (predict) first")
        return self.hamiltonian

    def require_overlap(self) -> BlockMatrix:
        """S. Raises MissingData where there is none."""
        if self.overlap is None:
            raise MissingData(
                f"{self.name} has no overlap: compute it (scf) or predict it (predict), or add overlap.h5"
            )
        return self.overlap

    def require_density_matrix(self) -> BlockMatrix:
        """D [electrons]. Raises MissingData where there is none."""
        if self.density_matrix is None:
            raise MissingData(f"{self.name} has no density matrix: it needs a ground state (scf), not a prediction")
        return self.density_matrix

    def require_electrons(self) -> float:
        """The number of electrons in the cell. Raises MissingData where it is not known."""
        if self.electrons is None:
            raise MissingData(f"{self.name} does not say how many electrons it has: add `occupation` to its info.json")
        return self.electrons

    def reordered(self, order: Sequence[int]) -> Calculation:
        """The calculation whose atom n is atom order[n] of this one, in everything that has one value an atom."""
        before = self.atom_order or tuple(range(len(self.structure)))
        now = tuple(before[n] for n in order)
        if list(order) == list(range(len(order))):
            return self
        known: dict[int, tuple[BlockLayout, Tensor]] = {}  # matrices of one layout keep sharing one
        matrices: dict[str, Any] = {}
        for name, m in self.matrices.items():
            if id(m.layout) not in known:
                known[id(m.layout)] = reordered_layout(m.layout, order)
            layout, index = known[id(m.layout)]
            matrices[name] = BlockMatrix(layout, m.values[:, index], m.spin)
        return replace(
            self,
            structure=self.structure.reordered(order),
            **matrices,
            moments=None if self.moments is None else self.moments[list(order)],
            forces=None if self.forces is None else self.forces[list(order)],
            atom_order=None if now == tuple(range(len(now))) else now,
            result=reordered_record(self.result, order),
        )

    def in_original_order(self) -> Calculation:
        """The calculation with its atoms as they stood before a format put them in its own order."""
        if self.atom_order is None:
            return self
        return self.reordered(torch.argsort(torch.tensor(self.atom_order)).tolist())

    _repr_html_ = drawn_by("nearsight.report.notebook:calculation")

    def __repr__(self) -> str:
        letters = {"overlap": "S", "hamiltonian": "H", "density_matrix": "D", "constrained_hamiltonian": "H+B"}
        held = " ".join(letters[name] for name in self.matrices)
        orbitals = f", {self.basis.size} orbitals, spin {self.spin!r}" if held else ""
        place = "" if self.provenance.path is None else f", from {self.provenance.path.name}"
        return f"Calculation({self.structure.formula}{orbitals}, {held or 'no matrices'}{place})"


def reordered_record(
    record: Mapping[str, Any], order: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """A copy of a record in which every entry that has one value an atom is in another order.

    names: of these entries, with dots for tables in tables; None: PER_ATOM and those that the record lists in `per_atom`.
    """
    result = copy.deepcopy(dict(record))
    for name in dict.fromkeys((*PER_ATOM, *record.get("per_atom", ())) if names is None else names):
        *tables, key = name.split(".")
        inside: Any = result
        for table in tables:
            inside = inside.get(table) if isinstance(inside, dict) else None
        values = inside.get(key) if isinstance(inside, dict) else None
        if isinstance(values, list | tuple) and len(values) == len(order):
            inside[key] = [values[n] for n in order]
    return result

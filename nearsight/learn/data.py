"""Training data: what each structure brings: atoms, pairs, inputs, labels. Folders are read once."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData, NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.reading import read_text
from nearsight.core.spin import Spin, spin
from nearsight.core.spin_parts import as_vectors
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.two_centre import S_AXIAL, axial_violation
from nearsight.dft.response import density_response
from nearsight.formats.files import whole_file
from nearsight.formats.registry import read
from nearsight.formats.seal import KEY, is_whole, sealed
from nearsight.formats.sets.pack import packed
from nearsight.learn.domain import element_pairs
from nearsight.learn.origin import Origin
from nearsight.learn.reference import OrbitalReference
from nearsight.models.contract import HamiltonianModel
from nearsight.models.targets import Inputs


@dataclass(frozen=True, eq=False)
class Source:
    """What a sample is made of.

    layout: pairs on which the model gives elements.  inputs: those that the model needs.  calculation: with the
    Hamiltonian that labels are made of; None without one.
    """

    structure: Structure
    layout: BlockLayout
    inputs: Inputs
    calculation: Calculation | None

    __repr__ = one_line


class TrainingData(Protocol):
    """What a store of samples asks of a data set, by index."""

    def __len__(self) -> int: ...

    def source(self, index: int, model: HamiltonianModel) -> Source:
        """What a sample of the model is made of. Raises NearsightError where there is none."""

    def job(self, index: int, model: HamiltonianModel) -> Callable[[], Source]:
        """`source` as a function that another process can be given."""

    def digest(self, index: int, model: HamiltonianModel) -> str:
        """Of all that the source holds: the same for the same content, wherever it lies."""


#: inputs that are made of the orbitals
OF_ORBITALS = frozenset({"initial_hamiltonian", "functional", "response"})


class Reference(Protocol):
    """The orbitals behind a data set (reference.py)."""

    def initial_hamiltonian(self, structure: Structure) -> BlockMatrix:
        """H0 [Ha] of superposed atomic densities."""

    def problem_of(self, found: Calculation) -> tuple[Any, Calculation]:
        """The problem of a calculation's structure, and the calculation with the density matrix of its Hamiltonian."""


@dataclass(frozen=True)
class Survey:
    """What a training must know of a folder before it makes samples.

    digest: of structure, matrices and moments.  shells: angular momenta of each element's shells.  reach: longest distance of a
    pair [Bohr].  spin: of the Hamiltonian.  pairs: of elements, with the longest distance of a block of theirs [Bohr].
    origin: how the folder says that it was made.
    """

    digest: str
    structure: Structure
    spin: str
    shells: dict[int, tuple[int, ...]]
    reach: float
    pairs: dict[tuple[int, int], float]
    origin: Origin

    def note(self) -> str:
        """As text, to the last bit."""
        s = self.structure
        atoms = {"cell": s.cell.tolist(), "positions": s.positions.tolist(), "numbers": s.numbers.tolist()}
        table = {"digest": self.digest, "spin": self.spin, "shells": self.shells, "reach": self.reach}
        pairs = [[*zz, r] for zz, r in self.pairs.items()]
        return json.dumps(sealed({"structure": atoms, **table, "pairs": pairs, "origin": self.origin.table()}))

    @staticmethod
    def of_note(text: str) -> Survey:
        """Raises KeyError, TypeError or ValueError for what is none."""
        known = json.loads(text)
        if KEY not in known or not is_whole(known):
            raise ValueError("no note, or one that was altered")
        atoms = known["structure"]
        cell, positions = (torch.tensor(atoms[k], dtype=torch.float64) for k in ("cell", "positions"))
        structure = Structure(cell, positions, torch.tensor(atoms["numbers"]))
        shells = {int(z): tuple(s) for z, s in known["shells"].items()}
        pairs = {(int(a), int(b)): float(r) for a, b, r in known["pairs"]}
        origin = Origin(**known["origin"])
        return Survey(known["digest"], structure, known["spin"], shells, known["reach"], pairs, origin)


@dataclass
class Reader:
    """Calculations with Hamiltonians, from their folders (mutable: it remembers those read last).

    limit: bytes that it may remember.  notes: folder in which surveys are kept; None keeps none.
    """

    limit: float = 0.0
    notes: Path | None = None
    _kept: OrderedDict[Path, Calculation] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def __call__(self, path: Path) -> Calculation:
        """Raises NearsightError, naming the folder, for one without a sound Hamiltonian."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        found = read_labelled(path)
        self._kept[path] = found
        self._bytes += _nbytes(found)
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= _nbytes(self._kept.popitem(last=False)[1])
        return found

    def remembered(self, path: Path) -> Calculation | None:
        """A calculation that is still in memory, or None: nothing is read."""
        return self._kept.get(path)

    def survey(self, path: Path) -> Survey:
        """Of a folder: noted down from an earlier training, if none of its files has changed since, else read."""
        note = None if self.notes is None else self.notes / f"{_state_of(path)}.json"
        if note is not None and note.exists():
            try:
                return Survey.of_note(read_text(note))
            except (NearsightError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
                pass  # half a note: made anew
        found = survey_of(self(path))
        if note is not None:
            try:
                with whole_file(note) as part:
                    part.write_text(found.note())
            except NearsightError:
                self.notes = None  # a disk that cannot be written to: read again next time
        return found


def read_labelled(path: Path) -> Calculation:
    """A calculation to learn from, by the packed cache of its set where there is one.

    Raises NearsightError, naming the folder, for one without a sound Hamiltonian.
    """
    found = packed(path) or read(path)
    if found.hamiltonian is None:
        raise MissingData(f"{path} has no hamiltonian.h5: there is nothing to learn from it")
    for name, matrix in (("Hamiltonian", found.hamiltonian), ("overlap", found.require_overlap())):
        if not bool(torch.isfinite(torch.view_as_real(v) if (v := matrix.values).is_complex() else v).all()):
            raise BadInput(f"{path}: its {name} holds entries that are not finite: leave this folder out of the data")
    # Of a run of ours alone: what others write, or invent, need not be an overlap of atomic orbitals.
    broken = axial_violation(found.require_overlap(), found.structure) if found.settings else None
    if broken is not None and broken > S_AXIAL:
        raise BadInput(
            f"{path}: its overlap is of other places of its atoms, or of another order of orbitals ({broken:.2f} of it does "
            "not follow the lines that join them; `nearsight check` looks for what mends it): leave this folder out of the data"
        )
    require_ground_state(found, path)
    return found


def require_ground_state(found: Calculation, path: Path) -> None:
    """Raises BadInput, naming the folder, for a state that did not converge, H0, or the prediction of a network."""
    if found.converged is False:
        raise BadInput(f"{path} did not converge (result.json): go on with it, or leave this folder out of the data")
    if found.result.get("initial_hamiltonian") is True:
        raise BadInput(
            f"{path} holds H0 of neutral atoms (nearsight overlap --h0), no ground state to learn from: leave it out"
        )
    if found.result.get("prediction"):
        raise BadInput(
            f"{path} is a prediction, no ground state to learn from: compute it, or leave this folder out of the data"
        )


def survey_of(found: Calculation) -> Survey:
    """Of a calculation with a Hamiltonian."""
    layout = found.require_hamiltonian().layout
    reach = float(layout.pairs.vectors(found.structure).norm(dim=1).max())
    shells = {z: tuple(s) for z, s in found.basis.shells.items()}
    matrices = found.require_hamiltonian(), found.require_overlap()
    digest = content(found.structure, layout, *matrices)
    if found.moments is not None:
        digest = hashlib.sha256(f"{digest} {hash_of(found.moments)}".encode()).hexdigest()
    pairs = element_pairs(found.structure, layout)
    return Survey(digest, found.structure, matrices[0].spin.name, shells, reach, pairs, Origin.of(found))


class LabelledData:
    """Structures with Hamiltonians, from folders, each read once as far as the reader remembers.

    reference: the orbitals that H0 is made of, where the model's target needs it; orbitals: their digest.
    """

    def __init__(
        self, folders: Sequence[Path], reader: Reader, reference: Reference | None = None, orbitals: str = ""
    ) -> None:
        self.folders, self.reader, self.reference, self.orbitals = tuple(folders), reader, reference, orbitals
        self._surveys: dict[int, Survey] = {}

    def __len__(self) -> int:
        return len(self.folders)

    def part(self, folders: Sequence[Path], reference: Reference | None, orbitals: str) -> LabelledData:
        """Some of the folders, with what has been found out of them."""
        rest = LabelledData(folders, self.reader, reference, orbitals)
        known = {self.folders[k]: s for k, s in self._surveys.items()}
        rest._surveys = {k: known[p] for k, p in enumerate(rest.folders) if p in known}
        return rest

    def structure(self, index: int) -> Structure:
        """As the survey has it."""
        return self.survey(index).structure

    def calculation(self, index: int) -> Calculation:
        """Raises NearsightError, naming the folder, for one without a sound Hamiltonian."""
        return self.reader(self.folders[index])

    def survey(self, index: int) -> Survey:
        """Of a folder, asked for once. Raises NearsightError, naming it, for one without a sound Hamiltonian."""
        if index not in self._surveys:
            self._surveys[index] = self.reader.survey(self.folders[index])
        return self._surveys[index]

    def check(self, model: HamiltonianModel) -> None:
        """Raises BadInput for a folder of another spin, or of shells that are not the model's."""
        for index, path in enumerate(self.folders):
            found = self.survey(index)
            model.check_spin(spin(found.spin), path)
            for z, shells in found.shells.items():
                if model.shells.get(z) != shells:
                    raise BadInput(
                        f"the model has shells {model.shells.get(z)} for element {SYMBOLS[z]}, the data {shells} ({path})"
                    )

    @property
    def spin(self) -> Spin:
        """Of the Hamiltonians. Raises BadInput, naming two folders, where they have several."""
        first = self.survey(0).spin
        for index, path in enumerate(self.folders):
            found = self.survey(index).spin
            if found != first:
                raise BadInput(
                    f"{self.folders[0]} has spin {first}, {path} spin {found}: one model has one spin; leave one of the sets "
                    "out"
                )
        return spin(first)

    def check_orbitals(self, orbitals: OrbitalReference) -> None:
        """Compare overlaps with those of the orbitals found, for one structure of each folder and way of making it.

        Raises BadInput where they differ: a prediction would get an overlap, and H0, of other orbitals than its Hamiltonian.
        """
        seen = set()
        for index, path in enumerate(self.folders):
            kind = (path.parent, self.survey(index).origin.kind)
            if kind not in seen:
                seen.add(kind)
                orbitals.require_overlap(self.calculation(index), path)

    def source(self, index: int, model: HamiltonianModel) -> Source:
        """Read here and now. Raises NearsightError as `survey`."""
        return self.job(index, model)()

    def job(self, index: int, model: HamiltonianModel) -> Callable[[], Source]:
        """With the calculation itself where it is in memory, else its path; the orbitals only for a model that takes them."""
        known = self.reader.remembered(self.folders[index])
        reference = self.reference if model.inputs & OF_ORBITALS else None
        return partial(_source, self.folders[index], known, reference, model.inputs)

    def digest(self, index: int, model: HamiltonianModel) -> str:
        """Of the folder, and of what the model's target, spin and inputs make of it."""
        orbitals = self.orbitals if model.inputs & OF_ORBITALS else ""
        known = f"{self.survey(index).digest} {model.target.name} {model.spin} {sorted(model.inputs)} {orbitals}"
        if not model.target.of_record:
            return known
        found = self.calculation(index)
        return f"{known} {hash_of(model.labels(found, Inputs(moments=found.moments)))}"

    def shells(
        self, told: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[dict[int, tuple[int, ...]], float]:
        """Orbitals of all elements, and the longest distance of a pair [Bohr]. told: folders done, and all.

        Raises NearsightError for a folder without a sound Hamiltonian, or one whose orbitals are not those of the others.
        """
        known: dict[int, tuple[int, ...]] = {}
        reach = 0.0
        for index, path in enumerate(self.folders):
            told(index, len(self))
            found = self.survey(index)
            for z, shells in found.shells.items():
                if known.setdefault(z, shells) != shells:
                    raise BadInput(
                        f"{path}: {SYMBOLS[z]} has shells {list(shells)}, elsewhere {list(known[z])}; "
                        "one model needs one basis"
                    )
            reach = max(reach, found.reach)
        told(len(self), len(self))
        return known, reach


def _source(path: Path, known: Calculation | None, reference: Reference | None, inputs: frozenset[str]) -> Source:
    found = known or read_labelled(path)
    layout = found.require_hamiltonian().layout
    overlap = found.require_overlap().on(layout).values[0] if "overlap" in inputs else None
    h0 = functional = response = None
    if "initial_hamiltonian" in inputs and reference is not None:
        h0 = reference.initial_hamiltonian(found.structure).on(layout).values
    if inputs & {"functional", "response"} and reference is not None:
        problem, found = reference.problem_of(found)
        functional = problem.functional
        response = density_response(problem) if "response" in inputs else None
    moments = moments_of(found, path) if "moments" in inputs else None
    return Source(found.structure, layout, Inputs(overlap, h0, moments, functional, response), found)


def moments_of(found: Calculation, name: object) -> Tensor:
    """The moment of each atom [atoms, 3], mu_B, of a calculation. Raises MissingData, with its name, where there is none."""
    if found.moments is None:
        raise MissingData(
            f"{name} gives no magnetic moments, and this model needs each atom's (mulliken_moments of result.json, or "
            "magmom.txt of the old layout): compute it with spin, or train kind deeph2"
        )
    return as_vectors(found.moments)


def content(structure: Structure, layout: BlockLayout, *matrices: BlockMatrix) -> str:
    """Digest of a structure, the pairs of a layout, its orbitals, and matrices with theirs."""
    shells = sorted((z, list(s)) for z, s in layout.basis.shells.items())
    digest = hashlib.sha256(json.dumps([shells, [str(m.spin) for m in matrices]]).encode())
    places = [x for y in (layout, *(m.layout for m in matrices)) for x in (y.pairs.i, y.pairs.j, y.pairs.R)]
    for x in (structure.cell, structure.positions, structure.numbers, *places, *(m.values for m in matrices)):
        digest.update(hash_of(x).encode())
    return digest.hexdigest()


def hash_of(x: Tensor) -> str:
    """Digest of a tensor's shape, precision and bytes."""
    array = np.ascontiguousarray(x.detach().cpu().numpy())
    return hashlib.sha256(f"{array.shape} {array.dtype}".encode() + array.tobytes()).hexdigest()


def digest_of_orbitals(reference: OrbitalReference) -> str:
    """Of all that H0 and S depend on: the values of orbitals and potentials, and the settings of the operator."""
    digest = hashlib.sha256(reference.settings.model_dump_json().encode())
    for z, species in sorted(reference.species.items()):
        digest.update(repr((z, _values(replace(species, provenance={})))).encode())
    return digest.hexdigest()


def _values(x: Any) -> Any:
    """What an object of dataclasses holds, arrays by their digests."""
    if is_dataclass(x):
        return [_values(getattr(x, f.name)) for f in fields(x)]
    if isinstance(x, list | tuple):
        return [_values(y) for y in x]
    return hash_of(torch.as_tensor(x)) if isinstance(x, np.ndarray | Tensor) else x


def _state_of(path: Path) -> str:
    """Digest of where a folder is and of the names, sizes and times of its files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(f.name, s.st_size, s.st_mtime_ns) for f in files if not f.name.startswith(".") and (s := f.stat())]
    return hashlib.sha256(json.dumps([str(path.resolve()), states]).encode()).hexdigest()[:40]


def _nbytes(found: Calculation) -> int:
    return sum(m.values.numel() * m.values.element_size() + 40 * len(m.pairs) for m in found.matrices.values())

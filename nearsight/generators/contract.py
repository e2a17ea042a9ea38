"""The generator contract: from parents, or from nothing, to structures that say how they were made.

A generator is one file: a table (its keys are its options) that makes structures. Ours are named in `core/registry.py`, a
third party's by an entry point of the group `nearsight.generators`,

    [project.entry-points."nearsight.generators"]
    shear = "toy_package.shear:Shear"

From that the command line has `nearsight structures shear FILE -o OUT` with a flag for each key, a data set has
`generate: {kind: shear, ...}`, and Python has `ns.generate("shear", structure, ...)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator

from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput
from nearsight.core.parts import Part
from nearsight.core.registry import load
from nearsight.core.structure import PROVENANCE, SYMBOLS, Structure
from nearsight.core.tables import Table
from nearsight.core.units import BOHR_ANG
from nearsight.core.yaml import load_yaml
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms

TRIES = 100  # at a random structure whose atoms are not too close
MOST_STRUCTURES = 100_000  # of one parent


def _split(given: Any) -> Any:
    return tuple(w for w in given.replace(",", " ").split()) if isinstance(given, str) else given


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Integers = Annotated[tuple[int, ...], BeforeValidator(_split)]


def _read(given: Any) -> Any:
    found = load_yaml(given, "a table of keys", "a table") if isinstance(given, str) else given
    if not isinstance(found, Mapping):
        raise ValueError("write keys with their values, such as {basis: sz}")
    return dict(found)


Keys = Annotated[dict[str, Any], BeforeValidator(_read)]  # of another part: a table, or its text in YAML


class Generator(Table, ABC):
    """One way to make structures; its fields are its options, declared by `option`.

    kind: its name.  parents: `none`, `each` (one after the other), or `together` (all at once, as the layers of a bilayer).
    """

    kind: ClassVar[str]
    parents: ClassVar[Literal["none", "each", "together"]] = "each"

    closest: float = option(
        0.6,
        "Least distance of two atoms, as a fraction of the sum of their covalent radii; 0 asks nothing.",
        ge=0,
        le=1,
    )
    most_atoms: int = option(100_000, "Most atoms that a structure may have.", ge=1)

    @abstractmethod
    def number(self, parents: Sequence[Atoms]) -> int:
        """How many structures these parents give. Raises BadInput for parents that cannot be used."""

    @abstractmethod
    def size(self, parents: Sequence[Atoms]) -> int:
        """Atoms of the largest of them, known before any is made. Raises BadInput for parents that cannot be used."""

    @abstractmethod
    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """All of them [angstrom], in order; the same each time.

        first: how many structures earlier parents of the same call have given.  What a structure's `info` holds under
        "details" joins its provenance.  Raises BadInput for what cannot be made.
        """

    def check(self, parents: Sequence[Atoms]) -> int:
        """The number of structures, if it and their sizes are within bounds. Raises BadInput before anything is made."""
        count, size = self.number(parents), self.size(parents)
        if size > self.most_atoms:
            raise BadInput(
                f"{self.kind}: {size} atoms, of which most_atoms allows {self.most_atoms}: ask for less, or allow more"
            )
        if count > MOST_STRUCTURES:
            raise BadInput(f"{self.kind}: {count} structures of one parent: {MOST_STRUCTURES} are the most")
        return count


class RandomGenerator(Generator):
    """A generator whose structure n depends on (seed, n) alone; one whose atoms are too close is drawn again."""

    seed: int = option(0, "Structure n depends on (seed, n) alone.", ge=0)

    @abstractmethod
    def draw(self, parents: Sequence[Atoms], index: int, random: np.random.Generator) -> Atoms:
        """Structure `index` of these parents [angstrom]."""

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        for index in range(self.number(parents)):
            random = np.random.default_rng([self.seed, first + index])
            for _ in range(TRIES):
                made = self.draw(parents, index, random)
                crowded = crowding(made, self.closest)
                if crowded is None:
                    break
            else:
                raise BadInput(
                    f"{self.kind}: {crowded} in each of {TRIES} tries at structure {index}: take smaller displacements, a "
                    "larger cell, or a lower closest"
                )
            yield made


class Recipe(Part):
    """kind: of a generator.  Further keys: its options."""

    group: ClassVar[str] = "generators"

    def build(self) -> Generator:
        """The generator. Raises BadInput for keys that it does not take."""
        return generator(self.kind, **(self.model_extra or {}))


def generator(kind: str, **options: Any) -> Generator:
    """The generator of a kind. Raises BadInput for one that is not known, and for options that it does not take."""
    made = load("generators", kind)
    return validated(made, {k: v for k, v in options.items() if v is not None}, kind)


def generate(
    how: str | Generator, *parents: Structure | Atoms | Path | str, vacuum: float | None = None, **options: Any
) -> list[Structure]:
    """Structures by a generator, each with its provenance.

    how: a kind (`rattle`, `strain`, `supercell`, `dynamics`, `twist`, `nanotube`, `ribbon`, `decorate`, `slab`, `vacancies`,
    `substitutions`, `moments`, or a third party's) with its options, or a generator.  parents: structures, or files that hold
    one or several; vacuum: box around those without a cell [angstrom].
    Raises BadInput: an unknown option; parents that cannot be used; more atoms than `most_atoms`; atoms that are too close.
    """
    made = generator(how, **options) if isinstance(how, str) else how
    return list(applied(made, named_parents(parents, vacuum)))


def named_parents(
    parents: Sequence[Structure | Atoms | Path | str], vacuum: float | None = None
) -> list[tuple[str, Atoms]]:
    """Parents with their names: the file (and frame) or the formula.  Raises BadInput for a file that cannot be read."""
    from nearsight.formats.structures import INDEX, frames, read_atoms

    found: list[tuple[str, Atoms]] = []
    for parent in parents:
        if isinstance(parent, Path | str):
            several = Path(parent).is_file() or (Path(parent) / INDEX).is_file()
            places = frames(parent) if several else [Path(parent)]
            found += [(str(place), read_atoms(place, vacuum)) for place in places]
        else:
            atoms = parent.to_ase() if isinstance(parent, Structure) else parent
            found.append((atoms.get_chemical_formula(), atoms))
    return found


def applied(made: Generator, parents: Sequence[tuple[str, Atoms]]) -> Iterator[Structure]:
    """The structures of a generator, as `generate`, one after the other as they are made."""
    if made.parents == "none":
        if parents:
            raise BadInput(f"{made.kind} is made from no structure: leave {parents[0][0]} out")
        groups: list[list[tuple[str, Atoms]]] = [[]]
    elif not parents:
        raise BadInput(f"{made.kind} is made from a structure: give a file")
    else:
        groups = [list(parents)] if made.parents == "together" else [[p] for p in parents]
    counts = [made.check([atoms for _, atoms in group]) for group in groups]
    first = 0
    for group, count in zip(groups, counts, strict=True):
        for index, atoms in enumerate(made.structures([atoms for _, atoms in group], first)):
            if (crowded := crowding(atoms, made.closest)) is not None:
                raise BadInput(f"{made.kind}: {crowded}: change what it is made with, or take a lower closest")
            yield _told(made, group, atoms, first + index)
        first += count


def _told(made: Generator, group: Sequence[tuple[str, Atoms]], atoms: Atoms, index: int) -> Structure:
    """The structure with how it was made: generator, parameters, seed, index, parent; what its parent says of itself."""
    parameters = made.model_dump(mode="json", exclude={"seed"})
    told: dict[str, Any] = {"generator": made.kind, "parameters": parameters, "seed": getattr(made, "seed", None)}
    told |= {"index": index, "parent": ", ".join(name for name, _ in group) or None}
    details = atoms.info.get("details") or {}
    told |= {"prototype": details["prototype"]} if "prototype" in details else {}
    told |= {"details": details} if details else {}
    before = [p for _, parent in group if (p := {k: parent.info[k] for k in PROVENANCE if k in parent.info})]
    if before:
        told["ancestors"] = before
    atoms.info = told
    atoms.pbc = True
    atoms.calc = None
    return Structure.from_ase(atoms)


def crowding(atoms: Atoms, closest: float) -> str | None:
    """Two atoms nearer than a fraction `closest` of the sum of their covalent radii, in words; None where there are none."""
    from ase.data import covalent_radii

    from nearsight.core.pairs import neighbours
    from nearsight.formats.structures import check_structure

    try:
        structure = check_structure(Structure.from_ase(_periodic(atoms)))
    except BadInput as error:
        return str(error)
    if closest == 0:
        return None
    radii = covalent_radii[atoms.numbers]
    i, j, cells = neighbours(structure, float(closest * 2 * radii.max() / BOHR_ANG))
    if not len(i):
        return None
    vectors = atoms.positions[j] + cells.numpy() @ atoms.cell.array - atoms.positions[i]
    distances = np.linalg.norm(vectors, axis=1)
    shares = distances / (radii[i] + radii[j])
    worst = int(shares.argmin())
    if shares[worst] >= closest:
        return None
    a, b = int(i[worst]), int(j[worst])
    return (
        f"atoms {a} ({SYMBOLS[atoms.numbers[a]]}) and {b} ({SYMBOLS[atoms.numbers[b]]}) are {distances[worst]:.3f} angstrom "
        f"apart, {shares[worst]:.2f} of the sum of their covalent radii (closest is {closest:g})"
    )


def _periodic(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.pbc = True
    copy.info = {}
    return copy

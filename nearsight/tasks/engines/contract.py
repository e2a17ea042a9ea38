"""What an engine promises: a calculation folder of a structure, or a reason why there is none.

A third party registers its class as an entry point of the group `nearsight.engines`; `dataset build` then takes it by its name,
`engine: {kind: NAME, ...}`, on every executor.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput
from nearsight.core.parts import PartTable
from nearsight.core.structure import Structure
from nearsight.core.tables import merged
from nearsight.dft.settings import Settings

if TYPE_CHECKING:
    from nearsight.tasks.digest import Origin

#: words of a ladder: what is changed when a calculation has not converged
WORDS = ("mixing", "variational", "smearing", "kmesh")


class EngineTable(PartTable):
    """The table `engine`, of which every kind has its own keys.

    kind: who computes a calculation.
    """

    group: ClassVar[str] = "engines"
    kind: str = "nearsight"


class Engine(ABC):
    """A program that computes the Hamiltonian of a structure.

    name: how it is asked for.  version: for the provenance, where the folders do not tell it.  Table: what its table `engine`
    takes.  table: what was given.  scf: the table `scf`.
    ladder: what is tried after a first try that did not converge, where the set does not say; nothing that changes the physics.
    """

    name: ClassVar[str]
    version: ClassVar[str | None] = None
    Table: ClassVar[type[EngineTable]] = EngineTable
    ladder: ClassVar[tuple[str, ...]] = ("mixing", "variational")

    def __init__(self, table: EngineTable, scf: Settings) -> None:
        self.table: Any = table
        self.scf = scf

    def check(self, structures: Sequence[Structure]) -> None:  # noqa: B027  # most need nothing
        """Raises Unavailable, before the work, for a program that is not installed; BadInput for what it cannot compute."""

    def prepare(self, structures: Sequence[Structure], folder: Path) -> None:  # noqa: B027  # most need nothing
        """Write into the set's folder, before its first job, what belongs to all of them."""

    @abstractmethod
    def compute(self, structure: Structure, folder: Path) -> None:
        """Write the calculation folder of the converged state, whole or not at all.

        folder: of this job alone; what is in it beside the calculation is kept from one try to the next.
        Raises NotConverged where another rung of the ladder may help, any other NearsightError where none can.
        """

    def is_complete(self, folder: Path) -> bool:
        """Whether a result that is there has all that is asked for now, such as forces."""
        return True

    def rung(self, word: str) -> Mapping[str, Any]:
        """What a word of the ladder changes in the settings of this engine. Raises BadInput for one that it does not know."""
        raise BadInput(f"retry: the engine {self.name} does not know {word!r}: give a table of its settings")

    def changed(self, change: Mapping[str, Any]) -> Engine:
        """The same engine with some settings changed. Raises BadInput for settings that are none."""
        table = validated(type(self.table), merged(self.table.model_dump(), change), "retry")
        return type(self)(table, self.scf)

    def digest(self, structure: Structure) -> str:
        """sha256 of all that a result depends on: structure and settings; not the command that starts a program."""
        geometry = [np.round(x.double().numpy(), 9).tolist() for x in (structure.cell, structure.positions)]
        told = {k: v for k, v in self.table.model_dump(mode="json", exclude_defaults=True).items() if k != "command"}
        parts = [geometry, structure.numbers.tolist(), self.name, told]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def former_digest(self, structure: Structure, before: Origin | None) -> str | None:
        """What an earlier program gave in place of `digest` for the same result, if it gave another.

        before: of the settings that the set was last built with.
        """
        return None


def engine_of(table: EngineTable, scf: Settings) -> Engine:
    """Raises Unavailable for an entry point that is no engine."""
    made: Engine = table.part(Engine)(table, scf)
    return made


def denser(kmesh: Sequence[int]) -> list[int]:
    """Half as many k-points again along each vector that has more than one."""
    return [n if n == 1 else ceil(1.5 * n) for n in kmesh]

"""What a file format promises: a calculation from a path, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure


class Format(ABC):
    """One program's form of a calculation, a file or a folder.

    All conventions are converted here and nowhere else: a Calculation is in Hartree and Bohr, in the project's order and signs
    of orbitals. A third party registers its class as an entry point of the group `nearsight.formats`, and inherits
    `tests/laws/formats.py`: its calculations then train, restart a run and draw their bands.

    name: how it is asked for.  holds: fields of Calculation and names of spins that it can store: overlap, hamiltonian,
    density_matrix, none, collinear, spinor.
    """

    name: ClassVar[str]
    holds: ClassVar[frozenset[str]] = frozenset({"overlap", "hamiltonian", "none"})

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether a path that exists looks like this format; cheap, and never raises for a path that is none."""

    @abstractmethod
    def read(self, path: Path) -> Calculation:
        """The calculation. Raises BadInput, in one line with the path, for a file that is damaged."""

    def read_structure(self, path: Path) -> Structure:
        """The structure alone; formats that can tell it without the matrices override this."""
        return self.read(path).structure

    def read_settings(self, path: Path) -> Mapping[str, Any]:
        """What was recorded of the configuration, empty if nothing; overridden as `read_structure` is."""
        return self.read(path).settings

    def write(self, path: Path, calculation: Calculation) -> None:
        """Write whole or not at all. Raises BadInput for a format that is only read."""
        raise BadInput(f"the format {self.name} is only read: write another one, such as deeph")

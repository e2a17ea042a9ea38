"""Supercells: repeats along the lattice vectors, or any integer matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure, supercell
from nearsight.generators.contract import Generator, Integers
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms


class Supercell(Generator):
    """The cell whose lattice vectors are M times the parent's, M an integer matrix given by rows, or by its diagonal."""

    kind: ClassVar[str] = "supercell"

    repeat: Integers = option((2, 2, 2), "Three integers, or the nine of a matrix by rows.")

    def matrix(self) -> np.ndarray:
        """M [3, 3]. Raises BadInput where it is none."""
        n = self.repeat
        if len(n) not in (3, 9):
            raise BadInput(f"supercell: repeat has {len(n)} integers: give 3, or the 9 of a matrix by rows")
        if len(n) == 3 and min(n) < 1:
            raise BadInput(f"supercell: repeat {' '.join(map(str, n))}: every number must be at least 1")
        if max(abs(x) for x in n) > 1_000_000:
            raise BadInput(f"supercell: repeat {' '.join(map(str, n))}: no cell is repeated so often")
        m = np.diag(n) if len(n) == 3 else np.array(n).reshape(3, 3)
        if round(float(np.linalg.det(m.astype(float)))) < 1:
            raise BadInput(
                f"supercell: the matrix {' '.join(map(str, n))} has the determinant "
                f"{round(float(np.linalg.det(m.astype(float))))}: give independent rows, in a right-handed order"
            )
        return m

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return 1

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(parents[0]) * round(float(np.linalg.det(self.matrix().astype(float))))

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        m = self.matrix()
        if (m == np.diag(np.diag(m))).all():
            a, b, c = (int(x) for x in np.diag(m))
            yield supercell(Structure.from_ase(parents[0]), (a, b, c)).to_ase()
        else:
            from ase.build import make_supercell

            yield make_supercell(parents[0], m)

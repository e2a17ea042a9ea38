"""What a model's numbers stand for: the way from a calculation to labels, and from a prediction to the matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a model or its target may need of a structure beside its atoms and pairs; None: not given.

    overlap: S on the layout [size].  initial_hamiltonian: H0 of superposed atomic densities [components, size], Ha.
    moments: magnetic moment of each atom [atoms, 3].  functional: the energy functional (dft/functional.py).
    response: n_1 - n_atoms and n_out - n_1 on the functional's mesh [2, x, y, z], of the first step of self-consistency
    (dft/response.py).
    """

    overlap: Tensor | None = None
    initial_hamiltonian: Tensor | None = None
    moments: Tensor | None = None
    functional: Any = None
    response: Tensor | None = None

    __repr__ = one_line

    def require(self, name: str) -> Any:
        """One of the inputs. Raises MissingData where it is not given."""
        value = getattr(self, name)
        if value is None:
            raise MissingData(f"the model needs the {name.replace('_', ' ')} of a structure, which is not given")
        return value


def exact(values: Tensor) -> Tensor:
    """In double precision; complex numbers stay complex."""
    return values.to(torch.complex128) if values.is_complex() else values.double()


class Target(ABC):
    """name: as in `target: name`.  needs: names of the inputs that labels and matrices are made of.

    elements: whether the values are elements of a matrix on the layout; else they are numbers of their own, whose error the
    sample of the model knows how to measure.  unlearnt: in words, what serves between elements that no data had together;
    None where nothing does.  gives_matrix: whether a Hamiltonian follows from the values.  of_record: whether labels are made
    of what result.json says, beside structure, matrices and moments.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    elements: ClassVar[bool] = True
    unlearnt: ClassVar[str | None] = None
    gives_matrix: ClassVar[bool] = True
    of_record: ClassVar[bool] = False

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        """What `Prediction.values` should be, float64, from a calculation. Raises MissingData where it has not got it."""

    @abstractmethod
    def matrix(self, values: Tensor, inputs: Inputs) -> Tensor:
        """H [components, size], Ha, float64, of the values of one structure; differentiable in them."""


class _Total(Target):
    """The elements of H."""

    name = "total"

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        return calculation.require_hamiltonian().values

    def matrix(self, values: Tensor, inputs: Inputs) -> Tensor:
        return exact(values)


class _Delta(Target):
    """The elements of H - H0."""

    name, needs = "delta", frozenset({"initial_hamiltonian"})
    unlearnt = "there its prediction is H0 of superposed atoms alone"

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        values = calculation.require_hamiltonian().values
        return values - inputs.require("initial_hamiltonian").to(values)

    def matrix(self, values: Tensor, inputs: Inputs) -> Tensor:
        h0: Tensor = inputs.require("initial_hamiltonian")
        found = exact(values)
        return found + h0.to(found)


TOTAL, DELTA = _Total(), _Delta()
TARGETS: dict[str, Target] = {t.name: t for t in (TOTAL, DELTA)}


def target(name: str | Target) -> Target:
    """The object of a name. Raises BadInput for another word."""
    if isinstance(name, Target):
        return name
    if name not in TARGETS:
        raise BadInput(f"target {name!r} is not known: take one of {', '.join(TARGETS)}, density or energy")
    return TARGETS[name]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a prepared sample.

    values: what labels are compared with; for targets of matrix elements [components, size].  sizes: how much of the last
    axis belongs to each structure.  target: what the values stand for.
    """

    values: Tensor
    sizes: tuple[int, ...]
    target: Target

    __repr__ = one_line

    def parts(self) -> list[Prediction]:
        """One for each structure."""
        pieces = self.values.split(list(self.sizes), -1)
        return [Prediction(v, (n,), self.target) for v, n in zip(pieces, self.sizes, strict=True)]

    def matrix(self, inputs: Inputs) -> Tensor:
        """H [components, size], Ha, float64, of one structure; differentiable in `values`."""
        return self.target.matrix(self.values, inputs)

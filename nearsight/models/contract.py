"""The contract of every network: what training, prediction and files ask of a model, and all that they ask.

A model turns a structure into a *prepared sample* once (edges, frames, whatever does not depend on trained weights), and
a prepared sample, or several in one, into a `Prediction` often. A third party writes a subclass of `HamiltonianModel` and
registers it by an entry point in the group `nearsight.models` (docs/extending.md); tests/laws/models.py has the laws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, model_validator
from torch import Tensor, nn

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.registry import kinds, load
from nearsight.core.spin import NONE, Spin, by_components
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.tables import OfKinds
from nearsight.core.units import HARTREE_EV
from nearsight.models.records import TensorRecord
from nearsight.models.targets import TOTAL, Inputs, Prediction, Target
from nearsight.models.targets import target as find_target

Told = Callable[[int, int], None]  # how much of some work is done, and all of it
UNLEARNT = 1e-3 / HARTREE_EV  # Ha; what of a label a model may leave out as the noise of its ground state
LEAST_SHARE = 0.01  # of the largest scale, where scales are fitted to a few structures only


def silent(done: int, total: int) -> None:
    """Where nobody wants to be told."""


class ModelConfig(OfKinds):
    """The table `model:` of a training. A model's own keys are further fields of a subclass.

    kind: of the model, ours or an entry point's.  target: what its numbers stand for: `total` is H; `delta` is H - H0,
    with H0 of superposed atomic densities computed by the DFT engine; `density` is n - n_atoms, and H is the engine's F[n].
    """

    #: target -> the kind that serves it in place of this one
    elsewhere: ClassVar[Mapping[str, str]] = {}
    #: the loss that compares its predictions with labels
    loss: ClassVar[str] = "blocks"

    kind: str = "deeph2"
    target: Literal["total", "delta", "density", "energy"] = "total"

    @property
    def needs_levels(self) -> bool:
        """Whether predictions diagonalise H0, so that the k-points and the smearing of the data belong to the model."""
        return False

    @classmethod
    def of_kind(cls, given: Mapping[str, Any]) -> type[BaseModel]:
        """The class that the kind's model declares."""
        kind = given.get("kind", cls.model_fields["kind"].default)
        found: type[BaseModel] = load("models", kind).Config if kind in kinds("models") else cls
        return found


class PresetConfig(ModelConfig):
    """A table with a key `preset`.

    preset: names sizes of a network; further keys, but null ones, replace the preset's.
    """

    #: sizes by the preset's name
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, table: Any) -> Any:
        preset = table.get("preset", cls.model_fields["preset"].default) if isinstance(table, Mapping) else None
        if isinstance(preset, str) and preset in cls.presets:
            return {**cls.presets[preset], **{k: v for k, v in table.items() if v is not None}}
        return table


@dataclass(frozen=True)
class Setting:
    """What a model is built for.

    shells: angular momenta of each element's shells.  reach: longest distance of a pair of the matrix [Bohr].
    structures: some of those to train on.  spin: of their matrices.
    """

    shells: Mapping[int, tuple[int, ...]]
    reach: float
    structures: Sequence[Structure]
    spin: Spin = NONE


class Prepared(TensorRecord, ABC):
    """One structure made ready for a model, or several in one: a frozen dataclass of tensors.

    sizes: for each structure, how much of the last axis of the prediction is its own.
    """

    sizes: tuple[int, ...]

    @property
    @abstractmethod
    def edge_count(self) -> int:
        """Edges of the graph: what a pass through the model costs, in time and memory."""

    @classmethod
    @abstractmethod
    def batch(cls, samples: Sequence[Self]) -> Self:
        """Several samples as one; predictions stand in the same order."""


@dataclass(frozen=True, eq=False)
class Features:
    """What one weight of a last layer multiplies: X [rows, inputs], each row in the scale of the elements it makes.

    name: of the weight [inputs, outputs] within its layer.  first: how many inputs belong to the first of two parities,
    which do not mix.
    """

    name: str
    rows: Tensor
    first: int

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A layer in whose weights the prediction is linear.

    name: of the submodule.  bias: for each output, the sum of squares of what scales it [outputs].
    """

    name: str
    features: Sequence[Features]
    bias: Tensor

    __repr__ = one_line


class HamiltonianModel(nn.Module, ABC):
    """Structure -> Hamiltonian, equivariant and local; a model's frames and layers are its own affair.

    shells: angular momenta of each element's shells.  target: what the predicted numbers stand for.
    """

    #: the pydantic class of the table `model:`
    Config: ClassVar[type[ModelConfig]] = ModelConfig
    #: the class of its samples
    Sample: ClassVar[type[Prepared]]
    #: inputs of a structure that `geometry` takes, beside those of the target: fields of `Inputs`
    needs: frozenset[str] = frozenset()
    #: submodules in whose weights the prediction is linear; empty for a model without
    last_layer_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, shells: Mapping[int, Sequence[int]], target: str | Target = TOTAL) -> None:
        super().__init__()
        self.shells = {z: tuple(shells[z]) for z in sorted(shells)}
        self.target = find_target(target)

    @classmethod
    @abstractmethod
    def arguments(cls, config: Any, setting: Setting) -> dict[str, Any]:
        """Keyword arguments of the constructor, as JSON can hold them, from the table and the data."""

    @abstractmethod
    def geometry(self, structure: Structure, layout: BlockLayout, inputs: Inputs) -> Prepared:
        """All of a sample that depends neither on weights nor on a fitted baseline, in float64, on the CPU."""

    @property
    @abstractmethod
    def locality(self) -> float:
        """A block depends on no atom that is farther than this from both of its own [Bohr]."""

    @property
    @abstractmethod
    def geometry_settings(self) -> Mapping[str, Any]:
        """What `geometry` depends on, beside its arguments: models that agree in it share samples on the disk."""

    @abstractmethod
    def forward(self, sample: Any) -> Prediction:
        """The prediction for a prepared sample."""

    def complete(self, sample: Any) -> Any:
        """A sample of `geometry` on the model's device, with what a fitted baseline adds, in the model's precision."""
        return sample.to(self.device).cast(self.dtype)

    def prepare(self, structure: Structure, layout: BlockLayout, inputs: Inputs | None = None) -> Any:
        """All that does not depend on trained weights, to be computed once.

        Raises BadInput for an element that the model does not know, MissingData for an input that is not given.
        """
        return self.complete(self.geometry(structure, layout, inputs or Inputs()))

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        """What the prediction's values should be, float64. Raises BadInput for a calculation of another spin."""
        found = calculation.require_hamiltonian()
        self.check_spin(found.spin, calculation.name)
        labels = self.target.labels(calculation, self.of_spin(inputs))
        learnable = self.learnable(labels)
        left = float((labels - learnable).abs().max()) if labels.numel() else 0.0
        if left > UNLEARNT:
            raise BadInput(
                f"{calculation.name} has elements of H up to {left * HARTREE_EV:.2g} eV that time reversal turns, those of a "
                f"magnetic state: this model takes no moments; train a model of kind xdeeph on it"
            )
        return learnable

    def check_spin(self, found: Spin, name: object) -> None:
        """Raises BadInput for data of another spin than the model's. name: of the data."""
        if found is not self.spin:
            raise BadInput(
                f"{name} has spin {found}, the model {self.spin}: one model has one spin, that of its training data; "
                "train another one on this data"
            )

    def in_its_spin(self, hamiltonian: BlockMatrix) -> BlockMatrix:
        """H of data that serve the model, as a matrix of the model's spin."""
        return hamiltonian

    def learnable(self, values: Tensor) -> Tensor:
        """Labels [components, size] without what the model cannot give by its symmetry."""
        return values

    def of_spin(self, inputs: Inputs) -> Inputs:
        """With H0 as a matrix of the model's spin: one without spin counts for both."""
        h0 = inputs.initial_hamiltonian
        if h0 is None or by_components(len(h0)) is self.spin:
            return inputs
        return replace(inputs, initial_hamiltonian=self.spin.embed(h0))

    def matrix(self, structure: Structure, layout: BlockLayout, inputs: Inputs | None = None) -> BlockMatrix:
        """The predicted Hamiltonian [Ha], float64, on a layout and its device."""
        known = self.of_spin(inputs or Inputs())
        values = self(self.prepare(structure, layout, known)).matrix(known)
        return BlockMatrix(layout, values.to(layout.device), self.spin)

    def fit_baseline(self, samples: Iterable[tuple[Any, Tensor]], told: Told = silent) -> None:
        """Fit what is added to the network, and the scales of its outputs, to samples of `geometry` and their labels.

        told: parts of the fit that are done, and all.  A model without a baseline does nothing.
        """

    def fit_scales(self, samples: Iterable[tuple[Any, Tensor]], share: float) -> None:
        """Fit the scales alone, none below `share` of the largest: for few structures, or provisional labels."""

    def at_step(self, step: int | None) -> None:
        """Told before each step of a training on labels, the same in all processes: what of the network this step is to train.

        None: all of it.  A model that is trained as a whole at each step does nothing.
        """

    def within(self, weight: str, part: str) -> bool:
        """Whether a weight, by its name in the network, belongs to a part, named by the first words of such names.

        A network of several like ones counts the same part of each.
        """
        return weight == part or weight.startswith(f"{part}.")

    def fitted(self) -> Mapping[str, Tensor]:
        """What `fit_baseline` has set and `complete` uses, by name."""
        return {}

    def last_layers(self, sample: Any) -> list[LastLayer]:
        """The layers of `last_layer_names` with what goes into them for a sample, for Gauss-Newton steps.

        Raises BadInput for a model without.
        """
        raise BadInput(f"{type(self).__name__} names no last linear layers, so trainer.newton_from cannot serve it")

    @property
    def spin(self) -> Spin:
        """Of the matrices it gives."""
        return NONE

    @property
    def inputs(self) -> frozenset[str]:
        """Names of all inputs that the model and its target need."""
        return self.needs | self.target.needs

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def check(self, numbers: Tensor) -> None:
        """Raises BadInput for atomic numbers [atoms] among which is an element that the model does not know."""
        unknown = sorted({z for z in numbers.tolist() if z not in self.shells})
        if unknown:
            raise BadInput(
                f"the model never saw {', '.join(SYMBOLS[z] for z in unknown)}: "
                f"it knows {', '.join(SYMBOLS[z] for z in self.shells)}; train one on data with that element"
            )

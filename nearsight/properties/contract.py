"""The property contract: from a structure with its matrices to a result that has numbers, words and a picture.

A property is one file. It declares a Property with its name and options, and registers it: our own in
`core/registry.py`, a third party's by an entry point of the group `nearsight.properties`,

    [project.entry-points."nearsight.properties"]
    bandwidth = "toy_package.bandwidth:bandwidth"

From that the command line has `nearsight bandwidth FOLDER [-o picture] [--json FILE]` with a flag for each option, and Python
has `nearsight.bandwidth(calculation, option=...)`. The first line of the file's docstring is the command's help.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import ConfigDict, Field

from nearsight.core.configuration import validated
from nearsight.core.display import drawn_by, shortened
from nearsight.core.errors import BadInput, Unavailable
from nearsight.core.registry import load
from nearsight.core.tables import Told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nearsight.core.calculation import AsCalculation, Calculation


class Progress(Protocol):
    """Who is told how far a long computation is."""

    def stage(self, text: str) -> None:
        """A part of the computation begins."""

    def advance(self, done: float, total: float, text: str = "") -> None:
        """So much of this part is done, of so much in all."""


class _Silent:
    def stage(self, text: str) -> None:
        pass

    def advance(self, done: float, total: float, text: str = "") -> None:
        pass


SILENT: Progress = _Silent()


class Options(Told):
    """What a user may choose: each field becomes a flag of the command and a keyword in Python. Declare it by `option`.

    A field is a number, a text, a word of several (Literal), a path, a tuple of numbers, or one of these or None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def option(default: Any, help: str, *, unit: str = "", **limits: Any) -> Any:
    """A field of Options.

    unit: as people write it, such as eV; a field `width_ev` with unit eV is the flag `--width EV`.
    limits: of pydantic's Field, such as gt=0.
    """
    return Field(default, description=help, json_schema_extra={"unit": unit}, **limits)


class Result(ABC):
    """What a property found. A frozen dataclass, in Hartree and Bohr; to_json and summary say it in the units of the disk.

    version: of the JSON's keys; another one means that a key changed its meaning.
    """

    version: ClassVar[int] = 1
    _repr_html_ = drawn_by("nearsight.report.notebook:result")

    def __repr__(self) -> str:
        return shortened(f"{type(self).__name__}({self.summary()[0]}", ")")

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and tables, with the unit in each key's name."""

    @abstractmethod
    def summary(self) -> list[str]:
        """The lines that a physicist wants to read."""

    def draw(self, figure: Figure) -> None:
        """Draw the result on an empty figure. Raises Unavailable for a property without a picture."""
        raise Unavailable(f"{type(self).__name__} has no picture: leave -o out")


O = TypeVar("O", bound=Options)
R = TypeVar("R", bound=Result)


class Property(ABC, Generic[O, R]):
    """One property: an object that is called with a calculation and gives its result.

    name: of the command.  options: the class of its options.  picture: whether its results can be drawn.
    size: of the picture [inch].
    """

    name: ClassVar[str]
    options: ClassVar[type[Options]]
    picture: ClassVar[bool] = True
    size: ClassVar[tuple[float, float]] = (4.8, 4.0)

    @abstractmethod
    def compute(self, calculation: Calculation, options: O, progress: Progress = SILENT) -> R:
        """The property of a calculation; of whatever spin, whoever made it, predictions included.

        Raises NearsightError: MissingData where a matrix or a number is needed that the calculation does not have, BadInput
        for options that do not go with it.
        """

    def __call__(self, calculation: AsCalculation | Path | str, *, progress: Progress = SILENT, **options: Any) -> R:
        """The property of a calculation, a ground state, or the path of one.  options: fields of `self.options`, as keywords.

        Raises NearsightError for an option that is not known, a path that cannot be read, and as `compute`.
        """
        if isinstance(calculation, Path | str):
            from nearsight.formats.registry import read

            calculation = read(calculation)
        chosen = validated(self.options, options, self.name)
        return self.compute(calculation.as_calculation(), chosen, progress)  # type: ignore[arg-type]  # options is O's class

    def __repr__(self) -> str:
        return f"<property {self.name}>"


def property_named(name: str) -> Property[Any, Any]:
    """The registered property of a name. Raises BadInput for a name that is not known or an object that is no property."""
    part = load("properties", name)
    found = part() if isinstance(part, type) else part
    if not isinstance(found, Property):
        raise BadInput(
            f"{name!r} is registered as a property, but it is a {type(found).__name__}: see docs/extending.md"
        )
    return found

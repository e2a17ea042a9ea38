"""A table that names a part: `kind` and its keyword arguments, ours or those of an entry point."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from nearsight.core.configuration import near_miss, validated
from nearsight.core.errors import BadInput, NearsightError, Unavailable
from nearsight.core.registry import kinds, load
from nearsight.core.tables import OfKinds, Told


def known_kind(group: str, kind: str) -> str:
    """The kind itself. Raises ValueError, with the near miss, for one that the registry's group does not have."""
    known = kinds(group)
    if kind not in known:
        raise ValueError(f"{kind!r} is not known{near_miss(kind, known)} (known: {', '.join(known)})")
    return kind


class Part(Told):
    """kind: of a part of the registry's `group`; a word alone is a table with that kind.  Further keys: its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    group: ClassVar[str]
    word: ClassVar[str] = "kind"  # which key a word alone stands for (`core.tables.todays`)
    kind: str

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known_kind(cls.group, kind)

    def build(self) -> Any:
        """The part. Raises BadInput for arguments that it does not take."""
        part, arguments = load(self.group, self.kind), dict(self.model_extra or {})
        try:
            return part(**arguments)
        except TypeError as error:
            taken = [p for p in inspect.signature(part).parameters if p != "self"]
            wrong = next((a for a in arguments if a not in taken), None)
            hint = f": no {wrong}{near_miss(wrong, taken)}" if wrong else f": {error}"
            raise BadInput(f"{self.group} {self.kind!r} takes {', '.join(taken) or 'no keys'}{hint}") from error


class PartTable(OfKinds):
    """A table whose `kind` is of the registry's `group`: the class of each kind tells by its `Table` what keys it takes."""

    group: ClassVar[str]
    kind: str

    @classmethod
    def of_kind(cls, given: Mapping[str, Any]) -> type[BaseModel]:
        """See OfKinds."""
        try:
            found: type[BaseModel] = load(cls.group, str(given.get("kind"))).Table
        except (NearsightError, AttributeError):
            return cls
        return found

    @classmethod
    def told(cls, given: Any) -> Self:
        """The table of the kind that is given, or of a kind's name alone.

        Raises BadInput, with the near miss, for one that is not known, or keys that it does not take.
        """
        if isinstance(given, cls):
            return given
        table, name = {"kind": given} if isinstance(given, str) else given, cls.group.removesuffix("s")
        if not isinstance(table, Mapping):
            raise BadInput(f"{name}: give a kind ({', '.join(kinds(cls.group))}), or a table with one")
        part = load(cls.group, str(table.get("kind", cls.model_fields["kind"].default)))
        found: Self = validated(part.Table, table, name)
        return found

    def part(self, base: type) -> Any:
        """The class of this kind. Raises Unavailable for an entry point that is no subclass of `base`."""
        found = load(self.group, self.kind)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise Unavailable(f"{self.group} {self.kind!r} of another package is no {base.__name__}: tell its authors")
        return found

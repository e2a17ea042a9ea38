"""A table that names a part: `kind` and its keyword arguments, ours or those of an entry point."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from pydantic import ConfigDict, field_validator, model_validator

from nearsight.core.configuration import near_miss
from nearsight.core.errors import BadInput
from nearsight.core.registry import kinds, load
from nearsight.core.tables import Told


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

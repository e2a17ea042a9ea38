"""What is wrong with a value of a configuration, in our words: pydantic's are for programmers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nearsight.core.display import shown

#: type of an error of pydantic's -> what should stand there; {…} are of its context
_WANTED: Mapping[str, str] = {
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_parsing_size": "a smaller number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "finite_number": "a finite number is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "string_type": "a text is needed",
    "string_too_short": "at least {min_length} characters are needed",
    "string_too_long": "at most {max_length} characters are taken",
    "string_pattern_mismatch": "it does not have the form that is needed",
    "path_type": "the path of a file or folder is needed",
    "none_required": "null is needed",
    "greater_than": "it must be greater than {gt}",
    "greater_than_equal": "it must be greater than or equal to {ge}",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be less than or equal to {le}",
    "multiple_of": "it must be a multiple of {multiple_of}",
    "tuple_type": "a list is needed, such as [1, 2, 3]",
    "list_type": "a list is needed, such as [1, 2, 3]",
    "set_type": "a list is needed, such as [1, 2, 3]",
    "frozen_set_type": "a list is needed, such as [1, 2, 3]",
    "dict_type": "a table is needed: `key: value` lines, or {{key: value}}",
    "mapping_type": "a table is needed: `key: value` lines, or {{key: value}}",
    "model_type": "a table is needed: `key: value` lines, or {{key: value}}",
    "model_attributes_type": "a table is needed: `key: value` lines, or {{key: value}}",
    "is_instance_of": "it is not of the kind that is needed",
}


def wanted(error: Mapping[str, Any]) -> str:
    """The fault of one value, such as `a whole number is needed`.  error: one of `ValidationError.errors()`."""
    kind, context = str(error["type"]), error.get("ctx") or {}
    if kind in ("value_error", "assertion_error", "any_of"):
        return str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind in ("too_short", "too_long", "missing_argument", "unexpected_positional_argument"):
        given, bounds = context.get("actual_length"), (context.get("min_length"), context.get("max_length"))
        count = next((b for b in bounds if b is not None), None)
        few = "at least" if kind == "too_short" else "at most"
        return f"{few} {count} entries are needed{'' if given is None else f', {given} are there'}"
    if kind in _WANTED:
        return _WANTED[kind].format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()})
    return f"{shown(error.get('input'))} is not what can stand here"


_LABEL = re.compile(
    r"(str|int|float|bool|none|path|dict|is-instance\b.*|constrained-.*|lax-or-strict.*|nullable.*|json-or-python.*"
    r"|(list|tuple|dict|set|literal|function-\w+|union|definition-ref|chain)\[.*|[A-Z]\w+)"
)


def _is_label(word: Any) -> bool:
    return isinstance(word, str) and _LABEL.fullmatch(word) is not None


def faults_of(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One fault for each place. Where one of several types may stand, what each lacks is joined in `msg`, of type `any_of`.

    errors: of a `ValidationError`, whose places hold labels of those types beside keys.
    """
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    several: set[tuple[Any, ...]] = set()
    for error in errors:
        key = error["loc"][-1:] if error["type"] in ("extra_forbidden", "missing") else ()  # whatever it looks like
        place = tuple(x for x in error["loc"][: len(error["loc"]) - len(key)] if not _is_label(x)) + key
        found.setdefault(place, []).append(error)
        if len(place) < len(error["loc"]):
            several.add(place)
    made: list[dict[str, Any]] = []
    for place, here in found.items():
        deeper = any(len(p) > len(place) and p[: len(place)] == place for p in found)
        if place in several and deeper and isinstance(here[0].get("input"), list | tuple | Mapping):
            continue
        if len(here) == 1:
            made.append({**here[0], "loc": place})
            continue
        words = [str(e["ctx"]["expected"]) if e["type"] == "literal_error" else wanted(e) for e in here]
        made.append({**here[0], "loc": place, "type": "any_of", "msg": ", or ".join(dict.fromkeys(words))})
    return made

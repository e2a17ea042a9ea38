"""Configuration: YAML tables and `key=value` words become validated objects; a typo names the near miss."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from nearsight.core.errors import NearsightError

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML, with 1e-5 a number as everywhere else: YAML 1.1 wants it written 1.0e-5 and takes it for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def near_miss(word: str, known: Iterable[str]) -> str:
    """`; did you mean pbe?` or nothing. A word of the same letters comes first: dpz is dzp, not dz."""
    word, words = str(word).lower(), [str(k) for k in known]
    near = [w for w in words if sorted(w) == sorted(word)] or get_close_matches(word, words, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def read_table(path: Path | str) -> dict[str, Any]:
    """A YAML file with a table at its top. Raises NearsightError for a missing file or one that is none."""
    try:
        table = yaml.load(Path(path).read_text(), _Loader)
    except FileNotFoundError as error:
        raise NearsightError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise NearsightError(f"{path} is not a YAML file: {reason}") from error
    if not isinstance(table, dict):
        raise NearsightError(f"{path} is not a configuration: it needs `key: value` lines")
    return table


def override(table: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """The table with `key=value` words put in; `a.b=1` reaches into table a. Values are read as YAML.

    Raises NearsightError for a word without `=`.
    """
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in table.items()}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise NearsightError(f"--set {word}: write key=value, for example --set mixing=0.2")
        *outer, last = key.split(".")
        place = result
        for name in outer:
            inner = place.get(name)
            place[name] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[name]
        try:
            place[last] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise NearsightError(f"--set {word}: the value is not readable: {' '.join(str(error).split())}") from error
    return result


def validated(model: type[Model], table: Mapping[str, Any], name: str = "") -> Model:
    """The object that a table describes.  name: what the table is called in messages, such as `scf`.

    Raises NearsightError, in one line, with the near miss of an unknown key or word.
    """
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        raise NearsightError("; ".join(dict.fromkeys(_said(model, e, name) for e in error.errors()))) from error


def _said(model: type[BaseModel], error: Any, name: str) -> str:
    path = [str(x) for x in error["loc"]]
    if error["type"] == "union_tag_invalid":
        words = [w.strip(" '") for w in str(error["ctx"]["expected_tags"]).split(",")]
        tag, where = error["ctx"]["tag"], ".".join([*path, str(error["ctx"]["discriminator"]).strip("'")])
        return f"{where}: {tag!r} is not known{near_miss(tag, words)} (known: {', '.join(words)})"
    where = ".".join(([name] if name else []) + path)
    if error["type"] == "extra_forbidden":
        known = _fields(model, path[:-1])
        return f"unknown key {where}{near_miss(path[-1], known)}" + (f" (known: {', '.join(known)})" if known else "")
    if error["type"] in ("literal_error", "enum"):
        expected = str(error["ctx"]["expected"])
        words = [w.strip(" '") for w in expected.replace(" or ", ",").split(",")]
        return f"{where}: {error['input']!r} is not known{near_miss(error['input'], words)} (known: {', '.join(words)})"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (given: {error['input']!r})"


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the table that a path leads to; empty where it is no single model."""
    inner = [model]
    for name in path:
        tagged = [m for m in inner if name in _tags(m)]
        if tagged:  # one of several kinds of table, by its tag
            inner = tagged
        elif len(inner) == 1 and name in inner[0].model_fields:
            inner = _tables(inner[0].model_fields[name].annotation)
        elif not name.isdigit():
            return []
    return list(inner[0].model_fields) if len(inner) == 1 else []


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """The words that `kind` may be in a table that has one."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """All models that a type annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in get_args(annotation) for m in _tables(a)]

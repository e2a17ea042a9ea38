"""Configuration: YAML tables and `key=value` words become validated objects; a typo names the near miss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nearsight.core.display import shown
from nearsight.core.errors import BadInput, BadSetting
from nearsight.core.reading import read_text
from nearsight.core.tables import (
    PATH,
    as_given,
    chosen_table,
    mentioned_tables,
    merged,
    pruned,
    renames_of,
    table_at,
    tags_of,
    todays,
)
from nearsight.core.versions import KEY, checked_version
from nearsight.core.words import faults_of, wanted
from nearsight.core.yaml import LARGEST, load_yaml

Model = TypeVar("Model", bound=BaseModel)
_FAULTS_TOLD = 2  # of a table, in one message


def near_miss(word: str, known: Iterable[str]) -> str:
    """`; did you mean pbe?` or nothing. A word of the same letters comes first: dpz is dzp, not dz."""
    word, words = shown(word).strip("'").lower(), [str(k) for k in known]
    near = [w for w in words if sorted(w) == sorted(word)] or get_close_matches(word, words, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def read_table(path: Path | str) -> dict[str, Any]:
    """A YAML file with a table at its top. Raises BadInput for a missing file or one that is none: see `load_yaml`."""
    table = load_yaml(read_text(path, LARGEST, "YAML file"), str(path))
    if not isinstance(table, dict):
        raise BadInput(f"{path} is not a configuration: it needs `key: value` lines")
    return table


def override(table: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """The table with `key=value` words put in; `a.b=1` reaches into table a. Values are read as YAML.

    Raises BadInput for a word without `=`, or a value that is not readable.
    """
    result = dict(table)
    for path, put in map(_read_word, words):
        result = merged(result, put, replaced=path)
    return result


def _read_word(word: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """`a.b=1` as the path (a, b) and the table {a: {b: 1}}."""
    path, equals, text = word.partition("=")
    if not equals or not path:
        raise BadInput(f"--set {word:.60}: write key=value, for example --set xc=pbe")
    keys = tuple(path.split("."))
    if len(keys) > 8:
        raise BadInput(f"--set {word:.60}: no key has so many parts")
    put: Any = load_yaml(text, f"--set {word:.60}", "a value")
    for key in reversed(keys):
        put = {key: put}
    return keys, put


def layered(
    model: type[Model],
    tables: Sequence[Mapping[str, Any]],
    words: Iterable[str] = (),
    folder: Path | None = None,
) -> Model:
    """The object that tables put over each other describe, with `key=value` words on top: each in keys of any schema.

    folder: from which paths count, see `from_beside`; None: they stay as they are.
    Raises BadInput, as `override` and `validated`, and for a table, or words, that give one setting twice.
    """
    said = [_read_word(word) for word in words]
    for n, (path, _) in enumerate(said):
        if path in [other for other, _ in said[:n]]:
            raise BadInput(f"--set {'.'.join(path)} stands there twice: say it once")
    layers = [((), table) for table in tables] + said
    result: dict[str, Any] = {}
    for path, layer in layers:
        try:
            placed = layer if folder is None else from_beside(model, layer, folder)
            result = merged(result, todays(model, placed), replaced=path)
        except ValueError as error:
            raise BadInput(str(error)) from error
    return validated(model, result, "", [layer for _, layer in layers])


def from_beside(model: type[BaseModel], table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table of a file with its paths as they count from the file's folder.

    One that exists where the program runs, and not in that folder, stays as it is.
    """
    return _with_paths(model, table, lambda p: p if is_there(Path(p)) and not is_there(folder / p) else str(folder / p))


def is_there(path: Path) -> bool:
    """Whether a path leads to something; one that no file can have leads to nothing."""
    try:
        return path.exists()
    except OSError:  # too long a name, a loop of links, a folder that must not be looked into
        return False


def absolute(model: type[BaseModel], table: Mapping[str, Any]) -> dict[str, Any]:
    """A table, ready for a file anywhere: its paths in full."""
    return _with_paths(model, table, lambda p: str(Path(p).absolute()))


def _with_paths(model: type[BaseModel], table: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The table with its paths changed: fields of type Path, or marked `PATH`; keys of earlier schemas too."""

    def changed(tables: list[type[BaseModel]], is_path: bool, value: Any) -> Any:
        if isinstance(value, list):
            return [changed(tables, is_path, x) for x in value]
        if isinstance(value, Mapping):
            inner = chosen_table(tables, value)
            return value if inner is None else _with_paths(inner, value, change)
        return change(str(value)) if is_path and isinstance(value, str | Path) else value

    result = {}
    for key, value in table.items():
        home, name = model, key
        if key in renames_of(model) and not (key in model.model_fields and isinstance(value, Mapping)):
            *outer, name = renames_of(model)[key].path
            home = table_at(model, tuple(outer)) or model
        entry = home.model_fields.get(name)
        if entry is None:
            result[key] = value
            continue
        marked = isinstance(entry.json_schema_extra, dict) and PATH in entry.json_schema_extra
        result[key] = changed(mentioned_tables(entry.annotation), marked or "Path" in str(entry.annotation), value)
    return result


def validated(
    model: type[Model], table: Mapping[str, Any], name: str = "", said: Sequence[Mapping[str, Any]] = ()
) -> Model:
    """The object that a table describes.

    name: what the table is called in messages, such as `scf`.  said: the tables that it was made from, as they were written.

    Raises BadSetting, in one line, with the near miss of an unknown key or word, in the words of the table.
    """
    return made(model, lambda: model.__pydantic_validator__.validate_python(dict(table)), table, name, said)


def made(
    model: type[BaseModel],
    make: Callable[[], Any],
    table: Any,
    name: str = "",
    said: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """What `make` makes of a table. Raises BadSetting in place of pydantic's ValidationError: see `validated`."""
    try:
        return make()
    except ValidationError as error:
        lines = (_said(model, e, name, [table, *said]) for e in faults_of(error.errors()))
        faults = list(dict.fromkeys(lines))
        more = f"; and {len(faults) - _FAULTS_TOLD} more" if len(faults) > _FAULTS_TOLD else ""
        raise BadSetting("; ".join(faults[:_FAULTS_TOLD]) + more) from error


def stored(model: type[Model], table: Mapping[str, Any], what: object) -> Model:
    """The object that a stored table describes, of this or an earlier schema: keys that are not known are left out.

    what: the file it is from, for messages.  Raises BadInput for a later schema, or for what is no such table.
    """
    if KEY in model.model_fields:
        checked_version(table.get(KEY), model.model_fields[KEY].default, what)
    try:
        return validated(model, pruned(model, table))
    except (BadInput, ValueError) as error:
        raise BadInput(f"{what} does not hold what it should: {error}") from error


def _said(model: type[BaseModel], error: Any, name: str, tables: Sequence[Mapping[str, Any]]) -> str:
    path = [str(x) for x in error["loc"]]
    ways = [as_given(model, table, path) for table in reversed(tables)]
    if error["type"] == "union_tag_invalid":
        words = [w.strip(" '") for w in str(error["ctx"]["expected_tags"]).split(",")]
        tag, where = error["ctx"]["tag"], ".".join([*path, str(error["ctx"]["discriminator"]).strip("'")])
        return f"{where}: {shown(tag)} is not known{near_miss(tag, words)} (known: {', '.join(words)})"
    where = ".".join(([name] if name else []) + next((way for way in ways if way != path), path))
    if error["type"] == "extra_forbidden":
        known, earlier = _fields(model, path[:-1])
        listed = f" (known: {', '.join(known)})" if known else ""
        return f"unknown key {where:.120}{near_miss(path[-1], [*known, *earlier])}{listed}"
    if error["type"] in ("literal_error", "enum"):
        expected = str(error["ctx"]["expected"])
        words = [w.strip(" '") for w in expected.replace(" or ", ",").split(",")]
        return f"{where}: {shown(error['input'])} is not known{near_miss(error['input'], words)} (known: {', '.join(words)})"
    if error["type"] == "missing":
        place, _, last = where.rpartition(".")
        return f"{place}: {int(last) + 1} entries are needed" if last.isdigit() and place else f"{where} is missing"
    said = wanted(error)
    if not where or said.startswith(f"{where}."):
        return said
    given = (
        "" if error["type"] == "value_error" and repr(error["input"]) in said else f" (given: {shown(error['input'])})"
    )
    return f"{where}: {said}{given}"


def _fields(model: type[BaseModel], path: list[str]) -> tuple[list[str], list[str]]:
    """The keys of the table that a path leads to, and those of earlier schemas; empty where it is no single model."""
    inner = [model]
    for name in path:
        tagged = [m for m in inner if name in tags_of(m)]
        if tagged:  # one of several kinds of table, by its tag
            inner = tagged
        elif len(inner) == 1 and name in inner[0].model_fields:
            inner = mentioned_tables(inner[0].model_fields[name].annotation)
        elif not name.isdigit():
            return [], []
    if len(inner) != 1:
        return [], []
    return [k for k in inner[0].model_fields if k != KEY], list(renames_of(inner[0]))

"""Tables of a configuration: frozen, strict, with a schema version, and readable in the keys of earlier schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from nearsight.core.errors import BadSetting
from nearsight.core.versions import KEY, checked_version

PATH = "path"  # marks a key whose text is the path of a file


class Told(BaseModel):
    """A configuration whose faults are told in one line, however it is made: from a file or by keywords."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    if not TYPE_CHECKING:

        def __init__(self, **keys):
            """Raises BadSetting, with what is allowed and the nearest key."""
            from nearsight.core.configuration import made

            made(type(self), lambda: self.__pydantic_validator__.validate_python(keys, self_instance=self), keys)

        __init__.__pydantic_base_init__ = True  # tables within tables are validated without it

        @classmethod
        def model_validate(cls, obj, **how):
            """Raises BadSetting, with what is allowed and the nearest key."""
            from nearsight.core.configuration import made

            return made(cls, lambda: super(Told, cls).model_validate(obj, **how), obj)

        def __setattr__(self, name, value):
            """Raises BadSetting: settings are not changed in place."""
            if name in type(self).model_fields:
                raise BadSetting(f"settings are not changed in place: take model_copy(update={{{name!r}: ...}})")
            super().__setattr__(name, value)


class Table(Told):
    """A frozen table: unknown keys are refused, and numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OfKinds(Table):
    """A table whose further keys depend on its `kind`, which other distributions may add to."""

    @classmethod
    def of_kind(cls, given: Mapping[str, Any]) -> type[BaseModel]:
        """The table with all keys of the kind that is given; this one where the kind is not known."""
        return cls


@dataclass(frozen=True)
class Renamed:
    """Where a key of an earlier schema went.  path: in today's tables.  words: values that are said in other words now."""

    path: tuple[str, ...]
    words: Mapping[Any, Any] = field(default_factory=dict)

    @staticmethod
    def to(path: str, words: Mapping[Any, Any] | None = None) -> Renamed:
        """path: with a point between keys, such as `mesh.cutoff_ry`."""
        return Renamed(tuple(path.split(".")), words or {})

    def value(self, given: Any) -> Any:
        """What today's key takes for the value that was given: its new word, or itself where it has none."""
        try:
            return self.words.get(given, given)
        except TypeError:  # a list or a table, which is no word
            return given


class EarlierKeys(Table):
    """A table that also takes the keys of earlier schemas, anywhere that today's are taken.

    renames: earlier key -> where it went.  A name that is a table today is an earlier key where its value is none.
    """

    renames: ClassVar[Mapping[str, Renamed]] = {}

    @model_validator(mode="before")
    @classmethod
    def _in_todays_keys(cls, given: Any) -> Any:
        return todays(cls, given) if isinstance(given, Mapping) else given

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some settings changed, in today's keys or earlier ones, validated as any input is.

        A table in `update` changes those keys of the table that it names.
        """
        return type(self).model_validate(merged(self.model_dump(), todays(type(self), update or {})))


class Versioned(Table):
    """A table that is stored with its schema version: the field's default is the version that is written, and the last read."""

    schema_version: int = 1

    @model_validator(mode="before")
    @classmethod
    def _of_a_known_version(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        latest = cls.model_fields[KEY].default
        checked_version(given.get(KEY), latest, "this configuration")
        return {**given, KEY: latest}


def todays(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """A table (all of it or some keys) in today's keys, its inner tables too; unknown keys stay as they are.

    Raises ValueError for a setting that is given twice with different values.
    """
    renames = renames_of(model)
    result: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        inner = inner_table(model, key, value)
        if isinstance(value, str) and (word := getattr(inner, "word", None)):
            value = {word: value}
        if isinstance(value, list | tuple) and inner_tables(model, key):
            value = [_todays_of_one(inner_tables(model, key), x) for x in value]
        if inner is not None and isinstance(value, Mapping):
            _put(result, (key,), todays(inner, value), key)
        elif key in renames:
            place = renames[key].path
            target = table_at(model, place)
            value = renames[key].value(value)
            if isinstance(value, str) and (word := getattr(target, "word", None)):
                value = {word: value}
            if target is not None and isinstance(value, Mapping):
                value = todays(target, value)
            _put(result, place, value, key)
        else:
            _put(result, (key,), value, key)
    return result


def _todays_of_one(tables: list[type[BaseModel]], given: Any) -> Any:
    chosen = chosen_table(tables, given) if isinstance(given, Mapping) else None
    return given if chosen is None else todays(chosen, given)


def _put(table: dict[str, Any], path: tuple[str, ...], value: Any, said: str) -> None:
    """Enter a value, in words `said`; tables are joined."""
    *outer, last = path
    for n, name in enumerate(outer):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ValueError(f"{said} belongs to the table {'.'.join(outer[: n + 1])}, which is given as {table!r}")
    if last in table and isinstance(value, Mapping) and isinstance(table[last], dict):
        for key, inner in value.items():
            _put(table[last], (key,), inner, f"{said}.{key}")
    elif last in table and _plain(table[last]) != _plain(value):
        other = ".".join(path)
        raise ValueError(f"{said} and {other} are one setting, given as {table[last]!r} and {value!r}: leave one out")
    else:
        table[last] = dict(value) if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def merged(*tables: Mapping[str, Any], replaced: tuple[str, ...] = ()) -> dict[str, Any]:
    """Tables put over each other, later ones on top, inner tables key by key.

    replaced: a path whose value takes the place of what was there, be it a table.
    """
    result: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            below = result.get(key)
            whole = replaced == (key,)
            inner = replaced[1:] if replaced[:1] == (key,) else ()
            join = isinstance(value, Mapping) and isinstance(below, Mapping) and not whole
            result[key] = merged(below, value, replaced=inner) if join else value  # type: ignore[arg-type]
    return result


def pruned(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a stored table, in today's schema, that are known: those added later and those removed since are left out."""
    table = todays(model, given)
    kept = {k: v for k, v in table.items() if k in model.model_fields}
    for key, value in kept.items():
        tables = inner_tables(model, key)
        if isinstance(value, list):
            kept[key] = [_pruned_one(tables, x) for x in value]
        else:
            kept[key] = _pruned_one(tables, value)
    return kept


def _pruned_one(tables: list[type[BaseModel]], value: Any) -> Any:
    chosen = chosen_table(tables, value) if isinstance(value, Mapping) else None
    closed = chosen is not None and issubclass(chosen, Table)  # others may have further keys of their kind
    return pruned(chosen, value) if chosen is not None and closed else value


def inner_tables(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """The tables that a key of a model may hold; none where it holds a value."""
    return mentioned_tables(model.model_fields[key].annotation) if key in model.model_fields else []


def inner_table(model: type[BaseModel], key: str, given: Any = None) -> type[BaseModel] | None:
    """The table that a key of a model holds, of several the one that is given; None where it holds a value."""
    return chosen_table(inner_tables(model, key), given)


def chosen_table(tables: list[type[BaseModel]], given: Any) -> type[BaseModel] | None:
    """Of several kinds of table the one that is given: by its `kind`, else the only one that knows all its keys."""
    if len(tables) == 1:
        [only] = tables
        return only.of_kind(given) if issubclass(only, OfKinds) and isinstance(given, Mapping) else only
    if not isinstance(given, Mapping):
        return None
    fitting = [t for t in tables if given.get("kind") in tags_of(t)] or [
        t for t in tables if set(given) <= {*t.model_fields, *renames_of(t)}
    ]
    return fitting[0] if len(fitting) == 1 else None


def tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The words that `kind` may be in a table that has one."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def renames_of(model: type[BaseModel]) -> Mapping[str, Renamed]:
    """The keys of earlier schemas that a table takes."""
    return model.renames if issubclass(model, EarlierKeys) else {}


def table_at(model: type[BaseModel], path: tuple[str, ...]) -> type[BaseModel] | None:
    """The table at a path of keys; None where there is none."""
    found: type[BaseModel] | None = model
    for key in path:
        found = None if found is None else inner_table(found, key)
    return found


def as_given(model: type[BaseModel], given: Any, path: list[str]) -> list[str]:
    """A path of keys in the words of the table that was given, which may be those of an earlier schema."""
    if not path:
        return []
    for earlier, renamed in renames_of(model).items():
        place, value = renamed.path, given.get(earlier) if isinstance(given, Mapping) else None
        said = isinstance(given, Mapping) and earlier in given
        if said and tuple(path[: len(place)]) == place and not (inner_tables(model, earlier) and _is_table(value)):
            inner = table_at(model, place)
            rest = path[len(place) :]
            return [earlier, *(rest if inner is None else as_given(inner, value, rest))]
    tables = inner_tables(model, path[0])
    below = given.get(path[0]) if isinstance(given, Mapping) else None
    head, rest = path[:1], path[1:]
    while rest and (
        rest[0].isdigit() or any(rest[0] in tags_of(t) for t in tables)
    ):  # one of a list, or of several kinds
        if rest[0].isdigit():
            index = int(rest[0])
            below = below[index] if isinstance(below, list | tuple) and index < len(below) else None
        else:
            tables = [t for t in tables if rest[0] in tags_of(t)]
        head, rest = [*head, rest[0]], rest[1:]
    return [*head, *(as_given(tables[0], below, rest) if len(tables) == 1 else rest)]


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping | BaseModel)


def mentioned_tables(annotation: Any) -> list[type[BaseModel]]:
    """All models that a type annotation mentions."""
    try:
        return list(_mentioned(annotation))
    except TypeError:  # an annotation with something that has no hash
        return list(_mentioned.__wrapped__(annotation))


@cache
def _mentioned(annotation: Any) -> tuple[type[BaseModel], ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(m for a in get_args(annotation) for m in mentioned_tables(a))


@dataclass(frozen=True)
class Setting:
    """One key of a table.  path: dotted.  default, description: as the table has them.  unit: from the name's end, or empty."""

    path: str
    default: Any
    unit: str
    description: str


UNITS = {
    "_per_ang": "1/Angstrom",
    "_ev_per_ang": "eV/Angstrom",
    "_ry": "Ry",
    "_ev": "eV",
    "_mev": "meV",
    "_ang": "Angstrom",
    "_mu_b": "mu_B",
    "_e": "e",
}


def settings_of(model: type[BaseModel], above: str = "") -> Iterator[Setting]:
    """Every key of a table and of the tables in it, in their order."""
    for key, entry in model.model_fields.items():
        inner = inner_table(model, key)
        if key == KEY:
            continue
        if inner is not None and not isinstance(entry.default, tuple):
            yield from settings_of(inner, f"{above}{key}.")
        else:
            ends = sorted((end for end in UNITS if key.endswith(end)), key=len)
            default = None if entry.is_required() else entry.get_default(call_default_factory=True)
            told = entry.description or _described(model).get(key, "")
            yield Setting(f"{above}{key}", default, UNITS[ends[-1]] if ends else "", told)


_KEYS = re.compile(r"(?:\n\s*|(?<=\S)  +)((?:[a-z]\w*)(?:, [a-z]\w*)*): ")


def _described(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring of a table says of its keys: `key, other: text`, at the begin of a line or after two spaces."""
    found: dict[str, str] = {}
    for table in reversed(model.__mro__):
        parts = _KEYS.split("\n" + (table.__doc__ or ""))
        for keys, text in zip(parts[1::2], parts[2::2], strict=True):
            line = " ".join(text.split("\n\n")[0].split())
            found |= {key: line for key in keys.split(", ") if key in model.model_fields}
    return found

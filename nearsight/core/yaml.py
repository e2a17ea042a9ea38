"""YAML as a configuration has it: tables with text for keys, each key once, and nothing that means something unforeseen.

Left out of YAML 1.1: numbers to the base of 60, octal ones by a leading zero (1:30 is 90 there, 010 is 8) and dates. Aliases
may be used, but what they stand for counts as often as it stands, so that a few lines cannot become gigabytes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from nearsight.core.errors import BadInput

LARGEST = 1024**2  # bytes: a table of 10,000 file names has half of it
_DEEPEST = 24
_MOST_VALUES = 100_000
_LARGEST_INTEGER = 2**63


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML, with 1e-5 a number as everywhere else: YAML 1.1 wants it written 1.0e-5 and takes it for text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # a class attribute of PyYAML's
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":timestamp", ":value"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _table(loader: Any, node: Any) -> Any:
    found: dict[str, Any] = {}
    yield found
    own: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
        if key.value in own and key.value != "<<":
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value:.40} stands twice", key.start_mark)
        own.add(key.value)
    loader.flatten_mapping(node)
    for key, value in node.value:
        found[key.value] = loader.construct_object(value, deep=True)


def _integer(loader: Any, node: Any) -> int:
    text = node.value.replace("_", "")
    if re.fullmatch(r"[-+]?0\d+", text) or ":" in text:
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{node.value:.40} would be octal or of base 60: write a plain number, or quotes",
            node.start_mark,
        )
    value = int(loader.construct_yaml_int(node))
    if abs(value) >= _LARGEST_INTEGER:
        raise yaml.constructor.ConstructorError(None, None, "a number of so many digits", node.start_mark)
    return value


def _number(loader: Any, node: Any) -> float:
    if ":" in node.value:
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value:.40} would be of base 60: write a plain number, or quotes", node.start_mark
        )
    return float(loader.construct_yaml_float(node))


_Loader.add_constructor("tag:yaml.org,2002:map", _table)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(text: str, what: str, kind: str = "a YAML file") -> Any:
    """What a text in YAML says: tables, lists, text, numbers, booleans, null.

    what: where the text is from, and kind: what it should be, for messages.
    Raises BadInput, in one line, for what is no YAML, is too long or too deep, has a key twice, or grows without bounds by
    its aliases.
    """
    if len(text) > LARGEST:
        raise BadInput(f"{what}: {len(text)} letters are no configuration; give the right file")
    try:
        _bounded(text, what)
        return yaml.load(text, _Loader)
    except BadInput:
        raise
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split()).replace(' in "<unicode string>",', " at")
        raise BadInput(f"{what} is not {kind}: {reason:.200}") from error


def _bounded(text: str, what: str) -> None:
    """Raises BadInput where a text is nested too deeply or stands for too many values, each alias counted whole."""
    sizes: dict[str, int | None] = {}  # of what the anchors name; None while it is open
    opened: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            if size is None:
                raise BadInput(f"{what}: the alias *{event.anchor:.40} stands within what it names")
            total += size
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1 if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(event, yaml.ScalarEvent):
                opened.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = 1 + total - before
        if len(opened) > _DEEPEST:
            raise BadInput(f"{what}: tables and lists are nested more than {_DEEPEST} deep")
        if total > _MOST_VALUES:
            raise BadInput(
                f"{what}: it stands for more than {_MOST_VALUES} values, aliases counted; write out what is meant"
            )

"""How objects show themselves: one line in a terminal, a picture in a notebook.

Drawing is done above this room. An object names the function that draws it, which is loaded when a notebook asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from reprlib import Repr
from typing import Any

LONGEST = 160  # characters


def one_line(self: Any) -> str:
    """The `__repr__` of a dataclass that holds arrays: its fields in a few words each, cut at 160 characters.

    Arrays are told by their shapes, tables and lists by their lengths; fields that are None or not part of the
    representation are left out. A class takes it by `__repr__ = one_line` in its body.
    """
    parts = []
    for f in fields(self):
        value = getattr(self, f.name, None)
        if f.repr and value is not None:
            parts.append(f"{f.name}={_word(value)}")
    return shortened(f"{type(self).__name__}({', '.join(parts)}", ")")


def shortened(text: str, end: str = "") -> str:
    """A text in one line of at most 160 characters with its end."""
    text = " ".join(text.split())
    room = LONGEST - len(end)
    return (text if len(text) <= room else text[: room - 3] + "...") + end


def _word(value: Any) -> str:
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    if hasattr(value, "shape"):
        return f"[{', '.join(str(n) for n in value.shape)}]"
    if isinstance(value, Mapping | tuple | list):
        short = repr(value) if all(isinstance(v, bool | int | float | str) for v in value) and len(value) <= 4 else None
        return (
            short
            if short is not None and not isinstance(value, Mapping) and len(short) <= 40
            else f"{len(value)} items"
        )
    name = getattr(value, "__name__", None)
    told = str(name) if name else repr(value)
    return told if len(told) <= 40 and "\n" not in told and " at 0x" not in told else type(value).__name__


def drawn_by(drawer: str) -> Callable[[Any], str | None]:
    """The `_repr_html_` of a class whose picture a function "module:name" makes: HTML, or None where it cannot.

    A class takes it by `_repr_html_ = drawn_by("nearsight.report.notebook:structure")` in its body.
    """
    module, _, name = drawer.partition(":")

    def _repr_html_(self: Any) -> str | None:
        html: str | None = getattr(import_module(module), name)(self)
        return html

    return _repr_html_


_LONGEST = 160  # characters of a value in a message


def shown(value: Any) -> str:
    """A value as a message shows it: `repr`, cut short, whatever was given."""
    short = Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 3, 8, 8, 8
    try:
        text = " ".join(short.repr(value).split())
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    except Exception:  # a repr of something foreign, or of a number beyond what Python writes
        return f"a {type(value).__name__}"

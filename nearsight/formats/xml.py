"""XML of data files: elements, attributes and text, and nothing of what XML has besides.

No document type, so no entities that grow; no depth and no number of elements that no such file has; encodings that are
not known, like everything else that the parser stumbles over, in one line.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from nearsight.core.display import shown
from nearsight.core.errors import BadInput
from nearsight.core.reading import MEBIBYTE, read_bytes

LARGEST = 64 * MEBIBYTE  # of the known files of pseudopotentials and species, none has 2
LARGEST_COUNT = 10**6
_DEEPEST = 24
_MOST_ELEMENTS = 20_000


def read_xml(path: Path, root: str, kind: str, remedy: str = "copy it again") -> tuple[Element, str]:
    """The root element of a file and the sha256 of its bytes; tags without their name space.

    root: the tag that the file's root must have; kind, remedy: what such a file is called in messages, and what to do.
    Raises BadInput: unreadable, truncated, garbled, of an unknown encoding, with a document type, too deep, another root.
    """
    raw = read_bytes(path, LARGEST, kind)
    builder, depth, count = TreeBuilder(), 0, 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _DEEPEST or count > _MOST_ELEMENTS:
            raise BadInput(f"{path}: is nested too deeply, or has too many elements, for a {kind}; take another file")
        builder.start(_local(tag), attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_local(tag))

    def refuse(name: str, *rest: object) -> None:
        raise BadInput(f"{path}: declares a document type ({name:.40}), which a {kind} has no use for; remove it")

    parser = expat.ParserCreate(None, "}")
    parser.buffer_text, parser.buffer_size = True, 1 << 15
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(raw, True)
        node = builder.close()
    except expat.ExpatError as error:
        begun, whole = f"<{root}".encode(), f"</{root}>".encode()
        if (begun in raw or not raw.strip()) and whole not in raw:
            raise BadInput(f"{path}: ends before </{root}>; the file is truncated, copy it again") from error
        raise BadInput(f"{path}: is not a {kind} ({error}); {remedy}") from error
    except (LookupError, ValueError) as error:
        raise BadInput(f"{path}: is in an encoding that is not known ({error}); write it in UTF-8") from error
    if node.tag != root:
        raise BadInput(f"{path}: the root element is <{node.tag:.40}>, not <{root}>; this is not a {kind}; {remedy}")
    return node, hashlib.sha256(raw).hexdigest()


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


class XmlSections:
    """The sections of one file, with its path for every complaint: all raise BadInput."""

    def __init__(self, path: Path, root: Element) -> None:
        self.path, self.root = path, root

    def fail(self, what: str) -> NoReturn:
        """Refuse the file."""
        raise BadInput(f"{self.path}: {what}")

    def section(self, tag: str) -> Element:
        """The element of a path of tags."""
        node = self.root.find(tag)
        if node is None:
            self.fail(f"section <{tag}> is missing; the file is incomplete, copy it again")
        return node

    def array(self, node: Element, count: int | None = None) -> NDArray[np.float64]:
        """The numbers that are an element's text, Fortran's exponents among them; as many as are needed."""
        try:
            data = np.array((node.text or "").replace("D", "E").split(), dtype=np.float64)
        except ValueError:
            self.fail(f"<{node.tag}> holds something that is not a number; copy the file again")
        if count is not None and data.size != count:
            self.fail(f"<{node.tag}> holds {data.size} numbers where {count} are needed; copy the file again")
        if not np.isfinite(data).all():
            self.fail(f"<{node.tag}> holds a value that is not finite; take another pseudopotential")
        return data

    def number(self, node: Element, name: str) -> float:
        """An attribute."""
        text = node.get(name)
        try:
            value = float(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            value = float("nan")
        if not np.isfinite(value):
            self.fail(f"<{node.tag}> has no number {name} (it says {shown(text)}); take another file")
        return value

    def whole(self, node: Element, name: str) -> int:
        """An attribute that is a whole number."""
        value = self.number(node, name)
        if value != int(value) or abs(value) > LARGEST_COUNT:
            self.fail(f"<{node.tag}>: {name} = {value:g} is no whole number that such a file has; take another file")
        return int(value)

"""XML of data files: elements, attributes and text, and nothing of what XML has besides.

No document type, so no entities that grow; no depth and no number of elements that no such file has; encodings that are
not known, like everything else that the parser stumbles over, in one line.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from nearsight.core.errors import BadInput
from nearsight.core.reading import MEBIBYTE, read_bytes

LARGEST = 64 * MEBIBYTE  # of the known files of pseudopotentials and species, none has 2
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

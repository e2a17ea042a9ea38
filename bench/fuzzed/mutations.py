"""Ways in which files go wrong: bits flipped, numbers altered, lines lost or doubled, arrays cut, keys renamed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

Random = np.random.Generator
Mutation = Callable[[bytes, Random], bytes]

NUMBER = re.compile(rb"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:[eEdD][-+]?\d+)?(?![\w.])")
ODD = [
    *(
        b"0",
        b"-1",
        b"nan",
        b"inf",
        b"-inf",
        b"1e308",
        b"-1e308",
        b"1e-308",
        b"1e400",
        b"99999999999",
        b"9223372036854775807",
    ),
    *(
        b"-9223372036854775808",
        b"1e12",
        b"0.5",
        b"1e30",
        b"3",
        b"",
        b"x",
        b"1,5",
        b"0x10",
        b"1_0",
        b"True",
        b"null",
        b"\xff",
    ),
    b"9" * 400,
]


def pick(random: Random, what: Any) -> Any:
    return what[int(random.integers(len(what)))]


def flipped(raw: bytes, random: Random) -> bytes:
    """One to eight bits."""
    data = bytearray(raw)
    for _ in range(int(random.integers(1, 9))):
        if data:
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return bytes(data)


def overwritten(raw: bytes, random: Random) -> bytes:
    """A stretch of random bytes, zeros or blanks."""
    data = bytearray(raw)
    start, length = int(random.integers(max(1, len(data)))), int(random.integers(1, 64))
    for n in range(start, min(len(data), start + length)):
        data[n] = pick(random, (0, 32, int(random.integers(256))))
    return bytes(data)


def cut(raw: bytes, random: Random) -> bytes:
    return raw[: int(random.integers(max(1, len(raw))))]


def moved(raw: bytes, random: Random) -> bytes:
    """A stretch taken out, doubled, or put elsewhere."""
    a, b = sorted(int(x) for x in random.integers(max(1, len(raw)), size=2))
    part, rest = raw[a:b], raw[:a] + raw[b:]
    place = int(random.integers(max(1, len(rest))))
    return pick(random, (rest, raw[:b] + part + raw[b:], rest[:place] + part + rest[place:]))


def lines(raw: bytes, random: Random) -> bytes:
    """A line dropped, doubled, emptied, exchanged with another, or its words in another order."""
    rows = raw.split(b"\n")
    n, m = (int(x) for x in random.integers(len(rows), size=2))
    how = int(random.integers(5))
    if how == 0:
        del rows[n]
    elif how == 1:
        rows.insert(n, rows[n])
    elif how == 2:
        rows[n] = b""
    elif how == 3:
        rows[n], rows[m] = rows[m], rows[n]
    else:
        words = rows[n].split()
        random.shuffle(words)
        rows[n] = b" ".join(words)
    return b"\n".join(rows)


def number(raw: bytes, random: Random) -> bytes:
    """One number in the text, altered or made something odd."""
    found = list(NUMBER.finditer(raw))
    if not found:
        return flipped(raw, random)
    match = pick(random, found)
    return raw[: match.start()] + altered(match[0], random) + raw[match.end() :]


def integer(raw: bytes, random: Random) -> bytes:
    """Four bytes, mostly of a header, made another integer."""
    data = bytearray(raw)
    end = min(len(data), 400 if random.random() < 0.7 else len(data))
    if end < 4:
        return flipped(raw, random)
    place = 4 * int(random.integers(end // 4))
    old = int.from_bytes(data[place : place + 4], "little", signed=True)
    made = pick(random, (0, 1, -1, old + 1, old - 1, -old, 2 * old, 2**31 - 1, -(2**31), 10**6, 2**24))
    data[place : place + 4] = (made & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(data)


def early_number(raw: bytes, random: Random) -> bytes:
    """The same within the first lines, where headers and counts are."""
    head = raw[:2000]
    return number(head, random) + raw[2000:]


def altered(word: bytes, random: Random) -> bytes:
    if random.random() < 0.4:
        return pick(random, ODD)
    try:
        value = float(word.lower().replace(b"d", b"e"))
    except ValueError:
        return pick(random, ODD)
    factor = pick(random, (-1, 2, 0.5, 10, 0.1, 1.01, 0.99, 1e3, 1e6, 1e-6, 0))
    made = value * factor if random.random() < 0.7 else value + pick(random, (-1, 1, 1e-3, 100))
    if b"." not in word and b"e" not in word.lower() and abs(made) < 1e15:
        return str(int(made)).encode()
    return repr(made).encode()


def words(raw: bytes, random: Random) -> bytes:
    """A word (a tag, a key, an element) altered by a letter, or another word of the file in its place."""
    found = list(re.finditer(rb"[A-Za-z_]{1,30}", raw))
    if not found:
        return flipped(raw, random)
    match, other = pick(random, found), pick(random, found)[0]
    letter = int(random.integers(len(match[0])))
    made = pick(random, (other, match[0][:letter] + match[0][letter + 1 :], match[0].swapcase(), b""))
    return raw[: match.start()] + made + raw[match.end() :]


TEXT: tuple[Mutation, ...] = (
    flipped,
    overwritten,
    cut,
    moved,
    lines,
    lines,
    number,
    number,
    early_number,
    early_number,
    words,
)
ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        10**6,
        10**9,
        10**12,
        10**30,
        0.5,
        -0.5,
        1e-300,
        1e300,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "x",
        "../..",
        "/dev/zero",
        "1",
        "nan",
        "a" * 5000,
        [],
        [[]],
        [1],
        [1, 2, 3],
        ["a"],
        {},
        {"a": 1},
        {"kind": "x"},
    ),
    [0] * 1000,
)


def tree(value: Any, random: Random) -> Any:
    """A table of a configuration with one thing changed: a value, a key, an entry of a list; or one thing gone."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            visit(node[key])

    visit(value)
    if not places:
        return pick(random, ODD_VALUES)
    node, key = pick(random, places)
    how = int(random.integers(6))
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[key[:-1] + "x"] = node.pop(key)
    elif how == 2 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
        node[key] = node[key] * pick(random, (-1, 2, 0.5, 1000, 10**9, 1e-9))
    elif how == 3:
        other, place = pick(random, places)
        node[key] = other[place] if other is not node else pick(random, ODD_VALUES)
    else:
        node[key] = pick(random, ODD_VALUES)
    return value


def json_tree(raw: bytes, random: Random) -> bytes:
    try:
        return json.dumps(tree(json.loads(raw), random)).encode()
    except (ValueError, RecursionError):  # altered before, or a table that was put into itself
        return flipped(raw, random)


def yaml_tree(raw: bytes, random: Random) -> bytes:
    try:
        return yaml.safe_dump(tree(yaml.safe_load(raw), random)).encode()
    except (ValueError, RecursionError, yaml.YAMLError):
        return flipped(raw, random)


def hdf5(path: Path, random: Random) -> None:
    """A data set of an HDF5 file altered in place: numbers, shape, type, name, place."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
        name = pick(random, sorted(names))
        data = file[name][()]
        if not isinstance(data, np.ndarray) or data.ndim == 0 or data.dtype.kind not in "iufc":
            del file[name]
            return
        how = int(random.integers(9))
        flat = data.reshape(-1)
        if how <= 1 and flat.size:
            place = int(random.integers(flat.size))
            if data.dtype.kind in "iu":
                made = pick(random, (-1, 0, 1, 2, 10**9, 2**62, int(flat[place]) + 1, -int(flat[place])))
                flat[place] = np.int64(made).astype(data.dtype)
            else:
                flat[place] = pick(random, (np.nan, np.inf, 1e30, -flat[place], flat[place] * 10, flat[place] + 1, 0))
            file[name][...] = data
            return
        if how == 2 and flat.size:
            random.shuffle(flat)
            file[name][...] = data
            return
        del file[name]
        if how == 3:
            file[name] = data[: int(random.integers(len(data) + 1))]
        elif how == 4:
            file[name] = np.concatenate([data, data[:1]])
        elif how == 5:
            file[name] = data.astype(pick(random, (">f8", "f4", "i2", "c16", "S8", "u1", "f2")), casting="unsafe")
        elif how == 6:
            shape = tuple(int(pick(random, (2**40, 2**20, n))) for n in data.shape)
            file.create_dataset(name, shape=shape, dtype=data.dtype, chunks=tuple(min(n, 64) or 1 for n in shape))
        elif how == 7:
            file[name] = pick(random, (h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/atom_pairs")))
        # 8: gone

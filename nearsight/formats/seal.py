"""Tables and arrays that are written and read by this program alone carry a digest: what was altered is not computed with.

The checksums of a `.npz` file do not serve: where the size that it tells of an array was altered too, nobody looks at them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

KEY = "sha256"


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table as JSON holds it, with a digest of its content."""
    written: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return {**written, KEY: _digest(written)}


def is_whole(table: Mapping[str, Any]) -> bool:
    """Whether the content is as it was sealed; a table from before there were seals counts as whole."""
    return KEY not in table or table[KEY] == _digest({k: v for k, v in table.items() if k != KEY})


def write_arrays(file: IO[bytes], arrays: Mapping[str, Any]) -> None:
    """A `.npz` file of arrays and numbers by name, with a digest of all."""
    kept = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(file, allow_pickle=False, **kept, **{KEY: np.array(_digest_of_arrays(kept))})


def read_arrays(path: Path, sealed_only: bool = False) -> dict[str, NDArray[Any]]:
    """What `write_arrays` wrote.

    sealed_only: refuse also what has no digest, as files of before there were seals.
    Raises ValueError for what was altered, and whatever a damaged file makes NumPy stumble over.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    told = arrays.pop(KEY, None)
    if (told is None and sealed_only) or (told is not None and str(told) != _digest_of_arrays(arrays)):
        raise ValueError("it was altered after it was written")
    return arrays


def _digest_of_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        x = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {x.dtype.str} {arrays[name].shape}".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def _digest(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()

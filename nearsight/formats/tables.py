"""Numbers in lines of text, and in tables of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_text
from nearsight.formats.files import read_json


def read_table(path: Path, columns: int | None = None) -> NDArray[np.float64]:
    """Rows of finite numbers [rows, columns]. Raises BadInput for anything else."""
    try:
        rows = [
            [float(w) for w in line.split()]
            for line in read_text(path, LARGEST, "table of numbers").splitlines()
            if line.split()
        ]
        table = np.array(rows, dtype=np.float64)
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a table of numbers: {error}") from error
    if table.ndim != 2 or (columns is not None and table.shape[1] != columns) or not np.isfinite(table).all():
        wanted = "numbers" if columns is None else f"{columns} numbers a line"
        raise BadInput(f"{path} is not a table of {wanted}")
    return table


def read_info(path: Path) -> dict[str, Any]:
    """A table of JSON. Raises BadInput for a file that is missing or holds anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path} is not a table of names and values: write or copy it again")
    return content


def number_in(info: Mapping[str, Any], key: str, path: Path) -> float | None:
    """A number of such a table, None where it is null or missing. Raises BadInput for anything else."""
    value = info.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise BadInput(f"{path}: {key} is {value!r}, not a number")
    return float(value)

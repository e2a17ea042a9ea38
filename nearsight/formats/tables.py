"""Numbers in lines of text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput


def read_table(path: Path, columns: int | None = None) -> NDArray[np.float64]:
    """Rows of finite numbers [rows, columns]. Raises BadInput for anything else."""
    try:
        rows = [[float(w) for w in line.split()] for line in path.read_text().splitlines() if line.split()]
        table = np.array(rows, dtype=np.float64)
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a table of numbers: {error}") from error
    if table.ndim != 2 or (columns is not None and table.shape[1] != columns) or not np.isfinite(table).all():
        wanted = "numbers" if columns is None else f"{columns} numbers a line"
        raise BadInput(f"{path} is not a table of {wanted}")
    return table

"""Magnetic moments as they are written on a command line: 1,-1 along one axis, or vectors, 0,0,3;0,3,0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearsight.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor


def moments_of(text: str, option: str = "--moments") -> Tensor:
    """[atoms] or [atoms, 3], mu_B. Raises BadInput for what are none."""
    try:
        rows = [[float(word) for word in row.split(",")] for row in text.strip().rstrip(";").split(";")]
        if len(rows) > 1 and any(len(row) != 3 for row in rows):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"{option} {text:.60}: write a number for each atom with commas between them, such as 1,-1, or three and a "
            "semicolon, such as 0,0,3;0,3,0"
        ) from None
    import torch

    found = torch.tensor(rows, dtype=torch.float64)
    return found if len(rows) > 1 or text.strip().endswith(";") else found[0]

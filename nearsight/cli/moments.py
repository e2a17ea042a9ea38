"""Magnetic moments as they are written on a command line: 1,-1 along one axis, or vectors, 0,0,3;0,3,0."""

from __future__ import annotations

from nearsight.core.errors import BadInput


def moments_of(text: str) -> list[float] | list[list[float]]:
    """A number for each atom, or a vector for each, mu_B. Raises BadInput for what are none."""
    if ";" not in text:
        return _numbers(text)
    vectors = [_numbers(part) for part in text.strip().rstrip(";").split(";")]
    short = next((v for v in vectors if len(v) != 3), None)
    if short is not None:
        raise BadInput(
            f"--moments {text:.60}: a vector has three numbers, not {len(short)}; write 0,0,3;0,0,-3 for two atoms"
        )
    return vectors


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise BadInput(
            f"--moments {text:.60}: write numbers with commas between them, such as 1,-1, or vectors with semicolons "
            "between them, such as 0,0,3;0,3,0"
        ) from None

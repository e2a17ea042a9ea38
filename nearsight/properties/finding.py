"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Finding:
    """One law: what it is, what was found (with the remedy where one is known), whether it holds."""

    law: str
    found: str
    holds: bool

    def to_json(self) -> dict[str, object]:
        """As a table."""
        return asdict(self)

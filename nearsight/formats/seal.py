"""JSON tables that are written and read by this program alone carry a digest: one that was altered is not computed with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table as JSON holds it, with a digest of its content."""
    written: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return {**written, KEY: _digest(written)}


def is_whole(table: Mapping[str, Any]) -> bool:
    """Whether the content is as it was sealed; a table from before there were seals counts as whole."""
    return KEY not in table or table[KEY] == _digest({k: v for k, v in table.items() if k != KEY})


def _digest(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()

"""Schema versions of what is stored: what an older program wrote is read for ever, what a later one wrote is refused in a line.

A version is a whole number under the key `schema_version`, beside the data that it describes; files from before there were
versions count as 1. It is raised only where an older reader would misread what is stored: a key that readers may ignore is
added without. So a reader takes the keys that it knows, whatever else is there, and a default for those that are missing.
"""

from __future__ import annotations

from typing import Any

from nearsight.core.errors import BadInput

KEY = "schema_version"


def checked_version(found: Any, known: int, what: object, by: Any = None) -> int:
    """The schema version of something stored, 1 where it states none.

    found: the value under `schema_version`, or None.  known: the latest that this program reads.  what: the file or folder,
    for messages.  by: version of the Nearsight that wrote it, if recorded.
    Raises BadInput for a later version, or what is no version.
    """
    if found is None:
        return 1
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise BadInput(
            f"{what}: its {KEY} {found!r} is none (a whole number from 1 on): the file is damaged or foreign"
        )
    if found > known:
        needed = f"Nearsight {by} or later" if by else "a later Nearsight"
        raise BadInput(
            f"{what} needs {needed} (its schema is version {found}, this one reads up to {known}): "
            "pip install --upgrade nearsight, or make it again with this one"
        )
    return found

"""Many independent jobs: a ledger of them that survives any death of whoever works them off."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearsight.core.errors import BadInput
from nearsight.formats.sets.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, state TEXT NOT NULL,
    started REAL, seconds REAL, error TEXT, sha256 TEXT
)"""


@dataclass(frozen=True)
class Job:
    """name: of the job and of what it leaves.  digest: of all its input.  work: for the worker (picklable).

    former: the digest that earlier programs gave the same input, if they gave another.
    """

    name: str
    digest: str
    work: Any
    former: str | None = None


@dataclass(frozen=True)
class Outcome:
    """state: done or failed.  error: one line.  sha256: of the job's main file.  seconds: wall time."""

    name: str
    state: str
    seconds: float
    error: str | None = None
    sha256: str | None = None


class Ledger:
    """Which jobs are pending, running, done or failed: a table in the SQLite file of the folder that holds their results.

    Only the process that holds the folder's lock may open it, so that whatever is found `running` was cut off. The same file
    has the manifest of what the folder holds (formats/sets/manifest.py).
    Raises BadInput for a file that is none, or of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.database.change(SCHEMA)

    def close(self) -> None:
        """Give the file back."""
        self.database.close()

    def plan(
        self,
        jobs: Sequence[Job],
        is_there: Callable[[str], bool],
        is_whole: Callable[[str], bool] = lambda name: True,
        stated: Callable[[str], str | None] = lambda name: None,
    ) -> list[Job]:
        """Enter new jobs and return those to be worked on: all that are not done with their result in its place.

        is_whole: whether a result that is there has all that is asked for now.  stated: the digest that a result tells itself,
        which counts where the ledger knows nothing of it: a lost ledger comes back.
        Raises NearsightError where finished jobs were made from other input: one folder holds one set.
        """
        query = "SELECT name, digest, state FROM job"
        rows = {name: (digest, state) for name, digest, state in self.database.query(query)}
        there = [j for j in jobs if is_there(j.name)]
        rows |= {j.name: (d, "done") for j in there if j.name not in rows and (d := stated(j.name)) is not None}
        foreign = [j.name for j in there if rows.get(j.name, ("", ""))[0] not in (j.digest, j.former or j.digest)]
        if foreign:
            raise BadInput(
                f"{len(foreign)} results here ({foreign[0]}, ...) were made from another configuration: "
                "build into a new folder, or remove this one"
            )
        finished = {j.name for j in there if rows[j.name][1] == "done" and is_whole(j.name)}
        todo = [j for j in jobs if j.name not in finished]
        with self.database.transaction():
            self.database.change(
                "INSERT INTO job (name, digest, state) VALUES (?, ?, 'done') "
                "ON CONFLICT (name) DO UPDATE SET digest = excluded.digest",
                [(j.name, j.digest) for j in jobs if j.name in finished],
            )
            self.database.change(
                "INSERT OR REPLACE INTO job (name, digest, state) VALUES (?, ?, 'pending')",
                [(j.name, j.digest) for j in todo],
            )
        return todo

    def begin(self, name: str) -> None:
        """A job is running from now on."""
        self.database.change("UPDATE job SET state = 'running', started = ? WHERE name = ?", [(time.time(), name)])

    def finish(self, outcome: Outcome) -> None:
        """Enter how a job ended."""
        o = outcome
        self.database.change(
            "UPDATE job SET state = ?, seconds = ?, error = ?, sha256 = ? WHERE name = ?",
            [(o.state, o.seconds, o.error, o.sha256, o.name)],
        )

    def outcomes(self) -> list[Outcome]:
        """Every job that was finished, well or not, by name."""
        query = "SELECT name, state, seconds, error, sha256 FROM job WHERE state IN ('done', 'failed') ORDER BY name"
        return [Outcome(n, s, t or 0.0, e, h) for n, s, t, e, h in self.database.query(query)]

"""What an executor promises: jobs worked off somewhere, each reported to the one process that holds the ledger.

A third party registers its class as an entry point of the group `nearsight.executors`. Workers never open the ledger: whatever
they have to say comes back through `Work.ended`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from nearsight.core.parts import PartTable
from nearsight.core.tables import Table
from nearsight.tasks.ledger import Job, Outcome


class Limits(Table):
    """Of each job.

    wall_seconds: after which its process is ended.  memory_gb: that it may map, beyond an idle worker's own.
    """

    wall_seconds: float | None = Field(None, gt=0, le=1e8)
    memory_gb: float | None = Field(None, gt=0, le=1e6)


class ExecutorTable(PartTable):
    """The table `executor`, of which every kind has its own keys.

    kind: where jobs are worked off.
    """

    group: ClassVar[str] = "executors"
    kind: str = "local"


@dataclass(frozen=True)
class Work:
    """jobs: to be worked off.  function: of a job's work, importable; its exceptions are failures.  folder: of the results.

    workers: processes.  limits: of each job.  begun, ended: to be called in this process for each job.
    """

    jobs: Sequence[Job]
    function: Callable[[Any], str | None]
    folder: Path
    workers: int
    limits: Limits
    begun: Callable[[str], None]
    ended: Callable[[Outcome], None]


class Executor(ABC):
    """Where jobs are worked off.

    name: how it is asked for.  Table: what its table `executor` takes.
    """

    name: ClassVar[str]
    Table: ClassVar[type[ExecutorTable]] = ExecutorTable

    def __init__(self, table: ExecutorTable) -> None:
        self.table: Any = table

    def check(self) -> None:  # noqa: B027  # most need nothing
        """Raises Unavailable, before the work, for what is not installed or cannot be reached."""

    @abstractmethod
    def run(self, work: Work) -> str | None:
        """Work off the jobs, a failure for itself. Returns a line on what is left for the user to do, if anything is.

        Raises NearsightError where nothing can go on.
        """


def executor_of(table: ExecutorTable) -> Executor:
    """Raises Unavailable for an entry point that is no executor."""
    made: Executor = table.part(Executor)(table)
    return made

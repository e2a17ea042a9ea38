"""The executor `dask`: the workers of any Dask scheduler (dask-jobqueue's on Slurm or PBS), or a cluster of this machine.

Workers write results to the set's folder and report through the scheduler. Jobs of a worker that is lost go to another one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal
from uuid import uuid4

from pydantic import Field

from nearsight.core.errors import Unavailable
from nearsight.tasks.executors.contract import Executor, ExecutorTable, Limits, Work
from nearsight.tasks.executors.local import LocalWorker, answered
from nearsight.tasks.ledger import Job, Outcome


class DaskTable(ExecutorTable):
    """scheduler: address, such as tcp://host:8786; without it a cluster of this machine, with the set's number of workers.

    timeout_seconds: to reach it.  losses: of workers that one job may cost before it counts as failed.
    """

    kind: Literal["dask"] = "dask"
    scheduler: str | None = None
    timeout_seconds: float = Field(30.0, gt=0, le=3600)
    losses: int = Field(3, ge=0, le=100)


class Dask(Executor):
    """See the module."""

    name: ClassVar[str] = "dask"
    Table: ClassVar[type[ExecutorTable]] = DaskTable

    def check(self) -> None:
        """Raises Unavailable without the package `distributed`."""
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise Unavailable("the executor dask needs Dask: pip install 'nearsight[dask]'") from error

    def run(self, work: Work) -> str | None:
        """See Executor."""
        if not work.jobs:
            return None
        import dask
        from distributed import as_completed

        quiet = {
            "distributed.scheduler.allowed-failures": self.table.losses,
            "distributed.admin.low-level-log-length": 0,
        }
        with dask.config.set(quiet), _silence(), self._client(work) as client:
            mark = uuid4().hex[:8]
            futures = {}
            for job in work.jobs:
                key = f"{job.name}-{mark}"
                future = client.submit(answer, work.function, job, work.limits, key=key, pure=False, retries=0)
                futures[future.key] = (future, job.name)
                work.begun(job.name)
            try:
                for future in as_completed([f for f, _ in futures.values()]):
                    _, name = futures.pop(future.key)
                    work.ended(_outcome(future, name))
                    future.release()
            finally:
                client.cancel([f for f, _ in futures.values()])
        return None

    @contextmanager
    def _client(self, work: Work) -> Iterator[Any]:
        from distributed import Client, LocalCluster

        address, timeout = self.table.scheduler, self.table.timeout_seconds
        if address is None:
            options = {"dashboard_address": None, "threads_per_worker": 1, "silence_logs": logging.CRITICAL}
            with LocalCluster(n_workers=work.workers, **options) as cluster, Client(cluster) as client:
                yield client
            return
        try:
            client = Client(address, timeout=timeout)
        except (OSError, ValueError, TimeoutError) as error:
            raise Unavailable(
                f"no Dask scheduler at {address}: {' '.join(str(error).split()) or type(error).__name__}"
            ) from error
        with client:
            yield client


def _outcome(future: Any, name: str) -> Outcome:
    try:
        found: Outcome = future.result()
        return found
    except Exception as error:  # the scheduler's: lost workers, work that cannot be sent
        kind = type(error).__name__
        said = "its worker was lost again and again: out of memory, or killed" if kind == "KilledWorker" else str(error)
        return Outcome(name, "failed", 0.0, f"{' '.join(said.split())[:300] or kind}")


_own = threading.local()


def answer(function: Callable[[Any], str | None], job: Job, limits: Limits) -> Outcome:
    """One job on a worker of Dask: in a child process of its thread where there are limits to keep."""
    if limits.wall_seconds is None and limits.memory_gb is None:
        began = time.monotonic()
        error, sha256 = answered(function, job.work, None)
        return Outcome(job.name, "failed" if error else "done", time.monotonic() - began, error, sha256)
    child: LocalWorker | None = getattr(_own, "child", None)
    if child is None or not child.alive or child.limits != limits:
        child = _own.child = LocalWorker(function, 1, limits)
    return child.answer(job)


@contextmanager
def _silence() -> Iterator[None]:
    """What Dask logs of workers that come and go is no news here."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)

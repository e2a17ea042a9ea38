"""Many independent jobs on one machine: a ledger that survives any death, and a pool of processes that works it off."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nearsight.core.errors import NearsightError

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, state TEXT NOT NULL,
    started REAL, seconds REAL, error TEXT, sha256 TEXT
)"""


@dataclass(frozen=True)
class Job:
    """name: of the job and of what it leaves.  digest: of all its input.  work: for the worker (picklable)."""

    name: str
    digest: str
    work: Any


@dataclass(frozen=True)
class Outcome:
    """state: done or failed.  error: one line.  sha256: of the job's main file.  seconds: wall time."""

    name: str
    state: str
    seconds: float
    error: str | None = None
    sha256: str | None = None


class Ledger:
    """Which jobs are pending, running, done or failed: a SQLite file (WAL) in the folder that holds their results.

    Only the process that holds the folder's lock may open it, so that whatever is found `running` was cut off.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.connection = sqlite3.connect(path, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.execute(SCHEMA)
        except sqlite3.Error as error:
            raise NearsightError(f"{path} cannot be used as a ledger ({error}): remove it to begin anew") from error

    def close(self) -> None:
        self.connection.close()

    def plan(self, jobs: Sequence[Job], is_there: Callable[[str], bool]) -> list[Job]:
        """Enter new jobs and return those to be worked on: all that are not done with their result in its place.

        Raises NearsightError where finished jobs were made from other input: one folder holds one set.
        """
        query = "SELECT name, digest, state FROM job"
        rows = {name: (digest, state) for name, digest, state in self.connection.execute(query)}
        there = [j for j in jobs if is_there(j.name)]
        foreign = [j.name for j in there if rows.get(j.name, ("", ""))[0] != j.digest]
        if foreign:
            raise NearsightError(
                f"{len(foreign)} results here ({foreign[0]}, ...) were made from another configuration: "
                "build into a new folder, or remove this one"
            )
        finished = {j.name for j in there if rows[j.name][1] == "done"}
        todo = [j for j in jobs if j.name not in finished]
        self.connection.executemany(
            "INSERT OR REPLACE INTO job (name, digest, state) VALUES (?, ?, 'pending')",
            [(j.name, j.digest) for j in todo],
        )
        return todo

    def begin(self, name: str) -> None:
        self.connection.execute("UPDATE job SET state = 'running', started = ? WHERE name = ?", (time.time(), name))

    def finish(self, outcome: Outcome) -> None:
        o = outcome
        self.connection.execute(
            "UPDATE job SET state = ?, seconds = ?, error = ?, sha256 = ? WHERE name = ?",
            (o.state, o.seconds, o.error, o.sha256, o.name),
        )

    def outcomes(self) -> list[Outcome]:
        """Every job that was finished, well or not, by name."""
        query = "SELECT name, state, seconds, error, sha256 FROM job WHERE state IN ('done', 'failed') ORDER BY name"
        return [Outcome(n, s, t or 0.0, e, h) for n, s, t, e, h in self.connection.execute(query)]


def run_jobs(
    jobs: Sequence[Job],
    worker: Callable[[Any], str | None],
    ledger: Ledger,
    workers: int,
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Work off jobs in processes of their own and enter what comes of them; a worker that dies fails its job alone.

    worker: a function of a module that turns a job's `work` into a file put in place and returns its sha256; an
    exception is a failure.  report: called with each outcome as it comes.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting, outcomes = list(reversed(jobs)), []
    crew: list[_Worker] = []
    try:
        while waiting or any(w.job for w in crew):
            while waiting and len(crew) < min(workers, len(jobs)):
                crew.append(_Worker(context, worker, threads))
            for idle in [w for w in crew if w.job is None]:
                if waiting:
                    ledger.begin(waiting[-1].name)
                    idle.give(waiting.pop())
            ready = wait([w.channel for w in crew if w.job is not None])
            for w in [w for w in crew if w.channel in ready]:
                outcome = w.take()
                ledger.finish(outcome)
                outcomes.append(outcome)
                report(outcome)
            crew = [w for w in crew if w.alive]
    finally:
        for w in crew:
            w.stop()
    return outcomes


class _Worker:
    """One process and the channel to it."""

    def __init__(self, context: Any, function: Callable[[Any], str | None], threads: int) -> None:
        channel, theirs = context.Pipe()
        self.channel: Connection = channel
        self.process = context.Process(target=_serve, args=(theirs, function, threads, os.getpid()), daemon=True)
        # Ctrl-C is the parent's to handle, also while the worker starts: it inherits the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.job: Job | None = None
        self.begun = 0.0
        self.alive = True

    def give(self, job: Job) -> None:
        self.job, self.begun = job, time.monotonic()
        self.channel.send(job.work)

    def take(self) -> Outcome:
        assert self.job is not None
        name, seconds = self.job.name, time.monotonic() - self.begun
        self.job = None
        try:
            error, sha256 = self.channel.recv()
        except (EOFError, OSError):
            self.process.join()
            self.alive = False
            code = self.process.exitcode
            return Outcome(name, "failed", seconds, f"the worker died (exit {code}): out of memory, or killed")
        return Outcome(name, "failed" if error else "done", seconds, error, sha256)

    def stop(self) -> None:
        """End the process: at once if it has a job, whose result is then absent, not broken."""
        self.channel.close()
        if self.job is not None:
            self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def _serve(channel: Connection, function: Callable[[Any], str | None], threads: int, parent: int) -> None:
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            work = channel.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[str | None, str | None] = (None, function(work))
        except NearsightError as error:
            answer = (" ".join(str(error).split()), None)
        except Exception as error:  # a job's defect is the job's failure, told in the ledger and at the end
            answer = (f"{type(error).__name__}: {' '.join(str(error).split())}", None)
            sys.excepthook(type(error), error, error.__traceback__)
        channel.send(answer)


def _end_with(parent: int) -> None:
    """Leave when the parent is gone: nobody would enter what comes of this."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)

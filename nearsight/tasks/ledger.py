"""Many independent jobs on one machine: a ledger that survives any death, and a pool of processes that works it off."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nearsight.core.errors import BadInput, NearsightError
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
    ) -> list[Job]:
        """Enter new jobs and return those to be worked on: all that are not done with their result in its place.

        is_whole: whether a result that is there has all that is asked for now.
        Raises NearsightError where finished jobs were made from other input: one folder holds one set.
        """
        query = "SELECT name, digest, state FROM job"
        rows = {name: (digest, state) for name, digest, state in self.database.query(query)}
        there = [j for j in jobs if is_there(j.name)]
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
                "UPDATE job SET digest = ? WHERE name = ?", [(j.digest, j.name) for j in jobs if j.name in finished]
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


def run_jobs(
    jobs: Sequence[Job],
    worker: Callable[[Any], str | None],
    ledger: Ledger,
    workers: int,
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Work off jobs in processes of their own and enter what comes of them; a worker that dies fails its job alone.

    worker: a function of a module (not of the script that runs) that turns a job's `work` into a file put in place and
    returns its sha256; an exception is a failure.  report: called with each outcome as it comes.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting, outcomes = list(reversed(jobs)), []
    crew: list[_Worker] = []
    try:
        while waiting or any(w.job for w in crew):
            while waiting and len(crew) < min(workers, len(jobs)):
                crew.append(_Worker(worker, threads))
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
    """One process and the channel to it.

    It begins as a program of its own, not as multiprocessing's child: those run the caller's script once more, which a script
    without `if __name__ == "__main__":` does not survive.
    """

    def __init__(self, function: Callable[[Any], str | None], threads: int) -> None:
        self.channel, theirs = Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from nearsight.tasks.ledger import serve; serve({theirs.fileno()}, {threads}, {os.getpid()})"
        )
        # Ctrl-C is the parent's to handle, also while the worker starts: it inherits the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.channel.send_bytes(pickle.dumps(function))
        self.job: Job | None = None
        self.begun = 0.0
        self.alive = True

    def give(self, job: Job) -> None:
        self.job, self.begun = job, time.monotonic()
        with suppress(OSError):  # it died: `take` says so
            self.channel.send_bytes(pickle.dumps(job.work))

    def take(self) -> Outcome:
        assert self.job is not None
        name, seconds = self.job.name, time.monotonic() - self.begun
        self.job = None
        try:
            error, sha256 = pickle.loads(self.channel.recv_bytes())
        except (EOFError, OSError):
            self.alive = False
            return Outcome(name, "failed", seconds, _how_it_died(self.process.wait()))
        return Outcome(name, "failed" if error else "done", seconds, error, sha256)

    def stop(self) -> None:
        """End the process: at once if it has a job, whose result is then absent, not broken."""
        self.channel.close()
        if self.job is not None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _how_it_died(code: int) -> str:
    if code < 0:
        return f"the worker died ({signal.Signals(-code).name}): out of memory, or killed"
    return f"the worker died (exit {code}): what it said stands above"


def serve(descriptor: int, threads: int, parent: int) -> None:
    """The life of a worker: the function first, then its jobs, each answered by (error or None, sha256 or None).

    descriptor: of the channel, inherited.  parent: id of the process to die with.
    """
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    channel: Connection = Connection(descriptor)
    function: Callable[[Any], str | None] | None = None
    while True:
        try:
            function = function or pickle.loads(channel.recv_bytes())
            work = pickle.loads(channel.recv_bytes())
        except (EOFError, OSError):  # the parent has no more work, or was stopped before it gave any
            return
        try:
            answer: tuple[str | None, str | None] = (None, function(work))
        except NearsightError as error:
            answer = (" ".join(str(error).split()), None)
        except Exception as error:  # a job's defect is the job's failure, told in the ledger and at the end
            answer = (f"{type(error).__name__}: {' '.join(str(error).split())}", None)
            sys.excepthook(type(error), error, error.__traceback__)
        channel.send_bytes(pickle.dumps(answer))


def _end_with(parent: int) -> None:
    """Leave when the parent is gone: nobody would enter what comes of this."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)

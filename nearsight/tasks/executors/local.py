"""The executor `local`: processes of this machine, each with the limits of its jobs; whoever dies takes one job with it."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, ClassVar

from nearsight.core.errors import NearsightError
from nearsight.formats.files import abandon
from nearsight.tasks.executors.contract import Executor, Limits, Work
from nearsight.tasks.ledger import Job, Outcome

AGAIN = 2  # times that a job is given out again after its worker was killed from outside


class Local(Executor):
    """As many processes as the set asks for, one for each core if it does not say."""

    name: ClassVar[str] = "local"

    def run(self, work: Work) -> str | None:
        """See Executor."""
        threads = max(1, (os.cpu_count() or 1) // work.workers)
        waiting, killed = list(reversed(work.jobs)), Counter[str]()
        crew: list[LocalWorker] = []
        try:
            while waiting or any(w.job for w in crew):
                while waiting and len(crew) < min(work.workers, len(work.jobs)):
                    crew.append(LocalWorker(work.function, threads, work.limits))
                for idle in [w for w in crew if w.job is None]:
                    if waiting:
                        work.begun(waiting[-1].name)
                        idle.give(waiting.pop())
                busy = [w for w in crew if w.job is not None]
                ready = wait([w.channel for w in busy], min(w.patience for w in busy))
                for w in [w for w in busy if w.channel in ready or w.patience <= 0]:
                    job = w.job
                    assert job is not None
                    outcome = w.take() if w.channel in ready else w.cut_off()
                    if outcome is None:
                        continue
                    if w.killed and killed[job.name] < AGAIN:
                        killed[job.name] += 1
                        waiting.append(job)
                    else:
                        work.ended(outcome)
                crew = [w for w in crew if w.alive]
        finally:
            for w in crew:
                w.stop()
        return None


class LocalWorker:
    """One process and the channel to it.

    It begins as a program of its own, not as multiprocessing's child: those run the caller's script once more, which a script
    without `if __name__ == "__main__":` does not survive. It leads a session of its own, so that what it starts ends with it.
    """

    def __init__(self, function: Callable[[Any], str | None], threads: int, limits: Limits) -> None:
        self.channel, theirs = Pipe()
        memory = limits.memory_gb
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from nearsight.tasks.executors.local import serve; serve({theirs.fileno()}, {threads}, {os.getpid()}, {memory!r})"
        )
        # Ctrl-C is the parent's to handle, also while the worker starts: it inherits the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.limits = limits
        self.job: Job | None = None
        self.begun: float | None = None  # when it took up its job, which is not before it has started itself
        self.started = self.killed = False
        self.alive = True
        with suppress(OSError):
            self.channel.send_bytes(pickle.dumps(function))

    def give(self, job: Job) -> None:
        """A job to work on."""
        self.job, self.begun = job, time.monotonic() if self.started else None
        with suppress(OSError):  # it died: `take` says so
            self.channel.send_bytes(pickle.dumps(job.work))

    @property
    def patience(self) -> float:
        """Seconds that its job may still take."""
        if self.begun is None or self.limits.wall_seconds is None:
            return 3600.0
        return max(0.0, self.limits.wall_seconds - (time.monotonic() - self.begun))

    def take(self) -> Outcome | None:
        """What it says: an outcome, or, once, that it has started (None)."""
        assert self.job is not None
        try:
            answer = pickle.loads(self.channel.recv_bytes())
        except (EOFError, OSError):
            return self._died(None)
        if answer == STARTED:
            self.started, self.begun = True, time.monotonic()
            return None
        return self._outcome(*answer)

    def cut_off(self) -> Outcome:
        """End it: its job took too long."""
        self._kill()
        return self._died(f"took longer than limits.wall_seconds, {self.limits.wall_seconds:g}: it was ended")

    def answer(self, job: Job) -> Outcome:
        """Give a job and wait for its outcome."""
        self.give(job)
        while True:
            ready = self.channel.poll(self.patience)
            outcome = self.take() if ready else (self.cut_off() if self.patience <= 0 else None)
            if outcome is not None:
                return outcome

    def _outcome(self, error: str | None, sha256: str | None = None) -> Outcome:
        assert self.job is not None
        name, seconds = self.job.name, 0.0 if self.begun is None else time.monotonic() - self.begun
        self.job = self.begun = None
        return Outcome(name, "failed" if error else "done", seconds, error, sha256)

    def _died(self, said: str | None) -> Outcome:
        code = self.process.wait()
        self.alive = False
        self.killed = said is None and code < 0
        self._kill()  # what it had started
        if said is None and code < 0:
            said = f"the worker died ({signal.Signals(-code).name}): out of memory, or killed"
        return self._outcome(said or f"the worker died (exit {code}): what it said stands above")

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process: at once if it has a job, whose result is then absent, not broken."""
        self.channel.close()
        if self.job is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self._kill()
            self.process.wait()


STARTED = "started"


def serve(descriptor: int, threads: int, parent: int, memory_gb: float | None) -> None:
    """The life of a worker: the function first, then its jobs, each answered by (error or None, sha256 or None).

    descriptor: of the channel, inherited.  parent: id of the process to die with.  memory_gb: of each job, see `Limits`.
    """
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, _stopped)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    channel: Connection = Connection(descriptor)
    try:
        function: Callable[[Any], str | None] = pickle.loads(channel.recv_bytes())
        if memory_gb is not None:
            _limit_memory(memory_gb)
        channel.send_bytes(pickle.dumps(STARTED))
        while True:
            channel.send_bytes(pickle.dumps(answered(function, pickle.loads(channel.recv_bytes()), memory_gb)))
    except (EOFError, OSError):  # the parent has no more work, or was stopped before it gave any
        return


def answered(
    function: Callable[[Any], str | None], work: Any, memory_gb: float | None
) -> tuple[str | None, str | None]:
    """(error, None) or (None, sha256) of a job: whatever goes wrong is its failure, in a line."""
    try:
        return None, function(work)
    except NearsightError as error:
        said = " ".join(str(error).split())
    except MemoryError:
        said = NO_MEMORY
    except Exception as error:  # a job's defect is the job's failure, told in the ledger and at the end
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if any(words in said for words in ("allocate memory", "out of memory", "Cannot allocate")):
            said = NO_MEMORY
        else:
            sys.excepthook(type(error), error, error.__traceback__)
    if said == NO_MEMORY and memory_gb is not None:
        said = f"needs more memory than limits.memory_gb, {memory_gb:g}"
    return said, None


NO_MEMORY = "there is not enough memory"


def _limit_memory(gigabytes: float) -> None:
    """Of what this process and those that it starts may map, beyond what it has already."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):
        return  # a system without this limit


def _stopped(number: int, frame: object) -> None:
    """End at once, with all that was started, and leave nothing half-written."""
    abandon()
    os.killpg(0, signal.SIGKILL)


def _end_with(parent: int) -> None:
    """Leave when the parent is gone, with all that was started: nobody would enter what comes of this."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)

"""A process that makes one attempt after another, in which a crash, a hang or a hunger for memory harms nothing else."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import select
import signal
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fuzzed.contract import Fuzzed, Unsound
from nearsight.core.errors import NearsightError

FAULTS = ("traceback", "crash", "hang", "memory", "unsound", "words")
SECONDS = 20.0  # of an attempt, by its own clock
WAITING = 60.0  # and by the wall's: for who waits for what never comes
TIMES, FLOOR = 3, 64 * 2**20  # resident memory that reading may take: so many times the file, beyond so many bytes
ADDRESSES = 1024 * 2**20  # address space beside, so that a hungry reader is stopped and not the machine
LIFE = 500  # attempts of one process


@dataclass(frozen=True)
class Outcome:
    """kind: refused, accepted, or one of the faults.  said: the message, or what was wrong.  grown: resident memory, bytes."""

    kind: str
    said: str
    seconds: float = 0.0
    grown: int = 0


def attempt(reader: Fuzzed, altered: Path, original: Path) -> Outcome:
    """Read and judge in this process."""
    before = _watched()
    try:
        found = reader.read(altered)
    except Unsound as error:
        return Outcome("unsound", str(error))
    except NearsightError as error:
        said = str(error)
        kind = "words" if "\n" in said or not said or len(said) > 700 else "refused"
        return _fed(Outcome(kind, said, 0.0, _peak() - before), altered, reader)
    except MemoryError:
        return Outcome("memory", traceback.format_exc()[-700:])
    except Exception:  # whatever a reader raises besides is the fault that is looked for
        return Outcome("traceback", traceback.format_exc()[-1500:])
    grown = _peak() - before
    try:
        reader.judge(found, original)
    except Unsound as error:
        return Outcome("unsound", str(error), 0.0, grown)
    except NearsightError as error:  # it says so before it computes with it
        return Outcome("refused", str(error), 0.0, grown)
    except Exception:  # the judge stumbles over what cannot be
        return Outcome("unsound", traceback.format_exc()[-1500:])
    return _fed(Outcome("accepted", "", 0.0, grown), altered, reader)


def _fed(outcome: Outcome, altered: Path, reader: Fuzzed) -> Outcome:
    room = TIMES * _size(altered) + FLOOR + reader.work * 2**20
    if outcome.grown <= room:
        return outcome
    said = f"{outcome.grown / 2**20:.0f} MiB, more than {room / 2**20:.0f}: {outcome.kind} {outcome.said}"
    return Outcome("memory", said, 0.0, outcome.grown)


def _size(path: Path) -> int:
    files = [path] if not path.is_dir() else [p for p in path.rglob("*") if not p.is_symlink()]
    with suppress(OSError):
        return sum(p.stat().st_size for p in files if not p.is_symlink() or p.is_file())
    return 0


def _watched() -> int:
    """Forget the highest resident memory so far; what is resident now [bytes]."""
    with suppress(OSError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


class Worker:
    """A forked process and the pipes to it; begun anew after a crash, a hang, or LIFE attempts."""

    def __init__(self, reader: Fuzzed) -> None:
        self.reader, self.child = reader, 0
        self.trace = Path(tempfile.mkstemp(prefix="fuzz-", suffix=".trace")[1])

    def __call__(self, altered: Path, original: Path) -> Outcome:
        """One attempt."""
        if not self.child:
            self._begin()
        started = time.perf_counter()
        os.write(self.asked, json.dumps([str(altered), str(original)]).encode() + b"\n")
        while not select.select([self.told], [], [], 0.5)[0]:
            seconds = time.perf_counter() - started
            if self._spent() - self.spent > SECONDS or seconds > WAITING:
                os.kill(self.child, signal.SIGKILL)
                self._end()
                return Outcome("hang", f"{seconds:.0f} s; " + self._traced(), seconds)
        text = self.lines.readline()
        seconds = time.perf_counter() - started
        if not text:
            status = self._end()
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            return Outcome("crash", f"signal or status {number}; " + self._traced(), seconds)
        kind, said, grown = json.loads(text)
        self.spent, self.done = self._spent(), self.done + 1
        if self.done >= LIFE or kind == "memory":
            self.close()
        return Outcome(kind, said, seconds, grown)

    def close(self) -> None:
        """End the process."""
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            self._end()
        self.trace.write_bytes(b"")

    def _begin(self) -> None:
        (theirs, self.asked), (self.told, answer) = os.pipe(), os.pipe()
        self.trace.write_bytes(b"")
        self.child = os.fork()
        if self.child == 0:
            os.close(self.asked)
            os.close(self.told)
            self._serve(theirs, answer)
        os.close(theirs)
        os.close(answer)
        self.lines, self.done, self.spent = os.fdopen(self.told), 0, self._spent()

    def _serve(self, asked: int, answer: int) -> None:
        """The life of the child: paths, and what came of them."""
        with open(self.trace, "w") as trace, os.fdopen(asked) as lines:
            faulthandler.enable(trace)
            devnull = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(devnull, number)
            here = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            for line in lines:
                altered, original = map(Path, json.loads(line))
                room = here + TIMES * _size(altered) + ADDRESSES
                resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
                faulthandler.dump_traceback_later(SECONDS, file=trace)
                outcome = attempt(self.reader, altered, original)
                faulthandler.cancel_dump_traceback_later()
                os.write(answer, json.dumps([outcome.kind, outcome.said, outcome.grown]).encode() + b"\n")
        os._exit(0)

    def _end(self) -> int:
        os.close(self.asked)
        self.lines.close()
        _, status = os.waitpid(self.child, 0)
        self.child = 0
        return status

    def _spent(self) -> float:
        """Seconds of the child's processor time."""
        words = Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def _traced(self) -> str:
        with suppress(OSError):
            return " ".join(self.trace.read_text(errors="replace").split())[:1200]
        return "without a trace"

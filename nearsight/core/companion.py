"""A second Python process that keeps an object and answers calls of its methods."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from nearsight.core.errors import NearsightError, Unavailable


class Companion:
    """A Python program of its own, which ends with this one.

    It begins as a program and not as multiprocessing's child: those run the caller's script once more, which a script without
    `if __name__ == "__main__":` does not survive.
    """

    def __init__(self, module: str, threads: int) -> None:
        """module: whose function `serve(channel)` is the program's life.  threads: for its numerical work."""
        self.channel, theirs = Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from nearsight.core.companion import live; live({module!r}, {theirs.fileno()}, {threads})"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        theirs.close()

    def send(self, message: Any) -> None:
        """Raises Unavailable where the process has died."""
        try:
            self.channel.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Any:
        """The next answer. Raises what the call raised; Unavailable where the process has died."""
        try:
            answer = pickle.loads(self.channel.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End it: it leaves when the channel closes."""
        self.channel.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _died(self) -> Unavailable:
        code = self.process.poll()
        return Unavailable(
            f"a process of the calculation died (exit status {code}): out of memory, or killed; take fewer processes"
        )


def live(module: str, descriptor: int, threads: int) -> None:
    """The companion's side: `serve` of a module, until the channel closes."""
    import signal
    from importlib import import_module

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to handle
    torch.set_num_threads(threads)
    channel: Connection = Connection(descriptor)
    try:
        import_module(module).serve(channel)
    except (EOFError, OSError, BrokenPipeError):
        return


def as_error(error: Exception) -> Exception:
    """An exception as it may be sent: those of ours as they are, others in one line."""
    if isinstance(error, NearsightError):
        return error
    return Unavailable(f"a process of the calculation failed: {type(error).__name__}: {' '.join(str(error).split())}")

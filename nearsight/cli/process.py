"""The process around a command: one line for what goes wrong, an answer to signals, exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from nearsight.core.errors import BadInput, NearsightError

NO_MEMORY = "there is not enough memory: take a coarser mesh, fewer k-points, a smaller cell or less vacuum"


class Stopped(BaseException):
    """Ctrl-C, or a queueing system's end of time. No library takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(number)


def run(app: Callable[[], object]) -> None:
    """Run an application: exit 0 when all is well, 1 with one line on stderr when not, 2 for a usage error.

    130 after Ctrl-C and 143 after SIGTERM, once what was half-written is removed.
    """
    import warnings

    warnings.filterwarnings("ignore", module="seekpath")  # it warns of every cell that is nearly of higher symmetry
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    try:
        app()
    except NearsightError as error:
        fail(str(error), error.status)
    except Stopped as stopped:
        fail("stopped; the same command goes on from here", 128 + stopped.number)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except MemoryError:
        fail(NO_MEMORY)
    except RuntimeError as error:  # PyTorch's own words, and those of CUDA
        if not any(words in str(error) for words in ("allocate memory", "out of memory")):
            raise
        fail(NO_MEMORY)
    except OSError as error:
        fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raises BadInput for an empty word among the arguments, which no command takes: a variable without value."""
    for n, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if not word.strip() or (option.startswith("-") and equals and not value.strip()):
            before = option if word.strip() else arguments[n - 1] if n else "nearsight"
            raise BadInput(f"nothing stands after {before}: give it a value, or leave it out")


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)


def fail(message: str, status: int = 1) -> None:
    """One line on stderr, and the end."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)

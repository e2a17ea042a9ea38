"""The process around a command: one line for what goes wrong, an answer to signals, exit statuses."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nearsight.core.errors import DISK_FULL, BadInput, NearsightError, Notice

NO_MEMORY = "there is not enough memory: take a coarser mesh, fewer k-points, a smaller cell or less vacuum"


class Stopped(BaseException):
    """Ctrl-C, or a queueing system's end of time. No library takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def loading() -> Iterator[None]:
    """Modules load without the collector of garbage, and what they made is never looked through: none of it is garbage.

    PyTorch alone makes a million objects: looking through them costs a third of a second of CPU.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _stop(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals is globals() and frame.f_code.co_name in ("_again_later", "unheard"):
            return  # what is raised there is lost once more; it comes again in a moment
        frame = frame.f_back
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(number)


def _again_later(number: int) -> None:
    """Have a signal come again, and again, until it is heard or the command has ended."""
    signal.signal(number, _stop)

    def send() -> None:
        time.sleep(0.01)
        while signal.getsignal(number) is _stop:
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    threading.Thread(target=send, daemon=True).start()


@contextmanager
def _none_lost() -> Iterator[None]:
    """A stop that comes within a callback of a library (HDF5's, a destructor), which no exception leaves, comes again."""
    shown = sys.unraisablehook

    def unheard(lost: Any) -> None:
        if isinstance(lost.exc_value, Stopped):
            _again_later(lost.exc_value.number)
        else:
            shown(lost)

    sys.unraisablehook = unheard
    try:
        yield
    finally:
        sys.unraisablehook = shown


def run(app: Callable[[], object]) -> None:
    """Run an application: exit 0 when all is well, 1 with one line on stderr when not, 2 for a usage error.

    130 after Ctrl-C and 143 after SIGTERM, once what was half-written is removed.
    """
    import logging
    import warnings

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # its first start on a slow machine is no news
    warnings.filterwarnings("ignore", module="seekpath")  # it warns of every cell that is nearly of higher symmetry
    shown = warnings.showwarning
    warnings.showwarning = lambda message, category, *rest: (
        warn(str(message)) if issubclass(category, Notice) else shown(message, category, *rest)
    )
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    try:
        with _none_lost():
            _told(app)
    except Stopped as stopped:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        if (files := sys.modules.get("nearsight.formats.files")) is not None:
            files.abandon()
        fail("stopped; the same command goes on from here", 128 + stopped.number)
    finally:
        warnings.showwarning = shown
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _told(app: Callable[[], object]) -> None:
    """Run an application; what goes wrong is told in one line."""
    try:
        app()
    except NearsightError as error:
        fail(str(error), error.status)
    except Exception as error:
        words = getattr(error, "format_message", None)
        if words is None:
            _of_the_system(error)
        elif type(error).__name__ == "NoArgsIsHelpError":
            print(words())
            raise SystemExit(2) from None
        else:
            fail(usage(error), 2)


def _of_the_system(error: Exception) -> None:
    """The end that an error which is none of ours leads to; one that nothing is known of is raised again."""
    try:
        raise error
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
        what = DISK_FULL if error.errno == errno.ENOSPC else f"{error.strerror or error}"
        fail(what if error.filename is None else f"{error.filename}: {what}")


def usage(error: Any) -> str:
    """What is wrong with a command line, in one line of ours.  error: of typer, which has pydantic's words for values."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    path = "nearsight" if context is None else context.command_path
    said = " ".join(str(error.format_message()).split()).rstrip(".")
    if hasattr(error.__cause__, "errors"):
        from nearsight.core.display import shown
        from nearsight.core.words import wanted

        first = error.__cause__.errors()[0]
        name = parameter.opts[0] if parameter is not None else "the value"
        said = f"{name}: {wanted(first)} (given: {shown(first.get('input'))})"
    return f"{said}; `{path} --help` tells what it takes"


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raises BadInput for an empty word among the arguments, which no command takes: a variable without value.

    And for -o=NAME, which would be a file of the name =NAME.
    """
    for n, word in enumerate(arguments):
        if word[:1] == "-" and word[1:2].isalpha() and word[2:3] == "=":
            raise BadInput(f"{word}: write {word[:2]} {word[3:]}")
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

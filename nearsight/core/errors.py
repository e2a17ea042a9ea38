"""The exceptions that a user is meant to read, by kind."""

import re

_LONGEST_WORD, _LONGEST = 160, 690  # characters: what a file says may be of any length
_NEWLINES = re.compile(r"\s*[\r\n]+\s*")
_LONG_WORD = re.compile(rf"[^\s/]{{{_LONGEST_WORD},}}")


def one_line(said: object) -> str:
    """A message in one line that a terminal can show: control characters escaped, the middle of what is endless left out."""
    text = _NEWLINES.sub(" ", str(said)).strip()
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    text = _LONG_WORD.sub(lambda m: f"{m[0][:60]}...{m[0][-30:]}", text)
    return text if len(text) <= _LONGEST else f"{text[:440]} ... {text[-240:]}"


class NearsightError(Exception):
    """Bad input or a run that cannot go on: one line that says what is wrong and names the remedy.

    The command line prints it and exits with `status`; a library caller may catch it, or one of the kinds below.
    """

    status = 1

    def __init__(self, said: object = "") -> None:
        super().__init__(one_line(said))


class BadInput(NearsightError):  # noqa: N818  # it is what the reader was given that is named
    """Something that was given is wrong or cannot be done: a file, a setting, a structure."""


class BadSetting(BadInput, ValueError):  # noqa: N818
    """A key or a value of a configuration: what is allowed is named, and the nearest key."""


class MissingData(NearsightError):  # noqa: N818
    """What is asked for needs something that is not there: a matrix, an overlap, orbitals, a number of electrons."""


class NotConverged(NearsightError):  # noqa: N818
    """An iteration ended, or came to numbers that are none, before it reached its tolerance."""


class Unavailable(NearsightError):  # noqa: N818
    """What is asked for is sound, but this machine or this installation lacks what it takes: a GPU, an optional package."""


class Notice(UserWarning):
    """What is done with an input that says less, or more, than one thing: told, and gone on with."""


#: what is said wherever a disk is full
DISK_FULL = "No space left on device: make room, and the same command goes on"

#: what readers, ours or another's, raise where a damaged file says what no file of its kind says
STUMBLES = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)

"""The exceptions that a user is meant to read, by kind."""

from __future__ import annotations

from reprlib import Repr
from typing import Any


class NearsightError(Exception):
    """Bad input or a run that cannot go on: one line that says what is wrong and names the remedy.

    The command line prints it and exits with `status`; a library caller may catch it, or one of the kinds below.
    """

    status = 1


class BadInput(NearsightError):  # noqa: N818  # it is what the reader was given that is named
    """Something that was given is wrong or cannot be done: a file, a setting, a structure."""


class MissingData(NearsightError):  # noqa: N818
    """What is asked for needs something that is not there: a matrix, an overlap, orbitals, a number of electrons."""


class NotConverged(NearsightError):  # noqa: N818
    """An iteration ended, or came to numbers that are none, before it reached its tolerance."""


class Unavailable(NearsightError):  # noqa: N818
    """What is asked for is sound, but this machine or this installation lacks what it takes: a GPU, an optional package."""


def shown(value: Any) -> str:
    """A value as a message shows it: `repr`, cut short, whatever was given."""
    short = Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 3, 8, 8, 8
    try:
        return " ".join(short.repr(value).split())
    except Exception:  # a repr of something foreign, or of a number beyond what Python writes
        return f"a {type(value).__name__}"

"""The command line called as a user calls it, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nearsight import cli


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str


@pytest.fixture
def nearsight(monkeypatch, capsys) -> Callable[..., Finished]:
    """Run `nearsight ARGUMENTS` and return its exit status and what it printed."""

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["nearsight", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capsys.readouterr()
        return Finished(status, printed.out, printed.err)

    return run

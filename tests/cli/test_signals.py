"""A signal ends a command in one line, wherever it comes, and leaves nothing half-written."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearsight.formats.files import whole_folder
from nearsight.tasks.executors.contract import Limits
from nearsight.tasks.executors.local import LocalWorker
from nearsight.tasks.ledger import Job

_SWALLOWED = """
import os, signal, time
from nearsight.cli import process

class Closing:
    def __del__(self):  # Python tells what is raised in here, and goes on
        os.kill(os.getpid(), signal.{name})
        time.sleep(0)

def command():
    closing = Closing()
    del closing
    for _ in range(500):
        time.sleep(0.01)

process.run(command)
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_within_a_callback_is_not_lost(tmp_path: Path, name: str, status: int) -> None:
    """HDF5 calls Python back and drops its exceptions, as Python itself does in destructors: the command went on to its end."""
    code = _SWALLOWED.format(name=name)
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (status, "error: stopped; the same command goes on from here\n")


def writes(place: Path) -> None:
    """A job that is in the midst of its result."""
    with whole_folder(place / "out") as part:
        (part / "half").write_text("1")
        time.sleep(60)


def test_a_worker_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    worker = LocalWorker(writes, 1, Limits())
    worker.give(Job("0000", "", tmp_path))
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.part/half")) and time.monotonic() < end:
        time.sleep(0.02)
    assert list(tmp_path.glob(".out.*.part/half"))
    worker.stop()
    assert not list(tmp_path.iterdir())

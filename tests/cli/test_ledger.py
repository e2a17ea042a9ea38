"""Jobs are done once, failures stand beside successes, and a dead worker takes nothing with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearsight.core.errors import NearsightError
from nearsight.formats.files import locked
from nearsight.tasks.executors.contract import ExecutorTable, Limits, Work
from nearsight.tasks.executors.local import Local
from nearsight.tasks.ledger import Job, Ledger, Outcome


def run_jobs(jobs, function, ledger, workers, report, folder=Path(), limits=Limits()):  # noqa: B008
    """On the executor `local`, with what comes of it in the ledger."""
    found = []

    def ended(outcome):
        ledger.finish(outcome)
        found.append(outcome)
        report(outcome)

    Local(ExecutorTable()).run(Work(jobs, function, folder, workers, limits, ledger.begin, ended))
    return found


def names(jobs):
    return [j.name for j in jobs]


def test_a_job_is_done_when_its_result_is_there_and_the_ledger_says_so(tmp_path):
    jobs = [Job(n, "d", None) for n in "abcd"]
    there = set()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert names(ledger.plan(jobs, there.__contains__)) == list("abcd")
    for name in "abc":
        ledger.begin(name)
    ledger.finish(Outcome("a", "done", 1.0, sha256="x"))
    ledger.finish(Outcome("b", "failed", 1.0, "no"))
    there |= {"a", "c"}  # c was put in its place, but the process died before it was entered
    ledger.close()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert names(ledger.plan(jobs, there.__contains__)) == list("bcd")
    assert ledger.outcomes() == [Outcome("a", "done", 1.0, sha256="x")]
    there.remove("a")
    assert names(ledger.plan(jobs, there.__contains__)) == list("abcd")
    with pytest.raises(NearsightError, match="another configuration"):
        ledger.plan([Job("c", "other", None)], there.__contains__)
    with pytest.raises(NearsightError, match="another configuration"):
        ledger.plan([Job("stranger", "d", None)], lambda name: True)


def test_failures_and_dead_workers(tmp_path):
    jobs = [Job("0", "d", 0), Job("1", "d", 1), Job("2", "d", 2)]
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.plan(jobs, lambda name: False)
    told = []
    found = run_jobs(jobs, os._exit, ledger, 1, told.append)  # a worker that dies of every job
    assert [(o.name, o.state) for o in found] == [("0", "failed"), ("1", "failed"), ("2", "failed")]
    assert told == found
    assert all("worker died" in str(o.error) for o in found)
    (tmp_path / "link").symlink_to("result")
    mixed = [Job("0", "d", str(tmp_path / "nowhere")), Job("1", "d", str(tmp_path / "link"))]
    ledger.plan(mixed, lambda name: False)
    found = sorted(run_jobs(mixed, os.readlink, ledger, 2, told.append), key=lambda o: o.name)
    assert [o.state for o in found] == ["failed", "done"]
    assert found[1].sha256 == "result"
    assert "FileNotFoundError" in str(found[0].error)
    assert "\n" not in str(found[0].error)


def test_one_build_a_folder(tmp_path):
    code = (
        "import sys, pathlib; from nearsight.formats.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(NearsightError, match="at work"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_a_file_that_is_no_ledger(tmp_path):
    (tmp_path / "ledger.sqlite").write_text("hello, this is not a database at all" * 50)
    with pytest.raises(NearsightError, match="--rebuild"):
        Ledger(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_answered_in_one_line(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Also from the workers that are still starting; and nothing half-written is left."""
    (tmp_path / "h2.xyz").write_text("2\nh2\nH 0 0 0\nH 0 0 0.74\n")
    (tmp_path / "set.yaml").write_text(
        "structure: h2.xyz\nvacuum_ang: 4\nworkers: 2\nscf: {basis: dzp, mesh_cutoff_ry: 200, kmesh: [1, 1, 1]}\n"
        "distort: {count: 50, sigma_ang: 0.05, clip_ang: 0.1}\n"
    )
    command = [sys.executable, "-m", "nearsight.cli", "dataset", "build", "set.yaml", "-o", "set"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    while not (tmp_path / "set" / "species" / "H.ion.xml").exists():
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == status
    assert said.splitlines()[-1].startswith("error: stopped; the same command goes on")
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.part"))

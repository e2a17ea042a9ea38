"""Many jobs on any executor: each done once whoever dies, within its limits, and collected where the ledger is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from nearsight.core.errors import BadInput
from nearsight.formats.registry import read
from nearsight.formats.sets.entry import read_provenance
from nearsight.tasks.dataset import SetSettings, build
from nearsight.tasks.engines.task import Task
from nearsight.tasks.sets.listing import failures, list_set
from tests import cases
from tests.cli.test_bad_input import hydrogen, refused

DATA = Path(__file__).parents[1] / "formats" / "data"


@pytest.fixture
def h2(tmp_path: Path, third_party, monkeypatch) -> Path:
    """A molecule, and an engine that other processes find too."""
    third_party("nearsight.engines", toy="tests.toy_engine:Toy")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    hydrogen(tmp_path / "h2.vasp")
    return tmp_path


def settings(folder: Path, count: int, workers: int = 2, **more) -> SetSettings:
    engine = {"kind": "toy", "log": str(folder / "log"), **more.pop("engine", {})}
    distort = {"count": count, "sigma_ang": 0.02, "clip_ang": 0.05}
    return SetSettings(structure=str(folder / "h2.vasp"), distort=distort, engine=engine, workers=workers, **more)


def finished(folder: Path) -> Counter:
    return Counter((folder / "log").read_text().split()) if (folder / "log").exists() else Counter()


def sound(folder: Path, count: int) -> None:
    """All done, none twice, no torn file, nothing left lying about."""
    found = list_set(folder / "set")
    assert [e.name for e in found.entries] == [f"{n:04d}" for n in range(count)] and not found.broken
    assert all(e.converged and e.engine == "toy" and e.parent for e in found.entries)
    assert len({e.sha256 for e in found.entries}) == count
    assert not list((folder / "set").rglob("*.part")) and not failures(folder / "set")


def workers_of(parent: int) -> list[int]:
    """Child processes that are workers of ours."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((place / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(place.name)] if b"serve(" in (place / "cmdline").read_bytes() else []
    return found


def test_forty_jobs_with_their_workers_killed_three_times(h2):
    kills, stop = [], threading.Event()

    def kill() -> None:
        while not stop.wait(0.05) and len(kills) < 3:
            if sum(finished(h2).values()) > 8 * (len(kills) + 1) and (crew := workers_of(os.getpid())):
                os.kill(crew[0], signal.SIGKILL)
                kills.append(crew[0])

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        made = build(settings(h2, 40, engine={"seconds": 0.05}), h2 / "set")
    finally:
        stop.set()
        killer.join()
    assert len(kills) == 3 and not made.failed and made.jobs == 40
    assert Counter(o.name for o in made.worked) == Counter(f"{n:04d}" for n in range(40))
    assert (
        max(finished(h2).values()) <= 2 and sum(finished(h2).values()) <= 43
    )  # a kill may fall between work and rename
    sound(h2, 40)
    assert build(settings(h2, 40, engine={"seconds": 0.05}), h2 / "set").worked == ()


def test_limits_end_what_takes_too_long_or_too_much(h2):
    slow = build(settings(h2, 1, 1, engine={"trouble": "sleep"}, limits={"wall_seconds": 1}), h2 / "slow")
    assert "limits.wall_seconds, 1" in slow.failed[0][1]
    large = build(settings(h2, 1, 1, engine={"trouble": "memory"}, limits={"memory_gb": 2}), h2 / "large")
    assert "limits.memory_gb, 2" in large.failed[0][1]


def test_a_ladder_is_climbed_and_every_try_recorded(nearsight, h2):
    assert not build(settings(h2, 1, 1, engine={"needs": 1}), h2 / "set").failed
    told = read_provenance(h2 / "set" / "0000")
    assert told["tries"] == 2 and [t["rung"] for t in told["ladder"]] == [None, "mixing"]
    assert "step 0 of 1" in told["ladder"][0]["error"] and told["ladder"][1]["error"] is None
    assert [e.tries for e in list_set(h2 / "set", "tries > 1").entries] == [2]
    retry = ["mixing", {"step": 2}]
    lost = build(settings(h2, 1, 1, engine={"needs": 9}, retry=retry), h2 / "lost")
    assert "step 2 of 9" in lost.failed[0][1]
    [failure] = failures(h2 / "lost")
    assert [t["rung"] for t in failure.tries] == [None, *retry]
    twice = build(settings(h2, 1, 1, engine={"needs": 2}, retry=["mixing", "mixing"]), h2 / "twice")
    assert not twice.failed and read_provenance(h2 / "twice" / "0000")["tries"] == 3
    shown = nearsight("dataset", "list", h2 / "lost", "--failed")
    assert "step 2 of 9" in shown.out and "tries" in shown.out
    assert (
        json.loads(nearsight("dataset", "list", h2 / "lost", "--failed", "--json").out)["failed"][0]["name"] == "0000"
    )


@pytest.mark.parametrize("labels", [True, False])
def test_a_lost_ledger_comes_back_from_the_folders(nearsight, h2, labels):
    made = settings(h2, 2, 1, labels=labels)
    build(made, h2 / "set")
    before = {p: p.stat().st_mtime_ns for p in (h2 / "set").glob("0*/*")}
    for path in (h2 / "set").glob("ledger.sqlite*"):
        path.write_bytes(b"no database" * 999)
    refused(nearsight("dataset", "list", h2 / "set"), "--rebuild")
    assert "2 of 2 entries" in nearsight("dataset", "list", h2 / "set", "--rebuild").out
    with pytest.raises(BadInput, match="another configuration"):
        build(settings(h2, 2, 1, labels=labels, engine={"step": 1}), h2 / "set")
    more = build(settings(h2, 3, 1, labels=labels), h2 / "set")
    assert [o.name for o in more.worked] == ["0002"] and not more.failed
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert build(settings(h2, 3, 1, labels=labels), h2 / "set").worked == ()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(nearsight, h2):
    (h2 / "set.yaml").write_text(
        "structure: h2.vasp\ndistort: {count: 6, sigma_ang: 0.02, clip_ang: 0.05}\nworkers: 1\nengine: {kind: toy}\n"
    )
    command = ("dataset", "build", h2 / "set.yaml", "-o", h2 / "set")
    full = nearsight(*command, "--set", "engine.trouble=full")
    refused(full, "No space left on device", "goes on")
    assert "0001" not in full.err
    assert nearsight(*command).status == 0
    assert len(list_set(h2 / "set").entries) == 6


def test_a_slurm_array_writes_into_outboxes_and_is_collected(nearsight, h2):
    executor = {"kind": "slurm-array", "shares": 2, "directives": ["--time=00:10:00"]}
    chosen = settings(h2, 5, executor=executor)
    made = build(chosen, h2 / "set")
    assert made.left and "sbatch" in made.left and "5 jobs in 2 shares" in made.left and not made.worked
    script = h2 / "set" / "submitted" / "001" / "submit.sh"
    text = script.read_text()
    assert "#SBATCH --array=0-1" in text and "#SBATCH --time=00:10:00" in text
    again = build(chosen, h2 / "set")
    assert "5 jobs sent away before" in str(again.left) and "sbatch" not in str(again.left)
    here = settings(h2, 5)
    with pytest.raises(Exception, match=r"wait in .*submitted"):
        build(here, h2 / "set")
    for share, most in ((1, 2), (0, 3)):
        done = subprocess.run(
            ["bash", script],
            env={**os.environ, "SLURM_ARRAY_TASK_ID": str(share)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and f"{most} of {most} done" in done.stdout, done
        made = build(chosen, h2 / "set")
        assert len(made.worked) == most and not made.failed
    assert made.left is None and not (h2 / "set" / "submitted").exists()
    sound(h2, 5)
    assert set(finished(h2).values()) == {1}
    refused(nearsight("dataset", "work", h2 / "set", 0), "no such file")


def test_a_task_that_is_sent_away_comes_back_whole():
    s = cases.water(11.0)
    s = replace(
        s,
        moments=torch.tensor([1.0, 0.0, -0.25], dtype=torch.float64),
        charges=torch.tensor([-0.1, 0.2, 0.3], dtype=torch.float64),
        provenance={"parent": "water.xyz"},
        periodic=(True, False, True),
    )
    task = Task("set", "0000", s, {"kind": "toy"}, {}, ["mixing", {"step": 2}], {"command": "build"})
    back = Task.of_json(json.loads(json.dumps(task.to_json())))
    assert all(getattr(back, f.name) == getattr(task, f.name) for f in fields(Task) if f.name != "structure")
    for f in fields(s):
        before, after = getattr(s, f.name), getattr(back.structure, f.name)
        assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after, f.name


def test_dask_workers_report_through_the_scheduler_and_may_be_lost(h2):
    pytest.importorskip("distributed")
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        chosen = settings(
            h2, 12, executor={"kind": "dask", "scheduler": cluster.scheduler_address}, engine={"seconds": 0.3}
        )

        def kill() -> None:
            with Client(cluster) as client:
                while sum(finished(h2).values()) < 3:
                    time.sleep(0.05)
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        made = build(chosen, h2 / "set")
        killer.join()
    assert not made.failed and Counter(o.name for o in made.worked) == Counter(f"{n:04d}" for n in range(12))
    sound(h2, 12)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("executor.kind=dusk",), "did you mean dask"),
        (("executor={kind: dask, schedulr: x}",), "did you mean scheduler"),
        pytest.param(
            ("executor={kind: dask, scheduler: 'tcp://127.0.0.1:1', timeout_seconds: 1}",),
            "no Dask scheduler",
            marks=pytest.mark.skipif(find_spec("distributed") is None, reason="needs distributed"),
        ),
        (("executor={kind: slurm-array, directives: [rm]}",), "options of sbatch"),
        (("executor={kind: slurm-array, before: [\"a\\nb\"]}",), "without a line break"),
        (("executor={kind: slurm-array, shares: 1000000000}",), "shares"),
        (("executor=3",), "executor"),
        (("engine.kind=siest",), "did you mean siesta"),
        (("engine={kind: siesta, command: /no/such/siesta}",), "is not there"),
        (("engine={kind: siesta, command: \"'\"}",), "engine.command"),
        (("engine={kind: abacus, comand: x}",), "did you mean command"),
        (("limits.wall_seconds=-1",), "limits.wall_seconds"),
        (("limits.wall=1",), "unknown key limits.wall"),
        (("retry=[mixin]",), "retry: 'mixin' is not known"),
        (("retry=[{solver: {metod: scf}}]",), "metod"),
        (("distort.count=100000000",), "distort.count"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line(nearsight, tmp_path, words, said):
    hydrogen(tmp_path / "h2.vasp")
    (tmp_path / "set.yaml").write_text(
        "structure: h2.vasp\ndistort: {count: 2, sigma_ang: 0.02, clip_ang: 0.05}\nworkers: 1\n"
        "scf: {basis: sz, mesh_cutoff_ry: 40, kmesh: [1, 1, 1]}\n"
    )
    told = [x for w in words for x in ("--set", w)]
    refused(nearsight("dataset", "build", tmp_path / "set.yaml", "-o", tmp_path / "set", *told), said)
    assert not list((tmp_path / "set").glob("0*"))


def test_a_damaged_submission_is_one_line(nearsight, h2):
    chosen = settings(h2, 2, executor={"kind": "slurm-array"})
    build(chosen, h2 / "set")
    place = h2 / "set" / "submitted" / "001"
    refused(nearsight("dataset", "work", place, 7), "shares 0 to 1")
    for text in ("{", "[]", '{"schema": 1, "kind": "eval", "shares": 1, "tasks": []}'):
        (place / "tasks.json").write_text(text)
        refused(nearsight("dataset", "work", place, 0), "tasks.json")
    assert sys.modules.get("eval") is None


def test_convert_runs_on_executors_too(nearsight, tmp_path):
    import shutil

    for name in ("a", "b.c"):
        shutil.copytree(DATA / "openmx" / "h2o", tmp_path / "runs" / name)
    command = ("convert", tmp_path / "runs", tmp_path / "set", "--executor", "slurm-array")
    assert "sbatch" in nearsight(*command).out
    place = tmp_path / "set" / "submitted" / "001"
    for share in (0, 1):
        assert nearsight("dataset", "work", place, share).status == 0
    done = nearsight(*command)
    assert done.status == 0 and "2 runs" in done.out
    assert read(tmp_path / "set" / "b.c").hamiltonian is not None and not place.exists()

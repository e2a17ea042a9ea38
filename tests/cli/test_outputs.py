"""Results go where they may, and a run that was cut off goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUICK = ("--vacuum", 3, "--basis", "sz", "--mesh-cutoff", 60, "--kmesh", 1, 1, 1)
SET = Path(__file__).parents[1] / "formats" / "data" / "version1" / "set"
MODEL = SET.parent / "model"


@pytest.fixture
def water(tmp_path: Path) -> Path:
    path = tmp_path / "water.xyz"
    path.write_text("3\nwater\nO 0 0 0\nH 0.757 0 0.587\nH -0.757 0 0.587\n")
    return path


def test_places_that_may_not_be_written_are_told_at_once(nearsight, water: Path, tmp_path: Path, monkeypatch) -> None:
    import nearsight.dft.setup as setup

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(setup, "ground_state", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for out in (".", "", "..", "/", "file", "file/out", MODEL, SET):
        done = nearsight("scf", water, "-o", out, *QUICK)
        assert done.status == 1, done
        assert done.err.count("\n") == 1
    assert nearsight("bands", SET / "0000", "-o", "bands.txt").status == 1
    assert nearsight("density", SET / "0000", "-o", "n.txt").status == 1
    assert nearsight("dos", SET / "0000", "-o", "dos.txt").status == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "water.xyz"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("scf", "water.xyz", "-o", "out", "--trace", "file/t.jsonl"), "cannot write file/t.jsonl"),
        (("scf", "water.xyz", "-o", "out", "--trace", "water.xyz"), "water.xyz is read by this command"),
        (("scf", "water.xyz", "-o", "out", "--trace", "out"), "out is written by this command"),
        (("scf", "water.xyz", "-o", "out", "--trace", "s.jsonl"), "s.png is a folder"),
        (("scf", "water.xyz", "-o"), "requires an argument"),
        (("bands", "gs", "-o", "file/b.png"), "cannot write file/b.png"),
        (("bands", "gs", "--json", "file"), None),
        (("bands", "gs", "--json", "gs/info.json"), "gs/info.json is part of a calculation"),
        (("bands", "gs", "-o", "b.pdf", "--json", "b.pdf"), "b.pdf is written by this command"),
        (("dos", "gs", "--json", "gs/hamiltonian.h5"), "is part of a calculation"),
        (("charges", "gs", "--json", "s.png"), "s.png is a folder"),
        (("density", "gs", "-o", "file/n.cube"), "cannot write file/n.cube"),
        (("density", "gs", "-o", "n.cube", "--what", "density,../x"), "'../x' is no field"),
        (("convert", "gs", ".", "--to", "wannier90"), "not a place of the result's own"),
        (("convert", "gs", "gs/..", "--to", "deeph-old"), "not a place of the result's own"),
        (("convert", "gs", "gs", "--to", "wannier90"), "is the input: give the result a place of its own"),
        (("train", MODEL / "config.yaml", "-o", ".."), "not a place of the result's own"),
        (("train", MODEL / "config.yaml", "-o", "gs"), "holds a calculation"),
        (("dataset", "build", "set.yaml", "-o", "/"), "not a place of the result's own"),
        (("dataset", "build", "set.yaml", "-o", "file/set"), "file is a file"),
        (("predict", MODEL, "water.xyz", "-o", "file/p"), "file is a file"),
        (("demo", "-o", ".."), "not a place of the result's own"),
        (("demo", "-o", "file/demo"), "cannot write file/demo"),
        (("example", "water", "-o", "file"), "cannot write file/water.xyz"),
        (("example", "water", "-o", ""), "nothing stands after -o"),
        (("density", "gs", "--out="), "nothing stands after --out"),
    ],
    ids=lambda x: " ".join(map(str, x))[:60] if isinstance(x, tuple) else "",
)
def test_every_output_is_asked_for_before_the_work(
    nearsight, water: Path, tmp_path: Path, monkeypatch, command: tuple[str, ...], said: str | None
) -> None:
    """said: what the one line holds; None: it may stand there."""
    shutil.copytree(SET / "0001", tmp_path / "gs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "s.png").mkdir()
    (tmp_path / "set.yaml").write_text("structure: water.xyz\nvacuum_ang: 3\nscf: {basis: sz, mesh_cutoff_ry: 60}\n")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    done = nearsight(*command)
    if said is None:
        assert done.status == 0
        return
    assert said in done.err
    assert done.status in (1, 2) and done.err.count("error:") + done.err.count("Error") == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_functions_that_write_ask_before_the_work_too(tmp_path: Path, monkeypatch) -> None:
    import nearsight as ns

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    gs = ns.read(SET / "0001")
    for place in ("file/x", "."):
        for ask in (
            lambda: ns.write(place, gs),  # noqa: B023
            lambda: ns.write(place, gs, "wannier90"),  # noqa: B023
            lambda: ns.write_density("nothing there", f"{place}/../x/n.txt"),  # noqa: B023
            lambda: ns.write_density(SET / "0001", "file/n.cube"),
            lambda: ns.write_orbital("nothing there", "file/n.cube", 0),
            lambda: ns.predict(MODEL, SET / "0001", place),  # noqa: B023
            lambda: ns.convert(SET / "0001", place, write_as="wannier90"),  # noqa: B023
            lambda: ns.ground_state(gs.structure, out=place),  # noqa: B023
            lambda: ns.train({"data": {"train": "nothing there"}}, place),  # noqa: B023
        ):
            with pytest.raises(ns.NearsightError, match=r"cannot write|own|must end in|holds"):
                ask()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_prediction_takes_no_ground_state_s_place(nearsight, tmp_path: Path) -> None:
    shutil.copytree(SET / "0001", tmp_path / "gs")
    before = (tmp_path / "gs" / "hamiltonian.h5").read_bytes()
    done = nearsight("predict", MODEL, SET / "0001", "-o", tmp_path / "gs")
    assert (done.status, "no prediction" in done.err) == (1, True)
    assert (tmp_path / "gs" / "hamiltonian.h5").read_bytes() == before
    for _ in range(2):  # but its own
        assert nearsight("predict", MODEL, SET / "0001", "-o", tmp_path / "p").status == 0


def test_a_run_that_was_cut_off_goes_on(nearsight, water: Path, tmp_path: Path) -> None:
    """Interrupted as late as may be; the same command then needs fewer iterations, and leaves nothing behind."""
    whole = nearsight("scf", water, "-o", tmp_path / "whole", *QUICK, "--set", "tolerance_ev=1e-8")
    assert whole.status == 0, whole
    script = (
        "import os, signal, sys\n"
        "from nearsight.dft.problem import Problem\n"
        "plain, seen = Problem.__call__, []\n"
        "def counted(self, h):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 4: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return plain(self, h)\n"
        "Problem.__call__ = counted\n"
        "from nearsight.cli import main\n"
        "sys.argv = ['nearsight', *sys.argv[1:]]\n"
        "main()\n"
    )
    words = ["scf", water, "-o", tmp_path / "out", *QUICK, "--set", "tolerance_ev=1e-8"]
    cut = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=False)
    assert cut.returncode == 130, cut
    assert "goes on from here" in cut.stderr
    assert (tmp_path / ".out.unfinished.npz").exists()
    assert nearsight(*words).status == 0
    first, again = (json.loads((tmp_path / x / "result.json").read_text()) for x in ("whole", "out"))
    assert again["iterations"] < first["iterations"]
    assert again["energy_eV"]["total"] == pytest.approx(first["energy_eV"]["total"], abs=1e-9)
    assert not (tmp_path / ".out.unfinished.npz").exists()


def test_two_trainings_in_one_folder(water: Path, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(
        f"data: {{train: {SET}, validation_fraction: 0.3}}\nmodel: {{preset: small}}\ntrainer: {{max_epochs: 100000}}\n"
    )
    command = [sys.executable, "-m", "nearsight.cli", "train", "model.yaml", "-o", "model"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "model" / "checkpoint.pt").exists():
            assert first.poll() is None
            time.sleep(0.1)
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "another process is at work" in second.stderr
    finally:
        os.kill(first.pid, signal.SIGTERM)
        first.wait()

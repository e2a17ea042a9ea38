"""A training of any kind that is killed and gone on with ends in the bits of one that was not, on one thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.learn.losses import Loss, LossValue
from nearsight.learn.train import train
from tests.conftest import WATERS

NEW = {"preset": "small", "width": 8, "irreps": "8x0e+4x1o+2x2e", "edge": [8, 2, 4, 2], "hidden": [8, 2, 4, 2]}
ENERGY = {"kind": "energy"}
NEVER = 1e300  # minutes: with them validations come within epochs too, and no step depends on the time


def table(loss: Any = "blocks", target: str = "total", data: Path = WATERS, **trainer: Any) -> dict[str, Any]:
    settings = {"max_minutes": None, "max_epochs": 4, "validations": 2, "batch_edges": 1, "dtype": "float64", **trainer}
    return {
        "data": {"train": str(data), "validation_fraction": 0.34, "seed": 1},
        "model": {**NEW, "target": target},
        "loss": loss,
        "trainer": settings,
    }


KINDS = {
    "labels": table(dtype="float32"),
    "within an epoch": table(max_minutes=NEVER, max_epochs=3, validations=4),
    "plateau": table(schedule="plateau", plateau_patience=1, learning_rate=0.05, validations=4),
    "linear, squared errors": table([{"kind": "blocks", "error": "mse", "gauge_invariant": True}], schedule="linear"),
    "delta": table(target="delta", schedule="constant"),
    "nothing held out": {**table(), "data": {"train": str(WATERS), "validation_fraction": 0.0}},
    "energy": table(ENERGY, "delta"),
    "root of the energy": table({**ENERGY, "measure": "root"}, "delta"),
    "reuse": table({**ENERGY, "reuse": 4}, "delta", max_epochs=6),
    "reuse, several at once": table({**ENERGY, "reuse": 3}, "delta", batch_edges=100, max_epochs=6),
    "energy and labels": table(["blocks", {**ENERGY, "reuse": 4}], "delta"),
    "Gauss-Newton": table(ENERGY, "delta", newton_from=0.3, max_epochs=6, validations=3),
}


class KilledError(BaseException):
    pass


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def killed_after(folder: Path, count: int):  # type: ignore[no-untyped-def]
    def stop(metrics: object) -> None:
        if len(lines(folder)) == count:
            raise KilledError

    return stop


def same(a: Any, b: Any, where: str = "") -> None:
    """Everything but the time that it took."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for k in a:
            if k not in ("elapsed", "minutes"):
                same(a[k], b[k], f"{where}.{k}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}.{k}")
    else:
        assert a == b, where


def assert_same_training(whole: Path, broken: Path) -> None:
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, broken)]
    same(*states)
    same(*(lines(f) for f in (whole, broken)))
    same(*(json.loads((f / "report.json").read_text()) for f in (whole, broken)))
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_killed_goes_on_to_the_same_bits(one_thread: None, tmp_path: Path, kind: str) -> None:
    settings = KINDS[kind]
    train(settings, tmp_path / "whole")
    for count in (1, 2):
        with pytest.raises(KilledError):
            train(settings, tmp_path / "broken", killed_after(tmp_path / "broken", count))
    train(settings, tmp_path / "broken")
    assert_same_training(tmp_path / "whole", tmp_path / "broken")


def test_a_state_that_was_given_up_is_remembered(
    one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the kill a step goes wrong: the training goes back to the state of before the kill, as an undisturbed one does."""
    true = Loss.__call__
    settings = table(max_epochs=6, validations=3)

    def trained(out: Path, first: int, told: Any = None) -> None:
        calls = list(range(first))

        def wild(self, predicted, sample, shares):  # type: ignore[no-untyped-def]
            found = true(self, predicted, sample, shares)
            calls.append(len(calls))
            return LossValue(1e9 * found.value, found.gradient) if len(calls) == 8 else found

        monkeypatch.setattr(Loss, "__call__", wild)
        train(settings, out, told)

    trained(tmp_path / "whole", 0)
    assert lines(tmp_path / "whole")[-1]["backed_off"] == 1
    with pytest.raises(KilledError):
        trained(tmp_path / "broken", 0, killed_after(tmp_path / "broken", 2))
    trained(tmp_path / "broken", lines(tmp_path / "broken")[-1]["step"])
    assert_same_training(tmp_path / "whole", tmp_path / "broken")


def test_a_process_that_is_killed_goes_on(one_thread: None, tmp_path: Path) -> None:
    """SIGKILL between the checkpoint and its line of metrics, the least convenient moment."""
    settings = table()
    (tmp_path / "model.yaml").write_text(json.dumps(settings))
    script = """
import os, sys, json, torch
torch.set_num_threads(1)
from pathlib import Path
from nearsight.learn import checkpoint
from nearsight.learn.train import train_from_config
true, calls = checkpoint.torch.save, []
class Torch:
    def __getattr__(self, name):
        return getattr(torch, name)
    def save(self, *arguments):
        true(*arguments)
        calls.append(1)
real = checkpoint.whole_file
from contextlib import contextmanager
@contextmanager
def whole(path):
    with real(path) as part:
        yield part
    if len(calls) == 2 and path.name == "checkpoint.pt":
        os.kill(os.getpid(), 9)
checkpoint.torch, checkpoint.whole_file = Torch(), whole
train_from_config(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.yaml"), str(tmp_path / "broken")],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(lines(tmp_path / "broken")) == 1
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "broken")
    assert_same_training(tmp_path / "whole", tmp_path / "broken")


def test_what_is_no_line_of_metrics_is_dropped(one_thread: None, tmp_path: Path) -> None:
    settings = table()
    train(settings, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(settings, tmp_path / "broken", killed_after(tmp_path / "broken", 2))
    file = tmp_path / "broken" / "metrics.jsonl"
    first, last = file.read_text().splitlines()
    later = json.dumps({**json.loads(last), "step": 9999})
    file.write_bytes(f"{first}\n\n[1]\n{later}\n{last[:-40]}".encode() + b"\xff\x00")
    train(settings, tmp_path / "broken")
    assert_same_training(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("damage", [b"", b"half", b"\x80\x02}q\x00."])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, damage: bytes) -> None:
    settings = table(max_epochs=1)
    train(settings, tmp_path / "model")
    (tmp_path / "model" / "checkpoint.pt").write_bytes(damage)
    with pytest.raises(NearsightError, match=r"damaged.*trainer\.resume=false"):
        train(settings, tmp_path / "model")


def test_more_time_is_looked_at_too(tmp_path: Path) -> None:
    """A budget that grows has its own validations, and with them checkpoints."""
    train(table(max_epochs=2), tmp_path / "model")
    train(table(max_epochs=8, validations=4), tmp_path / "model")
    assert [x["epoch"] for x in lines(tmp_path / "model")][-3:] == [4, 6, 8]

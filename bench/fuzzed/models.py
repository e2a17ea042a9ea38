"""Trained models, trainings to be gone on with, and what is kept between them."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from fuzzed import mutations
from fuzzed.contract import STORED, Fuzzed, altered, replaced, require, text, textual
from fuzzed.mutations import Random, pick
from nearsight.formats import registry
from nearsight.learn.model import TrainedModel


def _models(folder: Path) -> list[Path]:
    shutil.copytree(STORED / "model", folder / "model")
    return [folder / "model"]


def _alter_model(folder: Path, random: Random) -> None:
    files = [folder / "config.json", folder / "model.safetensors", pick(random, sorted((folder / "species").iterdir()))]
    file = files[int(random.choice(3, p=[0.6, 0.3, 0.1]))]
    if random.random() < 0.03:
        replaced(file, random)
    elif file.suffix == ".json" and random.random() < 0.8:
        textual(mutations.json_tree)(file, random)
    elif file.suffix == ".safetensors":
        textual(mutations.flipped, mutations.overwritten, mutations.cut, mutations.early_number, mutations.words)(
            file, random
        )
    else:
        text(file, random)


def _read_model(path: Path) -> Any:
    trained = TrainedModel.load(path)
    return trained, trained(registry.read_structure(STORED / "calculation"))


@cache
def _prediction(original: Path) -> torch.Tensor:
    return _read_model(original)[1].values


def _judge_model(read: Any, original: Path) -> None:
    """The stored model is of before weights had a digest: what it predicts may be another number, but no other kind of one."""
    values = read[1].values
    require(bool(torch.isfinite(values).all()), "the prediction is not finite")
    require(float(values.abs().max()) < 1e4, f"an element of {float(values.abs().max()):.1e} Ha")


def _sealed(folder: Path) -> list[Path]:
    """A model as it is written today, which has a digest."""
    trained = TrainedModel.load(STORED / "model")
    trained.save(folder / "model")
    return [folder / "model"]


def _judge_sealed(read: Any, original: Path) -> None:
    known, found = _prediction(original), read[1].values
    require(found.shape == known.shape, "another model")
    worst = float((found - known).abs().max())
    require(worst < 0.05, f"an element is off by {worst:.1e} Ha")  # a population in species/ has a share in H0


# --- trainings


def _configuration(folder: Path, epochs: int) -> dict[str, Any]:
    sets = STORED / "set"
    return {
        "data": {
            "train": [str(sets / "0000"), str(sets / "0001")],
            "validation": str(sets / "0002"),
            "cache": str(folder / "cache"),
            "workers": 1,
        },
        "model": {
            "preset": "small",
            "target": "total",
            "irreps": "4x0e+2x1o+1x2e",
            "edge": [4, 2, 2],
            "hidden": [4, 2, 2],
            "layers": 1,
        },
        "trainer": {
            "max_minutes": None,
            "max_epochs": epochs,
            "validations": 2,
            "dtype": "float64",
            "schedule": "constant",
        },
    }


def _train(folder: Path, epochs: int = 1) -> dict[str, Any]:
    from nearsight.learn.reference import OrbitalReference
    from nearsight.learn.train import train

    # most of the time of a training so short: a look at what is not altered, and waiting for the disk
    with mock.patch.object(OrbitalReference, "require_overlap"), mock.patch("os.fsync"):
        return train(_configuration(folder, epochs), folder / "model")


def _go_on(folder: Path) -> dict[str, Any]:
    return _train(folder, 2)


@cache
def _gone_on(original: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(original, Path(place, "training"))
        return _go_on(Path(place, "training"))


def _trainings(folder: Path) -> list[Path]:
    """A training of one epoch, which is gone on with for another."""
    place = folder / "training"
    place.mkdir()
    _train(place)
    return [place]


_KEPT = ("checkpoint.pt", "metrics.jsonl", "config.yaml", "config.json", "model.safetensors", "report.json")


def _alter_training(folder: Path, random: Random) -> None:
    name = str(random.choice(_KEPT, p=[0.35, 0.25, 0.12, 0.12, 0.1, 0.06]))
    altered(folder / "model" / name, random)


def _judge_training(report: dict[str, Any], original: Path) -> None:
    """As it would have gone on, to ten digits; or from the beginning, where no checkpoint was left."""
    written = json.dumps(report, allow_nan=True)
    require("NaN" not in written and "Infinity" not in written, "numbers of the report that are not finite")
    wrong = [_differs(report, known) for known in (_gone_on(original), _anew(original))]
    require(not all(wrong), str(wrong[0]))


@cache
def _anew(original: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        return _go_on(Path(place))


def _differs(report: dict[str, Any], known: dict[str, Any]) -> str | None:
    for key in ("validation_mae_meV", "best"):
        if not _same(report[key], known[key]):
            return f"{key} of {report[key]} in place of {known[key]}"
    for key in ("validation_mae", "train_loss", "learning_rate", "step", "epoch"):
        found, wanted = report["last"][key], known["last"][key]
        if not _same(found, wanted):
            return f"{key} of {found} in place of {wanted}"
    return None


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, int | float) and math.isclose(a, b, rel_tol=1e-9)


# --- caches: disposable, so that whatever is in them, the training is the same


def _cached(folder: Path) -> list[Path]:
    place = folder / "training"
    place.mkdir()
    _train(place)
    shutil.rmtree(place / "model")
    return [place]


def _alter_cache(folder: Path, random: Random) -> None:
    files = sorted(p for p in (folder / "cache").rglob("*") if p.is_file())
    file = pick(random, files)
    if random.random() < 0.04:
        replaced(file, random)
    elif file.suffix == ".safetensors":
        textual(mutations.flipped, mutations.overwritten, mutations.cut, mutations.early_number, mutations.words)(
            file, random
        )
    else:
        altered(file, random)


@cache
def _figure(original: Path) -> float:
    return float(_train_again(original)["validation_mae_meV"])


def _train_again(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / "model")
    return _train(folder)


def _judge_cache(report: dict[str, Any], original: Path) -> None:
    found, known = report["validation_mae_meV"], _figure(original)
    require(found is not None and math.isclose(found, known, rel_tol=1e-9), f"a figure of {found} in place of {known}")


# --- a prepared H0


def _initial(folder: Path) -> list[Path]:
    place = folder / "h0"
    place.mkdir()
    _read_initial(place)
    return [place]


@cache
def _species() -> dict[int, Any]:
    """They are not altered, and keep their two-centre tables."""
    from nearsight.formats.ion_xml import read_ion_xml

    return {s.number: s for s in (read_ion_xml(p) for p in sorted((STORED / "set" / "species").iterdir()))}


def _reference(folder: Path) -> Any:
    from nearsight.dft.settings import Settings
    from nearsight.learn.reference import OrbitalReference

    return OrbitalReference(_species(), Settings.model_validate({"mesh": {"cutoff_ry": 60}}), folder)


def _read_initial(folder: Path) -> Any:
    return _reference(folder).initial_hamiltonian(registry.read_structure(STORED / "calculation"))


@cache
def _known_initial() -> np.ndarray:
    from nearsight.learn.reference import OrbitalReference

    r = _reference(Path())
    without = OrbitalReference(r.species, r.settings, None)
    return without.initial_hamiltonian(registry.read_structure(STORED / "calculation")).values.numpy()


def _judge_initial(h0: Any, original: Path) -> None:
    worst = float(np.abs(h0.values.numpy() - _known_initial()).max())
    require(worst < 1e-12, f"H0 is off by {worst:.1e} Ha")


READERS = {
    "model": Fuzzed(_models, _alter_model, _read_model, _judge_model, 128),
    "sealed": Fuzzed(_sealed, _alter_model, _read_model, _judge_sealed, 128),
    "resumed": Fuzzed(_trainings, _alter_training, _go_on, _judge_training, 64),
    "samples": Fuzzed(_cached, _alter_cache, _train_again, _judge_cache, 64),
    "h0": Fuzzed(_initial, altered, _read_initial, _judge_initial, 128),
}

"""Samples are made once: for the next start, other processes and other models; folders are read once; bad labels are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.formats.files import write_json
from nearsight.learn import data as data_module
from nearsight.learn import preparation, samples
from nearsight.learn.cache import MAPPED_FROM, DiskCache
from nearsight.learn.data import LabelledData, Reader
from nearsight.learn.model_files import build
from nearsight.learn.samples import SampleStore
from nearsight.learn.train import train
from nearsight.models.deeph2 import PRESETS, DeepH2
from tests.laws.test_training import SHELLS, config, data, lines, weights

__all__ = ["data"]  # a fixture


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a folder was read, a geometry made, a sample completed."""
    counts = {"read": 0, "geometry": 0, "complete": 0}

    def counted(owner: object, name: str, what: str) -> None:
        true = getattr(owner, name)

        def count(*arguments, **words):  # type: ignore[no-untyped-def]
            counts[what] += 1
            return true(*arguments, **words)

        monkeypatch.setattr(owner, name, count)

    counted(data_module, "read", "read")
    counted(DeepH2, "geometry", "geometry")
    counted(DeepH2, "complete", "complete")
    return counts


def cached(data: Path, cache: Path, **trainer: object) -> dict:
    table = config(data, **{"max_epochs": 1, "validations": 1, **trainer})
    return {**table, "data": {**table["data"], "cache": str(cache)}}


def test_a_folder_is_read_once_and_a_second_start_reads_samples_alone(data, tmp_path, made) -> None:
    table = cached(data, tmp_path / "cache")
    train(table, tmp_path / "first")
    assert made == {"read": 6, "geometry": 6, "complete": 6}
    train({**table, "trainer": {**table["trainer"], "max_epochs": 2}}, tmp_path / "first")  # resumed
    assert made == {"read": 6, "geometry": 6, "complete": 6}
    train(table, tmp_path / "second")
    assert made == {"read": 6, "geometry": 6, "complete": 6}
    assert lines(tmp_path / "second")[0]["validation_mae"] == lines(tmp_path / "first")[0]["validation_mae"]
    a, b = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["average"] for n in ("first", "second"))
    assert a.keys() == b.keys()


def test_a_model_of_the_same_geometry_and_other_fit_takes_over_the_geometry(data, tmp_path, made) -> None:
    table = cached(data, tmp_path / "cache")
    train(table, tmp_path / "one")
    other = {**table, "data": {**table["data"], "seed": 5}, "model": {**table["model"], "layers": 2}}
    train(other, tmp_path / "two")
    assert made["read"] == made["geometry"] == 6 and made["complete"] == 12
    train({**table, "model": {**table["model"], "cutoff_ang": 2.3}}, tmp_path / "three")
    assert made["geometry"] == 12


def test_a_changed_label_is_seen(data, tmp_path, made) -> None:
    shutil.copytree(data, tmp_path / "set")
    table = cached(tmp_path / "set", tmp_path / "cache")
    train(table, tmp_path / "one")
    with h5py.File(tmp_path / "set/0002/hamiltonian.h5", "r+") as file:
        file["entries"][0] += 0.5
    train(table, tmp_path / "two")
    assert made["read"] == 7 and made["geometry"] == 7
    assert lines(tmp_path / "one")[0] != lines(tmp_path / "two")[0]


def test_nothing_depends_on_the_cache(data, tmp_path) -> None:
    """Broken files are made anew, and a folder that cannot be written to is done without."""
    table = cached(data, tmp_path / "cache")
    train(table, tmp_path / "one")
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    for n, file in enumerate(files):
        file.write_bytes(file.read_bytes()[: 100 * n])
    for note in (tmp_path / "cache/folders").iterdir():
        note.write_text("{")
    train(table, tmp_path / "two")
    (tmp_path / "file").write_text("")
    train(cached(data, tmp_path / "file"), tmp_path / "three")
    one = weights(tmp_path / "one")
    for other in ("two", "three"):
        assert all(torch.equal(x, one[k]) for k, x in weights(tmp_path / other).items())


def test_worker_processes_make_the_same_samples(data, tmp_path, monkeypatch) -> None:
    train(cached(data, tmp_path / "a"), tmp_path / "alone")
    monkeypatch.setattr(preparation, "WORTH", 0.0)
    monkeypatch.setattr(preparation, "TRIED", 1)
    table = cached(data, tmp_path / "b")
    train({**table, "data": {**table["data"], "workers": 2}}, tmp_path / "helped")
    names = [sorted(p.name for p in (tmp_path / n).rglob("*.safetensors")) for n in "ab"]
    assert names[0] == names[1] and len(names[0]) == 12
    alone, helped = weights(tmp_path / "alone"), weights(tmp_path / "helped")
    assert all(torch.equal(x, helped[k]) for k, x in alone.items())


def test_a_script_that_trains_on_import_is_told_why_it_cannot(monkeypatch, data, tmp_path) -> None:
    monkeypatch.setattr(preparation.multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(NearsightError, match="__main__"):
        train(config(data), tmp_path / "model")


def test_the_disk_is_bounded_and_the_oldest_give_way(tmp_path) -> None:
    record = {"x": torch.zeros(1000, dtype=torch.float64)}
    said: list[str] = []
    first = DiskCache(tmp_path, 35_000, said.append)
    for k in range(3):
        first.save(f"old{k}", record)
    assert all(f"old{k}" in first for k in range(3))
    later = DiskCache(tmp_path, 35_000, said.append, began=first.began + 1e6)
    assert later.load("old2") is not None
    for k in range(2):
        later.save(f"new{k}", record)
    assert "new0" in later and "new1" in later
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors")) <= 35_000
    for k in range(9):  # what this training uses does not give way: it stops writing
        first.save(f"mine{k}", record)
    assert first.full and len(said) == 1 and "data.cache_gb" in said[0]
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors")) <= 35_000


def test_large_records_are_mapped_and_small_ones_read(tmp_path) -> None:
    disk = DiskCache(tmp_path, 1e9)
    for count in (10, MAPPED_FROM // 8 + 10):
        x = torch.randn(count, dtype=torch.float64)
        disk.save(str(count), {"x": x, "empty": x[:0], "one": torch.tensor(3)})
        found = disk.load(str(count))
        assert found is not None and torch.equal(found["x"], x) and found["empty"].shape == (0,) and found["one"] == 3


def test_memory_stays_below_its_limit(data, tmp_path) -> None:
    arguments = {"cutoff": 5.0, "reach": 6.0, "radial": 4, **PRESETS["small"]}
    network = build({"kind": "deeph2", "shells": {str(z): s for z, s in SHELLS.items()}, "arguments": arguments})
    folders = sorted(data.glob("0*"))
    store = SampleStore(LabelledData(folders, Reader()), network, 0.0, DiskCache(tmp_path, 1e9))
    size = store[0].nbytes
    store = SampleStore(LabelledData(folders, Reader()), network, 2.5 * size, DiskCache(tmp_path, 1e9))
    for k in (*range(6), *range(6)):
        assert store[k].members == (k,)
        assert sum(s.nbytes for s in store._kept.values()) <= max(2.5 * size, 0)


def test_labels_that_are_none_are_refused_before_training(data, tmp_path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(NearsightError, match=message) as found:
            train(config(tmp_path / "set"), tmp_path / "model")
        assert "\n" not in str(found.value)
        assert not (tmp_path / "model").exists()

    shutil.copytree(data, tmp_path / "set")
    kept = (tmp_path / "set/0003/hamiltonian.h5").read_bytes()
    for bad in (float("nan"), float("inf")):
        with h5py.File(tmp_path / "set/0003/hamiltonian.h5", "r+") as file:
            file["entries"][5] = bad
        refused("set/0003.* not finite")
    (tmp_path / "set/0003/hamiltonian.h5").write_bytes(kept)
    write_json(tmp_path / "set/0004/result.json", {"converged": False})
    refused("set/0004 did not converge")
    (tmp_path / "set/0004/result.json").unlink()
    info = json.loads((tmp_path / "set/0001/info.json").read_text())
    write_json(tmp_path / "set/0001/info.json", {**info, "elements_orbital_map": {"C": [0, 1], "H": [1]}})
    refused("set/0001")


def test_samples_of_another_code_are_not_taken(monkeypatch, data, tmp_path, made) -> None:
    train(cached(data, tmp_path / "cache"), tmp_path / "one")
    monkeypatch.setattr(samples, "_code", lambda module: "another")
    train(cached(data, tmp_path / "cache"), tmp_path / "two")
    assert made["geometry"] == 12

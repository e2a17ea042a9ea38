"""Some tries of the fuzz bench: whatever goes wrong in a file is refused in one line, or what is read is sound."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
TRIES = {
    **dict.fromkeys(("deeph-old", "openmx", "siesta", "abacus", "aims", "pyscf", "deeptb"), 40),
    **dict.fromkeys(("upf", "psml", "psp8"), 40),
    "model": 12,
}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """bench/fuzz.py, which finds its neighbours as a script does."""
    place = sys.path.copy()
    spec = importlib.util.spec_from_file_location("fuzz", BENCH / "fuzz.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = found  # where its dataclasses look for their module
    try:
        spec.loader.exec_module(found)
    finally:
        sys.path[:] = place
    return found


READERS = [
    *("ion_xml", "upf", "psml", "psp8", "gth", "calculation"),
    *("deeph-old", "openmx", "siesta", "abacus", "aims", "pyscf", "deeptb", "poscar", "xyz", "cif"),
    *("settings", "setup", "set", "training", "model", "pao", "orb", "cube", "xsf"),
]


def test_every_reader_is_tried(bench: ModuleType) -> None:
    assert READERS == list(bench.READERS)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_files_that_went_wrong(name: str, bench: ModuleType, tmp_path: Path) -> None:
    reader = bench.READERS[name].tame or bench.READERS[name]
    (tmp_path / "originals").mkdir()
    originals = reader.originals(tmp_path / "originals")
    assert all(bench.attempt(reader, path, path).kind == "accepted" for path in originals)
    failed, refused = [], 0
    for seed in range(TRIES.get(name, 100)):
        place = tmp_path / "try"
        place.mkdir()
        altered, original = bench.spoilt(reader, originals, place, seed)
        outcome = bench.attempt(reader, altered, original)
        refused += outcome.kind == "refused"
        if outcome.kind in bench.FAULTS:
            failed.append(f"{seed}: {outcome.kind}: {outcome.said}")
        shutil.rmtree(place)
    assert not failed, "\n".join(failed)
    assert refused

"""Fixtures of every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nearsight.formats import registry
from tests.third_party import third_party

__all__ = ["third_party"]

WATERS = Path(__file__).parent / "formats" / "data" / "version1" / "set"

# A suite that was started in the background of a script has SIGINT ignored, and so would have every process that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in, or taken from, the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order: what is asked to be equal to the bit is so on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy(third_party):
    """The format of tests/toy_format.py, installed as a third party's distribution."""
    third_party("nearsight.formats", toy="tests.toy_format:ToyFormat")


@pytest.fixture
def toy_set(toy, tmp_path) -> Path:
    """A data set of three waters as that third party's program would leave it."""
    for n, folder in enumerate(registry.list_folders(WATERS)):
        registry.write(tmp_path / "set" / f"{n}.toy", registry.read(folder), "toy")
    return tmp_path / "set"

"""Our formats and a third party's keep one law; a third party's calculations train."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearsight.core.errors import BadInput, Unavailable
from nearsight.formats import registry
from nearsight.learn.train import train
from tests.laws.formats import FormatLaws

SET = Path(__file__).parent / "data" / "version1" / "set"


class TestDeepH(FormatLaws):
    kind = "deeph"


@pytest.mark.usefixtures("toy")
class TestToy(FormatLaws):
    kind = "toy"

    def place(self, folder: Path) -> Path:
        return folder / "x.toy"


def test_a_foreign_format_trains_and_predicts(toy_set, tmp_path):
    config = {
        "data": {"train": str(toy_set), "validation_fraction": 0.34, "species": str(SET / "species")},
        "model": {"preset": "small", "width": 16},
        "trainer": {"max_epochs": 2, "max_minutes": None},
    }
    report = train(config, tmp_path / "model")
    assert report["validation_mae_meV"] > 0


def test_a_foreign_format_that_cannot_be_loaded_harms_nobody(third_party, tmp_path):
    third_party("nearsight.formats", source="import no_such_module\n", broken="broken_toy:Format")
    assert registry.read(SET / "0000").hamiltonian is not None
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(BadInput, match=r"no known format.*broken.*ModuleNotFoundError"):
        registry.read(tmp_path / "file.txt")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        registry.read(tmp_path / "file.txt", "broken")


def test_what_is_no_format_is_told(third_party, tmp_path):
    third_party("nearsight.formats", source="Odd = 3\n", odd="odd_toy:Odd")
    with pytest.raises(Unavailable, match="is no nearsight"):
        registry.load("odd")

"""The documentation's first commands work from an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearsight.core.configuration import read_table
from nearsight.core.errors import BadInput
from nearsight.formats.structures import read_structure
from nearsight.tasks.examples import CONFIGURATIONS, STRUCTURES, write_example


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_one(name: str, tmp_path: Path) -> None:
    found = read_structure(write_example(name, tmp_path), 5.0 if name.endswith(".xyz") else None)
    assert len(found) in (1, 2, 3)
    again = write_example(name, tmp_path)  # the same once more is no loss
    again.write_text("mine")
    with pytest.raises(BadInput, match="already"):
        write_example(name, tmp_path)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_one(name: str, tmp_path: Path) -> None:
    assert read_table(write_example(name, tmp_path))


def test_a_wrong_name_has_its_near_miss(nearsight, tmp_path: Path) -> None:
    wrong = nearsight("example", "grafene", "-o", tmp_path)
    assert wrong.status == 1
    assert "did you mean graphene" in wrong.err
    all_of_them = nearsight("example")
    assert all_of_them.status == 0
    assert "water.xyz" in all_of_them.out

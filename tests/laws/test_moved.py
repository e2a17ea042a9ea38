"""Modules of the first layout are found by their old names, as the same objects."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from nearsight.moved import MOVED, new_name


@pytest.mark.parametrize("old", [*MOVED, "nearsight.io.deeph", "nearsight.solve.kpoints", "nearsight.nn.so2"])
@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")
def test_an_old_name_is_the_module_itself(old: str) -> None:
    new = new_name(old)
    assert new is not None
    assert import_module(old) is import_module(new)
    assert import_module(new).__name__ == new


def test_it_says_so_and_costs_nothing() -> None:
    code = (
        "import warnings, sys, nearsight\n"
        "assert 'torch' not in sys.modules\n"
        "warnings.simplefilter('error')\n"
        "try: import nearsight.io.atomic\n"
        "except DeprecationWarning as w: assert 'nearsight.formats' in str(w)\n"
        "else: raise SystemExit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ModuleNotFoundError):
        import_module("nearsight.io.nothing")

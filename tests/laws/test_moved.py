"""Modules of the first layout are found by their old names, as the same objects."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from nearsight.moved import MOVED, NAMES, new_name


@pytest.mark.parametrize("old", [*MOVED, "nearsight.io.deeph", "nearsight.solve.kpoints", "nearsight.nn.so2"])
@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")
def test_an_old_name_is_the_module_itself(old: str) -> None:
    new = new_name(old)
    assert new is not None
    assert import_module(old) is import_module(new)
    assert import_module(new).__name__ == new


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.filterwarnings("ignore:.* is nearsight:DeprecationWarning")
def test_names_that_a_module_gave_are_still_found_in_it(module: str) -> None:
    found = import_module(module)
    for home, words in NAMES[module].items():
        for word in words.split():
            new, _, old = word.partition("=")
            there: object = import_module(home)
            for part in new.split("."):
                there = getattr(there, part)
            assert getattr(found, old or new) is there
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        _ = found.nothing


def test_what_scripts_of_the_first_release_import() -> None:
    code = (
        "import nearsight.dft.run as run, warnings\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always'); real = run.ground_state\n"
        "assert 'nearsight.dft.ground_state' in str(told[0].message)\n"
        "from nearsight.atoms.orbitals import generate_species, BasisSettings\n"
        "from nearsight.atoms.ion_xml import write_ion_xml\n"
        "from nearsight.dft.run import load_species, resolved, chosen_kmesh\n"
        "from nearsight.io.deeph import write_folder, is_folder\n"
        "from nearsight.properties.spectra import bands_of\n"
        "from nearsight.core.structure import Pairs, neighbours\n"
        "from nearsight.solve.occupations import density_matrix, fermi_level\n"
        "from nearsight.learn.model import NearsightError, ScfSettings\n"
        "import nearsight as ns; assert ns.solve is real\n"
        "assert real.__module__ == 'nearsight.dft.ground_state'\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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

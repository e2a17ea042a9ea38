"""Objects show themselves in one short line, and in a notebook by a picture."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from xml.etree import ElementTree

import pytest
import torch

import nearsight
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.formats.registry import read
from nearsight.learn.model import TrainedModel
from nearsight.properties.spectra import bands
from tests import cases
from tests.formats.test_calculation import FIRST

ROOMS = ("core", "formats", "atoms", "electrons", "integrals", "xc", "dft", "tasks", "properties", "report")


def classes_with_arrays() -> dict[str, type]:
    """Public dataclasses that cannot be compared by ==, since they hold arrays."""
    found = {}
    for module in pkgutil.walk_packages(nearsight.__path__, "nearsight."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            ours = isinstance(value, type) and value.__module__.startswith("nearsight.") and not name.startswith("_")
            if ours and dataclasses.is_dataclass(value) and not value.__dataclass_params__.eq:
                found[f"{value.__module__}.{name}"] = value
    return found


def test_no_object_prints_its_arrays():
    """A class with arrays says `__repr__ = one_line` (core/display.py) or writes its own line."""
    generated = [
        name
        for name, kind in classes_with_arrays().items()
        if name.split(".")[1] in ROOMS
        and any(f.repr for f in dataclasses.fields(kind))
        and any(word in kind.__repr__.__code__.co_filename for word in ("dataclasses", "reprlib"))
    ]
    assert not generated


@pytest.fixture(scope="module")
def ground_state():
    s = cases.diamond()
    settings = ScfSettings(kmesh=(2, 1, 1), mesh_cutoff_ry=60, max_iterations=4)
    return run_scf(s, settings, species=cases.species_of(s, "sz"))


def shown(gs):
    c = gs.as_calculation()
    yield from (gs, c, c.structure, c.overlap, c.overlap.basis, c.overlap.layout, c.overlap.pairs, gs.functional)
    yield from (gs.functional.species[6], gs.functional.species[6].orbitals[0], gs.kpoints, bands(c, points=8))
    yield TrainedModel.load(FIRST / "model")


def test_one_line_under_200_characters(ground_state):
    for thing in shown(ground_state):
        line = repr(thing)
        assert type(thing).__name__ in line
        assert "\n" not in line
        assert len(line) < 200
    assert "C2" in repr(ground_state)
    assert "converged in 4 iterations" in repr(ground_state)


def test_a_field_in_a_few_words():
    @dataclasses.dataclass(eq=False)
    class Thing:
        a: torch.Tensor
        b: dict
        c: str
        d: float
        e: object
        f: None = None

        __repr__ = one_line

    assert repr(Thing(torch.zeros(2, 3), {1: 2}, "x" * 99, 1 / 3, print)) == (
        f"Thing(a=[2, 3], b=1 items, c='{'x' * 37}...', d=0.333333, e=print)"
    )


def test_a_notebook_shows_a_picture(ground_state):
    water = read(FIRST / "calculation")
    svg = water.structure._repr_html_()
    tree = ElementTree.fromstring(svg)
    assert len(tree.findall(".//{*}circle")) == 3
    assert len(tree.findall(".//{*}line")) == 12
    assert "OH2" in svg
    assert "-461.798" in water._repr_html_()
    assert "data:image/png" in bands(water, points=6)._repr_html_()
    assert "not known" not in Calculation(water.structure)._repr_html_()
    assert "converged" in ground_state._repr_html_()
    broken = type(water.structure)(water.structure.cell, water.structure.positions / 0, water.structure.numbers)
    assert broken._repr_html_() is None

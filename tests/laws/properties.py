"""The law of properties: what every one of them keeps, ours or a third party's.

A third party inherits PropertyLaws in its own tests and names its property:

    class TestBandwidth(PropertyLaws):
        kind = "bandwidth"

        def invariants(self, result):
            return torch.tensor([result.width])
"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import nearsight
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError, Unavailable
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.properties.contract import Options, Property, property_named
from tests import cases

DATA = Path(__file__).parents[1] / "formats" / "data"
RESERVED = ("folder", "out", "json", "help", "h", "o")
KINDS = (NONE, COLLINEAR, SPINOR)


@cache
def graphene():
    """LDA graphene in a single-zeta basis, of SIESTA: structure, S, H, D, Fermi level."""
    return nearsight.read(DATA / "graphene_lda_sz")


def with_spin(calculation, kind: Spin):
    """The same physics of a calculation without spin in matrices of another spin."""
    h, d = calculation.hamiltonian, calculation.density_matrix
    share = kind.electrons_per_level / 2
    values = kind.embed(h.values), None if d is None else kind.embed(d.values) * share
    if kind is SPINOR:
        values = tuple(v if v is None else v.to(torch.complex128) for v in values)
    return replace(
        calculation,
        hamiltonian=BlockMatrix(h.layout, values[0], kind),
        density_matrix=None if d is None else BlockMatrix(d.layout, values[1], kind),
    )


def rotated(calculation, rotation: Tensor):
    """The calculation turned as a whole."""
    turned = {
        name: None if (m := getattr(calculation, name)) is None else m.rotate(rotation)
        for name in ("overlap", "hamiltonian", "density_matrix")
    }
    return replace(calculation, structure=calculation.structure.rotate(rotation), **turned)


class PropertyLaws:
    """kind: name of the registered property.  given: options of the tests, beside the defaults."""

    kind: ClassVar[str]
    given: ClassVar[dict[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-8

    def calculation(self):
        return graphene()

    def invariants(self, result) -> Tensor:
        """Numbers that do not change where the crystal is turned, or written with more spin than it has."""
        raise NotImplementedError

    @property
    def prop(self) -> Property:
        return property_named(self.kind)

    def result(self, calculation=None):
        return self.prop(self.calculation() if calculation is None else calculation, **self.given)

    def test_it_declares_itself(self):
        assert self.prop.name == self.kind
        assert getattr(nearsight, self.kind) is self.prop
        assert inspect.getdoc(inspect.getmodule(type(self.prop)))
        assert issubclass(self.prop.options, Options)
        for name, field in self.prop.options.model_fields.items():
            assert field.description, f"option {name} says nothing"
            assert name not in RESERVED
            assert not field.is_required(), f"option {name} has no default"

    def test_an_option_that_is_not_known_is_refused_in_one_line(self):
        with pytest.raises(NearsightError, match="no_such_option") as caught:
            self.prop(self.calculation(), no_such_option=1)
        assert "\n" not in str(caught.value)

    def test_the_result_is_plain_json_with_a_version(self):
        found = json.loads(json.dumps(self.result().to_json(), allow_nan=False))
        assert isinstance(found["version"], int)

    def test_the_summary_is_lines(self):
        lines = self.result().summary()
        assert lines
        assert all(isinstance(line, str) and "\n" not in line for line in lines)

    def test_the_picture_shows_something(self):
        figure = Figure(figsize=self.prop.size, layout="constrained")
        if not self.prop.picture:
            with pytest.raises(Unavailable):
                self.result().draw(figure)
            return
        self.result().draw(figure)
        assert any(axes.has_data() for axes in figure.axes)

    def test_the_calculation_is_left_as_it_was(self):
        c = self.calculation()
        before = [m.values.clone() for m in (c.overlap, c.hamiltonian, c.density_matrix) if m is not None]
        self.result(c)
        after = [m.values for m in (c.overlap, c.hamiltonian, c.density_matrix) if m is not None]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    @pytest.mark.parametrize("improper", [False, True])
    def test_turning_the_crystal_changes_nothing(self, improper):
        r = cases.random_rotation(4, improper)
        wanted, found = self.result(), self.result(rotated(self.calculation(), r))
        torch.testing.assert_close(self.invariants(found), self.invariants(wanted), atol=self.tolerance, rtol=1e-6)

    @pytest.mark.parametrize("kind", KINDS[1:], ids=repr)
    def test_more_spin_than_there_is_changes_nothing(self, kind):
        if self.calculation().hamiltonian.spin is not NONE:
            pytest.skip("the case has spin already")
        wanted, found = self.result(), self.result(with_spin(self.calculation(), kind))
        torch.testing.assert_close(self.invariants(found), self.invariants(wanted), atol=self.tolerance, rtol=1e-6)

    @pytest.mark.cuda
    def test_the_device_does_not_matter(self):
        if not torch.cuda.is_available():
            pytest.skip("this machine has no CUDA device")
        c = self.calculation()
        names = ("overlap", "hamiltonian", "density_matrix")
        moved = {n: m.to("cuda") for n in names if (m := getattr(c, n)) is not None}
        found = self.result(replace(c, structure=c.structure.to("cuda"), **moved))
        wanted = self.invariants(self.result())
        torch.testing.assert_close(self.invariants(found).cpu(), wanted, atol=self.tolerance, rtol=1e-6)

    def test_a_prediction_will_do(self):
        """A Hamiltonian and the number of electrons are all that a prediction has."""
        c = replace(self.calculation(), density_matrix=None, fermi_level=None, electrons=8.0)
        self.result(c).to_json()

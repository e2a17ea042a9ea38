"""The law of spin, for every kind of it and every device."""

from __future__ import annotations

import pickle

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, SPINS, by_components, spin
from tests.laws.spin import SpinLaws, random_matrix, random_overlap, test_half_a_turn_twice_is_minus_one  # noqa: F401

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class TestNone(SpinLaws):
    kind = NONE


class TestCollinear(SpinLaws):
    kind = COLLINEAR


class TestSpinor(SpinLaws):
    kind = SPINOR


@pytest.mark.cuda
@NEEDS_CUDA
class TestNoneOnCuda(SpinLaws):
    kind, device = NONE, "cuda"


@pytest.mark.cuda
@NEEDS_CUDA
class TestCollinearOnCuda(SpinLaws):
    kind, device = COLLINEAR, "cuda"


@pytest.mark.cuda
@NEEDS_CUDA
class TestSpinorOnCuda(SpinLaws):
    kind, device = SPINOR, "cuda"


def test_a_kind_is_one_object_whatever_becomes_of_it():
    for kind in SPINS.values():
        assert pickle.loads(pickle.dumps(kind)) is kind
    with pytest.raises(BadInput, match="take one of"):
        spin("vector")
    with pytest.raises(BadInput, match="3 spin components"):
        by_components(3)


def test_a_name_makes_the_matrix_of_that_spin():
    m = random_matrix(COLLINEAR)
    assert BlockMatrix(m.layout, m.values, "collinear").spin is COLLINEAR
    with pytest.raises(NearsightError, match="shape"):
        BlockMatrix(m.layout, m.values, "spinor")
    with pytest.raises(NearsightError, match="embed"):
        _ = m + random_overlap()


def test_the_electrons_of_a_spinor_are_those_between_equal_spins():
    d, s = random_matrix(SPINOR), random_overlap()
    uu, _, _, dd = d.values
    assert float(d.trace(s)) == pytest.approx(float(((uu + dd).real * s.values[0]).sum()))

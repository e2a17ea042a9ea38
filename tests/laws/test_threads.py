"""Threads share the work on small pieces: the same numbers to rounding on any number of them, to the bit on the same one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.threads import each, share
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.electrons import kpoints
from nearsight.integrals.mesh import mesh_shape
from tests import cases


@pytest.fixture
def threads() -> Iterator[None]:
    """What a test sets is set back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_pieces_come_back_in_their_order_from_threads_that_work_alone(threads: None, n: int):
    torch.set_num_threads(n)
    found = each(lambda x: (x * x, torch.get_num_threads(), torch.is_grad_enabled()), range(7))
    assert [square for square, _, _ in found] == [x * x for x in range(7)]
    assert all(inside == 1 for _, inside, _ in found)
    with torch.no_grad():
        assert not any(each(lambda _: torch.is_grad_enabled(), range(4)))
    assert torch.get_num_threads() == n
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [n]
    assert each(lambda x: x, []) == []


def test_a_helper_asks_no_other_and_what_it_raises_is_raised(threads: None):
    torch.set_num_threads(2)
    assert each(lambda x: share(list, range(x)), range(3)) == [[[]], [[0]], [[0, 1]]]
    with pytest.raises(ZeroDivisionError):
        each(lambda x: 1 / x, [1, 0, 1, 1])


def _found(n: int) -> list[torch.Tensor]:
    """Density, matrix and a ground state with its forces and stress, carbon in spheres of a finer mesh, on n threads."""
    torch.set_num_threads(n)
    s = cases.skew()
    species = cases.species_of(s, "sz")
    f = EnergyFunctional.of(s, species, "pbe", mesh_shape(s.cell, 60.0), xc_near_nuclei=2)
    generator = torch.Generator().manual_seed(0)
    d = BlockMatrix(f.layout, torch.randn(1, f.layout.size, generator=generator, dtype=torch.float64)).hermitian()
    v = torch.randn(1, *f.mesh.shape, generator=generator, dtype=torch.float64)
    state = ground_state(f, kpoints.mesh((2, 2, 1)), 0.01)
    slopes = forces_and_stress(state)
    own = [state.density_matrix.values, torch.tensor(state.total), slopes.forces, slopes.stress]
    return [f.grid.density(d), f.grid.matrix(v).values, *own]


def test_numbers_do_not_depend_on_threads(threads: None):
    one, two, again, three = (_found(n) for n in (1, 2, 2, 3))
    for a, b, c, d in zip(one, two, again, three, strict=True):
        assert torch.equal(b, c)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a, d, rtol=1e-12, atol=1e-12)

"""Sizes are bounded before anything is allocated, in one line with both figures; what fits is not refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearsight.core import memory
from nearsight.core.errors import BadInput, Unavailable
from nearsight.core.memory import GIBIBYTE, available, check_room, written
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure, supercell
from nearsight.dft.settings import Settings
from nearsight.dft.setup import chosen_kmesh, functional_for, resolved
from nearsight.electrons.kpoints import mesh, mesh_points
from nearsight.electrons.solvers.dense import Dense
from nearsight.integrals.mesh import mesh_shape
from tests.cases import diamond, species_of, water


def test_what_is_free_is_known_and_not_more_than_the_machine() -> None:
    assert 2**27 < available() < 2**50
    check_room(0, "nothing", "no remedy")
    with pytest.raises(Unavailable, match=r"the lot needs about 1e\+12 GiB of memory, .* is free: take less"):
        check_room(1e12 * GIBIBYTE, "the lot", "take less")


def test_limits_of_the_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = available()
    taken = memory._table("/proc/self/status", "VmSize")
    if taken is None:
        pytest.skip("this system does not tell what a process has taken")
    resource.setrlimit(resource.RLIMIT_AS, (int(taken + 2**30), hard))
    try:
        assert available() <= 2**30 < before + 2**30
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_numbers_of_bytes() -> None:
    assert [written(x) for x in (5e6, 3 * GIBIBYTE, 2e20)] == ["5 MiB", "3.0 GiB", "2e+11 GiB"]


@pytest.mark.parametrize("size", [(10**12, 1, 1), (10**6, 10**6, 10**6), (50_000, 50_000, 1)])
def test_k_meshes_that_no_machine_holds(size: tuple[int, int, int]) -> None:
    for points in (mesh, mesh_points):
        with pytest.raises(Unavailable, match=r"a k-mesh of .* points.* larger kspacing"):
            points(size, (0.0, 0.0, 0.0))


def test_a_spacing_of_k_points_that_makes_no_mesh() -> None:
    for spacing in (1e-9, 1e-300):
        with pytest.raises(BadInput, match="more than a million k-points"):
            chosen_kmesh(water(), Settings(kspacing=spacing))


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 4), (4, 4, 1), (5, 1, 6), (3, 3, 3)])
@pytest.mark.parametrize(
    "shift", [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.0, 0.5, 1.0), (0.3, 0.0, 0.0), (-0.5, 0.0, 1.5)]
)
def test_k_and_minus_k_count_once(size: tuple[int, int, int], shift: tuple[float, float, float]) -> None:
    """The points and weights of a search through all points, one by one."""
    kept: dict[tuple[int, ...], int] = {}
    chosen, weights = [], []
    for p in mesh_points(size, shift).numpy():
        key, minus = (tuple(np.round((s * p) % 1.0 * 1e6).astype(int) % 10**6) for s in (1, -1))
        if minus in kept:
            weights[kept[minus]] += 1
        else:
            kept[key] = len(chosen)
            chosen.append(p)
            weights.append(1)
    found = mesh(size, shift)
    assert np.array_equal(found.k.numpy(), np.array(chosen))
    assert found.weights.numpy() == pytest.approx(np.array(weights) / sum(weights), abs=1e-15)


@pytest.mark.parametrize("cutoff", [1e9, 1e30, 1e300])
def test_mesh_cutoffs_that_no_machine_holds(cutoff: float) -> None:
    with pytest.raises(Unavailable, match=r"mesh of .* Ry .*lower mesh cutoff"):
        mesh_shape(water().cell, cutoff)


def test_a_mesh_that_no_machine_holds_is_refused_before_the_orbitals_are_put_on_it() -> None:
    s = water()
    with pytest.raises(Unavailable, match=r"a mesh of 20000x20000x20000 points needs about .* less vacuum"):
        functional_for(s, Settings(mesh=(20_000, 20_000, 20_000)), species_of(s, "sz"))


def test_lists_of_pairs_and_supercells() -> None:
    with pytest.raises(Unavailable, match=r"the list of about .* pairs of 2 atoms needs"):
        Pairs.within(diamond(), 1e6)
    for repeats in ((0, 1, 1), (-1, 1, 1), (1000, 1000, 1000), (10**9, 10**9, 10**9)):
        with pytest.raises(BadInput, match="a supercell of"):
            supercell(water(), repeats)
    assert len(supercell(water(), (2, 1, 3))) == 18


def test_what_fits_is_computed() -> None:
    s = Structure(
        12 * torch.eye(3, dtype=torch.float64), torch.full((1, 3), 6.0, dtype=torch.float64), torch.tensor([2])
    )
    assert functional_for(s, Settings(mesh=(16, 16, 16)), species_of(s)).mesh.size == 4096


@pytest.mark.parametrize("shift", [(float("inf"), 0.0, 0.0), (0.0, 1e300, 0.0), (0.0, 0.0, float("nan"))])
def test_shifts_of_k_meshes_that_are_none(shift: tuple[float, float, float]) -> None:
    with pytest.raises(BadInput, match="a k-mesh shifted by"):
        mesh((1, 2, 2), shift)


@pytest.mark.parametrize(
    "choice", [{"memory": float("inf")}, {"memory": -1.0}, {"processes": 10**12}, {"processes": 0}]
)
def test_a_solvers_share_of_the_machine(choice: dict) -> None:
    with pytest.raises(BadInput, match="within reason"):
        Dense(**choice)


def test_a_mesh_on_which_no_density_can_stand() -> None:
    """The points are held to what a cutoff is: two along an edge gave hydrogen -221 eV without a word."""
    for points in ((1, 2, 3), (2, 2, 2), (40, 40, 2)):
        with pytest.raises(BadInput, match=r"is of .* Ry in this cell, on which no density can stand: 100 Ry are"):
            resolved(water(), Settings(mesh=points))
    with pytest.raises(BadInput, match=r"a cutoff of 1.0e-09 Bohr is none"):
        Pairs.within(water(), 1e-9)

"""Paths through the zone: those without length are refused, and one path in two cells means the same k or is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nearsight.core.errors import BadInput, Unavailable
from nearsight.core.structure import supercell
from nearsight.dft.settings import Settings
from nearsight.dft.setup import initial_hamiltonian
from nearsight.electrons.kpoints import band_path, path_in
from nearsight.properties.spectra import bands
from tests import cases


def test_every_level_of_a_cell_is_one_of_its_supercell() -> None:
    small = cases.diamond()
    large = supercell(small, (2, 1, 1))
    species = cases.species_of(small, "sz")
    matrices = [
        initial_hamiltonian(s, Settings(mesh=mesh), species)
        for s, mesh in ((small, (16, 16, 16)), (large, (32, 16, 16)))
    ]
    for first, other, fine, coarse in ((small, large, 0, 1), (large, small, 1, 0)):
        path = band_path(first, 12)
        both = path, path_in(path, first, other, fold=True)
        levels = [bands(h, s, both[n]).energies[0] for (h, s), n in zip(matrices, (fine, coarse), strict=True)]
        nearest = (levels[0][:, :, None] - levels[1][:, None, :]).abs().amin(2)
        assert float(nearest.max()) < 1e-4


def test_cells_of_one_shape_share_fractions_and_all_others_are_refused() -> None:
    diamond, graphene = cases.diamond(), cases.graphene()
    path = band_path(diamond, 12)
    strained = replace(diamond, cell=1.04 * diamond.cell, positions=1.04 * diamond.positions)
    assert path_in(path, diamond, strained.rotate(cases.random_rotation(3))) is path
    with pytest.raises(BadInput, match="one a supercell of the other: its bands are folded"):
        path_in(path, diamond, supercell(diamond, (1, 2, 2)))
    with pytest.raises(BadInput, match="C2 and OCH have different cells, neither of which is a supercell"):
        path_in(path, diamond, cases.skew(), fold=True)
    flat = band_path(graphene, 12)
    assert path_in(flat, graphene, cases.graphene(27.0)) is flat  # k is 0 along the height
    folded = path_in(flat, graphene, supercell(cases.graphene(27.0), (3, 2, 1)), fold=True)
    torch.testing.assert_close(folded.k, flat.k * torch.tensor([3.0, 2.0, 1.0]))


@pytest.mark.parametrize("labels", ["GAMMA", "GAMMA-GAMMA", "X-GAMMA-GAMMA", "", "GAMMA-Q", "GAMMA--X"])
def test_a_path_of_no_length_or_without_a_name_is_refused(labels: str) -> None:
    with pytest.raises(BadInput, match=r"no length|no point is named Q; this lattice has|a corner has no name"):
        band_path(cases.diamond(), 10, labels)


def test_the_points_of_a_path_are_bounded() -> None:
    with pytest.raises(BadInput, match="a band path of 1 points: give at least 2"):
        band_path(cases.diamond(), 1)
    with pytest.raises(Unavailable, match="take fewer"):
        band_path(cases.diamond(), 10**13)

"""Large structures in tiles: pairs, H0 and predictions are those of one piece."""

from __future__ import annotations

import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import by_components
from nearsight.core.structure import Structure
from nearsight.dft.local import is_local, local_initial_hamiltonian, reach
from nearsight.dft.settings import Settings
from nearsight.dft.setup import initial_hamiltonian
from nearsight.integrals.two_center import matrix_layout
from nearsight.learn.large import Way, in_tiles, predict_in_tiles
from nearsight.learn.model import TrainedModel
from nearsight.learn.reference import OrbitalReference
from nearsight.learn.tiles import elements, tiles
from nearsight.models.deeph2 import DeepH2
from tests import cases
from tests.laws.test_network import TINY, model
from tests.laws.test_spinors import relativistic

close = torch.testing.assert_close
SETTINGS = Settings(basis={"size": "sz"}, mesh={"shape": (160, 16, 16), "two_center": "siesta"})


def chain(cells: int = 24, vectors=((3.1, 0.4, 0.0), (0.0, 9.0, 0.0), (0.2, 0.0, 9.0))) -> Structure:
    """A long crystal of C and H, distorted, with atoms outside of the cell too."""
    cell = torch.tensor(vectors, dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    basis = torch.tensor([[0.0, 0.0, 0.0], [0.5, 2.0, 0.3]], dtype=torch.float64)
    shifts = torch.arange(cells)[:, None].double() * cell[0]
    positions = (shifts[:, None] + basis).reshape(-1, 3)
    positions = positions + 0.2 * torch.randn(positions.shape, generator=g, dtype=torch.float64)
    long = torch.stack([cells * cell[0], cell[1], cell[2]])
    positions[3] += long[0] - 2 * long[1]
    positions[8] -= long[0]
    return Structure(long, positions, torch.tensor([6, 1] * cells))


@pytest.mark.parametrize("atoms", [5, 11])
def test_every_pair_is_in_one_tile_and_has_its_vector(atoms):
    s = chain()
    layout = BlockLayout(Basis.of(s.numbers, {6: (0, 1), 1: (0,)}), Pairs.within(s, 9.0))
    vectors, seen = layout.pairs.vectors(s), torch.zeros(len(layout.pairs), dtype=torch.long)
    cut = 0
    for tile in tiles(s, atoms, 9.5):
        which = tile.pairs_of(layout)
        own, found = tile.layout(layout, which)
        seen[which] += 1
        cut += not all(tile.whole)
        close(own.pairs.vectors(tile.structure)[found], vectors[which], rtol=0, atol=1e-9)
        near = Pairs.within(tile.structure, 9.0)
        core = tile.core[near.i]
        assert int(core.sum()) == len(which)  # nothing else is as near to the core as in the whole
    assert cut > 1 and bool((seen == 1).all())


def test_elements_follow_their_pairs():
    s = chain(6)
    layout = BlockLayout(Basis.of(s.numbers, {6: (0, 1), 1: (0,)}), Pairs.within(s, 6.0))
    which = torch.tensor([4, 0, 7])
    expected = torch.cat([torch.arange(layout.boundaries[p], layout.boundaries[p + 1]) for p in which.tolist()])
    close(elements(layout, which), expected)


def test_a_margin_that_is_too_small_is_said():
    s = chain()
    layout = BlockLayout(Basis.of(s.numbers, {6: (0, 1), 1: (0,)}), Pairs.within(s, 9.0))
    tile = next(tiles(s, 5, 2.0))
    with pytest.raises(BadInput, match="margin"):
        tile.layout(layout, tile.pairs_of(layout))


@pytest.fixture(scope="module")
def species():
    return {6: cases.species("C", "sz"), 1: cases.species("H", "sz")}


@pytest.mark.parametrize("spin_orbit", ["none", "file"])
def test_h0_of_tiles_is_that_of_the_whole(species, spin_orbit):
    s = chain(36)
    species = {z: relativistic(x) for z, x in species.items()}
    assert is_local(SETTINGS, species)
    assert not is_local(Settings(mesh={"two_center": "exact"}), species)
    mesh = SETTINGS.mesh.model_copy(update={"shape": (240, 16, 16)})
    functional = SETTINGS.functional.model_copy(update={"spin_orbit": spin_orbit})
    settings = SETTINGS.model_copy(update={"mesh": mesh, "functional": functional})
    layout = matrix_layout(s, species)
    whole = initial_hamiltonian(s, settings, species)[0].on(layout)
    values = torch.full_like(whole.values, torch.nan)
    margin = reach(species, float((s.cell.norm(dim=1) / torch.tensor((240, 16, 16))).max()))
    cut = 0
    for n, tile in enumerate(tiles(s, 20, margin, (240, 16, 16))):
        if n > 1:
            break
        which = tile.pairs_of(layout)
        own, found = tile.layout(layout, which)
        h = local_initial_hamiltonian(tile.structure, species, settings, own, tile.core, tile.shape)
        assert h.spin is by_components(len(whole.values))
        values[:, elements(layout, which)] = h.values[:, elements(h.layout, found)]
        cut += not all(tile.whole)
    there = ~values.isnan()
    assert cut and float(there.double().mean()) > 0.2
    close(values[there], whole.values[there], rtol=0, atol=1e-10)


@pytest.mark.parametrize("target", ["total", "delta"])
def test_predictions_in_tiles_are_those_of_one_piece(target, species, tmp_path):
    s = chain(20)
    shells = {z: tuple(x.shells) for z, x in species.items()}
    network = model(layers=1, cutoff=4.0, shells=shells)
    if target == "delta":
        from nearsight.models.targets import DELTA

        network.target = DELTA
    trained = TrainedModel(network.eval(), {"kind": "deeph2", "shells": shells}, OrbitalReference(species, SETTINGS))
    assert not in_tiles(trained, s, Way())
    assert in_tiles(trained, s, Way(4))
    layout = trained.layout(s)
    told: list[int] = []
    one = trained.hamiltonian(s, layout)
    h, overlap = predict_in_tiles(trained, s, layout, Way(4, told=lambda n, m: told.append(n)), tmp_path / "t", None)
    close(h.values, one.values, rtol=0, atol=1e-10)
    close(overlap.values, trained.reference.overlap(s, layout).values, rtol=0, atol=1e-12)
    assert told[0] == 0 and told == sorted(told) and len(told) > 4
    assert not (tmp_path / "t").exists()


def test_tiles_that_are_done_are_not_made_again(species, tmp_path, monkeypatch):
    from nearsight.learn import large

    s = chain(20)
    shells = {z: tuple(x.shells) for z, x in species.items()}
    trained = TrainedModel(
        model(layers=1, cutoff=4.0, shells=shells).eval(),
        {"kind": "deeph2", "shells": shells},
        OrbitalReference(species, SETTINGS),
    )
    layout, made, before = trained.layout(s), [], large.compute

    def stopped(trained, job):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(job)
        return before(trained, job)

    monkeypatch.setattr(large, "compute", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_in_tiles(trained, s, layout, Way(4), tmp_path / "t", None)
    made.clear()
    monkeypatch.setattr(large, "compute", lambda trained, job: (made.append(job), before(trained, job))[1])
    h, _ = predict_in_tiles(trained, s, layout, Way(4), tmp_path / "t", None)
    total = sum(1 for _ in tiles(s, 4, 10.0))
    assert len(made) == total - 3
    close(h.values, trained.hamiltonian(s, layout).values, rtol=0, atol=1e-10)


def test_what_cannot_be_in_tiles_is_refused(species):
    with pytest.raises(BadInput, match="--tile"):
        Way(0)
    shells = {z: tuple(x.shells) for z, x in species.items()}
    trained = TrainedModel(model(shells=shells), {"kind": "deeph2", "shells": shells}, None)
    with pytest.raises(BadInput, match="cannot be made in tiles"):
        in_tiles(trained, chain(6), Way(4))


def test_tiles_of_spinors_may_come_in_any_order(species, tmp_path, monkeypatch):
    """Those of H0 first, as where a part of the network's is still missing: H is complex from the beginning."""
    from nearsight.learn import large

    s = chain(20)
    shells = {z: tuple(x.shells) for z, x in species.items()}
    network = DeepH2(shells, "delta", cutoff=4.0, reach=7.0, layers=1, radial=4, spin="spinor", **TINY).double()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    trained = TrainedModel(network.eval(), {"kind": "deeph2", "shells": shells}, OrbitalReference(species, SETTINGS))
    layout, before = trained.layout(s), large._results
    monkeypatch.setattr(large, "_results", lambda *given: reversed(list(before(*given))))
    one = trained.hamiltonian(s, layout)
    h, _ = predict_in_tiles(trained, s, layout, Way(4), tmp_path / "t", None)
    assert float(one.values.imag.abs().max()) > 1e-4
    close(h.values, one.values, rtol=0, atol=1e-10)

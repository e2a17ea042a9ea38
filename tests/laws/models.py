"""Laws of every model, ours or a third party's: inherit `ModelLaws`, give it `kind` and `arguments`."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import _lru_cache_wrapper
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from nearsight.core import registry
from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.spin_parts import SpinParts
from nearsight.core.structure import Structure
from nearsight.learn.cache import DiskCache, matching
from nearsight.learn.data import Source
from nearsight.learn.model import TrainedModel
from nearsight.learn.model_files import build
from nearsight.learn.samples import complete_record, exact_record
from nearsight.models.contract import HamiltonianModel, Setting
from nearsight.models.targets import TARGETS, Inputs

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def random_rotation(seed: int) -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)


def axes_turned(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


ROTATIONS = {
    "random": random_rotation(3),
    "inversion": -torch.eye(3, dtype=torch.float64),
    "improper": -random_rotation(4),
    "mirror": torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)),
    "z to y": axes_turned([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "z to -z": axes_turned([[1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "z to x": axes_turned([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
}


def crystal() -> Structure:
    """Three elements, moments, no symmetry, with bonds exactly along +-y and +-z (the poles of the harmonics)."""
    cell = torch.tensor([[7.0, 0.3, -0.2], [0.4, 6.5, 0.1], [-0.3, 0.2, 8.0]], dtype=torch.float64)
    positions = torch.tensor(
        [[0, 0, 0], [0, 0, 2.1], [0, 1.9, 0], [2.2, 0.4, 0.7], [3.1, 2.9, 4.2], [0, 0, -2.5]], dtype=torch.float64
    )
    moments = torch.randn(6, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    moments[3] = 0.0  # no magnetic atom
    return Structure(cell, positions, torch.tensor([8, 1, 6, 1, 8, 6]), moments)


class ModelLaws:
    """What training, prediction and files rely on.

    kind: as registered.  arguments: keyword arguments of a small model.  shells: of H, C and O, with all that it serves.
    spin: of the data that it was made for.
    """

    kind: ClassVar[str]
    arguments: ClassVar[Mapping[str, Any]]
    spin: ClassVar[Spin] = NONE
    shells: ClassVar[Mapping[int, tuple[int, ...]]] = {1: (0, 0, 1), 6: (0, 0, 1, 2), 8: (0, 1, 1, 2)}

    @pytest.fixture(params=TOLERANCE, ids=["single", "double"])
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        return request.param

    @pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
    def device(self, request: pytest.FixtureRequest) -> str:
        if request.param == "cuda" and not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        return request.param

    @property
    def architecture(self) -> dict[str, Any]:
        shells = {str(z): list(s) for z, s in self.shells.items()}
        return {"kind": self.kind, "shells": shells, "arguments": dict(self.arguments)}

    def model(self, dtype: torch.dtype = torch.float64, device: str = "cpu", target: str = "total") -> HamiltonianModel:
        """With no weight at zero by accident."""
        network = build(self.architecture, target)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for p in network.parameters():
                if not p.any() and p.ndim > 1:
                    p.copy_(torch.randn(p.shape, generator=generator) / p.shape[0] ** 0.5)
        self.disturb(network, generator)
        return network.to(device).to(dtype)

    def disturb(self, network: HamiltonianModel, generator: torch.Generator) -> None:
        """Put something into what a fit would set, if the model has such buffers."""

    def layout(self, structure: Structure, reach: float = 6.5) -> BlockLayout:
        return BlockLayout(Basis.of(structure.numbers, self.shells), Pairs.within(structure, reach))

    def source(self, structure: Structure, seed: int = 0) -> Source:
        """A structure with a random hermitian label and H0."""
        layout, generator = self.layout(structure), torch.Generator().manual_seed(seed)
        moments = torch.zeros_like(structure.positions) if structure.moments is None else structure.moments
        s, h, h0 = (self.random(layout, kind, generator) for kind in (NONE, self.spin, self.spin))
        calculation = Calculation(structure, s, h)
        return Source(structure, layout, Inputs(s.values[0], h0.values, moments), calculation)

    def random(self, layout: BlockLayout, kind: Spin, generator: torch.Generator) -> BlockMatrix:
        """A hermitian matrix that a model of this kind can give."""
        dtype = torch.complex128 if kind is SPINOR else torch.float64
        values = torch.randn(kind.components, layout.size, generator=generator, dtype=dtype)
        matrix = BlockMatrix(layout, values, kind).hermitian()
        return matrix.with_values(self.model().learnable(matrix.values)) if kind is SPINOR else matrix

    def predicted(
        self, network: HamiltonianModel, structure: Structure, layout: BlockLayout | None = None
    ) -> BlockMatrix:
        layout = layout or self.layout(structure)
        with torch.no_grad():
            return network.matrix(structure, layout, self.source(structure).inputs)

    @pytest.mark.parametrize("rotation", ROTATIONS.values(), ids=ROTATIONS.keys())
    def test_rotating_the_crystal_rotates_the_hamiltonian(self, dtype, device, rotation) -> None:
        network, structure = self.model(dtype, device), crystal()
        here = self.predicted(network, structure)
        there = self.predicted(network, structure.rotate(rotation), here.layout)
        assert float(here.values.std()) > 1e-3
        error = (there.values - here.rotate(rotation).values).abs().max()
        assert float(error) < TOLERANCE[dtype] * float(here.values.abs().max())

    def test_a_cast_leaves_everything_on_its_device(self) -> None:
        """First to a device, then to a precision, as `.to(device).to(dtype)` does; `meta` stands for any device."""
        network = self.model().to("meta").to(torch.float32)
        places = {n: x.device.type for n, x in (*network.named_parameters(), *network.named_buffers())}
        assert {n for n, place in places.items() if place != "meta"} == set()

    def test_the_prediction_is_hermitian(self, dtype, device) -> None:
        matrix = self.predicted(self.model(dtype, device), crystal())
        error = (matrix.values - matrix.dagger().values).abs().max()
        assert float(error) <= 1e-2 * TOLERANCE[dtype] * float(matrix.values.abs().max())

    def test_atoms_may_come_in_any_order_any_cell_and_any_place(self, dtype, device) -> None:
        network, structure = self.model(dtype, device), crystal()
        order = torch.tensor([3, 5, 0, 4, 1, 2])
        cells = torch.tensor([[0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 0, 2], [1, 1, 1], [0, 0, 0]])
        shift = torch.tensor([0.3, -1.7, 2.9], dtype=torch.float64)
        positions = structure.positions[order] + cells.double() @ structure.cell + shift
        moved = Structure(structure.cell, positions, structure.numbers[order], structure.moments[order])
        here, there = self.predicted(network, structure), self.predicted(network, moved)
        p = there.pairs
        same = here.pairs.find(order[p.i], order[p.j], p.R + cells[p.j] - cells[p.i])
        assert len(here.pairs) == len(p)
        bound = TOLERANCE[dtype] * float(here.values.abs().max())
        for pair, other in enumerate(same.tolist()):
            assert float((there.block(pair) - here.block(other)).abs().max()) < bound

    def test_atoms_beyond_the_declared_reach_do_not_matter_at_all(self, dtype, device) -> None:
        network = self.model(dtype, device)
        step = 2.0
        count = int(network.locality / step) + 6
        positions = torch.zeros(count, 3, dtype=torch.float64)
        positions[:, 0] = torch.arange(count) * step
        positions[:, 1] = torch.sin(positions[:, 0])
        numbers = torch.tensor([8, 1, 6]).repeat(count)[:count]
        cell = 4 * count * step * torch.eye(3, dtype=torch.float64)
        structure = Structure(cell, positions, numbers)
        disturbed = positions.clone()
        disturbed[-1] += torch.tensor([0.3, -0.2, 0.4])
        layout = self.layout(structure, 3.5)
        here = self.predicted(network, structure, layout)
        there = self.predicted(network, Structure(cell, disturbed, numbers), layout)
        change = (here.values - there.values)[0].abs().cpu()
        far = torch.minimum(*((positions[-1] - positions[k]).norm(dim=1) for k in (layout.pairs.i, layout.pairs.j)))
        beyond = (far > network.locality + 0.6)[layout.pair]
        assert bool(beyond.any()) and float(change[beyond].max()) == 0.0
        assert float(change[~beyond].max()) > 0

    def test_several_structures_at_once_are_as_one_by_one(self, dtype, device) -> None:
        network, a = self.model(dtype, device), crystal()
        b = Structure(1.1 * a.cell, 1.1 * a.positions.flip(0), a.numbers.flip(0), a.moments.flip(0))
        sources = [self.source(s) for s in (a, b, a)]
        samples = [network.prepare(s.structure, s.layout, s.inputs) for s in sources]
        together = type(network).Sample.batch(samples)
        assert together.edge_count == sum(s.edge_count for s in samples)
        with torch.no_grad():
            parts, each = network(together).parts(), [network(s).values for s in samples]
        for sample, part, alone in zip(samples, parts, each, strict=True):
            assert alone.shape == (network.spin.components, *sample.sizes)
            assert float((part.values - alone).abs().max()) <= TOLERANCE[dtype] * float(alone.abs().max())

    def test_atoms_without_neighbours_are_predicted_and_learnt_from(self, dtype, device) -> None:
        """Alone in a cell, as a pair of the matrix beyond every message, and beside others in a batch."""
        network, cell = self.model(dtype, device), 60 * torch.eye(3, dtype=torch.float64)
        alone = Structure(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([8]))
        far = Structure(cell, torch.tensor([[0, 0, 0], [0, 0, 6.4]], dtype=torch.float64), torch.tensor([8, 1]))
        samples = []
        for s in (alone, far, crystal()):
            source = self.source(s)
            samples.append(network.prepare(s, source.layout, source.inputs))
        for order in ([0], [0, 0], [1, 0], [0, 2], [2, 0, 1]):
            found = network(type(network).Sample.batch([samples[k] for k in order]))
            found.values.abs().square().sum().backward()
            for k, part in zip(order, found.parts(), strict=True):
                with torch.no_grad():
                    values = network(samples[k]).values
                assert float((part.values - values).abs().max()) <= TOLERANCE[dtype] * float(values.abs().max())
        assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)
        if dtype == torch.float64 and network.last_layer_names:
            network.last_layers(samples[0])
        network.fit_baseline(
            [
                (network.geometry(s, x.layout, x.inputs), x.calculation.require_hamiltonian().values)
                for s in (alone, far)
                for x in [self.source(s)]
            ]
        )

    def test_what_is_saved_predicts_the_same_bits(self, dtype, tmp_path: Path) -> None:
        for target in TARGETS:
            network = self.model(dtype, target=target)
            TrainedModel(network, self.architecture, None).save(tmp_path / target)
            again = TrainedModel.load(tmp_path / target).network
            assert again.target is network.target and again.spin is network.spin
            here, there = (self.predicted(x.double(), crystal()).values for x in (network, again))
            assert torch.equal(here, there)

    def test_a_sample_comes_back_from_the_disk_with_the_same_bits(self, dtype, tmp_path: Path) -> None:
        network, source, disk = self.model(dtype), self.source(crystal()), DiskCache(tmp_path, 1e9)
        exact = exact_record(network, source)
        disk.save("exact", exact)
        complete = complete_record(network, disk.load("exact"))
        disk.save("complete", complete)
        found = type(network).Sample.of_tensors(matching(disk.load("complete"), "sample."))
        made = network.prepare(source.structure, source.layout, source.inputs)
        for name, x in made.tensors().items():
            assert torch.equal(x, found.tensors()[name]) and x.dtype == found.tensors()[name].dtype
        assert found.nbytes == made.nbytes > 0
        assert torch.equal(network(found).values, network(made).values)

    def test_labels_are_what_gives_the_hamiltonian_back(self) -> None:
        source = self.source(crystal())
        for target in TARGETS:
            network = self.model(target=target)
            labels = network.labels(source.calculation, source.inputs)
            matrix = network.target.matrix(labels, source.inputs)
            torch.testing.assert_close(matrix, source.calculation.require_hamiltonian().values)

    def test_the_table_of_a_training_makes_the_model(self) -> None:
        kind = registry.load("models", self.kind)
        config = kind.Config(kind=self.kind)
        arguments = kind.arguments(config, Setting(self.shells, 6.5, [crystal()], self.spin))
        assert json.loads(json.dumps(arguments)) == arguments
        network = build({**self.architecture, "arguments": arguments}, config.target)
        assert torch.isfinite(self.predicted(network, crystal()).values).all()
        assert json.dumps({k: str(v) for k, v in network.geometry_settings.items()})

    def test_the_first_network_of_a_process_is_like_any_other(self) -> None:
        """`build` counts weights on no device first: what is kept for all networks must not be made there."""
        expected = self.predicted(self.model(), crystal()).values
        kept = [c for c in gc.get_objects() if type(c) is _lru_cache_wrapper]
        for cache in (c for c in kept if str(c.__module__).startswith("nearsight.")):
            cache.cache_clear()
        assert torch.equal(self.predicted(self.model(), crystal()).values, expected)

    def test_data_of_another_spin_are_refused(self) -> None:
        source, network = self.source(crystal()), self.model()
        other = COLLINEAR if self.spin is NONE else NONE
        values = torch.zeros(other.components, source.layout.size, dtype=torch.float64)
        wrong = replace(source.calculation, hamiltonian=BlockMatrix(source.layout, values, other))
        with pytest.raises(NearsightError, match=f"has spin {other}"):
            network.labels(wrong, source.inputs)

    def test_an_unknown_element_is_named(self) -> None:
        structure = crystal()
        strange = Structure(structure.cell, structure.positions, torch.tensor([8, 1, 6, 1, 8, 14]))
        layout = BlockLayout(Basis.of(strange.numbers, {**self.shells, 14: (0, 1)}), Pairs.within(strange, 5.0))
        with pytest.raises(NearsightError, match="never saw Si: it knows H, C, O"):
            self.model().matrix(strange, layout)


class WithoutMoments(ModelLaws):
    """Of spinors, where a model is told no moments: inherit with `spin = SPINOR`."""

    def test_time_reversal_changes_no_bit(self, dtype, device) -> None:
        matrix = self.predicted(self.model(dtype, device), crystal())
        assert float(matrix.values.imag.abs().max()) > 1e-3  # it has spin-orbit coupling
        assert torch.equal(matrix.time_reversed().values, matrix.values)

    def test_levels_come_in_pairs(self) -> None:
        """Kramers: E_n(k) twice where -k is k, and E_n(-k) = E_n(k) anywhere."""
        h = self.predicted(self.model(), crystal())
        half = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.5]], dtype=torch.float64)
        levels = torch.linalg.eigvalsh(h.at_k(half))
        assert torch.allclose(levels[..., 0::2], levels[..., 1::2], atol=1e-10)
        k = torch.tensor([[0.1, -0.2, 0.37]], dtype=torch.float64)
        there, back = (torch.linalg.eigvalsh(h.at_k(x)) for x in (k, -k))
        assert torch.allclose(there, back, atol=1e-10)
        assert float((there[..., 0::2] - there[..., 1::2]).abs().max()) > 1e-3  # no inversion: split elsewhere

    def test_a_magnetic_state_is_refused(self) -> None:
        source, network = self.source(crystal()), self.model()
        h = source.calculation.require_hamiltonian()
        field = h.spin.embed(torch.ones(h.layout.size, dtype=h.values.dtype)).clone()
        field[h.spin.diagonal[1]] *= -1
        magnetic = replace(source.calculation, hamiltonian=h.with_values(h.values + 0.01 * field))
        with pytest.raises(NearsightError, match=r"0\.27 eV that time reversal turns.*xdeeph"):
            network.labels(magnetic, source.inputs)


class WithMoments(ModelLaws):
    """Of a model that is told moments: inherit with `spin = SPINOR`. `inert` makes one that no longer ties spins to space."""

    def inert(self, network: HamiltonianModel) -> None:
        """Leave nothing in the network that a turn of spins alone should not turn, but spin-orbit coupling."""

    def told(self, network: HamiltonianModel, moments: torch.Tensor, structure: Structure | None = None) -> BlockMatrix:
        return self.predicted(network, replace(structure or crystal(), moments=moments))

    def test_time_reversal_of_the_moments_is_that_of_the_hamiltonian(self, dtype, device) -> None:
        network, moments = self.model(dtype, device), crystal().moments
        here, there = self.told(network, moments), self.told(network, -moments)
        parts = SpinParts.of(SPINOR)
        for part in parts.of_values(here.values).split([p.width for p in parts.parts]):
            assert float(part.abs().max()) > 1e-4  # each of a0, a, b0, b is there
        assert torch.equal(there.values, here.time_reversed().values)

    def test_without_moments_nothing_is_odd(self, dtype) -> None:
        matrix = self.told(self.model(dtype), torch.zeros(6, 3, dtype=torch.float64))
        assert torch.equal(matrix.values, matrix.time_reversed().values)

    def test_a_moment_that_vanishes_does_so_smoothly(self) -> None:
        network, moments = self.model(), crystal().moments.clone()
        parts, found = SpinParts.of(SPINOR), []
        for size in (0.0, 1e-4, 2e-4):
            moments[0] = size * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
            found.append(parts.of_values(self.told(network, moments).values))
        once, twice = (x - found[0] for x in found[1:])
        assert float((twice - 2 * once).abs().max()) < 1e-2 * float(once.abs().max())

    def test_spins_alone_turn_where_nothing_ties_them_to_space(self) -> None:
        network, moments, turn = self.model(), crystal().moments, random_rotation(11)
        self.inert(network)
        once = moments @ turn.T
        here, there, twice = (self.told(network, m).values for m in (moments, once, once @ turn.T))
        change = there - here  # in which spin-orbit coupling, which does not turn, is no more
        assert float((twice - there - SPINOR.rotated(change, turn)).abs().max()) < 1e-10 * float(here.abs().max())
        parts = SpinParts.of(SPINOR)
        charge, twist, current, exchange = parts.of_values(change).split([p.width for p in parts.parts])
        assert float(charge.abs().max()) < 1e-10 and not current.any()
        assert min(float(twist.abs().max()), float(exchange.abs().max())) > 1e-3

    def test_moments_beyond_their_reach_do_not_matter_at_all(self, dtype) -> None:
        network, count, step = self.model(dtype), 12, 2.5
        positions = torch.zeros(count, 3, dtype=torch.float64)
        positions[:, 0] = step * torch.arange(count)
        positions[:, 1] = torch.sin(positions[:, 0])
        cell = 4 * count * step * torch.eye(3, dtype=torch.float64)
        structure = Structure(cell, positions, torch.tensor([8, 1, 6]).repeat(count)[:count])
        moments = torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        other = moments.clone()
        other[-1] = -1.5 * other[-1].roll(1)
        here, there = (self.told(network, m, structure) for m in (moments, other))
        change, pairs = (here.values - there.values).abs().amax(0), here.pairs
        apart = torch.minimum(*((positions[-1] - positions[k]).norm(dim=1) for k in (pairs.i, pairs.j)))
        beyond = (apart > network.locality_of_moments)[here.layout.pair]
        assert bool(beyond.any()) and float(change[beyond].max()) == 0.0 < float(change[~beyond].max())

    def test_missing_moments_are_told(self) -> None:
        with pytest.raises(NearsightError, match=r"needs the moments of a structure"):
            self.model().geometry(crystal(), self.layout(crystal()), Inputs())

    def test_collinear_data_are_spinors_along_z(self) -> None:
        source = self.source(crystal())
        h = BlockMatrix(source.layout, torch.randn(2, source.layout.size, dtype=torch.float64), COLLINEAR).hermitian()
        labels = self.model().labels(replace(source.calculation, hamiltonian=h), source.inputs)
        up, ud, du, down = labels
        assert torch.allclose(torch.stack([up, down]), h.values + 0j) and not ud.any() and not du.any()

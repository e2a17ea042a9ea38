"""What models are made of: frames, irreps and blocks, the baseline of DeepH-2. The laws of all models: models.py."""

from __future__ import annotations

import math

import pytest
import torch

from nearsight.core import so3
from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import SPINS
from nearsight.core.spin import spin as find_spin
from nearsight.core.spin_parts import SpinParts
from nearsight.core.structure import Structure
from nearsight.models.deeph2 import DeepH2
from nearsight.models.graph import Graph
from nearsight.models.layers import Irreps
from nearsight.models.readout import BlockReadout
from nearsight.models.so2 import FrameIrreps, edge_rotations, into_frame, out_of_frame, wigner_matrices
from nearsight.models.targets import Inputs
from tests.laws.models import ROTATIONS, crystal

SHELLS = {1: (0, 0, 1), 8: (0, 1, 1, 2), 6: (0, 0, 1, 2)}
TINY = {
    "irreps": "6x0e+4x1o+3x2e+2x3o+2x4e+2x1e+2x2o",
    "edge": (6, 2, 4, 3, 2, 2),
    "hidden": (6, 2, 4, 3, 2, 2),
    "width": 8,
}


def model(dtype: torch.dtype = torch.float64, layers: int = 2, cutoff: float = 5.0, shells=SHELLS) -> DeepH2:
    """Random weights, cluster coefficients and scales, so that nothing is zero by accident."""
    torch.manual_seed(1)
    network = DeepH2(shells, cutoff=cutoff, reach=7.0, layers=layers, radial=4, **TINY)
    generator = torch.Generator().manual_seed(2)
    for name, x in network.readout.cluster.named_buffers():
        if name.startswith(("site", "edge")):
            x.copy_(0.03 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
    with torch.no_grad():
        for p in network.parameters():  # the last layers begin as zero
            if not p.any() and p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / p.shape[0] ** 0.5)
    network.readout.site_scale.fill_(0.3)
    network.readout.log_scale.coefficients.fill_(math.log(0.2))
    return network.to(dtype)


def layout_of(structure: Structure, reach: float = 6.5, shells=SHELLS) -> BlockLayout:
    return BlockLayout(Basis.of(structure.numbers, shells), Pairs.within(structure, reach))


def test_what_a_random_frame_does_not_keep_the_layers_do_not_either() -> None:
    """The test above can fail: a rotation by another matrix is told apart."""
    network, structure = model(), crystal()
    with torch.no_grad():
        here = network.matrix(structure, layout_of(structure))
        there = network.matrix(structure.rotate(ROTATIONS["random"]), here.layout)
    assert float((there.values - here.rotate(ROTATIONS["improper"]).values).abs().max()) > 0.01


def test_nothing_jumps_where_an_atom_crosses_the_cutoff() -> None:
    network = model(layers=1, cutoff=4.0)
    numbers = torch.tensor([8, 1, 6])
    layout, values = None, []
    for step in (-1e-5, 1e-5):
        positions = torch.tensor([[0, 0, 0], [0, 1.8, 0.3], [4.0 + step, 0, 0]], dtype=torch.float64)
        structure = Structure(40 * torch.eye(3, dtype=torch.float64), positions, numbers)
        layout = layout or layout_of(structure, 6.0)
        values.append(network.matrix(structure, layout).values)
    assert float((values[0] - values[1]).abs().max()) < 1e-4


def test_gradients_through_the_frame_are_right() -> None:
    irreps = Irreps.parse("2x0e+1x1o+2x2e+1x1e+1x2o+1x0o")
    rotations = edge_rotations(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    wigner = wigner_matrices(2, rotations)
    x = torch.randn(3, irreps.dim, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(out_of_frame(irreps, into_frame(irreps, x, wigner), wigner), x)
    assert torch.autograd.gradcheck(lambda y: tuple(into_frame(irreps, y, wigner)), x)
    frame = [f.detach().requires_grad_() for f in into_frame(irreps, x, wigner)]
    assert torch.autograd.gradcheck(lambda *f: out_of_frame(irreps, list(f), wigner), tuple(frame))
    assert FrameIrreps.of(irreps).dim == irreps.dim


def test_the_edge_frame_has_no_pole() -> None:
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    nearly = torch.nn.functional.normalize(torch.tensor([[1e-9, 0, -1.0], [0, -1e-9, -1.0], [1, 0, -1e-12]]).double())
    vectors = torch.cat([axes, nearly, torch.randn(50, 3, dtype=torch.float64)])
    turn = edge_rotations(vectors)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(unit)
    assert torch.allclose(torch.einsum("nab,nb->na", turn, unit), up, atol=1e-14)
    assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand_as(turn), atol=1e-13)
    assert torch.allclose(torch.linalg.det(turn), torch.ones(len(turn), dtype=torch.float64))


@pytest.mark.parametrize("spin", SPINS)
def test_blocks_and_irreps_are_the_same_information(spin: str) -> None:
    network, structure = model(), crystal()
    layout, kind = layout_of(structure), find_spin(spin)
    readout = BlockReadout(network.shells, 5.0, 7.0, 4, SpinParts.of(kind))
    for c in readout.couplings(torch.zeros(1, dtype=torch.float64)):
        for matrix in (c.of_site, c.of_frame):
            assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64), atol=1e-12)
    dtype = torch.float64 if readout.parts.is_real else torch.complex128
    values = torch.randn(kind.components, layout.size, dtype=dtype)
    matrix = BlockMatrix(layout, values, kind).hermitian()
    graph = Graph.of(structure, layout, readout.slots, 5.0, 5)
    again = readout.assemble(graph, *readout.components(graph, readout.parts.of_values(matrix.values)))
    assert torch.allclose(readout.parts.values(again), matrix.values, atol=1e-12)


def test_the_cluster_expansion_is_found_again_from_data() -> None:
    """A Hamiltonian that is a cluster expansion is fitted exactly, on structures that were not fitted."""
    shells = {6: (0, 1), 1: (0,)}
    teacher, pupil = model(shells=shells), model(shells=shells)
    generator = torch.Generator().manual_seed(5)
    samples, tests = [], []
    for k in range(24):
        a = crystal()
        shift = 0.4 * torch.randn(a.positions.shape, generator=generator, dtype=torch.float64)
        s = Structure(a.cell, a.positions + shift, torch.tensor([6, 1, 6, 1, 6, 1]))
        graph = teacher.geometry(s, layout_of(s, shells=shells), Inputs())
        target = teacher.complete(graph).baseline
        (samples if k < 22 else tests).append((graph, target))
    pupil.fit_baseline(samples)
    for graph, target in tests:
        error = pupil.complete(graph).baseline - target
        assert float(error.square().mean().sqrt()) < 0.02 * float(target.std())


COMPOSITIONS = [[6, 1, 6, 1, 6, 1], [6, 6, 6, 1, 6, 1], [6, 1, 1, 1, 6, 1], [6, 1, 1, 1, 1, 1], [6, 6, 6, 6, 6, 1]]


def of_compositions(seed: int, count: int) -> list[Structure]:
    """So many copies of each, every atom displaced."""
    generator, a = torch.Generator().manual_seed(seed), crystal()
    shifts = [0.4 * torch.randn(a.positions.shape, generator=generator, dtype=torch.float64) for _ in range(5 * count)]
    return [Structure(a.cell, a.positions + d, torch.tensor(COMPOSITIONS[k % 5])) for k, d in enumerate(shifts)]


def test_what_holds_for_all_compositions_is_found_where_they_are_left_out() -> None:
    shells = {6: (0, 1), 1: (0,)}
    teacher, pupil = model(shells=shells), model(shells=shells)
    graphs = [teacher.geometry(s, layout_of(s, shells=shells), Inputs()) for s in of_compositions(5, 7)]
    samples = [(graph, teacher.complete(graph).baseline) for graph in graphs]
    pupil.fit_baseline([s for k, s in enumerate(samples) if k % 5])
    for graph, target in samples[::5]:
        assert float((pupil.complete(graph).baseline - target).square().mean()) < 0.01 * float(target.square().mean())


def test_a_baseline_that_does_not_help_other_compositions_is_not_taken() -> None:
    """Labels of each composition are an expansion of its own: copies are predicted, other compositions are not."""
    shells = {6: (0, 1), 1: (0,)}
    pupil = model(shells=shells)
    teachers, samples = [], []
    for k in range(5):
        teachers.append(model(shells=shells))
        for name, x in teachers[k].readout.cluster.named_buffers():
            if name.startswith(("site", "edge")):
                x.normal_(generator=torch.Generator().manual_seed(100 + k))
    for k, s in enumerate(of_compositions(6, 5)):
        graph = pupil.geometry(s, layout_of(s, shells=shells), Inputs())
        samples.append((graph, teachers[k % 5].complete(graph).baseline))
    pupil.fit_baseline([s for k, s in enumerate(samples) if k % 5])
    for graph, target in samples[::5]:
        assert float((pupil.complete(graph).baseline - target).square().mean()) < 1.3 * float(target.square().mean())
    spread = pupil.readout.site_scale.square().mean()
    within = torch.cat([pupil.readout.components(g, y)[0] for g, y in samples]).square().mean()
    assert float(spread) > 0.3 * float(within)  # what is left, not what a fit leaves of its own data


def test_irreps_are_read_and_a_wrong_one_is_named() -> None:
    irreps = Irreps.parse("4x0e + 3x1o+2x1e+1x2o")
    assert irreps == Irreps((4, 3, 0), (0, 2, 1))
    assert irreps.dim == 4 + 15 + 5
    with pytest.raises(NearsightError, match="3y1o"):
        Irreps.parse("4x0e+3y1o")


def test_f_orbitals_are_served() -> None:
    shells = {58: (0, 1, 2, 3)}
    network = model(shells=shells, layers=1)
    structure = Structure(
        9 * torch.eye(3, dtype=torch.float64),
        torch.tensor([[0, 0, 0], [1.0, 2.0, 3.0]], dtype=torch.float64),
        torch.tensor([58, 58]),
    )
    here = network.matrix(structure, layout_of(structure, shells=shells))
    r = ROTATIONS["improper"]
    there = network.matrix(structure.rotate(r), here.layout)
    assert torch.allclose(there.values, here.rotate(r).values, atol=1e-10 * float(here.values.abs().max()))
    assert so3.wigner(6, r).shape == (13, 13)

"""Thermal structures: rigid motions cost nothing, every mode carries kT/2, images follow by translation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nearsight.core.configuration import validated
from nearsight.core.errors import NearsightError
from nearsight.core.pairs import neighbours
from nearsight.core.structure import Structure, supercell
from nearsight.core.units import BOHR_ANG, BOLTZMANN_HA, HARTREE_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.generators.rotations import check_room, random_rotation, turned
from nearsight.tasks.modes import (
    Harmonic,
    Modes,
    _ImagesTogether,
    harmonic_of,
    second_derivatives,
    settled,
    thermal,
)
from tests.cases import ANGSTROM, skew, structure, water

KELVIN = BOLTZMANN_HA


def springs(s: Structure, positions: torch.Tensor) -> torch.Tensor:
    """Springs of strength 0.3 / d^2 between the atoms of a molecule, at rest at the distances that they have in s."""
    i, j = torch.triu_indices(len(s), len(s), 1)
    rest = (s.positions[i] - s.positions[j]).norm(dim=1)
    return (0.15 * ((positions[i] - positions[j]).norm(dim=1) / rest - 1).square()).sum()


def harmonic(s: Structure) -> Harmonic:
    n = 3 * len(s)
    h = torch.autograd.functional.hessian(lambda x: springs(s, x), s.positions)
    return Harmonic(s, h.reshape(n, n), molecule=True)


def linear() -> Structure:
    return structure([[20, 0, 0], [0, 20, 0], [0, 0, 20]], [[0, 0, 0], [1, 1, 1], [2.2, 2.2, 2.2]], [8, 6, 8])


@pytest.mark.parametrize(("s", "rigid"), [(water(), 6), (skew(), 6), (linear(), 5)], ids=["water", "skew", "linear"])
def test_rigid_motions_cost_nothing(s: Structure, rigid: int) -> None:
    h = harmonic(s)
    assert h.rigid.shape == (9, rigid)
    assert len(h.energies) == 9 - rigid
    assert (h.hessian @ (h.rigid / h.masses.sqrt()[:, None])).abs().max() < 1e-12
    vectors = torch.cat([h.rigid, h.modes[1]], 1)
    assert torch.allclose(vectors.T @ vectors, torch.eye(9, dtype=torch.float64), atol=1e-12)


def test_every_mode_carries_half_kT() -> None:
    h, kT, random = harmonic(water()), 450 * KELVIN, np.random.default_rng(3)
    u = torch.stack([h.displacements(kT, 1e-6, random).flatten() for _ in range(4000)])
    amplitudes = (u * h.masses.sqrt()) @ h.modes[1]
    each = 0.5 * (amplitudes.square() * h.modes[0]).mean(0) / (kT / 2)
    assert (each - 1).abs().max() < 4 * (2 / 4000) ** 0.5
    assert torch.allclose(
        torch.einsum("ni,ij,nj->n", u, h.hessian, u), (amplitudes.square() * h.modes[0]).sum(1), rtol=1e-9
    )
    assert (u * h.masses).reshape(-1, 3, 3).sum(1).abs().max() < 1e-9  # the centre of mass stays


def test_soft_and_imaginary_modes_move_no_further_than_the_floor_allows() -> None:
    h, floor, kT = harmonic(water()), 10e-3 / HARTREE_EV, 300 * KELVIN
    squares, vectors = h.modes
    root = h.masses.sqrt()[:, None]
    bent = (
        h.hessian - 1.2 * squares[0] * (root * vectors[:, :1]) @ (root * vectors[:, :1]).T
    )  # its softest mode turns over
    unstable = Harmonic(h.minimum, bent, molecule=True)
    assert unstable.energies[0] < 0 < unstable.energies[1]
    random = np.random.default_rng(0)
    u = torch.stack([unstable.displacements(kT, floor, random).flatten() for _ in range(2000)])
    q = (u * h.masses.sqrt()) @ vectors[:, 0]
    assert float(q.square().mean()) == pytest.approx(kT / floor**2, rel=0.15)


def test_rows_of_the_first_cell_give_all() -> None:
    """For any energy of the periodic distances, here a sum of Gaussians in a supercell of 2 x 3 x 1."""
    repeats, cell = (2, 3, 1), skew()
    s = supercell(cell, repeats)
    shifts = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 3) @ s.cell

    def energy(positions: torch.Tensor) -> torch.Tensor:
        between = positions[:, None, None] - positions[None, :, None] + shifts
        weights = s.numbers[:, None, None] * s.numbers[None, :, None]
        return (weights * torch.exp(-between.square().sum(-1) / 8)).sum()

    n = 3 * len(s)
    full = torch.autograd.functional.hessian(energy, s.positions).reshape(n, n)
    found = second_derivatives(full[: 3 * len(cell)].reshape(3 * len(cell), len(s), 3), repeats)
    # exp(-r^2 / 8) is cut where it is below 1e-6
    assert torch.allclose(found, full, atol=1e-5 * float(full.abs().max()))
    assert torch.equal(found, found.T)


def test_images_relax_together() -> None:
    atoms = supercell(skew(), (2, 1, 1)).to_ase()
    forces = np.random.default_rng(0).normal(size=(6, 3))
    _ImagesTogether((2, 1, 1)).adjust_forces(atoms, forces)
    assert np.allclose(forces[:3], forces[3:])
    assert np.allclose(forces.sum(0), 0)


def test_a_copy_depends_on_seed_and_index_alone() -> None:
    h = harmonic(water())
    recipe = Modes(count=5, temperature_K=(300, 600), seed=4, molecule=True, rotate=True)
    other = recipe.model_copy(update={"count": 50})
    first, again = thermal(h, recipe, 3), thermal(h, other, 3)
    assert torch.equal(first.positions, again.positions)
    for different in (thermal(h, recipe, 2), thermal(h, recipe.model_copy(update={"seed": 5}), 3)):
        assert not torch.allclose(first.positions, different.positions, atol=1e-3)


def test_signs_and_bases_of_equal_modes_are_settled() -> None:
    """A ring of three equal atoms has a pair of equal modes; rounding turns their vectors, and the copies with them."""
    ring = structure([[20, 0, 0], [0, 20, 0], [0, 0, 20]], [[2, 0, 0], [-1, 3**0.5, 0], [-1, -(3**0.5), 0]], [8, 8, 8])
    squares, vectors = harmonic(ring).modes
    assert squares[1] / squares[0] - 1 == pytest.approx(0, abs=1e-9) and squares[2] > 1.5 * squares[1]
    angle = torch.tensor(1.1)
    turn = torch.tensor([[angle.cos(), angle.sin(), 0], [angle.sin(), -angle.cos(), 0], [0, 0, -1]]).double()
    noise = 1e-13 * torch.linspace(-1, 1, 3, dtype=torch.float64)
    again = settled(squares * (1 + noise), vectors @ turn)
    assert torch.allclose(again, vectors, rtol=0, atol=1e-6)
    assert torch.allclose(vectors.T @ vectors, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_hydrogen_molecule(tmp_path: Path) -> None:
    """The engine's own: five rigid motions of zero energy and a stretch, which is the curvature of the energy."""
    h2 = structure(
        [[5 * ANGSTROM, 0, 0], [0, 5 * ANGSTROM, 0], [0, 0, 5 * ANGSTROM]],
        [[4, 4, 4], [4, 4, 4 + 0.78 * ANGSTROM]],
        [1, 1],
    )
    settings = ScfSettings(xc="lda", basis="sz", mesh_cutoff_ry=150, kmesh=(1, 1, 1), tolerance_ev=1e-7)
    recipe = Modes(count=1, temperature_K=(300, 300), molecule=True, relax_ev_per_ang=0.02)
    steps: list[int] = []
    found = harmonic_of(h2, recipe, settings, tmp_path, 1, lambda outcome, done, total: steps.append(total))
    assert steps == [12] * 12
    h = found.hessian
    assert torch.equal(h, h.T)
    stretch = float(found.energies[0])
    rigid = found.rigid / found.masses.sqrt()[:, None]
    rigid = rigid / rigid.norm(dim=0)
    assert len(found.energies) == 1
    assert (rigid.T @ h @ rigid).abs().max() < 0.02 * h.abs().max()  # the mesh's ripple is all that is left

    def energy(change: float) -> float:
        along = torch.tensor([[0, 0, -0.5], [0, 0, 0.5]], dtype=torch.float64) * change
        moved = Structure(found.minimum.cell, found.minimum.positions + along, h2.numbers)
        return run_scf(moved, settings).free

    d = 0.04 / BOHR_ANG
    curvature = (energy(d) - 2 * energy(0.0) + energy(-d)) / d**2
    assert stretch == pytest.approx((curvature / float(found.masses[0] / 2)) ** 0.5, rel=0.02)
    again = harmonic_of(h2, recipe, settings, tmp_path, 1, lambda outcome, done, total: steps.append(total))
    assert torch.equal(again.hessian, h)
    assert torch.equal(again.minimum.positions, found.minimum.positions)
    assert len(steps) == 12  # nothing was computed again
    with pytest.raises(NearsightError, match="another configuration"):
        harmonic_of(h2, recipe, settings.model_copy(update={"xc": "pbe"}), tmp_path, 1, lambda *_: None)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"count": 1, "temperature_K": [600, 300]}, "ascending"),
        ({"count": 1, "temperature_K": [300, 600], "rotate": True}, "molecule: true"),
        ({"count": 1, "temperature_K": [300, 600], "molecule": True, "supercell": [2, 1, 1]}, "no supercell"),
        ({"count": 1, "temperature": [300, 600]}, "did you mean temperature_K?"),
        ({"count": 1, "temperature_K": [300, 600], "supercell": [0, 1, 1]}, "at least 1"),
    ],
)
def test_recipes_that_cannot_be_meant(table: dict, said: str) -> None:
    with pytest.raises(NearsightError, match=said.replace("?", r"\?")) as caught:
        validated(Modes, table, "modes")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("atoms", "box", "fits"), [(8, 14.0, True), (8, 8.0, False), (1, 2.0, False), (1, 3.0, True)], ids=str
)
def test_a_box_has_room_for_every_orientation(atoms: int, box: float, fits: bool) -> None:
    """A rod of atoms 1.2 angstrom apart in a cube."""
    rod = Structure(
        torch.eye(3, dtype=torch.float64) * box / BOHR_ANG,
        torch.tensor([[0.0, 0.0, 1.2 * n / BOHR_ANG] for n in range(atoms)], dtype=torch.float64),
        torch.full((atoms,), 6),
    )
    if fits:
        check_room(rod, "rod")
        for seed in range(20):
            found = turned(rod, random_rotation(np.random.default_rng(seed)))
            _, _, R = neighbours(found, 2.5 / BOHR_ANG)
            assert not bool(R.any())
    else:
        with pytest.raises(NearsightError, match="rotate"):
            check_room(rod, "rod")

"""A check finds deliberate damage and names it; sound calculations pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nearsight.core.calculation import Calculation
from nearsight.core.spin import COLLINEAR
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats import registry
from nearsight.formats.levels import KEY, Levels
from nearsight.formats.orders import OPENMX
from nearsight.properties.check import check
from nearsight.properties.conventions import reordered
from tests.formats.damage import DAMAGES, changes_nothing

DATA = Path(__file__).parent / "data"
SETS = {"graphene": DATA / "graphene_lda_sz", "h2o": DATA / "openmx" / "h2o", "n_chain": DATA / "openmx" / "n_chain"}
#: what is no damage: R of one cell or of a chain, (-1)^m in a plane or along a line (it turns by pi about z), no spin to swap
NONE_THERE = {
    ("graphene", "sign"),
    ("graphene", "spin swapped"),
    ("h2o", "sign"),
    ("h2o", "R negated"),
    ("h2o", "spin swapped"),
    ("n_chain", "sign"),
    ("n_chain", "R negated"),
}


def broken(c: Calculation) -> list[str]:
    return [f"{f.law}: {f.found}" for f in check(c) if not f.holds]


@pytest.mark.parametrize("name", SETS)
def test_a_sound_calculation_passes(name):
    assert broken(registry.read(SETS[name])) == []


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(name, damage):
    c = registry.read(SETS[name])
    change, words = DAMAGES[damage]
    damaged = change(c)
    found = broken(damaged)
    if (name, damage) in NONE_THERE:
        assert changes_nothing(c, damaged)
        return
    assert any(any(w in text for w in words) for text in found), found


def turned_molecule() -> Calculation:
    """Water out of every plane, so that (-1)^m is damage."""
    c = registry.read(SETS["h2o"])
    axis = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    K = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3))
    turn = torch.linalg.matrix_exp(1.1 * K)
    matrices = {name: m.rotate(turn) for name, m in c.matrices.items()}
    return replace(c, structure=c.structure.rotate(turn), **matrices)


def test_the_sign_of_a_shell_is_named():
    c = turned_molecule()
    assert broken(c) == []
    change, words = DAMAGES["sign"]
    assert any(words[0] in text and "(-1)^m missing" in text for text in broken(change(c)))


def test_an_order_of_h_alone_is_named():
    c = turned_molecule()
    damaged = replace(c, hamiltonian=reordered(c.hamiltonian, OPENMX, back=True))
    assert any("H has the orbitals of S" in text and "OpenMX's order" in text for text in broken(damaged))


def test_the_sign_of_one_orbital_is_named():
    c = turned_molecule()
    signs = []
    for z in c.basis.numbers:
        for l in c.basis.shells[z]:
            signs += [-1.0 if (l, m) == (1, 1) else 1.0 for m in range(-l, l + 1)]
    sign = torch.tensor(signs, dtype=torch.float64)
    flipped = {n: m.with_values(m.values * sign[m.layout.row] * sign[m.layout.column]) for n, m in c.matrices.items()}
    assert any("the sign of p m=1 is opposite" in text for text in broken(replace(c, **flipped)))


def test_levels_tell_a_shift_a_factor_and_an_exchange():
    c = registry.read(SETS["graphene"])
    k = torch.tensor([[0.0, 0, 0], [0.2, 0.1, 0], [0.5, 0, 0]], dtype=torch.float64)
    levels = Levels(k, eigenvalues(c.hamiltonian, c.overlap, k), 1e-9, "printed")
    c = replace(c, result={KEY: levels.to_record()})
    assert broken(c) == []
    shifted = replace(c, hamiltonian=c.hamiltonian - c.overlap * c.fermi_level, fermi_level=0.0)
    assert any(f"shifted by {-c.fermi_level * HARTREE_EV:.4f} eV" in text for text in broken(shifted))
    rydberg = replace(c, hamiltonian=c.hamiltonian * 2.0)
    assert any("off by a factor of 2" in text for text in broken(rydberg))
    two = type(c.hamiltonian)(
        c.hamiltonian.layout, torch.cat([c.hamiltonian.values, 0.9 * c.hamiltonian.values]), COLLINEAR
    )
    both = Levels(k, eigenvalues(two, c.overlap, k).flip(0), 1e-9, "printed")
    swapped = replace(c, hamiltonian=two, density_matrix=None, result={KEY: both.to_record()})
    assert any("spin up and down are exchanged" in text for text in broken(swapped))

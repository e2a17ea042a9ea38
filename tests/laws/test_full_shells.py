"""As many electrons as the orbitals hold: D(k) = 2 S(k)^-1 whatever H is, in every method; more are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nearsight as ns
from nearsight.core.structure import Structure
from tests import cases

HELIUM = cases.structure([[9.0, 0, 0], [0, 9.0, 0], [0, 0, 5.0]], [[0.1, 0.2, 0.3], [0.4, 0.1, 2.9]], [2, 2])
SZ = {"basis": "sz", "mesh_cutoff_ry": 60.0, "kmesh": (1, 1, 3), "energy_shift_ry": 0.02}


@pytest.mark.parametrize("more", [{}, {"method": "variational"}, {"spin": "collinear"}, {"smearing": "cold"}], ids=repr)
def test_the_density_matrix_of_full_shells_is_the_inverse_of_the_overlap(more: dict[str, str]) -> None:
    state = ns.ground_state(HELIUM, **SZ, **more)
    calculation = state.as_calculation()
    D, S = calculation.density_matrix, calculation.require_overlap()
    assert D is not None
    torch.testing.assert_close(float(D.trace(S)), 4.0)
    k, spins = state.kpoints.k, D.spin.matrices
    full = (2.0 / spins) * torch.linalg.inv(S.at_k(k)).expand(spins, -1, -1, -1)
    torch.testing.assert_close(D.values, state.kpoints.integrate(full, D).values, atol=1e-9, rtol=0)
    assert state.fermi_level > float(torch.linalg.eigvalsh(calculation.require_hamiltonian().at_k(k)).min())


def test_their_forces_are_derivatives_and_check_calls_them_sound(tmp_path: Path) -> None:
    def moved(step: float) -> Structure:
        positions = HELIUM.positions.clone()
        positions[1, 2] += step
        return replace(HELIUM, positions=positions)

    state = ns.ground_state(HELIUM, out=tmp_path / "out", **SZ)
    up, down = (ns.ground_state(moved(s), **SZ).free for s in (1e-3, -1e-3))
    assert abs(float(ns.forces(state)[1, 2]) + (up - down) / 2e-3) < 1e-6
    assert all(f.holds for f in ns.check(ns.read(tmp_path / "out")))
    with pytest.raises(ns.MissingData, match="no empty level"):
        ns.gap(ns.read(tmp_path / "out"))


def test_more_electrons_than_that_name_the_basis() -> None:
    with pytest.raises(
        ns.BadInput, match="a charge of -1 leaves 5 electrons for 2 orbitals, which hold 4: take a larger basis"
    ):
        ns.ground_state(HELIUM, charge=-1.0, **SZ)
    with pytest.raises(ns.BadInput, match="a charge of 4 leaves 0 electrons"):
        ns.ground_state(HELIUM, charge=4.0, **SZ)

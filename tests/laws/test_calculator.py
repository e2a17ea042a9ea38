"""The ASE calculator: its forces and stress are the derivatives of its energy, and ASE's optimisers go downhill on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from nearsight.calculator import Nearsight
from nearsight.core.errors import NearsightError
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings

MOLECULE: dict[str, Any] = {"basis": "sz", "mesh_cutoff_ry": 120, "kmesh": (1, 1, 1)}
CRYSTAL: dict[str, Any] = {"basis": "sz", "mesh_cutoff_ry": 100, "kmesh": (2, 2, 2), "xc": "lda", "tolerance_ev": 1e-6}


def water() -> Atoms:
    return molecule("H2O", vacuum=2.4, pbc=True)


def diamond(a: float = 3.7) -> Atoms:
    return bulk("C", "diamond", a=a)


def test_bfgs_relaxes_a_bond() -> None:
    atoms = water()
    counts: list[int] = []
    atoms.calc = Nearsight(**MOLECULE, progress=lambda step: counts.append(step.iteration))
    energies = [atoms.get_potential_energy()]
    before = counts[-1]
    optimiser = BFGS(atoms, logfile=None)
    for _ in optimiser.irun(fmax=0.15, steps=5):
        energies.append(atoms.get_potential_energy())
    assert energies[-1] < energies[0] - 0.3
    assert np.abs(atoms.get_forces()).max() < 0.5
    assert atoms.get_distance(0, 1) == pytest.approx(1.09, abs=0.03)  # a minimal basis makes bonds long
    lengths = [n for n, after in zip(counts, [*counts[1:], 1], strict=True) if after == 1]  # of each cycle
    assert max(lengths[2:]) < before  # each step begins with the last Hamiltonian


def test_forces_are_derivatives_of_the_free_energy() -> None:
    atoms = water()
    atoms.rattle(0.05, seed=1)
    atoms.calc = Nearsight(**MOLECULE, tolerance_ev=1e-6)
    forces, step = atoms.get_forces(), 0.01
    for atom, axis in ((0, 2), (1, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy(force_consistent=True))
        assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(forces[atom, axis], abs=5e-3)


def test_the_net_force_is_taken_out_of_each_force_alike() -> None:
    """f - mean(f), where the mesh leaves a net force; another word is refused."""
    atoms = molecule("H2O", cell=[5.0, 5.2, 5.4])
    found = {}
    for word in ("kept", "removed"):
        atoms.calc = Nearsight(basis="sz", mesh_cutoff_ry=60, kmesh=(1, 1, 1), net_force=word)
        found[word] = atoms.get_forces()
    assert np.abs(found["kept"].sum(0)).max() > 1e-3 and np.abs(found["removed"].sum(0)).max() < 1e-12
    np.testing.assert_allclose(found["removed"], found["kept"] - found["kept"].mean(0), atol=1e-12)
    with pytest.raises(NearsightError, match="kept or removed"):
        Nearsight(net_force="gone")  # type: ignore[arg-type]


def test_stress_is_the_derivative_of_the_free_energy_in_ases_order() -> None:
    atoms = diamond(3.6)
    atoms.positions[1] += [0.05, -0.08, 0.03]  # so that every component is there
    atoms.calc = Nearsight(**CRYSTAL)
    stress, step = atoms.get_stress(), 0.002
    assert stress.shape == (6,)
    for index, (a, b) in ((0, (0, 0)), (3, (1, 2)), (5, (0, 1))):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            moved.calc = atoms.calc  # which keeps the mesh
            energies.append(moved.get_potential_energy(force_consistent=True))
        numeric = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert numeric == pytest.approx(stress[index], abs=2e-4)  # eV/Angstrom^3: 0.03 GPa


def test_a_cell_filter_finds_the_minimum() -> None:
    atoms = diamond(3.7)
    atoms.calc = Nearsight(**CRYSTAL)
    assert atoms.get_stress()[0] > 0.01  # stretched: it wants to shrink
    start = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=6)  # type: ignore[arg-type]  # a filter, as ASE documents
    assert atoms.get_potential_energy() < start
    assert np.abs(atoms.get_stress()).max() < 3e-3
    assert 3.6 < atoms.cell.lengths()[0] * np.sqrt(2) < 3.69
    assert atoms.calc.state is not None
    assert atoms.calc.state.functional.mesh.shape == diamond_mesh()


def diamond_mesh() -> tuple[int, ...]:
    """The mesh of the first structure, which the cell filter must not have changed."""
    atoms = diamond(3.7)
    atoms.calc = Nearsight(**CRYSTAL)
    atoms.get_potential_energy()
    assert atoms.calc.state is not None
    return atoms.calc.state.functional.mesh.shape


def test_energies_do_not_depend_on_history_or_order() -> None:
    first, calculator = water(), Nearsight(**MOLECULE, tolerance_ev=1e-7)
    first.calc = calculator
    energy, forces = first.get_potential_energy(), first.get_forces()
    moved = water()
    moved.rattle(0.1, seed=2)
    moved.calc = calculator
    assert moved.get_potential_energy() > energy - 5
    again = water()
    again.calc = calculator
    assert again.get_potential_energy() == pytest.approx(energy, abs=1e-7)
    order = [1, 0, 2]  # H O H
    turned = water()[order]
    turned.calc = calculator
    assert turned.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    assert turned.get_forces() == pytest.approx(forces[order], abs=1e-4)


def test_species_and_ground_state_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from nearsight import calculator
    from nearsight.dft import setup

    made: dict[str, int] = {"load_species": 0, "ground_state": 0}
    for name, module in (("load_species", calculator), ("ground_state", setup)):
        original = getattr(module, name)

        def counted(*args: Any, name: str = name, original: Any = original, **keywords: Any) -> Any:
            made[name] += 1
            return original(*args, **keywords)

        monkeypatch.setattr(module, name, counted)
    atoms = water()
    atoms.calc = Nearsight(**MOLECULE)
    atoms.get_potential_energy()
    atoms.get_forces()
    assert made == {"load_species": 1, "ground_state": 1}
    atoms.positions[1, 2] += 0.01
    atoms.get_forces()
    assert made == {"load_species": 1, "ground_state": 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"smearing": "cold", "smearing_ev": 0.3},
        {"kshift": (0.5, 0.5, 0.5), "kmesh": (2, 1, 1)},
        {"charge": 1, "spin": "collinear", "total_moment": 1},
        {"method": "variational", "basis": "szp"},
    ],
    ids=str,
)
def test_settings_mean_the_same_as_in_a_run(settings: dict[str, Any]) -> None:
    atoms = Atoms("Li2", positions=[[2.5, 2.5, 1.2], [2.5, 2.5, 3.9]], cell=[5, 5, 5.2], pbc=True)
    table = {**MOLECULE, "mesh_cutoff_ry": 60, "tolerance_ev": 1e-6, **settings}
    atoms.calc = Nearsight(**table)
    free = atoms.get_potential_energy(force_consistent=True)
    bohr = [torch.tensor(np.asarray(x) / BOHR_ANG) for x in (atoms.cell, atoms.positions)]
    run = run_scf(Structure(bohr[0], bohr[1], torch.tensor(atoms.numbers)), ScfSettings(**table))
    assert free == pytest.approx(run.free * HARTREE_EV, abs=1e-6)
    assert atoms.get_potential_energy() == pytest.approx(run.extrapolated * HARTREE_EV, abs=1e-6)


def test_a_spin() -> None:
    atoms = Atoms("H", positions=[[2.5] * 3], cell=[5, 5, 5], pbc=True, magmoms=[1.0])
    atoms.calc = Nearsight(**MOLECULE, spin="collinear")
    assert atoms.get_magnetic_moment() == pytest.approx(1, abs=1e-6)
    assert atoms.get_magnetic_moments() == pytest.approx([1], abs=1e-6)
    atoms.positions += 0.1
    assert atoms.get_magnetic_moment() == pytest.approx(1, abs=1e-6)


def test_a_cycle_that_does_not_converge_is_an_error() -> None:
    atoms = water()
    atoms.calc = Nearsight(**MOLECULE, max_iterations=2)
    with pytest.raises(NearsightError, match=r"not converged in 2 iterations.*mixing"):
        atoms.get_potential_energy()
    with pytest.raises(NearsightError, match="not converged"):
        atoms.get_forces()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bais": "sz"}, "unknown key Nearsight.bais; did you mean basis"),
        ({"smearing_ev": -1}, "smearing_ev"),
        ({"xc": "bpe"}, "did you mean pbe"),
        ({"start": "out"}, "leave it out"),
        ({"forces": True}, "leave it out"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NearsightError, match=message):
        Nearsight(**settings)


def test_what_cannot_be_computed() -> None:
    atoms = molecule("H2O")
    atoms.calc = Nearsight(**MOLECULE)
    with pytest.raises(NearsightError, match=r"H2O has no cell in every direction.*center\(vacuum"):
        atoms.get_potential_energy()
    atoms = water()
    atoms.positions[1] = atoms.positions[0]
    atoms.calc = Nearsight(**MOLECULE)
    with pytest.raises(NearsightError, match="apart"):
        atoms.get_potential_energy()
    with pytest.raises(NearsightError, match="make a new Nearsight"):
        atoms.calc.set(basis="dzp")


def test_the_past_is_extrapolated() -> None:
    """Along a smooth path the first residual falls to below a hundredth of what the last place alone gives."""
    first: list[float] = []
    calculator = Nearsight(
        **MOLECULE, progress=lambda step: first.append(step.residual) if step.iteration == 1 else None
    )
    lengths = []
    for n in range(8):
        atoms = water()
        atoms.positions[1] += [0, 0.02 * n, 0.01 * np.sin(0.3 * n)]
        atoms.calc = calculator
        atoms.get_potential_energy()
        assert calculator.state is not None
        lengths.append(len(calculator.state.steps))
    assert max(first[5:]) < 0.01 * first[1]
    assert lengths[-1] < lengths[0]


def test_what_a_calculator_remembers_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    path = [water() for _ in range(5)]
    for n, atoms in enumerate(path):
        atoms.positions[1, 1] += 0.02 * n
    one, other = Nearsight(**MOLECULE), Nearsight(**MOLECULE)
    for atoms in path[:4]:
        atoms.calc = one
        atoms.get_forces()
    arrays, table = one.memory()
    np.savez(tmp_path / "kept.npz", allow_pickle=False, **arrays)
    with np.load(tmp_path / "kept.npz") as kept:
        other.recall(dict(kept), json.loads(json.dumps(table)))
    found = []
    for calculator in (one, other):
        path[4].calc = calculator
        found.append((path[4].get_potential_energy(), path[4].get_forces().tolist()))
    assert found[0] == found[1]

"""Relaxation and dynamics: minima are the energy's, the energy is conserved, what was cut off goes on to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms, FixCartesian

from nearsight.calculator import Nearsight
from nearsight.core.errors import BadInput, NearsightError, NotConverged
from nearsight.dft.settings import Settings
from nearsight.motion.dynamics import Integrator, Motion, run_dynamics
from nearsight.motion.forces import Balanced, named_calculator
from nearsight.motion.relaxation import Relaxation, relax
from nearsight.motion.run import Mover

SZ: dict[str, Any] = {"basis": "sz", "mesh_cutoff_ry": 60, "kmesh": (1, 1, 1)}
OURS = Mover(scf=Settings(**SZ))
EMT_ = Mover(calculator="ase.calculators.emt:EMT")


class Stop(Exception):  # noqa: N818
    """What cuts a run off."""


class StopAfter:
    """Progress that cuts a run off at its n-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def stage(self, text: str) -> None:
        pass

    def advance(self, done: float, total: float, text: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise Stop


def hydrogen(length: float = 0.9) -> Atoms:
    return Atoms("H2", positions=[[2.5, 2.5, 2.0], [2.5, 2.5, 2.0 + length]], cell=[5, 5, 5], pbc=True)


def copper(repeat: int = 2) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    atoms.rattle(0.1, seed=2)
    return atoms


@pytest.fixture(autouse=True)
def _every_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from nearsight.motion import record

    monkeypatch.setattr(record, "_APART", 0.0)
    monkeypatch.setattr(record, "_SHARE", 0.0)


def test_a_relaxed_bond_has_the_least_energy(tmp_path: Path) -> None:
    done = relax(hydrogen(), tmp_path / "out", Relaxation(fmax_ev_per_ang=0.01), OURS)
    length = float(done.atoms.get_distance(0, 1))
    calculator, energies = Nearsight(**SZ), []
    steps = (-0.02, 0.0, 0.02)
    for step in steps:  # about the same centre, as without a net force
        atoms = done.atoms.copy()
        atoms.positions[:, 2] += [-step / 2, step / 2]
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy(force_consistent=True))
    a, b, _ = np.polyfit(steps, energies, 2)
    assert abs(-b / (2 * a)) < 1.5e-3
    assert 0.7 < length < 0.9
    assert done.result["converged"] is True
    assert done.atoms.positions.mean(0) == pytest.approx(hydrogen().positions.mean(0), abs=1e-9)
    frames = ase.io.read(tmp_path / "out" / "trajectory.extxyz", index=":")
    assert len(frames) == done.result["steps"] + 1
    assert frames[-1].get_potential_energy() == pytest.approx(done.result["energy_eV"], abs=1e-6)
    assert np.abs(frames[-1].get_forces()).max() < 0.01
    assert len(ase.io.read(tmp_path / "out" / "POSCAR")) == 2


def test_a_relaxed_cell_is_that_of_the_equation_of_state(tmp_path: Path) -> None:
    table = {"basis": "sz", "mesh_cutoff_ry": 60, "kmesh": (2, 2, 2), "xc": "lda"}
    options = Relaxation(cell="volume", smax_gpa=0.1, fmax_ev_per_ang=0.01)
    done = relax(bulk("C", "diamond", 3.66), tmp_path / "out", options, Mover(scf=Settings(**table)))
    assert abs(np.mean(done.result["stress_GPa"][:3])) < 0.1
    calculator = Nearsight(**table)
    atoms = bulk("C", "diamond", 3.66)
    atoms.calc = calculator
    atoms.get_potential_energy()  # the mesh is that of the first cell
    found = done.atoms.cell.array
    scales, energies = np.array([0.985, 0.9925, 1.0, 1.0075, 1.015]), []
    for scale in scales:
        atoms.set_cell(found * scale, scale_atoms=True)
        energies.append(atoms.get_potential_energy(force_consistent=True))
    cubic = np.polyfit(scales, energies, 3)
    roots = np.roots(np.polyder(cubic))
    assert min(abs(roots.real - 1)) < 5e-4


@pytest.mark.parametrize(
    ("cell", "still"),
    [
        ("none", [0, 1, 2, 3, 4, 5]),
        ("sheet", [2, 3, 4]),
        ("110001", [2, 3, 4]),
        ("001000", [0, 1, 3, 4, 5]),
        ("full", []),
    ],
)
def test_masks_hold_what_they_say(tmp_path: Path, cell: str, still: list[int]) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ np.array([[1.02, 0.01, 0.005], [0.01, 0.99, 0.003], [0.005, 0.003, 1.03]]), True)
    options = Relaxation(cell=cell, fmax_ev_per_ang=0.01, smax_gpa=0.05)
    done = relax(atoms, tmp_path / "out", options, EMT_)
    stretch = np.linalg.inv(atoms.cell.array) @ done.atoms.cell.array
    strain = ((stretch + stretch.T) / 2 - np.eye(3))[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    assert strain[still] == pytest.approx(0, abs=1e-9)
    moved = [k for k in range(6) if k not in still]
    assert (np.abs(strain[moved]) > 1e-3).all()
    if moved:
        assert np.abs(np.array(done.result["stress_GPa"])[moved]).max() < 0.05


def test_volume_and_shape_are_told_apart(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array * [[1.03], [1.0], [0.99]], scale_atoms=True)
    ratio = atoms.cell.lengths() / atoms.cell.lengths()[0]
    shape = relax(atoms, tmp_path / "shape", Relaxation(cell="shape", smax_gpa=0.02), EMT_).atoms
    assert shape.get_volume() == pytest.approx(atoms.get_volume(), rel=1e-6)
    assert shape.cell.lengths() / shape.cell.lengths()[0] == pytest.approx(1, abs=1e-3)
    volume = relax(atoms, tmp_path / "volume", Relaxation(cell="volume"), EMT_).atoms
    assert volume.cell.lengths() / volume.cell.lengths()[0] == pytest.approx(ratio, abs=1e-6)
    pressed = relax(bulk("Cu"), tmp_path / "p", Relaxation(cell="full", pressure_gpa=10), EMT_)
    assert pressed.result["stress_GPa"][:3] == pytest.approx([-10] * 3, abs=0.1)


@pytest.mark.parametrize("optimiser", ["bfgs", "fire", "lbfgs"])
def test_a_relaxation_goes_on_to_the_last_bit(tmp_path: Path, optimiser: str) -> None:
    options = Relaxation(cell="full", optimiser=optimiser, fmax_ev_per_ang=0.01, smax_gpa=0.02)
    whole = relax(copper(1), tmp_path / "whole", options, EMT_)
    for steps in (0, 3, 4):
        with pytest.raises(Stop):
            relax(copper(1), tmp_path / "cut", options, EMT_, progress=StopAfter(steps))
    made = relax(copper(1), tmp_path / "cut", options, EMT_)
    assert made.atoms.positions.tolist() == whole.atoms.positions.tolist()
    assert made.atoms.cell.array.tolist() == whole.atoms.cell.array.tolist()
    assert made.result["steps"] == whole.result["steps"] > 6
    for name in ("trajectory.extxyz", "steps.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = relax(copper(1), tmp_path / "cut", options, EMT_, progress=StopAfter(1))  # nothing is left to do
    assert again.result["steps"] == whole.result["steps"]


def test_too_few_steps_are_said_and_more_go_on(tmp_path: Path) -> None:
    with pytest.raises(NotConverged, match=r"are left after 2 steps: the same command with more --steps goes on"):
        relax(copper(1), tmp_path / "out", Relaxation(steps=2), EMT_)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["converged"] is False
    assert relax(copper(1), tmp_path / "out", Relaxation(steps=50), EMT_).result["converged"] is True


def test_held_atoms_stay(tmp_path: Path) -> None:
    atoms = copper(1)
    atoms.set_constraint(FixAtoms([0, 2]))
    ase.io.write(tmp_path / "POSCAR", atoms)
    done = relax(tmp_path / "POSCAR", tmp_path / "out", Relaxation(fmax_ev_per_ang=0.01), EMT_)
    assert done.atoms.positions[[0, 2]] == pytest.approx(atoms.positions[[0, 2]], abs=1e-9)
    assert np.abs(done.atoms.positions[[1, 3]] - atoms.positions[[1, 3]]).max() > 0.01
    moved = run_dynamics(tmp_path / "POSCAR", tmp_path / "md", Motion(temperature_K=300, steps=5), EMT_)
    assert moved.atoms.positions[[0, 2]] == pytest.approx(atoms.positions[[0, 2]], abs=1e-9)


def test_an_atom_held_along_one_direction_has_two_freedoms() -> None:
    atoms = copper(1)
    atoms.set_constraint([FixAtoms([1]), FixCartesian([0], (False, False, True))])
    path = Integrator(atoms, EMT_.build(), Motion(temperature_K=300))
    momenta = atoms.get_momenta()
    assert path.freedoms == 8 and path.temperature == pytest.approx(300)
    assert not momenta[1].any() and momenta[0, 2] == 0 and momenta[0, :2].all()
    height = atoms.positions[0, 2]
    path.step()
    assert atoms.positions[0, 2] == height


def test_a_calculator_that_fails_without_a_word() -> None:
    class Silent(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *given: Any) -> None:
            raise RuntimeError

    atoms = copper(1)
    atoms.calc = Balanced(Silent(), "equal")
    with pytest.raises(NotConverged, match="Silent failed: RuntimeError"):
        atoms.get_forces()


def test_no_net_force_is_left() -> None:
    atoms = molecule("H2O", vacuum=2.4, pbc=True)
    atoms.rattle(0.05, seed=3)
    plain = Nearsight(**SZ)
    atoms.calc = plain
    forces = atoms.get_forces()
    assert np.abs(forces.sum(0)).max() > 1e-3  # the mesh pushes
    masses = atoms.get_masses()
    for share, weights in (("equal", np.ones(3) / 3), ("mass", masses / masses.sum())):
        atoms.calc = Balanced(plain, share)
        assert atoms.get_forces().sum(0) == pytest.approx(0, abs=1e-12)
        assert atoms.get_forces() == pytest.approx(forces - np.outer(weights, forces.sum(0)), abs=1e-12)


def test_the_energy_is_conserved_and_our_dynamics_go_on_to_the_last_bit(tmp_path: Path) -> None:
    options = Motion(temperature_K=300, timestep_fs=0.5, steps=20, seed=1)
    start = hydrogen(0.8)
    whole = run_dynamics(start, tmp_path / "whole", options, OURS)
    energy = whole.result["energy_eV"]
    assert energy["scatter_meV_per_atom"] < 1.0
    kinetic = [json.loads(x)["kinetic_eV"] for x in (tmp_path / "whole" / "steps.jsonl").read_text().splitlines()]
    assert abs(energy["last"] - energy["first"]) < 0.05 * (max(kinetic) - min(kinetic))
    assert whole.atoms.get_center_of_mass() == pytest.approx(start.get_center_of_mass(), abs=1e-9)
    with pytest.raises(Stop):
        run_dynamics(start, tmp_path / "cut", options, OURS, progress=StopAfter(11))
    made = run_dynamics(start, tmp_path / "cut", options, OURS)
    assert made.atoms.positions.tolist() == whole.atoms.positions.tolist()
    assert made.atoms.get_momenta().tolist() == whole.atoms.get_momenta().tolist()
    assert (tmp_path / "cut" / "steps.jsonl").read_bytes() == (tmp_path / "whole" / "steps.jsonl").read_bytes()


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_dynamics_cut_off_anywhere_go_on(tmp_path: Path, ensemble: str) -> None:
    def options(steps: int) -> Motion:
        return Motion(ensemble=ensemble, temperature_K=400, timestep_fs=3, steps=steps, every=3)

    whole = run_dynamics(copper(1), tmp_path / "whole", options(30), EMT_)
    for steps in (0, 5, 7):
        with pytest.raises(Stop):
            run_dynamics(copper(1), tmp_path / "cut", options(20), EMT_, progress=StopAfter(steps))
    run_dynamics(copper(1), tmp_path / "cut", options(20), EMT_)
    made = run_dynamics(copper(1), tmp_path / "cut", options(30), EMT_)  # more steps
    # EMT's neighbour lists remember where they were made: it is no function of the positions to the last bit
    assert made.atoms.positions == pytest.approx(whole.atoms.positions, abs=1e-9)
    assert made.atoms.get_momenta() == pytest.approx(whole.atoms.get_momenta(), abs=1e-9)
    steps = [(tmp_path / name / "steps.jsonl").read_text().splitlines() for name in ("cut", "whole")]
    assert [json.loads(x)["step"] for x in steps[0]] == [json.loads(x)["step"] for x in steps[1]] == list(range(31))
    assert len(ase.io.read(tmp_path / "cut" / "trajectory.extxyz", index=":")) == 11


def test_langevins_equation_has_its_temperature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearsight.motion.record._APART", 1e9)
    options = Motion(ensemble="langevin", temperature_K=500, timestep_fs=5, steps=800, friction_per_fs=0.05, every=100)
    done = run_dynamics(bulk("Cu", cubic=True).repeat((2, 2, 1)), tmp_path / "out", options, EMT_)
    lines = [json.loads(x) for x in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()]
    temperature = np.mean([x["temperature_K"] for x in lines[100:]])
    assert temperature == pytest.approx(500, rel=0.08)
    assert done.atoms.get_momenta().sum(0) == pytest.approx(0, abs=1e-6)


def test_velocities_of_a_file(tmp_path: Path) -> None:
    atoms = copper(1)
    atoms.set_momenta(np.arange(12.0).reshape(4, 3) / 10 - 0.55)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    done = run_dynamics(tmp_path / "a.extxyz", tmp_path / "out", Motion(steps=0), EMT_)
    assert done.atoms.get_momenta() == pytest.approx(atoms.get_momenta(), abs=1e-6)
    with pytest.raises(BadInput, match="has velocities, and a temperature is given"):
        run_dynamics(tmp_path / "a.extxyz", tmp_path / "other", Motion(steps=0, temperature_K=300), EMT_)


def test_folders_of_something_else(tmp_path: Path) -> None:
    relax(copper(1), tmp_path / "out", Relaxation(), EMT_)
    with pytest.raises(BadInput, match="holds a relaxation"):
        run_dynamics(copper(1), tmp_path / "out", Motion(steps=1), EMT_)
    with pytest.raises(BadInput, match="begun with another structure"):
        relax(copper(2), tmp_path / "out", Relaxation(), EMT_)
    with pytest.raises(BadInput, match=r"another run.optimiser \(bfgs, not fire\)"):
        relax(copper(1), tmp_path / "out", Relaxation(optimiser="fire"), EMT_)
    (tmp_path / "out" / "relaxation.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(BadInput, match="not a state to go on from"):
        relax(copper(1), tmp_path / "out", Relaxation(), EMT_)


@pytest.mark.parametrize(
    ("place", "settings", "message"),
    [
        ("emt", {}, "write module:Class"),
        (".emt:EMT", {}, "write module:Class"),
        ("ase.calculators.emt:EMTT", {}, "has no EMTT"),
        ("no.such:Thing", {}, "cannot be loaded"),
        ("ase:Atoms", {"wrong": 1}, "cannot be made"),
        ("pathlib:Path", {}, "is no ASE calculator"),
    ],
)
def test_calculators_that_are_none(place: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NearsightError, match=message):
        named_calculator(place, settings)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Motion(ensemble="langevin"), "langevin needs a temperature"),
        (lambda: Motion(friction_per_fs=0.1), "is of langevin"),
        (lambda: Relaxation(cell="both"), "is not known: none, full"),
        (lambda: Relaxation(cell="000000"), "is not known"),
        (lambda: Relaxation(pressure_gpa=5.0), "acts on a cell that may change"),
    ],
)
def test_what_cannot_be_asked(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


def test_what_a_killed_run_left_of_its_last_state_is_swept_up(tmp_path: Path) -> None:
    """The state is whole already, so that nothing writes it again; found by kills at every event."""
    relax(copper(1), tmp_path / "out", Relaxation(), EMT_)
    part = tmp_path / "out" / ".relaxation.npz.7g240waz.part"
    part.mkdir()
    (part / "relaxation.npz").write_bytes(b"half")
    relax(copper(1), tmp_path / "out", Relaxation(), EMT_)
    assert not part.exists()

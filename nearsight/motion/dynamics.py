"""Molecular dynamics: Newton's equations at constant energy, or Langevin's at a temperature, by ASE's integrators."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from pydantic import Field, model_validator

from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.core.tables import Table
from nearsight.formats.files import locked
from nearsight.motion.forces import Balanced
from nearsight.motion.record import Record
from nearsight.motion.run import (
    Counter,
    Mover,
    NetForce,
    begun,
    digest,
    free_energy,
    held,
    inside,
    memory,
    recall,
    snapshot,
)
from nearsight.properties.contract import SILENT, Progress


class Motion(Table):
    """What dynamics is told.

    ensemble: nve (velocity Verlet) or langevin.  temperature_K: of the bath, and of the first velocities; None with nve: the
    structure's own velocities, or rest.  friction_per_fs: of Langevin's.  seed: of velocities and random forces.
    every: steps between frames of the trajectory.
    """

    ensemble: Literal["nve", "langevin"] = "nve"
    temperature_K: float | None = Field(None, ge=0, le=1e6)
    timestep_fs: float = Field(1.0, gt=0, le=100)
    steps: int = Field(100, ge=0, le=1_000_000_000)
    friction_per_fs: float = Field(0.01, gt=0, le=10)
    seed: int = Field(0, ge=0)
    every: int = Field(1, ge=1)
    net_force: NetForce = "removed"

    @model_validator(mode="after")
    def _of_the_ensemble(self) -> Motion:
        if self.ensemble == "langevin" and self.temperature_K is None:
            raise ValueError("langevin needs a temperature: give temperature_K")
        if self.ensemble == "nve" and "friction_per_fs" in self.model_fields_set:
            raise ValueError("friction_per_fs is of langevin: leave it out of nve")
        return self


@dataclass(frozen=True)
class Moved:
    """atoms: at the end, with velocities.  result: of result.json."""

    atoms: Atoms
    result: Mapping[str, Any]


class Integrator:
    """Atoms under way (mutable): one `step` after the other.

    atoms: are moved; their momenta are made where they have none.  calculator: of the forces.
    Raises BadInput for velocities and a temperature with nve.
    """

    def __init__(
        self, atoms: Atoms, calculator: Calculator, options: Motion, seed: Sequence[int] | None = None
    ) -> None:
        from ase.constraints import FixCom
        from ase.md.langevin import Langevin
        from ase.md.verlet import VelocityVerlet

        self.atoms, self.options = atoms, options
        self.random = np.random.default_rng(options.seed if seed is None else list(seed))
        fixed = held(atoms)
        centred = options.net_force == "removed" and not fixed.any()
        self.forces = Balanced(calculator, "mass" if centred else "none")
        own = atoms.has("momenta") and bool(atoms.get_momenta().any())
        if own and options.ensemble == "nve" and options.temperature_K is not None:
            raise BadInput(
                "the structure has velocities, and a temperature is given: leave temperature_K out to go on with them"
            )
        still = centred or (options.ensemble == "nve" and not fixed.any())
        self.freedoms = int((~fixed).sum()) - (3 if still and len(atoms) > 1 else 0)
        if not own:
            self._thermal(fixed, still)
        atoms.calc = self.forces
        step = options.timestep_fs * units.fs
        if options.ensemble == "nve":
            self.integrator: Any = VelocityVerlet(atoms, step)
        else:
            if centred and len(atoms) > 1:
                atoms.set_constraint([*atoms.constraints, FixCom()])
            self.integrator = Langevin(
                atoms,
                step,
                temperature_K=options.temperature_K,
                friction=options.friction_per_fs / units.fs,
                fixcm=False,
                rng=self.random,
            )

    def _thermal(self, fixed: np.ndarray, still: bool) -> None:
        """Maxwell's velocities, the centre of mass at rest, scaled to the temperature exactly."""
        atoms, temperature = self.atoms, self.options.temperature_K or 0.0
        masses = atoms.get_masses()[:, None]
        momenta = self.random.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
        momenta[fixed] = 0
        if still and len(atoms) > 1:
            momenta -= masses * momenta.sum(0) / masses.sum()
        kinetic = float((momenta**2 / masses).sum() / 2)
        if kinetic > 0 and self.freedoms > 0:
            momenta *= np.sqrt(self.freedoms * units.kB * temperature / 2 / kinetic)
        atoms.set_momenta(momenta, apply_constraint=False)

    @property
    def temperature(self) -> float:
        """2 K / (freedoms k_B) [K]."""
        return float(2 * self.atoms.get_kinetic_energy() / (max(1, self.freedoms) * units.kB))

    def step(self) -> None:
        """One time step."""
        self.integrator.step()

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything that the next step depends on."""
        arrays, table = memory(self.forces.inner)
        kept = {f"memory.{k}": v for k, v in arrays.items()}
        kept |= {"positions": self.atoms.positions, "momenta": self.atoms.get_momenta()}
        kept |= {f"results.{k}": np.array(v) for k, v in self.forces.results.items() if k in _RESULTS}
        return kept, {"memory": table, "random": json.dumps(self.random.bit_generator.state)}

    def restore(self, arrays: Mapping[str, np.ndarray], table: Mapping[str, Any]) -> None:
        """Go on from a state, to the last bit."""
        self.atoms.set_positions(arrays["positions"], apply_constraint=False)
        self.atoms.set_momenta(arrays["momenta"], apply_constraint=False)
        self.random.bit_generator.state = json.loads(table["random"])
        found = {k: v if v.ndim else float(v) for k, v in inside(arrays, "results.").items()}
        self.forces.preload(self.atoms, found)
        recall(self.forces.inner, inside(arrays, "memory."), table["memory"])


_RESULTS = ("energy", "free_energy", "forces")


def run_dynamics(
    structure: Atoms | Structure | Path | str,
    out: Path | str,
    options: Motion | None = None,
    mover: Mover | None = None,
    *,
    vacuum: float | None = None,
    progress: Progress = SILENT,
) -> Moved:
    """Dynamics of a structure into the folder `out`; a run that was cut off goes on where it was, to the last bit.

    vacuum: box around a molecule without a cell [angstrom].  More steps than a finished run had go on from its end.
    Raises BadInput: a structure that cannot be computed, a folder of something else or of other dynamics; NotConverged where a
    cycle does not converge on the way.
    """
    options, mover = options or Motion(), mover or Mover()
    atoms, name = begun(structure, vacuum)
    counter = Counter()
    calculator = mover.build(counter, atoms)
    config = {"schema_version": 1, "kind": "dynamics", "structure": name, "structure_sha256": digest(atoms)}
    config |= {"run": options.model_dump(mode="json"), **mover.model_dump(mode="json")}
    record = Record(out, "dynamics", config, free=("steps",))
    with locked(record.folder, "dynamics"):
        return _run(Integrator(atoms, calculator, options), record, counter, progress)


def _run(path: Integrator, record: Record, counter: Counter, progress: Progress) -> Moved:
    options, forces, atoms = path.options, path.forces, path.atoms
    found, step, before = record.open(), 0, 0.0
    if found is not None:
        path.restore(*found)
        table = found[1]
        step, before, forces.largest = table["step"], table["seconds"], table["net_force"]
        counter.iterations, counter.cycles = table["iterations"], table["cycles"]
        if step > options.steps:
            raise BadInput(f"{record.folder} has {step} steps already: ask for no fewer")
    progress.stage("dynamics")
    began = time.monotonic()

    def keep(at_once: bool) -> None:
        arrays, told = path.state()
        told |= {"step": step, "seconds": before + time.monotonic() - began, "net_force": forces.largest}
        record.save(arrays, told | {"iterations": counter.iterations, "cycles": counter.cycles}, at_once)

    if found is None:
        atoms.get_forces()
        record.append(snapshot(atoms, forces), _line(path, 0))
        keep(True)
    while step < options.steps:
        path.step()
        step += 1
        atoms.get_potential_energy()
        record.append(snapshot(atoms, forces) if step % options.every == 0 else None, _line(path, step))
        keep(step == options.steps)
        progress.advance(step, options.steps, f"{path.temperature:.0f} K")
    result = summary(record.lines(), options, len(atoms))
    result |= {
        "net_force": "kept" if forces.share == "none" else "removed",
        "largest_net_force_eV_per_Ang": forces.largest,
        "scf_iterations_per_step": counter.iterations / counter.cycles if counter.cycles else None,
        "wall_seconds": before + time.monotonic() - began,
    }
    record.finish(result)
    return Moved(snapshot(atoms, forces), result)


def _line(path: Integrator, step: int) -> dict[str, float]:
    potential, kinetic = free_energy(path.forces), float(path.atoms.get_kinetic_energy())
    return {
        "step": step,
        "time_fs": step * path.options.timestep_fs,
        "potential_eV": potential,
        "kinetic_eV": kinetic,
        "total_eV": potential + kinetic,
        "temperature_K": path.temperature,
    }


def summary(lines: list[dict[str, Any]], options: Motion, atoms: int) -> dict[str, Any]:
    """Means over all steps; with nve the drift of the energy (slope of a straight line) and its scatter about that."""
    time_fs, total, temperature = (np.array([x[k] for x in lines]) for k in ("time_fs", "total_eV", "temperature_K"))
    result: dict[str, Any] = {
        "schema_version": 1,
        "steps": int(lines[-1]["step"]),
        "time_fs": float(time_fs[-1]),
        "ensemble": options.ensemble,
        "temperature_K": {"mean": float(temperature.mean()), "deviation": float(temperature.std())},
        "potential_eV": {"first": lines[0]["potential_eV"], "last": lines[-1]["potential_eV"]},
    }
    if options.ensemble == "nve":
        slope, level = np.polyfit(time_fs, total, 1) if len(lines) > 1 else (0.0, total[0])
        result["energy_eV"] = {
            "first": float(total[0]),
            "last": float(total[-1]),
            "drift_meV_per_atom_per_ps": float(slope) * 1e6 / atoms,
            "scatter_meV_per_atom": float((total - slope * time_fs - level).std()) * 1e3 / atoms,
        }
    return result


def frames(
    atoms: Atoms, calculator: Calculator, options: Motion, seed: Sequence[int], first_steps: int = 0
) -> Iterator[Atoms]:
    """Every `every`-th structure of a path, without end and without a folder. Raises as `run_dynamics`.

    seed: in place of that of the options.  first_steps: before the first.
    """
    path = Integrator(atoms, calculator, options, seed)
    for _ in range(first_steps):
        path.step()
    while True:
        for _ in range(options.every):
            path.step()
        yield snapshot(path.atoms, path.forces)

"""Relaxation: atoms, and the cell if asked for, down to small forces and stress, by ASE's optimisers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from pydantic import Field, field_validator, model_validator

from nearsight.core.errors import NotConverged
from nearsight.core.structure import Structure
from nearsight.core.tables import Table
from nearsight.formats.files import locked, whole_file
from nearsight.formats.poscar import write_poscar
from nearsight.motion.forces import Balanced
from nearsight.motion.record import Record, frame
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

_MASKS = {
    "full": (1, 1, 1, 1, 1, 1),
    "volume": (1, 1, 1, 1, 1, 1),
    "shape": (1, 1, 1, 1, 1, 1),
    "sheet": (1, 1, 0, 0, 0, 1),
}
_KEPT = ("energy", "free_energy", "forces", "stress")


class Relaxation(Table):
    """What a relaxation is told.

    cell: none; full; volume (all vectors alike); shape (the volume stays); sheet (xx, yy and xy alone); or six of 0 and 1 that
    say which of the strains xx yy zz yz xz xy are free.  fmax_ev_per_ang, smax_gpa: the longest force and the largest free
    component of the stress at the end.  pressure_gpa: on the cell, which must be free to change.  steps: at most.
    """

    cell: str = "none"
    fmax_ev_per_ang: float = Field(0.02, gt=0)
    smax_gpa: float = Field(0.1, gt=0)
    pressure_gpa: float = 0.0
    optimiser: Literal["bfgs", "fire", "lbfgs"] = "bfgs"
    steps: int = Field(200, ge=0, le=1_000_000)
    net_force: NetForce = "removed"

    @field_validator("cell", mode="before")
    @classmethod
    def _known(cls, cell: Any) -> Any:
        word = "".join(str(cell).replace(",", " ").split()) if cell is not None else "none"
        if word in ("none", *_MASKS) or (len(word) == 6 and set(word) <= {"0", "1"} and "1" in word):
            return word
        raise ValueError(
            f"{cell!r} is not known: none, full, volume, shape, sheet, or six of 0 and 1 for xx yy zz yz xz xy"
        )

    @model_validator(mode="after")
    def _of_a_cell_that_moves(self) -> Relaxation:
        if self.cell == "none" and self.pressure_gpa:
            raise ValueError(
                "pressure_gpa acts on a cell that may change: add cell: full, volume or sheet, or leave it out"
            )
        return self

    @property
    def mask(self) -> np.ndarray | None:
        """Which components of the strain are free [6], in ASE's order; None where the cell stays."""
        if self.cell == "none":
            return None
        return np.array(_MASKS.get(self.cell) or [int(c) for c in self.cell], dtype=float)


@dataclass(frozen=True)
class Relaxed:
    """atoms: at the end, with energy, forces and stress.  result: of result.json."""

    atoms: Atoms
    result: Mapping[str, Any]


def relax(
    structure: Atoms | Structure | Path | str,
    out: Path | str,
    options: Relaxation | None = None,
    mover: Mover | None = None,
    *,
    vacuum: float | None = None,
    progress: Progress = SILENT,
) -> Relaxed:
    """Relax a structure into the folder `out`; a run that was cut off goes on where it was.

    vacuum: box around a molecule without a cell [angstrom].
    Raises BadInput: a structure that cannot be computed, a folder of something else or of another relaxation; NotConverged
    where forces or stress are still larger after the steps: the same call with more goes on.
    """
    options, mover = options or Relaxation(), mover or Mover()
    atoms, name = begun(structure, vacuum)
    held(atoms)
    counter = Counter()
    calculator = mover.build(counter, atoms)
    config = {"schema_version": 1, "kind": "relaxation", "structure": name, "structure_sha256": digest(atoms)}
    config |= {"run": options.model_dump(mode="json"), **mover.model_dump(mode="json")}
    record = Record(out, "relaxation", config, free=("fmax_ev_per_ang", "smax_gpa", "steps"))
    with locked(record.folder, "relaxation"):
        return _Descent(atoms, calculator, options, record, counter, progress).run()


class _Descent:
    """One relaxation at work (mutable)."""

    def __init__(
        self, atoms: Atoms, calculator: Any, options: Relaxation, record: Record, counter: Counter, progress: Progress
    ) -> None:
        from ase.filters import FrechetCellFilter

        self.atoms, self.options, self.record, self.counter, self.progress = atoms, options, record, counter, progress
        share = "none" if options.net_force == "kept" or held(atoms).any() else "equal"
        self.forces = Balanced(calculator, share)
        self.forces.past = []
        atoms.calc = self.forces
        self.target: Any = atoms
        if options.mask is not None:
            self.forces.also = ("stress",)
            self.target = FrechetCellFilter(
                atoms,
                mask=options.mask,
                hydrostatic_strain=options.cell == "volume",
                constant_volume=options.cell == "shape",
                scalar_pressure=options.pressure_gpa * units.GPa,
            )
        self.optimiser = _optimiser(options.optimiser)(self.target, logfile=None)
        self.step, self.seconds, self.worst = 0, 0.0, 0.0

    def run(self) -> Relaxed:
        found = self.record.open()
        if found is not None:
            self._go_on(*found)
        self.progress.stage("relaxing")
        began, before = time.monotonic(), self.seconds
        while True:
            force, stress = self._left()
            self.seconds = before + time.monotonic() - began
            if found is None or self.step > found[1]["step"]:
                self._keep(force, stress)
            done = force < self.options.fmax_ev_per_ang and stress < self.options.smax_gpa
            self._told(force, stress, done)
            if done or self.step >= self.options.steps:
                break
            self.optimiser.step()
            self.step += 1
        return self._end(force, stress, done)

    def _go_on(self, arrays: dict[str, np.ndarray], table: dict[str, Any]) -> None:
        """The optimiser is taken along the steps that were made, with the results that they had, to the last of them."""
        past = inside(arrays, "past.")
        count = len(past["energy"])
        self.forces.replay([{k: _plain(v[n]) for k, v in past.items()} for n in range(count)])
        for n in range(count):
            self.atoms.get_forces()
            if n < count - 1:
                self.optimiser.step()
        if not np.allclose(self.atoms.positions, arrays["positions"], rtol=0, atol=1e-7):
            raise NotConverged(
                f"{self.record.folder} cannot be gone on with: this version of ASE takes other steps; begin anew from its "
                "last frame"
            )
        recall(self.forces.inner, inside(arrays, "memory."), table["memory"])
        self.step, self.seconds, self.forces.largest = table["step"], table["seconds"], table["net_force"]
        self.counter.iterations, self.counter.cycles = table["iterations"], table["cycles"]

    def _left(self) -> tuple[float, float]:
        """The longest force [eV/angstrom] and the largest free component of the stress, less the pressure [GPa]."""
        force = float(np.linalg.norm(self.atoms.get_forces(), axis=1).max())
        if self.options.mask is None:
            return force, 0.0
        stress = (
            voigt_6_to_full_3x3_stress(self.forces.results["stress"])
            + np.eye(3) * self.options.pressure_gpa * units.GPa
        )
        mean = np.eye(3) * np.trace(stress) / 3
        stress = mean if self.options.cell == "volume" else stress - mean if self.options.cell == "shape" else stress
        return force, float(np.abs(full_3x3_to_voigt_6_stress(stress) * self.options.mask).max() / units.GPa)

    def _keep(self, force: float, stress: float) -> None:
        line = {"step": self.step, "free_energy_eV": free_energy(self.forces), "fmax_eV_per_Ang": force}
        line |= {"smax_GPa": stress, "volume_Ang3": self.atoms.get_volume()} if self.options.mask is not None else {}
        self.record.append(snapshot(self.atoms, self.forces), line)
        assert self.forces.past is not None
        past = {f"past.{k}": np.array([p[k] for p in self.forces.past]) for k in _KEPT if k in self.forces.past[-1]}
        arrays, table = memory(self.forces.inner)
        kept = {f"memory.{k}": v for k, v in arrays.items()} | past | {"positions": self.atoms.positions}
        told = {"step": self.step, "seconds": self.seconds, "memory": table, "net_force": self.forces.largest}
        told |= {"iterations": self.counter.iterations, "cycles": self.counter.cycles}
        self.record.save(kept, told)
        self._kept = kept, told

    def _told(self, force: float, stress: float, done: bool) -> None:
        """How far down, by the logarithm of the worse of force and stress over what is asked."""
        left = max(force / self.options.fmax_ev_per_ang, stress / self.options.smax_gpa if stress else 0.0)
        self.worst = max(self.worst, left, 1.001)
        gone = 1.0 if done else max(0.0, 1 - log(max(left, 1.0)) / log(self.worst))
        text = f"step {self.step}: {force:.3f} eV/A" + (f", {stress:.2f} GPa" if self.options.mask is not None else "")
        self.progress.advance(round(100 * gone), 100, text)

    def _end(self, force: float, stress: float, done: bool) -> Relaxed:
        if hasattr(self, "_kept"):
            self.record.save(*self._kept, at_once=True)
        last = snapshot(self.atoms, self.forces)
        with whole_file(self.record.folder / "relaxed.extxyz") as part:
            part.write_bytes(frame(last))
        write_poscar(self.record.folder / "POSCAR", Structure.from_ase(self.atoms))
        first = self.record.lines()[0]
        result: dict[str, Any] = {
            "schema_version": 1,
            "converged": done,
            "steps": self.step,
            "free_energy_eV": free_energy(self.forces),
            "energy_eV": float(self.forces.results["energy"]),
            "gained_eV": first["free_energy_eV"] - free_energy(self.forces),
            "fmax_eV_per_Ang": force,
            "smax_GPa": stress if self.options.mask is not None else None,
            "volume_Ang3": float(self.atoms.get_volume()),
            "net_force": self.options.net_force if self.forces.share != "none" else "kept",
            "largest_net_force_eV_per_Ang": self.forces.largest,
            "scf_iterations_per_step": self.counter.iterations / self.counter.cycles if self.counter.cycles else None,
            "wall_seconds": self.seconds,
        }
        if "stress" in self.forces.results:
            result["stress_GPa"] = (np.asarray(self.forces.results["stress"]) / units.GPa).tolist()
        self.record.finish(result)
        if not done:
            left = f"forces of {force:.3f} eV/angstrom" + (f" and a stress of {stress:.2f} GPa" if stress else "")
            raise NotConverged(
                f"{left} are left after {self.step} steps: the same command with more --steps goes on; a finer mesh "
                "(--mesh-cutoff, --set mesh.xc_refinement=2) helps where they no longer fall"
            )
        return Relaxed(last, result)


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else np.array(value)


def _optimiser(name: str) -> Any:
    from ase.optimize import BFGS, FIRE, LBFGS

    return {"bfgs": BFGS, "fire": FIRE, "lbfgs": LBFGS}[name]

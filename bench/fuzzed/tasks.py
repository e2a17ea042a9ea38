"""What tasks keep in their folders: the ledger of a data set, normal modes, results, unfinished runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzzed.contract import STORED, Fuzzed, altered, require
from nearsight.core.configuration import validated
from nearsight.core.structure import Structure
from nearsight.dft.result import Result
from nearsight.dft.settings import Settings
from nearsight.formats import registry
from nearsight.formats.seal import sealed
from nearsight.tasks.ledger import Job, Ledger, Outcome
from nearsight.tasks.modes import Modes, taken_harmonic, thermal

# --- a ledger


def _ledgers(folder: Path) -> list[Path]:
    """Five jobs, of which two are done, one failed and one was cut off; closed, so that all is in one file."""
    place = folder / "set"
    place.mkdir()
    ledger = Ledger(place / "ledger.sqlite")
    ledger.plan(_jobs(), lambda name: False)
    for name, state in (("0000", "done"), ("0001", "done"), ("0002", "failed")):
        ledger.begin(name)
        ledger.finish(Outcome(name, state, 1.5, "not converged" if state == "failed" else None, "ab" * 32))
    ledger.begin("0003")
    ledger.close()
    return [place]


def _jobs() -> list[Job]:
    return [Job(f"{n:04d}", f"{n}" * 64, None) for n in range(5)]


def _read_ledger(folder: Path) -> Any:
    """As a build does: what is to be done, one more job done, and all outcomes."""
    ledger = Ledger(folder / "ledger.sqlite")
    try:
        todo = ledger.plan(_jobs(), lambda name: name in ("0000", "0001"))
        ledger.begin("0004")
        ledger.finish(Outcome("0004", "done", 0.5, None, "cd" * 32))
        return [j.name for j in todo], ledger.outcomes()
    finally:
        ledger.close()


def _judge_ledger(read: Any, original: Path) -> None:
    """What is not there is never taken as done; a job that is there may be done once more."""
    todo, outcomes = read
    require({"0002", "0003", "0004"} <= set(todo), f"to be done: {todo}")
    require("0004" in {o.name for o in outcomes if o.state == "done"}, "the job that was done is not among the done")
    for o in outcomes:
        require(isinstance(o.name, str) and isinstance(o.seconds, float), f"an outcome {o}")
        require(o.error is None or isinstance(o.error, str), f"an error {o.error!r}")


# --- second derivatives


RECIPE = {"count": 1, "temperature_K": [300, 300], "relax_ev_per_ang": 0.01}


@cache
def _molecule() -> Structure:
    return registry.read_structure(STORED / "calculation")


def _scf() -> Settings:
    return validated(Settings, {"xc": "lda", "basis": "sz", "kmesh": [1, 1, 1], "mesh_cutoff_ry": 60})


def _modes(folder: Path) -> list[Path]:
    from nearsight.core.units import BOHR_ANG
    from nearsight.tasks.digest import Origin
    from nearsight.tasks.modes import _steps

    place = folder / "modes"
    place.mkdir()
    s, recipe = _molecule(), validated(Modes, RECIPE)
    n = 3 * len(s)
    rows = np.diag(np.linspace(5, 30, n)) - 0.5
    table = {
        "digest": Origin(_scf()).digest(s, _steps(recipe)),
        "energies_meV": [1.0] * n,
        "numbers": s.numbers.tolist(),
        "cell_Ang": (s.cell * BOHR_ANG).tolist(),
        "positions_Ang": (s.positions * BOHR_ANG).tolist(),
        "supercell": [1, 1, 1],
        "hessian_eV_per_Ang2": rows.reshape(n, len(s), 3).tolist(),
    }
    (place / "modes.json").write_text(json.dumps(sealed(table), indent=1))
    return [place]


def _read_modes(folder: Path) -> Structure:
    recipe = validated(Modes, RECIPE)
    harmonic = taken_harmonic(_molecule(), recipe, folder)
    return thermal(harmonic, recipe, 0)


def _judge_modes(s: Structure, original: Path) -> None:
    known = _read_modes(original)
    require(s.numbers.tolist() == known.numbers.tolist() and torch.equal(s.cell, known.cell), "atoms or cell")
    worst = float((s.positions - known.positions).abs().max())
    require(worst < 2.0, f"an atom displaced by {worst:.1e} Bohr from where it belongs")


# --- a result


def _results(folder: Path) -> list[Path]:
    shutil.copytree(STORED / "calculation", folder / "old")
    shutil.copytree(STORED / "calculation", folder / "new")
    written = Result.read(folder / "old").to_json()
    (folder / "new" / "result.json").write_text(json.dumps(written, default=str))
    return [folder / "old", folder / "new"]


def _alter_result(folder: Path, random: Any) -> None:
    for name in ("overlap.h5", "hamiltonian.h5", "density_matrix.h5", "POSCAR", "info.json"):
        (folder / name).unlink()
    altered(folder, random)


def _read_result(folder: Path) -> Any:
    result = Result.read(folder)
    return result, repr(result), result.to_json()


def _judge_result(read: Any, original: Path) -> None:
    table = json.loads(json.dumps(read[2], default=str))
    energies = table["energy_eV"]
    require(isinstance(energies, dict), "energies")
    for name, value in energies.items():
        require(isinstance(value, int | float) and abs(value) < 1e9, f"{name} of {value}")


# --- a run that was cut off


@dataclass(frozen=True)
class _Run:
    """What `Unfinished` asks of a functional."""

    layout: Any


def _unfinished(folder: Path) -> list[Path]:
    place = folder / "run"
    place.mkdir()
    kept = _kept(place)
    values = registry.read(STORED / "calculation").require_hamiltonian().values.numpy()
    with open(kept.path, "wb") as file:
        np.savez(file, digest=np.array(kept.digest), values=values, iterations=3)
    return [place]


def _kept(folder: Path) -> Any:
    from nearsight.dft.unfinished import Unfinished

    return Unfinished(folder / "out", _molecule(), _scf())


def _read_unfinished(folder: Path) -> Any:
    kept = _kept(folder)
    layout = registry.read(STORED / "calculation").require_hamiltonian().layout
    return kept.start(_Run(layout)), kept.iterations


def _judge_unfinished(read: Any, original: Path) -> None:
    start, iterations = read
    require(isinstance(iterations, int) and 0 <= iterations < 10**6, f"{iterations} iterations")
    if start is not None:
        require(bool(torch.isfinite(start.values).all()) and float(start.values.abs().max()) < 1e4, "elements")


READERS = {
    "ledger": Fuzzed(_ledgers, altered, _read_ledger, _judge_ledger),
    "modes": Fuzzed(_modes, altered, _read_modes, _judge_modes),
    "result": Fuzzed(_results, _alter_result, _read_result, _judge_result),
    "unfinished": Fuzzed(_unfinished, altered, _read_unfinished, _judge_unfinished),
}

"""Data sets: one DFT ground state for each of many structures, resumable at any point."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from nearsight.atoms.ion_xml import write_ion_xml
from nearsight.core.errors import NearsightError
from nearsight.core.species import Species
from nearsight.core.structure import SYMBOLS, Structure, supercell
from nearsight.core.units import BOHR_ANG
from nearsight.dft.run import load_species, run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.io.atomic import flush, read_json, whole_file
from nearsight.io.configuration import override, read_table, validated
from nearsight.io.structures import check_structure, read_structure
from nearsight.workflows.ledger import Job, Ledger, Outcome, locked, run_jobs

Report = Callable[[Outcome, int, int], None]


class Distort(BaseModel):
    """Random copies of a structure: every atom is displaced along x, y and z by Gaussian steps, clipped.

    count: how many.  sigma_ang, clip_ang: width and largest step [angstrom].  seed: copy n depends on (seed, n) alone.
    supercell: repeats first.  rotate: turn the atoms about their centre by a random rotation (a molecule in its box).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    count: int = Field(gt=0)
    sigma_ang: float = Field(ge=0)
    clip_ang: float = Field(gt=0)
    seed: int = 0
    supercell: tuple[int, int, int] = (1, 1, 1)
    rotate: bool = False


class SetSettings(BaseModel):
    """What `dataset build` is told: `set.yaml`.

    structure: a file, or a list of files.  distort: copies to make of each.  scf: the settings of every ground state.
    vacuum_ang: box around molecules without a cell.  workers: processes; `auto` takes one for each core.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    structure: str | list[str]
    distort: Distort | None = None
    scf: ScfSettings = Field(default_factory=ScfSettings)
    vacuum_ang: float | None = None
    workers: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class BuildReport:
    """jobs: how many the set has.  worked: outcomes of this run.  failed: (name, error) of jobs without a result."""

    folder: Path
    jobs: int
    worked: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]


def distorted(structure: Structure, recipe: Distort, index: int) -> Structure:
    """Copy `index` of the recipe: supercell, rotation, displacements, in this order."""
    random = np.random.default_rng([recipe.seed, index])
    s = supercell(structure, recipe.supercell)
    positions = s.positions
    if recipe.rotate:
        q, r = np.linalg.qr(random.normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        q[:, 0] *= np.sign(np.linalg.det(q))
        centre = positions.mean(0)
        positions = centre + (positions - centre) @ torch.from_numpy(q).T
    steps = np.clip(random.normal(0, recipe.sigma_ang, (len(s), 3)), -recipe.clip_ang, recipe.clip_ang)
    return Structure(s.cell, positions + torch.from_numpy(steps / BOHR_ANG), s.numbers)


def read_settings(path: Path | str, words: tuple[str, ...] = ()) -> SetSettings:
    """`set.yaml`, with `key=value` words put in; paths in it count from its folder.

    Raises NearsightError with the near miss of an unknown key.
    """
    path = Path(path)
    table = override(read_table(path), words)
    if isinstance(table.get("scf"), Mapping) and isinstance(table["scf"].get("species"), str):
        table["scf"] = {**table["scf"], "species": str(path.parent / table["scf"]["species"])}
    settings = validated(SetSettings, table)
    files = [settings.structure] if isinstance(settings.structure, str) else settings.structure
    return settings.model_copy(update={"structure": [str(path.parent / f) for f in files]})


def structures_of(settings: SetSettings) -> list[Structure]:
    """All structures of a set, in order: for each file its copies.

    Raises NearsightError for one that cannot be computed.
    """
    files = [settings.structure] if isinstance(settings.structure, str) else settings.structure
    if not files:
        raise NearsightError("the list of structures is empty")
    made = []
    for n, file in enumerate(files):
        structure = read_structure(file, settings.vacuum_ang)
        if settings.distort is None:
            made.append(structure)
            continue
        for index in range(settings.distort.count):
            copy = distorted(structure, settings.distort, n * settings.distort.count + index)
            made.append(check_structure(copy, f"distorted copy {index} of {file}"))
    return made


def build(settings: SetSettings, out: Path | str, report: Report = lambda outcome, done, total: None) -> BuildReport:
    """Compute every structure of a set into `out/0000`, `out/0001`, ...; what is done already is not done again.

    report: called after each job with its outcome, the number of jobs that are done and the number of all.
    A job that fails is told in the report, in `out/ledger.sqlite` and in `out/failures.json`, and is tried again by the
    next build.  Raises NearsightError for bad settings, or a folder that another build is using or used otherwise.
    """
    out = Path(out)
    structures = structures_of(settings)
    scf = settings.scf.model_dump(mode="json", exclude_defaults=True)  # so that a new setting leaves old sets valid
    width = max(4, len(str(len(structures) - 1)))
    jobs = [
        Job(f"{n:0{width}d}", _digest(s, scf), (str(out), f"{n:0{width}d}", s, settings.scf))
        for n, s in enumerate(structures)
    ]
    workers = (os.cpu_count() or 1) if settings.workers == "auto" else settings.workers
    if workers < 1:
        raise NearsightError(f"workers: {workers} can do nothing: give 1 or more, or auto")
    with locked(out):
        ledger = Ledger(out / "ledger.sqlite")
        try:
            todo = ledger.plan(jobs, lambda name: (out / name / "result.json").exists())
            with whole_file(out / "config.yaml") as part:
                part.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
            _write_species(out / "species", structures, settings.scf)
            done = len(jobs) - len(todo)

            def told(outcome: Outcome) -> None:
                nonlocal done
                done += outcome.state == "done"
                report(outcome, done, len(jobs))

            worked = run_jobs(todo, compute, ledger, workers, told)
            names = {j.name for j in jobs}
            failed = [(o.name, o.error or "?") for o in ledger.outcomes() if o.state == "failed" and o.name in names]
        finally:
            ledger.close()
        with whole_file(out / "failures.json") as part:
            part.write_text(json.dumps(dict(failed), indent=1) + "\n")
    return BuildReport(out, len(jobs), tuple(worked), tuple(failed))


def compute(work: tuple[str, str, Structure, ScfSettings]) -> str:
    """One job: the ground state, first under a hidden name, then, if it converged, in its place.

    Returns the sha256 of hamiltonian.h5.  A state that did not converge stays under `.work/` for the next try.
    """
    root, name, structure, settings = work
    place, hidden = Path(root) / name, Path(root) / ".work" / name
    if not (place / "result.json").exists():
        if (hidden / "hamiltonian.h5").exists():
            settings = settings.model_copy(update={"start": hidden})
        run_scf(structure, settings, out=hidden, species=_species(frozenset(structure.numbers.tolist()), settings))
        result = read_json(hidden / "result.json")
        if not result.get("converged", False):
            raise NearsightError(f"not converged in {result.get('iterations')} steps; the last state is in {hidden}")
        hidden.rename(place)
        flush(place.parent)
    return hashlib.sha256((place / "hamiltonian.h5").read_bytes()).hexdigest()


@cache
def _species(numbers: frozenset[int], settings: ScfSettings) -> dict[int, Species]:
    """Made once in each worker."""
    return load_species(sorted(numbers), settings)


def _write_species(folder: Path, structures: list[Structure], settings: ScfSettings) -> None:
    """The orbitals and potentials of the set, for whoever computes overlaps or H0 later: `species/<Symbol>.ion.xml`."""
    numbers = {z for s in structures for z in s.numbers.tolist()}
    missing = [z for z in numbers if not (folder / f"{SYMBOLS[z]}.ion.xml").exists()]
    if missing:
        folder.mkdir(exist_ok=True)
        for species in load_species(missing, settings).values():
            write_ion_xml(species, folder / f"{species.symbol}.ion.xml")


def _digest(structure: Structure, scf: Mapping[str, Any]) -> str:
    """Of everything that a job's result depends on; coordinates to 1e-9 Bohr."""
    numbers = [np.round(x.double().numpy(), 9).tolist() for x in (structure.cell, structure.positions)]
    physics = {k: v for k, v in scf.items() if k not in ("device", "start")}
    text = json.dumps([numbers, structure.numbers.tolist(), physics], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()

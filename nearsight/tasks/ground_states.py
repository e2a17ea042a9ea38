"""The ground states of a list of structures, one calculation folder each, resumable at any point; or the structures alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from nearsight.core.configuration import read_table
from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.species import Species
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings
from nearsight.dft.setup import load_species
from nearsight.formats.files import flush, locked, read_json, replace_folder, whole_file, write_json
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.formats.poscar import write_poscar
from nearsight.formats.structures import PROVENANCE_FILE
from nearsight.tasks.digest import Origin, former_digest
from nearsight.tasks.ledger import Job, Ledger, Outcome, run_jobs

Report = Callable[[Outcome, int, int], None]
Workers = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]


@dataclass(frozen=True)
class BuildReport:
    """jobs: how many the set has.  worked: outcomes of this run.  failed: (name, error) of jobs without a result."""

    folder: Path
    jobs: int
    worked: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]


def ground_states(
    structures: Sequence[Structure],
    scf: Settings,
    out: Path,
    workers: Workers,
    config: Mapping[str, Any],
    report: Report = lambda outcome, done, total: None,
    labels: bool = True,
) -> BuildReport:
    """Compute every structure into `out/0000`, `out/0001`, ...; what is done already is not done again.

    labels: false computes nothing: POSCAR and the settings of its functional (settings.json) of each structure.
    config: written to `out/config.yaml`.  report: called after each job with its outcome, the number of jobs that are
    done and the number of all.  A job that fails is told in the report, in `out/ledger.sqlite` and in
    `out/failures.json`, and is tried again by the next call.
    Raises NearsightError for a folder that another process is using or that was used otherwise.
    """
    width, origin, before = max(4, len(str(len(structures) - 1))), Origin(scf), origin_before(out)
    jobs = []
    for n, s in enumerate(structures):
        name = f"{n:0{width}d}"
        job = Job(name, origin.digest(s), (str(out), name, s, scf), former_digest(s, origin, before))
        jobs.append(job)
    worker, whole = (compute, "result.json") if labels else (write_bare, "POSCAR")
    crew = (os.cpu_count() or 1) if workers == "auto" else workers
    if crew < 1:
        raise BadInput(f"workers: {workers} can do nothing: give 1 or more, or auto")
    with locked(out):
        ledger = Ledger(out / "ledger.sqlite")
        try:
            wanted = _wanted(scf) if labels else ()
            there, finished = _exists(out, whole), _has(out, wanted)
            todo = ledger.plan(jobs, there, finished)
            with whole_file(out / "config.yaml") as part:
                part.write_text(yaml.safe_dump(dict(config), sort_keys=False))
            _write_species(out / "species", structures, scf)
            done = len(jobs) - len(todo)

            def told(outcome: Outcome) -> None:
                nonlocal done
                done += outcome.state == "done"
                report(outcome, done, len(jobs))

            worked = run_jobs(todo, worker, ledger, crew, told)
            names = {j.name for j in jobs}
            failed = [(o.name, o.error or "?") for o in ledger.outcomes() if o.state == "failed" and o.name in names]
        finally:
            ledger.close()
        with whole_file(out / "failures.json") as part:
            part.write_text(json.dumps(dict(failed), indent=1) + "\n")
    return BuildReport(out, len(jobs), tuple(worked), tuple(failed))


def _wanted(scf: Settings) -> tuple[str, ...]:
    """The entries of result.json that are there only where they are asked for."""
    asked = (("forces_eV_per_Ang", scf.outputs.forces), ("stress_eV_per_Ang3", scf.outputs.stress))
    return tuple(key for key, wanted in asked if wanted)


def _exists(out: Path, whole: str) -> Callable[[str], bool]:
    return lambda name: (out / name / whole).exists()


def _has(out: Path, wanted: Sequence[str]) -> Callable[[str], bool]:
    """Whether the result of a name has all entries that are wanted."""
    return lambda name: not wanted or set(wanted) <= set(read_json(out / name / "result.json"))


def compute(work: tuple[str, str, Structure, Settings]) -> str:
    """One job: the ground state, first under a hidden name, then, if it converged, in its place.

    Returns the sha256 of hamiltonian.h5.  A state that did not converge stays under `.work/` for the next try. One that is
    there without the forces or the stress that are asked for now begins the run that computes them.
    """
    root, name, structure, settings = work
    place, hidden = Path(root) / name, Path(root) / ".work" / name
    done = (place / "result.json").exists()
    if not done or not _has(Path(root), _wanted(settings))(name):
        begin = next((p for p in (hidden, place) if (p / "hamiltonian.h5").exists()), None)
        if begin is not None:
            settings = settings.model_copy(update={"solver": {"start": begin}})
        run_scf(structure, settings, out=hidden, species=_species(frozenset(structure.numbers.tolist()), settings))
        result = read_json(hidden / "result.json")
        if not result.get("converged", False):
            raise NotConverged(f"not converged in {result.get('iterations')} steps; the last state is in {hidden}")
        replace_folder(hidden, place)
    return hashlib.sha256((place / "hamiltonian.h5").read_bytes()).hexdigest()


def write_bare(work: tuple[str, str, Structure, Settings]) -> str:
    """One job without labels: the structure and its settings, first under a hidden name. Returns the sha256 of POSCAR."""
    root, name, structure, settings = work
    place, hidden = Path(root) / name, Path(root) / ".work" / name
    if not (place / "POSCAR").exists():
        hidden.mkdir(parents=True, exist_ok=True)
        write_json(hidden / "settings.json", settings.model_dump(mode="json"))
        write_poscar(hidden / "POSCAR", structure)
        if structure.provenance:
            write_json(hidden / PROVENANCE_FILE, structure.provenance)
        hidden.rename(place)
        flush(place.parent)
    return hashlib.sha256((place / "POSCAR").read_bytes()).hexdigest()


def origin_before(out: Path) -> Origin | None:
    """Of the settings that a set in this folder was last built with; None for a new one.

    Raises BadInput for a set of a later schema.
    """
    if not (out / "config.yaml").exists():
        return None
    scf = read_table(out / "config.yaml").get("scf")
    return Origin(Settings.stored(scf, out / "config.yaml")) if isinstance(scf, Mapping) else None


@cache
def _species(numbers: frozenset[int], settings: Settings) -> dict[int, Species]:
    """Made once in each worker."""
    return load_species(sorted(numbers), settings)


def _write_species(folder: Path, structures: Sequence[Structure], settings: Settings) -> None:
    """The orbitals and potentials of the set, for whoever computes overlaps or H0 later: `species/<Symbol>.ion.xml`."""
    numbers = {z for s in structures for z in s.numbers.tolist()}
    missing = [z for z in numbers if not (folder / f"{SYMBOLS[z]}.ion.xml").exists()]
    if missing:
        folder.mkdir(exist_ok=True)
        for species in load_species(missing, settings).values():
            write_ion_xml(species, folder / f"{species.symbol}.ion.xml")

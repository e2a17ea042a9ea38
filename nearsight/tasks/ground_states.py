"""The ground states of a list of structures, one calculation folder each, resumable at any point; or the structures alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nearsight.core.configuration import read_table
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.settings import Settings
from nearsight.dft.setup import load_species
from nearsight.formats.files import flush, write_json
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.formats.poscar import write_poscar
from nearsight.formats.structures import PROVENANCE_FILE
from nearsight.tasks.batch import Report, run_batch
from nearsight.tasks.digest import Origin, former_digest
from nearsight.tasks.engines.contract import EngineTable, engine_of
from nearsight.tasks.engines.own import Own
from nearsight.tasks.engines.task import Rung, Task, compute
from nearsight.tasks.executors.contract import ExecutorTable, Limits
from nearsight.tasks.ledger import Job, Outcome

Workers = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]


@dataclass(frozen=True)
class BuildReport:
    """jobs: how many the set has.  worked: outcomes of this run.  failed: (name, error) of jobs without a result.

    left: what the user is to do next, where the executor says so.
    """

    folder: Path
    jobs: int
    worked: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]
    left: str | None = None


@dataclass(frozen=True)
class Plan:
    """engine, executor, limits: tables.  retry: rungs after a first try that did not converge; None takes the engine's own.

    command, sources (by number of the structure): for the provenance.
    """

    engine: EngineTable = EngineTable()
    executor: ExecutorTable = ExecutorTable()
    limits: Limits = Limits()
    retry: Sequence[Rung] | None = None
    command: str | None = None
    sources: Mapping[int, str] = field(default_factory=dict)


def ground_states(
    structures: Sequence[Structure],
    scf: Settings,
    out: Path,
    workers: Workers,
    config: Mapping[str, Any],
    report: Report = lambda outcome, done, total: None,
    labels: bool = True,
    plan: Plan | None = None,
) -> BuildReport:
    """Compute every structure into `out/0000`, `out/0001`, ...; what is done already is not done again.

    labels: false computes nothing: POSCAR and the settings of its functional (settings.json) of each structure.
    config: written to `out/config.yaml`.  report: called after each job with its outcome, the number of jobs that are
    done and the number of all.  plan: by which engine, where, how often and how long; by this program's own, here, once, if
    not told.  A job that fails is told in the report, in `out/ledger.sqlite` and in `out/failures.json`, and is tried again by
    the next call.
    Raises NearsightError for a folder that another process is using or that was used otherwise, an engine or executor that is
    not there.
    """
    width, before = max(4, len(str(len(structures) - 1))), origin_before(out)
    plan = plan or Plan(retry=())
    engine = engine_of(plan.engine, scf)
    own = isinstance(engine, Own)
    retry = list(engine.ladder if plan.retry is None else plan.retry)
    if labels:
        engine.check(structures)
        for word in retry:  # before the work: each of them is understood
            engine.changed(engine.rung(word) if isinstance(word, str) else word)
    tables = plan.engine.model_dump(mode="json"), scf.model_dump(mode="json")
    jobs = []
    for n, s in enumerate(structures):
        name = f"{n:0{width}d}"
        former = former_digest(s, engine.origin, before) if isinstance(engine, Own) else None
        task = Task(str(out), name, s, *tables, retry, {"command": plan.command, "source": plan.sources.get(n)})
        jobs.append(Job(name, engine.digest(s), task if labels else (str(out), name, s, scf), former))
    function, whole = (compute, "result.json" if own else "info.json") if labels else (write_bare, "POSCAR")
    made = run_batch(
        out,
        jobs,
        function,
        lambda name: (out / name / whole).exists(),
        config,
        None if workers == "auto" else workers,
        report,
        plan.executor,
        plan.limits,
        (lambda: _write_species(out / "species", structures, scf)) if own else (lambda: None),
        lambda name: not labels or engine.is_complete(out / name),
    )
    return BuildReport(out, len(jobs), made.worked, made.failed, made.left)


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


def _write_species(folder: Path, structures: Sequence[Structure], settings: Settings) -> None:
    """The orbitals and potentials of the set, for whoever computes overlaps or H0 later: `species/<Symbol>.ion.xml`."""
    numbers = {z for s in structures for z in s.numbers.tolist()}
    missing = [z for z in numbers if not (folder / f"{SYMBOLS[z]}.ion.xml").exists()]
    if missing:
        folder.mkdir(exist_ok=True)
        for species in load_species(missing, settings).values():
            write_ion_xml(species, folder / f"{species.symbol}.ion.xml")

"""The ground states of a list of structures, one calculation folder each, resumable at any point; or the structures alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nearsight.core.configuration import read_table
from nearsight.core.structure import Structure
from nearsight.dft.settings import Settings
from nearsight.formats.files import flush, write_json
from nearsight.formats.poscar import write_poscar
from nearsight.formats.sets.entry import read_provenance, write_provenance
from nearsight.tasks.batch import Report, run_batch
from nearsight.tasks.digest import Origin
from nearsight.tasks.engines.contract import EngineTable, engine_of
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

    command: for the provenance.
    """

    engine: EngineTable = EngineTable()
    executor: ExecutorTable = ExecutorTable()
    limits: Limits = Limits()
    retry: Sequence[Rung] | None = None
    command: str | None = None


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
    retry = list(engine.ladder if plan.retry is None else plan.retry)
    if labels:
        engine.check(structures)
        for word in retry:  # before the work: each of them is understood
            engine.changed(engine.rung(word) if isinstance(word, str) else word)
    tables = plan.engine.model_dump(mode="json"), scf.model_dump(mode="json")
    jobs = []
    for n, s in enumerate(structures):
        name = f"{n:0{width}d}"
        digest = engine.digest(s)
        task = Task(str(out), name, s, *tables, retry, {"command": plan.command, "digest": digest})
        work = task if labels else (str(out), name, s, scf, digest)
        jobs.append(Job(name, digest, work, engine.former_digest(s, before)))
    function, whole = (compute, "info.json") if labels else (write_bare, "POSCAR")
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
        lambda: engine.prepare(structures, out),
        lambda name: not labels or engine.is_complete(out / name),
        lambda name: read_provenance(out / name).get("digest"),
    )
    return BuildReport(out, len(jobs), made.worked, made.failed, made.left)


def write_bare(work: tuple[str, str, Structure, Settings, str]) -> str:
    """One job without labels: the structure and its settings, first under a hidden name. Returns the sha256 of POSCAR."""
    root, name, structure, settings, digest = work
    place, hidden = Path(root) / name, Path(root) / ".work" / name
    if not (place / "POSCAR").exists():
        hidden.mkdir(parents=True, exist_ok=True)
        write_json(hidden / "settings.json", settings.model_dump(mode="json"))
        write_poscar(hidden / "POSCAR", structure)
        write_provenance(hidden, {**structure.provenance, "digest": digest})
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

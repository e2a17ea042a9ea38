"""Many jobs into one folder, in parallel and resumable, with a ledger and a table of what failed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nearsight.core.errors import DISK_FULL, BadInput, Unavailable
from nearsight.formats.files import locked, whole_file
from nearsight.tasks.executors.contract import ExecutorTable, Limits, Work, executor_of
from nearsight.tasks.executors.submission import collect, waiting
from nearsight.tasks.ledger import Job, Ledger, Outcome

Report = Callable[[Outcome, int, int], None]


@dataclass(frozen=True)
class Batch:
    """worked: outcomes of this call.  failed: (name, error) of those without a result.  left: what the user is to do next."""

    worked: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]
    left: str | None = None


_FULL = os.strerror(errno.ENOSPC)  # in the words of an engine's own program too


def run_batch(
    target: Path,
    jobs: Sequence[Job],
    function: Callable[[Any], str | None],
    is_there: Callable[[str], bool],
    config: Mapping[str, Any],
    workers: int | None = None,
    report: Report = lambda outcome, done, total: None,
    executor: ExecutorTable | None = None,
    limits: Limits | None = None,
    prepare: Callable[[], None] = lambda: None,
    is_complete: Callable[[str], bool] = lambda name: True,
    stated: Callable[[str], str | None] = lambda name: None,
) -> Batch:
    """Work off the jobs that are not done: of the same digest in the ledger, and with their result in place.

    function: picklable, of a job's work.  is_there: whether the result of a name stands in the folder.  config: written to
    config.yaml.  workers: processes, one for each core.  report: called after each job with its outcome, how many are done and
    how many there are.  executor: where they are worked off, by processes of this machine if not told.  limits: of each job.
    prepare: what is to be done in the folder before the first job.  is_complete: whether a result that is there has all that is
    asked for now.  stated: the digest that a result tells itself, for a ledger that was lost.
    Failures are told in the report and in `failures.json`, and tried again by the next call.
    Raises BadInput for a folder that another process uses; Unavailable for a full disk, or an executor that is not there.
    """
    crew = workers or os.cpu_count() or 1
    if crew < 1:
        raise BadInput(f"workers: {workers} can do nothing: give 1 or more, or auto")
    there = executor_of(executor or ExecutorTable())
    there.check()
    with locked(target):
        ledger = Ledger(target / "ledger.sqlite")
        try:
            worked: list[Outcome] = []
            ledger.plan(jobs, is_there, is_complete, stated)
            with whole_file(target / "config.yaml") as part:
                part.write_text(yaml.safe_dump(dict(config), sort_keys=False))
            names = {j.name for j in jobs}
            for outcome in collect(target, names):
                ledger.finish(outcome)
                worked.append(outcome)
            todo = ledger.plan(jobs, is_there, is_complete, stated)
            if (away := waiting(target)) and there.name != "slurm-array":
                raise BadInput(
                    f"{len(away)} jobs of this set wait in {target / 'submitted'} for Slurm: --executor slurm-array collects "
                    "what is done; remove that folder to work them off here"
                )
            prepare()
            done = len(jobs) - len(todo)

            def ended(outcome: Outcome) -> None:
                nonlocal done
                if outcome.state == "done" and not is_there(outcome.name):
                    unseen = f"its result is not in {target}: workers must write to the same file system"
                    outcome = Outcome(outcome.name, "failed", outcome.seconds, unseen)
                ledger.finish(outcome)
                worked.append(outcome)
                done += outcome.state == "done"
                if outcome.error is not None and _FULL in outcome.error:
                    raise Unavailable(outcome.error.replace(DISK_FULL, _FULL).replace(_FULL, DISK_FULL))
                report(outcome, done, len(jobs))

            for outcome in worked:
                report(outcome, done, len(jobs))
            left = there.run(Work(todo, function, target, crew, limits or Limits(), ledger.begin, ended))
            failed = [(o.name, o.error or "?") for o in ledger.outcomes() if o.state == "failed" and o.name in names]
        finally:
            ledger.close()
        with whole_file(target / "failures.json") as part:
            part.write_text(json.dumps(dict(failed), indent=1) + "\n")
    return Batch(tuple(worked), tuple(failed), left)

"""Many jobs into one folder, in parallel and resumable, with a ledger and a table of what failed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nearsight.formats.files import locked, whole_file
from nearsight.tasks.ledger import Job, Ledger, Outcome, run_jobs

Report = Callable[[Outcome, int, int], None]


@dataclass(frozen=True)
class Batch:
    """worked: outcomes of this call.  failed: (name, error) of those without a result."""

    worked: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]


def run_batch(
    target: Path,
    jobs: Sequence[Job],
    function: Callable[[Any], str | None],
    is_there: Callable[[str], bool],
    config: Mapping[str, Any],
    workers: int | None = None,
    report: Report = lambda outcome, done, total: None,
) -> Batch:
    """Work off the jobs that are not done: of the same digest in the ledger, and with their result in place.

    function: picklable, of a job's work.  is_there: whether the result of a name stands in the folder.  config: written to
    config.yaml.  workers: processes, one for each core.  report: called after each job with its outcome, how many are done and
    how many there are.  Failures are told in the report and in `failures.json`, and tried again by the next call.
    Raises BadInput for a folder that another process uses.
    """
    with locked(target):
        ledger = Ledger(target / "ledger.sqlite")
        try:
            todo = ledger.plan(jobs, is_there)
            with whole_file(target / "config.yaml") as part:
                part.write_text(yaml.safe_dump(dict(config), sort_keys=False))
            done = len(jobs) - len(todo)

            def tell(outcome: Outcome) -> None:
                nonlocal done
                done += outcome.state == "done"
                report(outcome, done, len(jobs))

            worked = run_jobs(todo, function, ledger, max(1, workers or os.cpu_count() or 1), tell)
            names = {j.name for j in jobs}
            failed = [(o.name, o.error or "?") for o in ledger.outcomes() if o.state == "failed" and o.name in names]
        finally:
            ledger.close()
        with whole_file(target / "failures.json") as part:
            part.write_text(json.dumps(dict(failed), indent=1) + "\n")
    return Batch(tuple(worked), tuple(failed))

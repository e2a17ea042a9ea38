"""Jobs that wait for a queueing system: `SET/submitted/NNN/` with their list, and an outbox for what comes of each share.

A share writes into its own outbox alone: folders of results, and a line for each outcome. The process that holds the set's
ledger collects them: no database is opened on a shared file system.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nearsight.core.errors import BadInput
from nearsight.formats.files import flush, locked, read_json, whole_folder, write_json
from nearsight.tasks.executors.contract import Limits, Work
from nearsight.tasks.executors.local import Local
from nearsight.tasks.ledger import Job, Outcome

FOLDER, LIST, OUTCOMES, SEEN = "submitted", "tasks.json", "outcomes.jsonl", "collected.json"
VERSION = 1


@dataclass(frozen=True)
class Kind:
    """Of work that can be sent away as text. function: that does it.  told, read: its work as JSON and back, the result of
    which goes into the folder that `read` is given."""

    function: Callable[[Any], str | None]
    told: Callable[[Any], Any]
    read: Callable[[Any, Path], Any]


def kinds() -> Mapping[str, Kind]:
    """Of all work that can be sent away."""
    from nearsight.tasks.convert import convert_one
    from nearsight.tasks.engines.task import Task, compute

    return {
        "convert": Kind(convert_one, list, lambda told, out: (*told[:2], str(out), *told[3:])),
        "compute": Kind(compute, Task.to_json, lambda told, out: replace(Task.of_json(told), root=str(out))),
    }


def submit(
    folder: Path, jobs: Sequence[Job], function: Callable[[Any], str | None], shares: int, script: str, limits: Limits
) -> Path:
    """Write a list of jobs and the script that works off its shares. Returns the script's path.

    limits: of each job.  script: with {folder} where the submission is meant.
    Raises BadInput for work that cannot be sent away.
    """
    name = next((n for n, kind in kinds().items() if kind.function is function), None)
    if name is None:
        raise BadInput("this command has no work for a Slurm array: take --executor local or dask")
    told = kinds()[name].told
    numbers = (
        [int(p.name) for p in (folder / FOLDER).iterdir() if p.name.isdigit()] if (folder / FOLDER).is_dir() else []
    )
    place = (folder / FOLDER / f"{max(numbers, default=0) + 1:03d}").absolute()
    rows = [{"name": j.name, "digest": j.digest, "work": told(j.work)} for j in jobs]
    with whole_folder(place) as part:
        (part / "submit.sh").write_text(script.replace("{folder}", str(place)))
        table = {"schema": VERSION, "kind": name, "shares": shares, "limits": limits.model_dump(), "tasks": rows}
        (part / LIST).write_text(json.dumps(table))
    return place / "submit.sh"


def work_share(place: Path, share: int, workers: int = 1) -> list[Outcome]:
    """Work off one share of a submission into its outbox; what is done there already stays. Returns this call's outcomes.

    Raises BadInput for what is no submission, or a share that it does not have or that another process works on.
    """
    table = _list(place)
    if not 0 <= share < table["shares"]:
        raise BadInput(f"{place} has shares 0 to {table['shares'] - 1}, not {share}")
    kind = kinds()[table["kind"]]
    outbox = place / "outbox" / str(share)
    done, outcomes = set[str](), list[Outcome]()
    with locked(outbox):
        done = {o.name for o, _ in _lines(outbox / OUTCOMES, 0) if o.state == "done"}
        mine = [row for row in table["tasks"][share :: table["shares"]] if row["name"] not in done]
        jobs = [Job(row["name"], row["digest"], kind.read(row["work"], outbox)) for row in mine]
        with (outbox / OUTCOMES).open("a") as file:

            def ended(outcome: Outcome) -> None:
                file.write(json.dumps(asdict(outcome)) + "\n")
                file.flush()
                os.fsync(file.fileno())
                outcomes.append(outcome)

            if jobs:
                limits = Limits(**table.get("limits", {}))
                Local(Local.Table()).run(Work(jobs, kind.function, outbox, workers, limits, lambda name: None, ended))
    return outcomes


def collect(folder: Path, wanted: set[str]) -> list[Outcome]:
    """Put what shares have finished in its place. Returns their outcomes; a submission of which all is collected is removed.

    wanted: names of the set's jobs; others are left where they are.
    """
    from nearsight.tasks.convert import ENDINGS
    from nearsight.tasks.engines.task import tries_of

    found: list[Outcome] = []
    for place in _places(folder):
        for outbox in sorted((place / "outbox").iterdir()) if (place / "outbox").is_dir() else ():
            seen = _seen(outbox)
            for outcome, end in _lines(outbox / OUTCOMES, seen):
                seen = end
                if outcome.name not in wanted:
                    continue
                made = [outbox / (outcome.name + ending) for ending in ("", *ENDINGS.values())]
                if outcome.state == "failed":
                    made = [tries_of(outbox, outcome.name)]
                for path in (p for p in made if p.exists()):
                    target = folder / path.relative_to(outbox)
                    if outcome.state == "failed" or not target.exists():
                        target.parent.mkdir(exist_ok=True)
                        path.rename(target)
                        flush(target.parent)
                found.append(outcome)
            if seen != _seen(outbox):
                write_json(outbox / SEEN, {"seen": seen})
        if not _rest(place):
            shutil.rmtree(place, ignore_errors=True)
    if (folder / FOLDER).is_dir() and not any((folder / FOLDER).iterdir()):
        (folder / FOLDER).rmdir()
    return found


def waiting(folder: Path) -> set[str]:
    """Names of jobs that were sent away, and of which nothing has come back."""
    return {name for place in _places(folder) for name in _rest(place)}


def _places(folder: Path) -> list[Path]:
    inside = (folder / FOLDER).iterdir() if (folder / FOLDER).is_dir() else ()
    return sorted(p for p in inside if p.name.isdigit() and (p / LIST).is_file())


def _list(place: Path) -> dict[str, Any]:
    table = read_json(place / LIST)
    sound = isinstance(table, dict) and table.get("schema") == VERSION and isinstance(table.get("tasks"), list)
    if not sound or table.get("kind") not in kinds() or not isinstance(table.get("shares"), int):
        raise BadInput(f"{place / LIST} is no list of jobs of this Nearsight: submit them again")
    return dict(table)


def _rest(place: Path) -> set[str]:
    """Names without an outcome that was collected."""
    names = {row["name"] for row in _list(place)["tasks"]}
    for outbox in (place / "outbox").iterdir() if (place / "outbox").is_dir() else ():
        names -= {o.name for o, end in _lines(outbox / OUTCOMES, 0) if end <= _seen(outbox)}
    return names


def _seen(outbox: Path) -> int:
    if not (outbox / SEEN).is_file():
        return 0
    found = read_json(outbox / SEEN)
    return int(found.get("seen", 0)) if isinstance(found, dict) else 0


def _lines(path: Path, start: int) -> Iterator[tuple[Outcome, int]]:
    """Outcomes from a byte on, each with where its line ends; a line that is not whole yet is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    at = start
    for line in data[start:].splitlines(keepends=True):
        at += len(line)
        if not line.endswith(b"\n"):
            return
        try:
            yield Outcome(**json.loads(line)), at
        except (ValueError, TypeError):
            continue

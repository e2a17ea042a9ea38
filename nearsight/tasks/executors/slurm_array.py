"""The executor `slurm-array`: a script for sbatch and a list of jobs; the same command collects what came of them."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from nearsight.tasks.executors.contract import Executor, ExecutorTable, Work
from nearsight.tasks.executors.submission import submit, waiting


def _line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError("give one line of the script, without a line break")
    return text


def _directive(text: str) -> str:
    if not text.startswith("--"):
        raise ValueError("give options of sbatch, such as --time=12:00:00")
    return _line(text)


class SlurmTable(ExecutorTable):
    """shares: tasks of the array, among which the jobs are dealt.  directives: options of sbatch (`--time=12:00:00`).

    before: lines of the script before the work, such as `module load python`.
    """

    kind: Literal["slurm-array"] = "slurm-array"
    shares: int = Field(100, ge=1, le=100_000)
    directives: list[Annotated[str, AfterValidator(_directive)]] = Field([])
    before: list[Annotated[str, AfterValidator(_line)]] = Field([])


class SlurmArray(Executor):
    """Writes `SET/submitted/NNN/submit.sh`; what was sent away before and has not come back is not sent again."""

    name: ClassVar[str] = "slurm-array"
    Table: ClassVar[type[ExecutorTable]] = SlurmTable

    def run(self, work: Work) -> str | None:
        """See Executor."""
        away = waiting(work.folder)
        jobs = [j for j in work.jobs if j.name not in away]
        told = [f"{len(away)} jobs sent away before have not come back"] if away else []
        if jobs:
            shares = min(self.table.shares, len(jobs))
            script = submit(work.folder, jobs, work.function, shares, self._script(shares), work.limits)
            told.append(
                f"{len(jobs)} jobs in {shares} shares: sbatch {shlex.quote(str(script))}, then the same command collects"
            )
        return "; ".join(told) or None

    def _script(self, shares: int) -> str:
        python = f"{shlex.quote(sys.executable)} -m nearsight.cli dataset work"
        lines = [
            "#!/bin/bash",
            "#SBATCH --job-name=nearsight",
            f"#SBATCH --array=0-{shares - 1}",
            "#SBATCH --output={folder}/share-%a.log",
            *(f"#SBATCH {d}" for d in self.table.directives),
            *self.table.before,
            *([f"export PYTHONPATH={shlex.quote(p)}"] if (p := os.environ.get("PYTHONPATH")) else []),
            f'exec {python} {{folder}} "$SLURM_ARRAY_TASK_ID"',
        ]
        return "\n".join(lines) + "\n"

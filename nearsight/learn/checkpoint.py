"""What a training leaves in its folder to be gone on with: checkpoint.pt, and metrics.jsonl that goes with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from nearsight.core.errors import BadInput
from nearsight.core.versions import KEY, checked_version
from nearsight.formats.files import whole_file
from nearsight.learn.metrics import Metrics

VERSION = 2  # of what a checkpoint holds; 1 (none stated): the same, before there were versions


@dataclass(frozen=True)
class Checkpoint:
    """The files of a training in the model's folder."""

    folder: Path

    @property
    def path(self) -> Path:
        """Weights and all else that a training goes on from."""
        return self.folder / "checkpoint.pt"

    @property
    def metrics(self) -> Path:
        """A JSON object for each look at the training."""
        return self.folder / "metrics.jsonl"

    @property
    def exists(self) -> bool:
        """Whether there is a training to go on with."""
        return self.path.exists()

    def clear(self) -> None:
        """Forget an earlier training."""
        for old in (self.path, self.metrics, self.folder / "report.json"):
            old.unlink(missing_ok=True)

    def write(self, state: Mapping[str, Any], metrics: Metrics) -> None:
        """The state, then its line of metrics; a line without its state is dropped by `metrics_until`.

        Raises NearsightError where the disk is full or cannot be written to.
        """
        try:
            with whole_file(self.path) as part:
                torch.save({KEY: VERSION, **state}, part)
            with open(self.metrics, "a") as file:
                file.write(json.dumps(asdict(metrics)) + "\n")
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
            raise BadInput(f"cannot write to {self.folder}: {str(error).splitlines()[0]}") from error

    @contextmanager
    def loading(self, device: str) -> Iterator[dict[str, Any]]:
        """The state, to be put in its places within the context.

        Raises BadInput where it is broken, of a later version, or does not fit what it is put into.
        """
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
            checked_version(state.get(KEY), VERSION, self.path)
            yield state
        except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"{self.path} cannot be resumed ({reason}); --set trainer.resume=false begins again"
            ) from error

    def metrics_until(self, step: int, write: bool) -> Metrics | None:
        """The last line up to a step; later ones are dropped from the file if `write`."""
        if not self.metrics.exists():
            return None
        lines = [x for x in self.metrics.read_text().splitlines() if json.loads(x)["step"] <= step]
        if write:
            with whole_file(self.metrics) as part:
                part.write_text("".join(x + "\n" for x in lines))
        if not lines:
            return None
        known = {f.name for f in fields(Metrics)}
        return Metrics(**{k: x for k, x in json.loads(lines[-1]).items() if k in known})

"""What a training leaves in its folder to be gone on with: checkpoint.pt, and metrics.jsonl that goes with it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.reading import LARGEST, read_text, regular_file
from nearsight.core.versions import KEY, checked_version
from nearsight.formats.files import whole_file
from nearsight.learn.metrics import Metrics

VERSION = 3  # of what a checkpoint holds; 2: without what the loss and the loop remember; 1 (none stated): the same


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
        """The state, then its line of metrics; where one is cut off `metrics_until` makes the other fit.

        Raises NearsightError where the disk is full or cannot be written to.
        """
        try:
            with whole_file(self.path) as part:
                torch.save({KEY: VERSION, **state, "metrics": asdict(metrics)}, part)
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
            regular_file(self.path, LARGEST, "checkpoint")
            with zipfile.ZipFile(self.path) as parts:  # PyTorch writes their checksums and does not look at them
                if (altered := parts.testzip()) is not None:
                    raise ValueError(f"{altered} is not as it was written")
            state = torch.load(self.path, map_location=device, weights_only=True)
            checked_version(state.get(KEY), VERSION, self.path)
            yield state
        except (NearsightError, MemoryError):
            raise
        except Exception as error:  # whatever a damaged file, or another network's, may lead to
            raise BadInput(
                f"{self.path} is damaged, or of another training: it cannot be gone on with; "
                "copy it again, or begin again with --set trainer.resume=false"
            ) from error

    def metrics_until(self, step: int, last: Mapping[str, Any] | None, write: bool) -> Metrics | None:
        """The line of metrics that belongs to a checkpoint.

        last: as the checkpoint has it; None in one of an earlier version, whose last line up to `step` is taken.  Lines of
        later steps, and what is no line (half of one, cut off by a power failure), are dropped from the file if `write`.
        """
        found = (
            read_text(self.metrics, LARGEST, "file of metrics", lossy=True).splitlines()
            if self.metrics.exists()
            else []
        )
        lines = [x for x in map(_entries, found) if x is not None and x["step"] <= step]
        if last is not None and lines[-1:] != [last]:
            lines.append(dict(last))
        if write:
            with whole_file(self.metrics) as part:
                part.write_text("".join(json.dumps(x) + "\n" for x in lines))
        known = {f.name for f in fields(Metrics)}
        for entries in reversed(lines):
            try:
                return Metrics(**{k: x for k, x in entries.items() if k in known})
            except TypeError:
                continue  # a line that lacks something
        return None


def _entries(line: str) -> dict[str, Any] | None:
    """A line of metrics; None for what is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None

"""`train`: from a configuration to a trained model in its folder, begun or gone on with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from nearsight.core.configuration import layered, read_table, stored, validated
from nearsight.core.errors import BadInput, NearsightError
from nearsight.formats.files import locked, sweep, whole_file
from nearsight.formats.outputs import claim_folder
from nearsight.learn.assembly import assemble
from nearsight.learn.checkpoint import Checkpoint
from nearsight.learn.config import TrainingConfig
from nearsight.learn.metrics import Metrics
from nearsight.learn.model import find_device
from nearsight.learn.parallel import Ranks
from nearsight.learn.preparation import prepare, refuse_import
from nearsight.learn.progress import TrainingProgress
from nearsight.learn.trainer import Trainer


def train_from_config(
    config: Mapping[str, Any] | Path | str, out: Path | str, overrides: list[str] | None = None
) -> dict[str, Any]:
    """`train` of a YAML file (or its content) with key=value words put in; paths in a file count from its folder."""
    if isinstance(config, Mapping):
        return train(layered(TrainingConfig, [config], overrides or []), out)
    return train(layered(TrainingConfig, [read_table(config)], overrides or [], Path(config).parent), out)


def train(
    config: Mapping[str, Any] | TrainingConfig, out: Path | str, told: Callable[[Metrics], None] | None = None
) -> dict[str, Any]:
    """Train a network on Hamiltonians, or on the energy functional; returns the report (also `out/report.json`).

    Leaves in `out`: config.yaml (resolved), config.json and model.safetensors (the best averaged weights), species/,
    metrics.jsonl, checkpoint.pt, report.json. Called again, it goes on from the checkpoint. Started by torchrun, its
    processes share each batch.
    Raises NearsightError for bad input, a folder that holds something else, or a loss that stays without a number.
    """
    refuse_import()
    settings = config if isinstance(config, TrainingConfig) else validated(TrainingConfig, config)
    out = Path(out)
    find_device(settings.trainer.device)
    ranks = Ranks.join(settings.trainer.device)
    claim_folder(out, "model")
    _claim(out, settings)
    ranks.wait()
    with locked(out, "model") if ranks.first else nullcontext():
        return _trained(settings, out, ranks, told)


def _trained(
    settings: TrainingConfig, out: Path, ranks: Ranks, told: Callable[[Metrics], None] | None
) -> dict[str, Any]:
    """The training itself, in a folder that is this process's alone."""
    checkpoint = Checkpoint(out)
    resumed = settings.trainer.resume and checkpoint.exists
    with TrainingProgress(settings.trainer, ranks.first) as bar:
        if ranks.first:
            sweep(Path(os.path.realpath(out)))
        try:
            assembled = assemble(settings, out, resumed, bar, ranks)
        except NearsightError:
            if ranks.first and not any(p.name != ".lock" for p in out.iterdir()):
                shutil.rmtree(out)  # nothing came of it
            raise
        if ranks.first:
            with whole_file(out / "config.yaml") as part:
                part.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        trainer = Trainer(settings, checkpoint, assembled, told, bar, ranks)
        trainer.resume()
        if ranks.first:
            assembled.record.write(out)
        for store in (assembled.store, assembled.held_out):
            mine = ranks.share(range(len(store)))
            prepare(store, mine, False, settings.data.workers, lambda done, n: bar.prepared(done, n, "samples"))
            ranks.wait()
        trainer.go()
        report = trainer.finish()
        ranks.wait()  # torchrun ends all when one of them ends ill: not while the first one still writes
        return report


def _claim(out: Path, settings: TrainingConfig) -> None:
    """Refuse a folder with something else in it, or a model of another configuration."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file: give a folder for the model")
    previous = out / "config.yaml"
    if out.exists() and any(out.iterdir()) and not previous.exists():
        strangers = [p.name for p in out.iterdir() if p.name not in ("cache", "species") and p.name[0] != "."]
        if strangers:
            raise BadInput(f"{out} holds something that is not a model ({strangers[0]}): give a new folder")
    if previous.exists() and settings.trainer.resume and (out / "checkpoint.pt").exists():
        before = stored(TrainingConfig, read_table(previous), previous).that_matters()
        for table, now in settings.that_matters().items():
            changed = [f".{k}" for k, v in now.items() if before[table].get(k) != v] if isinstance(now, dict) else [""]
            if before[table] != now:
                was = before[table][changed[0][1:]] if isinstance(now, dict) else before[table]
                raise BadInput(
                    f"{out} was trained with another {table}{changed[0]} ({was!r}): "
                    "give a new folder, or --set trainer.resume=false to begin again"
                )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror or error}") from error

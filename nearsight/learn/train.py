"""Training: one readable loop, stopped and resumed at any time."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from nearsight.core.errors import NearsightError
from nearsight.core.units import BOHR_ANG
from nearsight.io.atomic import read_json, whole_file, write_json
from nearsight.io.configuration import override, read_table, validated
from nearsight.learn.config import ModelConfig, TrainerConfig, TrainingConfig
from nearsight.learn.dataset import HamiltonianData, SampleStore, in_order, shuffled, split
from nearsight.learn.losses import MEV, BlockLoss
from nearsight.learn.model import TrainedModel, build, find_device, save_weights
from nearsight.learn.progress import TrainingProgress
from nearsight.learn.reference import find_reference
from nearsight.learn.statistics import fit_statistics, mean_neighbours
from nearsight.nn.deeph2 import DeepH2

PATIENCE_WITH_NAN = 20
STATISTICS_FROM = 200  # structures at most


@dataclass
class Progress:
    """Where a training is. best: lowest validation MAE so far [meV].  rate: the plateau schedule's factor."""

    epoch: int = 0
    position: int = 0  # batches of this epoch that are done
    step: int = 0
    elapsed: float = 0.0  # seconds of training in all runs
    best: float = math.inf
    waited: int = 0
    rate: float = 1.0
    validated: float = 0.0  # share of the budget at the last validation


@dataclass(frozen=True)
class Metrics:
    """One line of metrics.jsonl; errors are MAEs in meV over all stored elements, of the averaged weights."""

    epoch: int
    step: int
    minutes: float
    learning_rate: float
    train_loss: float | None
    validation_mae: float | None
    validation_on_site: float | None
    validation_off_site: float | None
    best: float | None


def train_from_config(
    config: Mapping[str, Any] | Path | str, out: Path | str, overrides: list[str] | None = None
) -> dict[str, Any]:
    """`train` of a YAML file (or its content) with key=value words put in."""
    table = config if isinstance(config, Mapping) else read_table(config)
    return train(override(table, overrides or []), out)


def train(
    config: Mapping[str, Any] | TrainingConfig, out: Path | str, told: Callable[[Metrics], None] | None = None
) -> dict[str, Any]:
    """Train a network on the Hamiltonians of a data set; returns the report (also `out/report.json`).

    Leaves in `out`: config.yaml (resolved), config.json and model.safetensors (the best averaged weights), species/,
    metrics.jsonl, checkpoint.pt, report.json. Called again, it goes on from the checkpoint.
    Raises NearsightError for bad input, a folder that holds something else, or a loss that stays without a number.
    """
    settings = config if isinstance(config, TrainingConfig) else validated(TrainingConfig, config)
    out = Path(out)
    find_device(settings.trainer.device)
    _claim(out, settings)
    trained, stores = _assemble(settings, out)
    with whole_file(out / "config.yaml") as part:
        part.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    with TrainingProgress(settings.trainer) as bar:
        run = _Run(settings, out, trained, *stores, told, bar)
        run.resume()
        run.go()
        return run.finish()


def _claim(out: Path, settings: TrainingConfig) -> None:
    """Refuse a folder with something else in it, or a model of another configuration."""
    if out.exists() and not out.is_dir():
        raise NearsightError(f"{out} is a file: give a folder for the model")
    previous = out / "config.yaml"
    if out.exists() and any(out.iterdir()) and not previous.exists():
        strangers = [p.name for p in out.iterdir() if p.name not in ("cache", "species") and p.name[0] != "."]
        if strangers:
            raise NearsightError(f"{out} holds something that is not a model ({strangers[0]}): give a new folder")
    if previous.exists() and settings.trainer.resume and (out / "checkpoint.pt").exists():
        before, now = read_table(previous), settings.model_dump(mode="json")
        free = {"max_minutes", "max_epochs", "resume", "validations", "cache_gb", "device"}
        for table in ("data", "model", "reference", "trainer"):
            for key in now[table]:
                if key not in free and before.get(table, {}).get(key) != now[table][key]:
                    raise NearsightError(
                        f"{out} was trained with another {table}.{key} ({before.get(table, {}).get(key)!r}): "
                        "give a new folder, or --set trainer.resume=false to begin again"
                    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearsightError(f"cannot write {out}: {error.strerror or error}") from error


def _assemble(settings: TrainingConfig, out: Path) -> tuple[TrainedModel, tuple[SampleStore, SampleStore]]:
    """The network with its statistics, and the samples to train and to validate on."""
    folders = split(settings.data)
    everything = HamiltonianData(folders.train + folders.validation)
    shells, reach = everything.shells()
    orbitals = find_reference(settings.data, settings.reference, folders.train, shells, out / "cache")
    delta = settings.model.target == "delta"
    if delta and orbitals is None:
        raise NearsightError(
            "model.target delta needs the orbitals of the data: give data.species (a folder of <Symbol>.ion.xml)"
        )
    h0 = orbitals.initial_hamiltonian if delta and orbitals is not None else None
    train_data, validation_data = (HamiltonianData(f, h0) for f in (folders.train, folders.validation))
    architecture = _architecture(settings.model, shells, reach, train_data)
    network = build(architecture, settings.trainer.seed).to(getattr(torch, settings.trainer.dtype))
    limit = settings.trainer.cache_gb * 1e9
    store = SampleStore(train_data, network, limit)
    network.to(settings.trainer.device)
    trained = TrainedModel(network, architecture, settings.model.target, orbitals)
    if not (settings.trainer.resume and (out / "checkpoint.pt").exists()):  # a checkpoint holds them
        used = range(0, len(store), max(1, len(store) // STATISTICS_FROM))
        fit_statistics(network.readout, (store.exact(k) for k in used))
    return trained, (store, SampleStore(validation_data, network, limit))


def _architecture(
    model: ModelConfig, shells: Mapping[int, tuple[int, ...]], reach: float, data: HamiltonianData
) -> dict[str, Any]:
    from nearsight.core.structure import Pairs

    cutoff = model.cutoff_ang / BOHR_ANG
    some = [data.calculation(k).structure for k in range(min(len(data), 20))]
    counts = [(len(Pairs.within(s, cutoff)) - len(s), len(s)) for s in some]
    assert model.irreps is not None and model.edge is not None and model.hidden is not None
    arguments = {
        "cutoff": cutoff,
        "reach": reach,
        "irreps": model.irreps,
        "edge": list(model.edge),
        "hidden": list(model.hidden),
        "layers": model.layers,
        "radial": model.radial,
        "width": model.width,
        "neighbours": mean_neighbours(counts),
    }
    return {"kind": model.kind, "shells": {str(z): list(s) for z, s in sorted(shells.items())}, "arguments": arguments}


class _Run:
    """The loop and its state: network, averaged network, optimiser, progress."""

    def __init__(
        self,
        settings: TrainingConfig,
        out: Path,
        trained: TrainedModel,
        store: SampleStore,
        held_out: SampleStore,
        told: Callable[[Metrics], None] | None,
        bar: TrainingProgress,
    ) -> None:
        self.settings, self.trainer, self.out = settings, settings.trainer, out
        self.trained, self.store, self.held_out = trained, store, held_out
        self.told, self.bar = told, bar
        self.network: DeepH2 = trained.network
        self.average: DeepH2 = copy.deepcopy(self.network)
        self.optimizer = _optimizer(self.network, self.trainer)
        self.loss = BlockLoss(self.trainer.loss, self.trainer.gauge_invariant)
        self.progress = Progress()
        self.recent: list[float] = []
        self.last: Metrics | None = None
        self.without_number = 0

    def share(self) -> float:
        """How much of the budget is spent, 0..1."""
        t, p = self.trainer, self.progress
        minutes = p.elapsed / 60 / t.max_minutes if t.max_minutes else 0.0
        epochs = (p.epoch + p.position / max(1, self.batches)) / t.max_epochs if t.max_epochs else 0.0
        return min(1.0, max(minutes, epochs))

    def go(self) -> None:
        """Train until the budget is spent."""
        self.batches = 1
        if self.progress.step == 0:
            self.trained.save(self.out)
            self._checkpoint()
        while self.share() < 1:
            batches = shuffled(self.store, self.trainer.batch_edges, self.trainer.seed, self.progress.epoch)
            self.batches = len(batches)
            while self.progress.position < len(batches) and self.share() < 1:
                started = time.perf_counter()
                self._step(batches[self.progress.position])
                self.progress.position += 1
                self.progress.elapsed += time.perf_counter() - started
                self.bar.advance(self.share(), self.recent[-1] if self.recent else None, self.progress)
                if self.trainer.max_minutes and self.share() - self.progress.validated >= 1 / self.trainer.validations:
                    self._checkpoint()
            if self.progress.position >= len(batches):
                self.progress.epoch, self.progress.position = self.progress.epoch + 1, 0
            if self.share() - self.progress.validated >= 1 / self.trainer.validations - 1e-9:
                self._checkpoint()
        if self.last is None or self.last.step != self.progress.step:
            self._checkpoint()

    def _step(self, indices: list[int]) -> None:
        sample = self.store.together(indices)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss = self.loss(self.network(sample.graph), sample.target, sample.overlap, sample.graph.values)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.trainer.gradient_clip)
        if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(loss)):
            self.without_number += 1
            if self.without_number >= PATIENCE_WITH_NAN:
                raise NearsightError(
                    f"the loss is not a number at step {self.progress.step}: lower trainer.learning_rate "
                    f"(now {self.trainer.learning_rate:g}); {self.out} keeps the best model so far"
                )
            return
        self.without_number = 0
        self.optimizer.step()
        self.progress.step += 1
        decay = min(self.trainer.ema, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        self.recent.append(loss.item())

    def _learning_rate(self) -> float:
        t, x = self.trainer, self.share()
        warm = min(1.0, x / t.warmup + 0.01) if t.warmup else 1.0
        falls = {
            "cosine": 0.5 * (1 + math.cos(math.pi * x)),
            "linear": 1 - x,
            "plateau": self.progress.rate,
            "constant": 1.0,
        }
        return max(t.minimum_learning_rate, t.learning_rate * warm * falls[t.schedule])

    def _checkpoint(self) -> None:
        """Validate the averaged weights, keep them if they are the best, and write all that a resumed run needs."""
        started = time.perf_counter()
        p = self.progress
        total, on_site, off_site = self._validate()
        judged = total if len(self.held_out) else sum(self.recent) / len(self.recent) if self.recent else math.inf
        if judged < p.best:
            p.best, p.waited = judged, 0
            save_weights(self.average, self.out)
        else:
            p.waited += 1
            if p.waited > self.trainer.plateau_patience:
                p.rate, p.waited = p.rate * self.trainer.plateau_factor, 0
        self.last = Metrics(
            p.epoch,
            p.step,
            p.elapsed / 60,
            self._learning_rate(),
            sum(self.recent) / len(self.recent) if self.recent else None,
            *(x if math.isfinite(x) else None for x in (total, on_site, off_site, p.best)),
        )
        self.recent = []
        p.elapsed += time.perf_counter() - started
        p.validated = self.share()
        self._write()
        self.bar.say(self.last)
        if self.told is not None:
            self.told(self.last)

    def _write(self) -> None:
        """checkpoint.pt, then a line of metrics.jsonl; a line without its checkpoint is dropped by `resume`."""
        assert self.last is not None
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        try:
            with whole_file(self.out / "checkpoint.pt") as part:
                torch.save(state, part)
            with open(self.out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(asdict(self.last)) + "\n")
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
            raise NearsightError(f"cannot write to {self.out}: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def _validate(self) -> tuple[float, float, float]:
        """MAE in meV over all elements, on-site and off-site ones, of the held-out structures; nan without any."""
        sums = [torch.zeros(()) for _ in range(4)]
        for sample in in_order(self.held_out, max(self.trainer.batch_edges, 1000)):
            error = ((self.average(sample.graph) - sample.target).abs() * MEV).double().cpu()
            on_site = (sample.graph.block < sample.graph.atoms).cpu()
            parts: list[Tensor] = [error[on_site].sum(), on_site.sum(), error[~on_site].sum(), (~on_site).sum()]
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
        a, n, b, m = (float(x) for x in sums)
        return _ratio(a + b, n + m), _ratio(a, n), _ratio(b, m)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one and the configuration wants it."""
        path, metrics = self.out / "checkpoint.pt", self.out / "metrics.jsonl"
        if not self.trainer.resume or not path.exists():
            for old in (path, metrics, self.out / "report.json"):
                old.unlink(missing_ok=True)
            return
        try:
            state = torch.load(path, map_location=self.trainer.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
        except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise NearsightError(
                f"{path} cannot be resumed ({reason}); --set trainer.resume=false begins again"
            ) from error
        if metrics.exists():
            lines = [x for x in metrics.read_text().splitlines() if json.loads(x)["step"] <= self.progress.step]
            with whole_file(metrics) as part:
                part.write_text("".join(x + "\n" for x in lines))
            self.last = Metrics(**json.loads(lines[-1])) if lines else None

    def finish(self) -> dict[str, Any]:
        """The report, last of all files."""
        p = self.progress
        report = {
            "validation_mae_meV": None if not len(self.held_out) else p.best,
            "last": None if self.last is None else asdict(self.last),
            "epochs": p.epoch,
            "steps": p.step,
            "minutes": p.elapsed / 60,
            "parameters": sum(x.numel() for x in self.network.parameters()),
            "structures": {"train": len(self.store), "validation": len(self.held_out)},
            "target": self.settings.model.target,
            "threads": torch.get_num_threads(),
        }
        write_json(self.out / "report.json", report)
        config = read_json(self.out / "config.json")
        write_json(self.out / "config.json", {**config, "training": report})
        return report


def _optimizer(network: torch.nn.Module, trainer: TrainerConfig) -> torch.optim.AdamW:
    """AdamW; no decay of biases and of the factors of single channels."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": trainer.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=trainer.learning_rate, betas=(0.9, 0.99), fused=True)


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan

"""Training: one readable loop, stopped and resumed at any time."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from nearsight.core.configuration import layered, read_table, stored, validated
from nearsight.core.errors import BadInput, NearsightError
from nearsight.formats.files import read_json, whole_file, write_json
from nearsight.learn.assembly import Assembled, assemble
from nearsight.learn.config import TrainerConfig, TrainingConfig
from nearsight.learn.dataset import shuffled
from nearsight.learn.metrics import Metrics, Progress
from nearsight.learn.model import find_device, save_weights
from nearsight.learn.newton import NewtonSteps
from nearsight.learn.parallel import Ranks
from nearsight.learn.progress import TrainingProgress
from nearsight.learn.validation import EnergyFigures, label_errors, one_figure
from nearsight.models.deeph2 import DeepH2

PATIENCE = 20  # times, without GOOD_EVERY sound steps between them, that a training may go back to its last good state
GOOD_EVERY = 50  # steps between states to go back to
UNBOUNDED = 1e3  # a loss so many times the recent median is a step gone wrong
RECENT = 5  # losses that there must be for a median


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
    settings = config if isinstance(config, TrainingConfig) else validated(TrainingConfig, config)
    out = Path(out)
    find_device(settings.trainer.device)
    ranks = Ranks.join(settings.trainer.device)
    _claim(out, settings)
    ranks.wait()
    resumed = settings.trainer.resume and (out / "checkpoint.pt").exists()
    with TrainingProgress(settings.trainer, ranks.first) as bar:
        try:
            assembled = assemble(settings, out, resumed, bar)
        except NearsightError:
            if ranks.first and not any(out.iterdir()):
                out.rmdir()  # nothing came of it
            raise
        if ranks.first:
            with whole_file(out / "config.yaml") as part:
                part.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        run = _Run(settings, out, assembled, told, bar, ranks)
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
        raise NearsightError(f"cannot write {out}: {error.strerror or error}") from error


class _Run:
    """The loop and its state: network, averaged network, optimiser, progress."""

    def __init__(
        self,
        settings: TrainingConfig,
        out: Path,
        assembled: Assembled,
        told: Callable[[Metrics], None] | None,
        bar: TrainingProgress,
        ranks: Ranks,
    ) -> None:
        self.settings, self.trainer, self.out, self.ranks = settings, settings.trainer, out, ranks
        self.trained, self.store, self.held_out = assembled.trained, assembled.store, assembled.held_out
        self.judges, self.validator = assembled.judges, assembled.validator
        self.newton = assembled.newton
        self.told, self.bar = told, bar
        self.network: DeepH2 = self.trained.network
        self.average: DeepH2 = copy.deepcopy(self.network)
        self.optimizer = _optimizer(self.network, self.trainer)
        self.progress = Progress()
        self.recent: list[float] = []
        self.typical: list[float] = []  # losses of the last good steps
        self.good: dict[str, Any] | None = None
        self.last: Metrics | None = None
        self.in_a_row = 0  # times that the training went back without GOOD_EVERY sound steps between them
        self.sound = 0

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
        while self.share() < 1 and not (self.newton and self.newton.done):
            packed = self.trainer.batch_edges * self.ranks.world
            batches = shuffled(self.store, packed, self.trainer.seed, self.progress.epoch)
            if self.newton is not None and self.share() >= (self.trainer.newton_from or 0.0):
                batches = [list(range(len(self.store)))]  # one step takes all structures
            self.batches = len(batches)
            while self.progress.position < len(batches) and self.share() < 1:
                started = time.perf_counter()
                self._step(batches[self.progress.position])
                self.progress.position += 1
                self.progress.elapsed += self._agreed(time.perf_counter() - started)
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
        if self.newton is not None and self.share() >= (self.trainer.newton_from or 0.0):
            self._newton_step(self.newton)
            return
        mine = self.ranks.own(indices) if self.judges.energy else self.ranks.share(indices)
        sample = self.store.together(mine) if mine else None
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        sizes = self.judges.sizes(sample)
        shares = [a / b if b else 0.0 for a, b in zip(sizes, self.ranks.total(sizes), strict=True)]
        loss = 0.0
        if sample is not None:
            predicted = self.network(sample.graph)
            judgement = self.judges(predicted, sample, shares)
            predicted.backward(judgement.gradient)
            loss = judgement.value
        [loss] = self.ranks.total([loss])
        self.ranks.add_gradients(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.trainer.gradient_clip)
        if not math.isfinite(loss) or not bool(torch.isfinite(norm)) or self._unbounded(loss):
            self._back_off(loss)
            return
        self._accepted(loss)
        self.optimizer.step()
        self.progress.step += 1
        decay = min(self.trainer.ema, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)

    def _newton_step(self, newton: NewtonSteps) -> None:
        """One Gauss-Newton step on all structures; the averaged weights are the weights themselves from now on."""
        loss = newton.step(self.network)
        if not math.isfinite(loss):
            raise NearsightError(
                f"the loss is not a number at step {self.progress.step}: {self.out} keeps the best so far"
            )
        self.recent.append(loss)
        self.progress.step += 1
        self.average.load_state_dict(self.network.state_dict())

    def _accepted(self, loss: float) -> None:
        """The weights gave a sound loss: remember it, and from time to time the weights."""
        self.sound += 1
        if self.sound >= GOOD_EVERY:
            self.in_a_row = 0
        self.recent.append(loss)
        self.typical = [*self.typical, loss][-GOOD_EVERY:]
        if self.good is None or self.progress.step % GOOD_EVERY == 0:
            self.good = copy.deepcopy(self._weights())

    def _unbounded(self, loss: float) -> bool:
        return len(self.typical) >= RECENT and loss > UNBOUNDED * median(self.typical) and loss > max(self.typical)

    def _back_off(self, loss: float) -> None:
        """To the last good state, with half the learning rate. Raises NearsightError where that does not help."""
        p = self.progress
        p.backed_off, self.in_a_row, self.sound = p.backed_off + 1, self.in_a_row + 1, 0
        what = "is not a number" if not math.isfinite(loss) else f"jumped to {loss:.3g}"
        if self.in_a_row >= PATIENCE or self.good is None:
            raise NearsightError(
                f"the loss {what} at step {p.step}: lower trainer.learning_rate (now {self.trainer.learning_rate:g}); "
                f"{self.out} keeps the best model so far"
            )
        p.rate *= 0.5
        for name, state in copy.deepcopy(self.good).items():
            getattr(self, name).load_state_dict(state)
        if self.judges.energy is not None:
            self.judges.energy.loss.forget()
        self.bar.note(
            f"the loss {what} at step {p.step}: back to the last good state, learning rate now {self._learning_rate():.1e}"
        )

    def _weights(self) -> dict[str, Any]:
        """All that an optimiser's step changes, by the attribute's name."""
        return {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}

    def _agreed(self, seconds: float) -> float:
        """The first process's clock: all must stop at the same step."""
        return self.ranks.total([seconds if self.ranks.first else 0.0])[0]

    def _learning_rate(self) -> float:
        t, x = self.trainer, self.share()
        warm = min(1.0, x / t.warmup + 0.01) if t.warmup else 1.0
        falls = {
            "cosine": 0.5 * (1 + math.cos(math.pi * x)),
            "linear": 1 - x,
            "plateau": 1.0,
            "constant": 1.0,
        }
        return max(t.minimum_learning_rate, t.learning_rate * warm * falls[t.schedule] * self.progress.rate)

    def _checkpoint(self) -> None:
        """Validate the averaged weights, keep them if they are the best, and write all that a resumed run needs."""
        started = time.perf_counter()
        p = self.progress
        (total, on_site, off_site), figures = self._validate()
        loss = sum(self.recent) / len(self.recent) if self.recent else None
        judged = one_figure(total, figures, loss)
        if judged < p.best:
            p.best, p.waited = judged, 0
            if self.ranks.first:
                save_weights(self.average, self.out)
        else:
            p.waited += 1
            if self.trainer.schedule == "plateau" and p.waited > self.trainer.plateau_patience:
                p.rate, p.waited = p.rate * self.trainer.plateau_factor, 0
        finite = [x if math.isfinite(x) else None for x in (total, on_site, off_site, p.best)]
        self.last = Metrics(
            p.epoch,
            p.step,
            p.elapsed / 60,
            self._learning_rate(),
            loss,
            finite[0],
            finite[1],
            finite[2],
            finite[3],
            None if figures is None else asdict(figures),
            self.ranks.together(self._skipped()),
            p.backed_off,
        )
        self.recent = []
        p.elapsed += self._agreed(time.perf_counter() - started)
        p.validated = self.share()
        if self.ranks.first:
            self._write()
        self.bar.say(self.last)
        if self.told is not None:
            self.told(self.last)

    def _write(self) -> None:
        """checkpoint.pt, then a line of metrics.jsonl; a line without its checkpoint is dropped by `resume`."""
        assert self.last is not None
        state = {**self._weights(), "progress": asdict(self.progress)}
        if self.newton is not None:
            state["newton"] = self.newton.cycle.state_dict()
        try:
            with whole_file(self.out / "checkpoint.pt") as part:
                torch.save(state, part)
            with open(self.out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(asdict(self.last)) + "\n")
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
            raise NearsightError(f"cannot write to {self.out}: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def _validate(self) -> tuple[tuple[float, float, float], EnergyFigures | None]:
        """MAE in meV of the held-out structures over all elements, on-site and off-site ones (nan without any); by energy."""
        if self.validator is not None:
            mine = self.ranks.share(range(len(self.validator)))
            found = self.validator(lambda k: self.average(self.held_out[k].graph), mine)
            figures = EnergyFigures.mean(self.ranks.gathered(found))
            mae = figures.hamiltonian_mae_meV
            return (math.nan if mae is None else mae, math.nan, math.nan), figures
        return label_errors(self.average, self.held_out, max(self.trainer.batch_edges, 1000)), None

    def _skipped(self) -> dict[str, str]:
        return {**self.judges.skipped, **({} if self.validator is None else self.validator.skipped)}

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one and the configuration wants it."""
        path, metrics = self.out / "checkpoint.pt", self.out / "metrics.jsonl"
        if not self.trainer.resume or not path.exists():
            if self.ranks.first:
                for old in (path, metrics, self.out / "report.json"):
                    old.unlink(missing_ok=True)
            for x in self.network.state_dict().values():  # statistics are fitted by each process: one set for all
                self.ranks.everyone(x)
            self.average.load_state_dict(self.network.state_dict())
            return
        try:
            state = torch.load(path, map_location=self.trainer.device, weights_only=True)
            for name in self._weights():
                getattr(self, name).load_state_dict(state[name])
            if self.newton is not None:
                self.newton.cycle.load_state_dict(state["newton"])
            self.progress = Progress(**state["progress"])
        except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise NearsightError(
                f"{path} cannot be resumed ({reason}); --set trainer.resume=false begins again"
            ) from error
        if metrics.exists():
            lines = [x for x in metrics.read_text().splitlines() if json.loads(x)["step"] <= self.progress.step]
            if self.ranks.first:
                with whole_file(metrics) as part:
                    part.write_text("".join(x + "\n" for x in lines))
            self.last = Metrics(**json.loads(lines[-1])) if lines else None

    def _best_mae(self, last: Metrics) -> float | None:
        """Of the kept weights by labels; with an energy loss, whose best is an energy, of the last ones."""
        return last.validation_mae if last.energy is not None or not len(self.held_out) else self.progress.best

    def finish(self) -> dict[str, Any]:
        """The report, last of all files; structures that were set aside are listed at the end."""
        p = self.progress
        skipped = {} if self.last is None else self.last.skipped
        for name, reason in skipped.items():
            self.bar.note(f"set aside: {name}: {reason}")
        report = {
            "validation_mae_meV": None if self.last is None else self._best_mae(self.last),
            "best": p.best if math.isfinite(p.best) else None,
            "skipped": skipped,
            "backed_off": p.backed_off,
            "last": None if self.last is None else asdict(self.last),
            "epochs": p.epoch,
            "steps": p.step,
            "minutes": p.elapsed / 60,
            "parameters": sum(x.numel() for x in self.network.parameters()),
            "structures": {"train": len(self.store), "validation": len(self.held_out)},
            "target": self.trained.target,
            "loss": [x.kind for x in self.settings.loss],
            "threads": torch.get_num_threads(),
            "processes": self.ranks.world,
        }
        if not self.ranks.first:
            return report
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

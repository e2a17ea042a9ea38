"""The loop of a training: network, averaged network, optimiser, progress; stopped and resumed at any time."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from statistics import median
from typing import Any

import torch

from nearsight.core.errors import BadInput, NotConverged
from nearsight.formats.files import read_json, write_json
from nearsight.learn.assembly import Assembled
from nearsight.learn.checkpoint import Checkpoint
from nearsight.learn.config import TrainerConfig, TrainingConfig
from nearsight.learn.metrics import Metrics, Progress
from nearsight.learn.model_files import write_weights
from nearsight.learn.newton import NewtonSteps
from nearsight.learn.packing import shuffled
from nearsight.learn.parallel import Ranks
from nearsight.learn.progress import TrainingProgress
from nearsight.learn.validation import EnergyFigures, name_of_figure, one_figure
from nearsight.models.contract import HamiltonianModel

PATIENCE = 20  # times, without GOOD_EVERY sound steps between them, that a training may go back to its last good state
GOOD_EVERY = 50  # steps between states to go back to
UNBOUNDED = 1e3  # a loss so many times the recent median is a step gone wrong
RECENT = 5  # losses that there must be for a median
REMEMBERED = ("typical", "good", "in_a_row", "sound")  # of the loop, beside weights and progress


class Trainer:
    """The loop and its state: network, averaged network, optimiser, progress."""

    def __init__(
        self,
        settings: TrainingConfig,
        checkpoint: Checkpoint,
        assembled: Assembled,
        told: Callable[[Metrics], None] | None,
        bar: TrainingProgress,
        ranks: Ranks,
    ) -> None:
        self.settings, self.trainer, self.ranks = settings, settings.trainer, ranks
        self.checkpoint, self.out = checkpoint, checkpoint.folder
        self.trained, self.store, self.held_out = assembled.trained, assembled.store, assembled.held_out
        self.loss, self.validator = assembled.loss, assembled.validator
        self.newton = assembled.newton
        self.clock = time.process_time if self.trainer.clock == "cpu" else time.perf_counter
        self.told, self.bar = told, bar
        self.network: HamiltonianModel = self.trained.network
        self.average: HamiltonianModel = copy.deepcopy(self.network)
        self.free = _free(self.network, self.trainer.freeze)
        self.optimizer = _optimizer(self.free, self.trainer)
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
        epochs = (p.epoch + p.position / p.batches) / t.max_epochs if t.max_epochs else 0.0
        return min(1.0, max(minutes, epochs))

    def go(self) -> None:
        """Train until the budget is spent."""
        if self.last is None:
            self.trained.save(self.out)
            self._validated()
        while self.share() < 1 and not (self.newton and self.newton.done):
            packed = self.trainer.batch_edges * self.ranks.world
            batches = shuffled(self.store, packed, self.trainer.seed, self.progress.epoch)
            if self._newton_begins():
                batches = [list(range(len(self.store)))]  # one step takes all structures
            self.progress.batches = len(batches)
            while self.progress.position < len(batches) and self.share() < 1:
                started = self.clock()
                self._step(batches[self.progress.position])
                self.progress.position += 1
                self.progress.elapsed += self._agreed(self.clock() - started)
                self.bar.advance(self.share(), self.recent[-1] if self.recent else None, self.progress)
                if self.trainer.max_minutes and self.share() - self.progress.validated >= 1 / self.trainer.validations:
                    self._validated()
            if self.progress.position >= len(batches):
                self.progress.epoch, self.progress.position = self.progress.epoch + 1, 0
            if self.share() - self.progress.validated >= 1 / self.trainer.validations - 1e-9:
                self._validated()
        if self.last is None or self.last.step != self.progress.step:
            self._validated()

    def _newton_begins(self) -> bool:
        """Whether this epoch is one Gauss-Newton step; of an epoch that is gone on with, whether it began as one."""
        if self.progress.position:
            return self.progress.batches == 1
        return self.newton is not None and self.share() >= (self.trainer.newton_from or 0.0)

    def _step(self, indices: list[int]) -> None:
        if self.newton is not None and self.share() >= (self.trainer.newton_from or 0.0):
            self._newton_step(self.newton)
            return
        mine = self.ranks.own(indices) if self.loss.keeps else self.ranks.share(indices)
        sample = self.store.together(mine) if mine else None
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        sizes = self.loss.sizes(sample)
        shares = [a / b if b else 0.0 for a, b in zip(sizes, self.ranks.total(sizes), strict=True)]
        loss = 0.0
        self.network.at_step(None if self.loss.keeps else self.progress.step)
        if sample is not None:
            predicted = self.network(sample.prepared)
            found = self.loss(predicted, sample, shares)
            predicted.values.backward(found.gradient)
            loss = found.value
        [loss] = self.ranks.total([loss])
        self.ranks.add_gradients(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.free, self.trainer.gradient_clip)
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
            raise NotConverged(
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
            raise NotConverged(
                f"the loss {what} at step {p.step}: lower trainer.learning_rate (now {self.trainer.learning_rate:g}); "
                f"{self.out} keeps the best model so far"
            )
        p.rate *= 0.5
        for name, state in copy.deepcopy(self.good).items():
            getattr(self, name).load_state_dict(state)
        self.loss.forget()
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

    def _validated(self) -> None:
        """Validate the averaged weights, keep them if they are the best, and write all that a resumed run needs."""
        started = self.clock()
        p = self.progress
        (total, on_site, off_site), figures = self._validate()
        loss = sum(self.recent) / len(self.recent) if self.recent else None
        figure = one_figure(total, figures, loss)
        if figure < p.best:
            p.best, p.waited = figure, 0
            if self.ranks.first:
                write_weights(self.average, self.trained.record, self.out)
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
            "meV" if self.loss.labels is None or self.validator is not None else self.loss.labels.unit,
        )
        self.recent = []
        p.elapsed += self._agreed(self.clock() - started)
        p.validated = self.share()
        self._write(self.last)
        self.bar.say(self.last)
        if self.told is not None:
            self.told(self.last)

    def _write(self, metrics: Metrics) -> None:
        state = {
            **self._weights(),
            "progress": asdict(self.progress),
            "loss": self.ranks.gathered([self.loss.state_dict()]),
            "not_validated": self.ranks.together({} if self.validator is None else self.validator.skipped),
            **{name: getattr(self, name) for name in REMEMBERED},
        }
        if self.newton is not None:
            state["newton"] = self.newton.state_dict()
        if self.ranks.first:
            self.checkpoint.write(state, metrics)

    @torch.no_grad()
    def _validate(self) -> tuple[tuple[float, float, float], EnergyFigures | None]:
        """MAE in meV of the held-out structures over all elements, on-site and off-site ones (nan without any); by energy."""
        if self.validator is not None:
            mine = self.ranks.share(range(len(self.validator)))
            found = self.validator(lambda k: self.average(self.held_out[k].prepared), mine)
            figures = EnergyFigures.mean(self.ranks.gathered(found))
            mae = figures.hamiltonian_mae_meV
            return (math.nan if mae is None else mae, math.nan, math.nan), figures
        assert self.loss.labels is not None
        return self.loss.labels.errors(self.average, self.held_out, max(self.trainer.batch_edges, 1000)), None

    def _skipped(self) -> dict[str, str]:
        return {**self.loss.skipped, **({} if self.validator is None else self.validator.skipped)}

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one and the configuration wants it."""
        if not self.trainer.resume or not self.checkpoint.exists:
            if self.ranks.first:
                self.checkpoint.clear()
            for x in self.network.state_dict().values():  # statistics are fitted by each process: one set for all
                self.ranks.everyone(x)
            self.average.load_state_dict(self.network.state_dict())
            return
        with self.checkpoint.loading(self.trainer.device) as state:
            for name in self._weights():
                getattr(self, name).load_state_dict(state[name])
            if self.newton is not None:
                self.newton.load_state_dict(state["newton"])
            known = {f.name for f in fields(Progress)}
            self.progress = Progress(**{k: x for k, x in state["progress"].items() if k in known})
            for name in REMEMBERED:
                setattr(self, name, state.get(name, getattr(self, name)))
            for remembered in state.get("loss", ()):
                self.loss.load_state_dict(remembered, self.ranks.owns)
            if self.validator is not None:
                self.validator.skipped |= state.get("not_validated", {})
            self.last = self.checkpoint.metrics_until(self.progress.step, state.get("metrics"), self.ranks.first)
        self.progress.validated = min(self.progress.validated, self.share())  # of a budget that may have grown

    def _best_mae(self, last: Metrics) -> float | None:
        """Of the kept weights by labels; with an energy loss, whose best is an energy, of the last ones."""
        if last.unit != "meV":
            return None
        if last.energy is not None or not len(self.held_out):
            return last.validation_mae
        return self.progress.best if math.isfinite(self.progress.best) else None

    def finish(self) -> dict[str, Any]:
        """The report, last of all files; structures that were set aside are listed at the end."""
        p = self.progress
        skipped = {} if self.last is None else self.last.skipped
        for name, reason in skipped.items():
            self.bar.note(f"set aside: {name}: {reason}")
        best_is, unit = ("nothing was trained; best", "") if self.last is None else name_of_figure(self.last, self.loss)
        report = {
            "validation_mae_meV": None if self.last is None else self._best_mae(self.last),
            "best": p.best if math.isfinite(p.best) else None,
            "best_is": best_is,
            "best_unit": unit,
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


def _free(network: HamiltonianModel, frozen: Sequence[str]) -> list[torch.nn.Parameter]:
    """The weights that are trained. Raises BadInput for a part that the network has not got, or where nothing is left."""
    names = [name for name, _ in network.named_parameters()]
    for part in frozen:
        if not any(network.within(name, part) for name in names):
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise BadInput(f"trainer.freeze: the network has no part {part:.60}; it has {known}")
    free = [p for name, p in network.named_parameters() if not any(network.within(name, part) for part in frozen)]
    if not free:
        raise BadInput("trainer.freeze leaves nothing to train: name fewer parts")
    return free


def _optimizer(parameters: Sequence[torch.nn.Parameter], trainer: TrainerConfig) -> torch.optim.AdamW:
    """AdamW; no decay of biases and of the factors of single channels."""
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": trainer.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=trainer.learning_rate, betas=(0.9, 0.99), fused=True)

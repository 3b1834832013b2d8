"""The training loop: steps, validation, checkpoints; the same for whatever task."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.finetune.batch import Batch
from llm4dsr_cli.finetune.checkpoint import load_checkpoint, save_checkpoint
from llm4dsr_cli.finetune.interrupts import deferred_interrupt
from llm4dsr_cli.finetune.lora import load_lora_state, lora_layers, lora_state
from llm4dsr_cli.finetune.memory import give_back
from llm4dsr_cli.finetune.model import NoiseModel
from llm4dsr_cli.finetune.pace import Pace
from llm4dsr_cli.finetune.settings import Schedule
from llm4dsr_cli.finetune.tasks import PATIENCE, Row, Task

# Windows of this many steps are sorted by length together, so that a batch holds little padding.
POOL_STEPS = 16
# Steps that measure the pace, and those before them, in which layers are compiled.
TIMED_STEPS, UNTIMED_STEPS = 3, 2
# Validations take about this share of the training's time: a window forward is a third of one forward and backward.
VALIDATION_SHARE, FORWARD_SHARE, FEWEST_VALIDATION_WINDOWS = 0.08, 1 / 3, 50
# A run does not stop early before this share of the plan, and lets its learning rate fall to nothing over another.
EARLIEST_STOP, COOL_DOWN = 0.5, 0.1


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        seconds: of training, validations left out.
        loss: of training, a mean over its places, smoothed over about 50 steps.
        slow_down: factor on the learning rate, halved whenever the run had to go back.
        ends_at: the share of the planned run at which it ends; 1 unless it stops early.
        turn: how many validations were due so far.
        validation_windows: how many held-out windows each uses; None before the first.
        history: a row for each validation, the first of them before any training.
    """

    step: int = 0
    seconds: float = 0.0
    windows: int = 0
    tokens: int = 0
    loss: float = math.nan
    slow_down: float = 1.0
    ends_at: float = 1.0
    turn: int = 0
    validation_windows: int | None = None
    history: list[Row] = field(default_factory=list)


class Trainer:
    """Fits a model's adapter to a task.

    A step whose gradient is no number is left out. A run whose validation has become much worse, or no number, goes
    back to its best weights, at half the learning rate. What is left in the model at the end are the last weights or
    the best ones, as the task says. A run stops early when half of it is over and four validations in
    a row brought nothing. It does not stop on the spot: much of a run's gain comes while the learning rate falls, so it
    first lets it fall, over a tenth of the plan. Four validations are half of the shortest plan, and twelve minutes of
    training in a long one.

    Args:
        identity: what must not differ between a run and its resumption, such as fingerprints of base and data.
        say: told in one line each how far the run will get, and that it stops early.
        on_step: called after every step with the progress.
        on_validation: called after every validation with its row of the history.
    """

    def __init__(
        self,
        model: NoiseModel,
        task: Task,
        settings: Schedule,
        *,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
        say: Callable[[str], None] = lambda line: None,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_validation: Callable[[Row], None] = lambda row: None,
    ) -> None:
        self.model = model
        self.task = task
        self.settings = settings
        self.checkpoint = checkpoint
        self.identity = {"settings": asdict(settings), **(identity or {})}
        self.say = say
        self.on_step = on_step
        self.on_validation = on_validation
        self.progress = Progress()
        self._best: dict[str, Any] | None = None
        self._pool: list[list[Batch]] = []
        self._pool_number = -1
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._mean = [p.detach().clone() for p in self._parameters] if settings.averaging else []
        b = [layer.lora_b for _, layer in lora_layers(model.backbone)]
        others = [p for p in self._parameters if not any(p is q for q in b)]
        self._optimizer = torch.optim.AdamW(
            [{"params": others, "scale": 1.0}, {"params": b, "scale": settings.b_rate}],
            lr=settings.learning_rate,
            weight_decay=0.0,
        )

    @property
    def chosen(self) -> Row:
        """The history's row of the weights that ``run`` leaves in the model."""
        return self.progress.history[-1] if self._best is None else self._best["row"]

    def run(self) -> Progress:
        """Train to the end; validate and save on the way.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the step in hand was finished and the checkpoint saved.
        """
        with deferred_interrupt() as interrupted:
            self.model.train()
            if not self._over():
                self._plan()
            if not self.progress.history:
                self._keep_or_go_back()
            while not self._over():
                # Before the step, not after it: a run that was stopped right here validates when it is resumed.
                if self._turn() > self.progress.turn:
                    self.progress.turn = self._turn()
                    self._keep_or_go_back()
                self._step()
                self.on_step(self.progress)
                if interrupted():
                    self.save()
                    raise KeyboardInterrupt
            if self.progress.history[-1]["step"] != self.progress.step:
                self._keep_or_go_back()
                if interrupted():
                    raise KeyboardInterrupt
            self._choose()
        return self.progress

    def validate(self) -> Row:
        """Measure the model as it is, and add a row to the history."""
        progress = self.progress
        row = {
            "step": progress.step,
            "windows": progress.windows,
            "seconds": round(progress.seconds, 1),
            **({"loss": round(progress.loss, 4)} if progress.step else {}),
            "learning_rate": round(self._learning_rate(), 7),
        }
        with self._averaged():
            row |= self.task.measure(self.model, progress.validation_windows, self.settings.batch_windows)
        progress.history.append(row)
        self.on_validation(row)
        return row

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        if self.checkpoint is None:
            return
        contents = {"identity": self.identity, "progress": asdict(self.progress), "best": self._best}
        save_checkpoint(self.checkpoint, {**contents, **self._weights()})

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            OptionError: there is none, or it is of other settings, data or base model.
        """
        if self.checkpoint is None or not self.checkpoint.is_file():
            raise OptionError("there is no run to resume", where=str(self.checkpoint), remedy="leave out `resume`")
        saved = load_checkpoint(self.checkpoint, self.identity)
        self._load_weights(saved)
        self._best = saved["best"]
        self.progress = Progress(**saved["progress"])

    def _plan(self) -> None:
        """Measure the pace, say how far it will bring the run, and choose how many windows a validation can afford."""
        settings, progress = self.settings, self.progress
        pace = self._pace()
        self.say(pace.sentence(settings, self.task.train.n_sequences, progress.windows))
        if progress.validation_windows is None:
            expected, validations = pace.expected_windows(settings), float(settings.validations)
            if settings.validate_every is not None:
                validations = max(1.0, expected / settings.batch_windows / settings.validate_every)
            affordable = int(VALIDATION_SHARE / FORWARD_SHARE * expected / validations)
            progress.validation_windows = min(len(self.task.validation), max(FEWEST_VALIDATION_WINDOWS, affordable))

    def _pace(self) -> Pace:
        """The speed of some steps that change nothing."""
        seconds, tokens, windows = 0.0, 0, 0
        for step in range(UNTIMED_STEPS + TIMED_STEPS):
            began = time.monotonic()
            batches = self._batches(step)
            for batch in batches:
                self._backward(batch, 1)
            self._optimizer.zero_grad(set_to_none=True)
            if step >= UNTIMED_STEPS:
                seconds += time.monotonic() - began
                tokens += sum(int(batch.present.sum()) for batch in batches)
                windows += sum(len(batch.tokens) for batch in batches)
        return Pace(tokens / seconds, windows / seconds)

    def _turn(self) -> int:
        """How many validations are due by now."""
        every = self.settings.validate_every
        return int(self._fraction() * self.settings.validations) if every is None else self.progress.step // every

    def _keep_or_go_back(self) -> None:
        """Validate; remember the weights if they are the best so far, return to the best ones if they diverged."""
        row = self.validate()
        # A mean takes up no weights that are no numbers, but what it is made of may have become such.
        sound = all(parameter.isfinite().all() for parameter in self._parameters)
        quality = self.task.quality(row) if sound else math.nan
        best = math.nan if self._best is None else self.task.quality(self._best["row"])
        if self._best is None or math.isnan(best) or quality > best:
            # What an untrained model does is luck, and nothing to go back to.
            if self.task.warm or self.progress.step:
                self._best = {"row": row, **self._weights()}
        # Not "more than": the quality of weights that are no numbers is none either.
        elif not best - quality <= self.task.tolerance(self._best["row"]):
            self._load_weights(self._best)
            self.progress.slow_down /= 2
        self._stop_early()
        self.save()

    def _stop_early(self) -> None:
        """Bring the end nearer when nothing more is to be gained."""
        progress = self.progress
        ends_at = self._fraction() + COOL_DOWN
        if not self.settings.early_stop or (progress.validation_windows or 0) < FEWEST_VALIDATION_WINDOWS:
            return  # so few windows cannot tell
        if EARLIEST_STOP + COOL_DOWN <= ends_at < progress.ends_at and self.task.exhausted(progress.history):
            progress.ends_at = ends_at
            self.say(f"no gain in {PATIENCE} validations: it stops at {ends_at:.0%} of the plan")

    def _choose(self) -> None:
        """Leave the last weights in the model, or the best ones."""
        first, last = self.progress.history[0], self.progress.history[-1]
        if self._best is None or self.task.keeps_last(first, self._best["row"], last):
            self._best = {"row": last, **self._weights()}
        else:
            self._load_weights(self._best)
        for parameter, mean in zip(self._parameters, self._mean, strict=False):
            parameter.data.copy_(mean)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """With the mean of the weights in the model."""
        self._exchange()
        yield
        self._exchange()

    def _exchange(self) -> None:
        """Put the mean of the weights into the model, and the weights in its place; a second time undoes it."""
        for parameter, mean in zip(self._parameters, self._mean, strict=False):
            kept = parameter.detach().clone()
            parameter.data.copy_(mean)
            mean.copy_(kept)

    def _weights(self) -> dict[str, Any]:
        return {
            "lora": lora_state(self.model.backbone),
            "mean": [mean.cpu().clone() for mean in self._mean],
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def _load_weights(self, saved: dict[str, Any]) -> None:
        load_lora_state(self.model.backbone, saved["lora"])
        for mean, kept in zip(self._mean, saved["mean"], strict=True):
            mean.copy_(kept)
        self._optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))

    def _fraction(self) -> float:
        """How much of the run is done, 0 to 1: by steps or by time, whichever is further."""
        return self.settings.fraction(self.progress.step, self.progress.seconds)

    def _over(self) -> bool:
        return self._fraction() >= self.progress.ends_at

    def _learning_rate(self) -> float:
        progress, fraction = self.progress, min(1.0, self._fraction())
        steps, share = self.settings.warmup_steps, self.task.warm_up_share
        warm_up = min(1.0, max((progress.step + 1) / steps, fraction / share))
        cool_down = max(0.0, min(1.0, (progress.ends_at - fraction) / COOL_DOWN)) if progress.ends_at < 1 else 1.0
        peak = self.settings.learning_rate * progress.slow_down
        fall = max(0.0, 1 - (1 - fraction) / self.settings.decay)
        return peak * warm_up * cool_down * 0.5 * (1 + math.cos(math.pi * fall))

    def _step(self) -> None:
        began = time.monotonic()
        rate = self._learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        batches = self._batches(self.progress.step)
        n_places = sum(len(batch.targets) for batch in batches)
        total = 0.0
        for batch in batches:
            total += self._backward(batch, n_places)
        progress = self.progress
        # Weights, or a mean, that are no numbers would stay so.
        if torch.nn.utils.clip_grad_norm_(self._parameters, 1.0).isfinite():
            self._optimizer.step()
            # A mean of few steps is a mean of those that there are.
            keep = min(self.settings.averaging, progress.step / (progress.step + 10))
            for mean, parameter in zip(self._mean, self._parameters, strict=False):
                mean.lerp_(parameter.detach(), 1 - keep)
            smooth = min(0.98, progress.step / (progress.step + 1))
            progress.loss = total if math.isnan(progress.loss) else smooth * progress.loss + (1 - smooth) * total
        self._optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.windows += sum(len(batch.tokens) for batch in batches)
        progress.tokens += sum(int(batch.present.sum()) for batch in batches)
        progress.seconds += time.monotonic() - began

    def _backward(self, batch: Batch, n_places: int) -> float:
        """Add the gradients of a batch; its part of the mean loss over ``n_places`` places."""
        loss = self.task.loss(self.model, batch.to(self.model.device)) / n_places
        loss.backward()
        return float(loss.item())

    def _batches(self, step: int) -> list[Batch]:
        """The step's windows, in the task's number of batches; of two, one has short windows and one long ones."""
        pool, place = divmod(step, POOL_STEPS)
        if self._pool_number != pool:
            give_back()
            size, parts = POOL_STEPS * self.settings.batch_windows, self.task.parts
            examples = [self.task.example(number) for number in range(pool * size, (pool + 1) * size)]
            batches = [batch for _, batch in Batch.by_length(examples, self.settings.batch_windows // parts)]
            order = np.random.default_rng([self.settings.seed, self.task.stream, pool]).permutation(POOL_STEPS)
            self._pool = [[batches[i], batches[-1 - i]][:parts] for i in order]
            self._pool_number = pool
        return self._pool[place]

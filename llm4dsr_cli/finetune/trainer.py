"""The training loop: steps, validation, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.evaluation.metrics import auroc, average_precision
from llm4dsr_cli.finetune.checkpoint import load_checkpoint, save_checkpoint
from llm4dsr_cli.finetune.data import LabelledWindow, Sampler
from llm4dsr_cli.finetune.interrupts import deferred_interrupt
from llm4dsr_cli.finetune.lora import load_lora_state, lora_layers, lora_state
from llm4dsr_cli.finetune.model import Batch, NoiseModel, collate
from llm4dsr_cli.finetune.pace import Pace
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.model.prompts import Prompter

# What the AUROC of some hundred windows differs by without any difference in the weights.
LUCK = 0.005
# A run that lost so much AUROC, and so much of what its best had above chance, has diverged.
DIVERGED, DIVERGED_SHARE = 0.03, 0.25
# Windows of this many steps are sorted by length together, so that a batch holds little padding.
POOL_STEPS = 16
# Warm-up is over after this share of a run that is short.
WARM_UP_SHARE = 0.15
# Steps that measure the pace, and those before them, in which layers are compiled.
TIMED_STEPS, UNTIMED_STEPS = 3, 2
# Validations take about this share of the training's time: a window forward is a third of one forward and backward.
VALIDATION_SHARE, FORWARD_SHARE, FEWEST_VALIDATION_WINDOWS = 0.08, 1 / 3, 50
# Without so much more AUROC in so many validations, a run past its half has nothing more to gain ...
PATIENCE, IMPROVEMENT, EARLIEST_STOP = 4, 0.002, 0.5
# ... unless it has not yet begun to learn, as in the first thousand windows from a base model alone.
LEARNING = 0.55
# A run that stops early still lets its learning rate fall to nothing, over this share of the whole.
COOL_DOWN = 0.1


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        seconds: of training, validations left out.
        loss: binary cross-entropy, smoothed over about 50 steps.
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
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Fits a NoiseModel to windows with injected noise, by binary cross-entropy over all their items.

    What is left in the model at the end are its last weights, for which the learning rate has fallen to zero; those of
    the best validation by AUROC only where that was better by more than luck would be. A run stops early when half
    of it is over and four validations in a row brought no more than .002 over the best before them. It does not stop
    on the spot: much of a run's gain comes while the learning rate falls, so it first lets it fall, over a tenth of the
    plan. Four validations are half of the shortest plan, and twelve minutes of training in a long one.

    Args:
        warm: the weights are a denoiser's: no training may turn out to be best, and it learns from the first step on.
        identity: what must not differ between a run and its resumption, such as fingerprints of base and data.
        say: told in one line each how far the run will get, and that it stops early.
        on_step: called after every step with the progress.
        on_validation: called after every validation with its row of the history.
    """

    def __init__(
        self,
        model: NoiseModel,
        prompter: Prompter,
        train: Sampler,
        validation: list[LabelledWindow],
        settings: Settings,
        *,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
        warm: bool = False,
        say: Callable[[str], None] = lambda line: None,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_validation: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        self.model = model
        self.prompter = prompter
        self.train = train
        self.validation = validation
        self.settings = settings
        self.checkpoint = checkpoint
        self.identity = {"settings": asdict(settings), **(identity or {})}
        self.warm = warm
        self.say = say
        self.on_step = on_step
        self.on_validation = on_validation
        self.progress = Progress()
        self.device = next(model.parameters()).device
        self._best: dict[str, Any] | None = None
        self._pool: list[list[Batch]] = []
        self._pool_number = -1
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        b = [layer.lora_b for _, layer in lora_layers(model.backbone)]
        others = [p for p in self._parameters if not any(p is q for q in b)]
        self._optimizer = torch.optim.AdamW(
            [{"params": others, "scale": 1.0}, {"params": b, "scale": settings.b_rate}],
            lr=settings.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=0.0,
        )

    @property
    def chosen(self) -> dict[str, float]:
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
            self.validation = self.validation[: self.progress.validation_windows]
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
            last = self.progress.history[-1]
            if self._best is not None and self._best["row"]["auroc"] > last["auroc"] + LUCK:
                load_lora_state(self.model.backbone, self._best["lora"])
            else:
                self._best = {"row": last, **self._weights()}
        return self.progress

    def _plan(self) -> None:
        """Measure the pace, say how far it will bring the run, and choose how many windows a validation can afford."""
        settings, progress = self.settings, self.progress
        pace = self._pace()
        self.say(pace.sentence(settings, self.train.n_sequences, progress.windows))
        if progress.validation_windows is None:
            expected, validations = pace.expected_windows(settings), float(settings.validations)
            if settings.validate_every is not None:
                validations = max(1.0, expected / settings.batch_windows / settings.validate_every)
            affordable = int(VALIDATION_SHARE / FORWARD_SHARE * expected / validations)
            progress.validation_windows = max(FEWEST_VALIDATION_WINDOWS, affordable)

    def _pace(self) -> Pace:
        """The speed of some steps that change nothing."""
        seconds, tokens, windows = 0.0, 0, 0
        for step in range(UNTIMED_STEPS + TIMED_STEPS):
            began = time.monotonic()
            batches = self._training_batches(step)
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
        best = math.nan if self._best is None else self._best["row"]["auroc"]
        if self._best is None or math.isnan(best) or row["auroc"] > best:
            # An untrained model's AUROC is luck, and nothing to go back to.
            if self.warm or self.progress.step:
                self._best = {"row": row, **self._weights()}
        elif best - row["auroc"] > max(DIVERGED, DIVERGED_SHARE * (best - 0.5)):
            self._load_weights(self._best)
            self.progress.slow_down /= 2
        self._stop_early()
        self.save()

    def _stop_early(self) -> None:
        """Bring the end nearer when nothing more is to be gained."""
        progress = self.progress
        ends_at = self._fraction() + COOL_DOWN
        if not self.settings.early_stop or len(self.validation) < FEWEST_VALIDATION_WINDOWS:
            return  # so few windows cannot tell
        if not EARLIEST_STOP + COOL_DOWN <= ends_at < progress.ends_at:
            return
        aurocs = [row["auroc"] for row in progress.history]
        if len(aurocs) <= PATIENCE:
            return
        before = max(aurocs[:-PATIENCE])
        if (self.warm or max(aurocs) > LEARNING) and max(aurocs[-PATIENCE:]) <= before + IMPROVEMENT:
            progress.ends_at = ends_at
            self.say(f"no gain in {PATIENCE} validations: it stops at {ends_at:.0%} of the plan (see --no-early-stop)")

    def _weights(self) -> dict[str, Any]:
        return {
            "lora": lora_state(self.model.backbone),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def _load_weights(self, saved: dict[str, Any]) -> None:
        load_lora_state(self.model.backbone, saved["lora"])
        self._optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))

    def validate(self) -> dict[str, float]:
        """AUROC and average precision on the held-out windows' items, the last item of each window left out."""
        scores, labels, domains = [], [], []
        for window, log_odds in zip(self.validation, self.log_odds(self.validation), strict=True):
            scores.append(log_odds[:-1])
            labels.append(window.labels[:-1])
            domains.append(np.full(len(log_odds) - 1, window.domain))
        score, label, domain = np.concatenate(scores), np.concatenate(labels), np.concatenate(domains)
        row = {
            "step": self.progress.step,
            "windows": self.progress.windows,
            "seconds": round(self.progress.seconds, 1),
            **({"loss": round(self.progress.loss, 4)} if self.progress.step else {}),
            "learning_rate": round(self._learning_rate(), 7),
            "auroc": round(auroc(score, label), 4),
            "average_precision": round(average_precision(score, label), 4),
        }
        if len(names := {d.name for d in self.train.domains}) > 1 and len(names) == len(self.train.domains):
            for number, d in enumerate(self.train.domains):
                here = domain == number
                row[f"auroc_{d.name}"] = round(auroc(score[here], label[here]), 4)
                row[f"average_precision_{d.name}"] = round(average_precision(score[here], label[here]), 4)
        self.progress.history.append(row)
        self.on_validation(row)
        return row

    def log_odds(self, windows: list[LabelledWindow]) -> list[NDArray[np.float32]]:
        """Noise log-odds of each window's items, by the model as it is now; shapes (n_items,)."""
        self.model.eval()
        results = [np.empty(0, dtype=np.float32)] * len(windows)
        with torch.no_grad():
            for numbers, batch in self._batches(windows, self.settings.batch_windows):
                flat = self.model(batch.to(self.device)).float().cpu().numpy()
                bounds = np.cumsum([len(windows[i].titles) for i in numbers])[:-1]
                for i, part in zip(numbers, np.split(flat, bounds), strict=True):
                    results[i] = part
        self.model.train()
        return results

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
            raise OptionError("there is no run to resume", where=str(self.checkpoint), remedy="leave out --resume")
        saved = load_checkpoint(self.checkpoint, self.identity)
        self._load_weights(saved)
        self._best = saved["best"]
        self.progress = Progress(**saved["progress"])

    def _fraction(self) -> float:
        """How much of the run is done, 0 to 1: by steps or by time, whichever is further."""
        done = self.progress.step / self.settings.total_steps
        if self.settings.time_budget is not None:
            done = max(done, self.progress.seconds / self.settings.time_budget)
        return done

    def _over(self) -> bool:
        return self._fraction() >= self.progress.ends_at

    def _learning_rate(self) -> float:
        progress, fraction = self.progress, min(1.0, self._fraction())
        warm_up = min(1.0, max((progress.step + 1) / self.settings.warmup_steps, fraction / WARM_UP_SHARE))
        cool_down = max(0.0, min(1.0, (progress.ends_at - fraction) / COOL_DOWN)) if progress.ends_at < 1 else 1.0
        peak = self.settings.learning_rate * progress.slow_down
        return peak * warm_up * cool_down * 0.5 * (1 + math.cos(math.pi * fraction))

    def _step(self) -> None:
        began = time.monotonic()
        rate = self._learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        batches = self._training_batches(self.progress.step)
        n_items = sum(len(batch.labels) for batch in batches)
        total = 0.0
        for batch in batches:
            total += self._backward(batch, n_items)
        progress = self.progress
        # Weights, or a mean, that are no numbers would stay so.
        if torch.nn.utils.clip_grad_norm_(self._parameters, 1.0).isfinite():
            self._optimizer.step()
            smooth = min(0.98, progress.step / (progress.step + 1))
            progress.loss = total if math.isnan(progress.loss) else smooth * progress.loss + (1 - smooth) * total
        self._optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.windows += sum(len(batch.tokens) for batch in batches)
        progress.tokens += sum(int(batch.present.sum()) for batch in batches)
        progress.seconds += time.monotonic() - began

    def _backward(self, batch: Batch, n_items: int) -> float:
        """Add the gradients of a batch; its part of the mean loss over ``n_items`` items."""
        batch = batch.to(self.device)
        loss = binary_cross_entropy_with_logits(self.model(batch), batch.labels, reduction="sum") / n_items
        loss.backward()
        return float(loss.item())

    def _training_batches(self, step: int) -> list[Batch]:
        """The step's windows in two batches, one of short windows and one of long ones, for little padding.

        Steps of short windows alone, or of long ones alone, would pull the weights to and fro, the more so as
        domains differ in length.
        """
        pool, place = divmod(step, POOL_STEPS)
        if self._pool_number != pool:
            size = POOL_STEPS * self.settings.batch_windows
            windows = [self.train.draw(number) for number in range(pool * size, (pool + 1) * size)]
            batches = [batch for _, batch in self._batches(windows, self.settings.batch_windows // 2)]
            order = np.random.default_rng([self.settings.seed, 2, pool]).permutation(POOL_STEPS)
            self._pool = [[batches[i], batches[-1 - i]] for i in order]
            self._pool_number = pool
        return self._pool[place]

    def _batches(self, windows: list[LabelledWindow], size: int) -> Iterator[tuple[list[int], Batch]]:
        """Batches of windows of similar length, with the windows' numbers."""
        prompts = [self.prompter.prompt(window.titles) for window in windows]
        order = sorted(range(len(windows)), key=lambda i: len(prompts[i].tokens))
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            yield chosen, collate([prompts[i] for i in chosen], [windows[i].labels for i in chosen])

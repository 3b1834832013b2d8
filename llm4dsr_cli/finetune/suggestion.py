"""Training in suggestions: the base model learns to go on with the titles that were taken out of a sequence.

The adapter is a second one, beside the detector's, over all layers of the base: the detector's few layers no longer
know how to name things (docs/experiments.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.finetune.checkpoint import load_checkpoint, save_checkpoint
from llm4dsr_cli.finetune.data import Sampler
from llm4dsr_cli.finetune.interrupts import deferred_interrupt
from llm4dsr_cli.finetune.lora import load_lora_state, lora_state
from llm4dsr_cli.finetune.model import NoiseModel, TitleBatch, collate_titles
from llm4dsr_cli.model.prompts import Prompter

VALIDATIONS = 8
WARM_UP_SHARE = 0.05
# So many steps' windows are sorted by length together, so that a batch holds little padding.
POOL_STEPS = 16


@dataclass(frozen=True)
class SuggestionSettings:
    """Settings of a training in suggestions.

    Attributes:
        windows: training windows to see; None when only the time budget ends the run.
        time_budget: seconds of training; None when only the number of windows ends it.
        learning_rate: its peak; warm-up over 5% of the run, then cosine decay to nothing.
        rank, alpha: of the low-rank adaptation; its scale is alpha / rank.
        batch_windows: windows of one optimizer step.
        validation_windows: held-out windows whose loss is measured.
    """

    windows: int | None
    time_budget: float | None = None
    learning_rate: float = 1e-3
    rank: int = 4
    alpha: float = 8.0
    batch_windows: int = 8
    validation_windows: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.windows is None and self.time_budget is None:
            raise OptionError("nothing would end the training in suggestions", remedy="give --windows or --time-budget")
        if self.windows is not None and self.windows < 1:
            raise OptionError(f"--windows {self.windows}", remedy="give 1 or more")

    @property
    def total_steps(self) -> float:
        return math.inf if self.windows is None else -(-self.windows // self.batch_windows)


@dataclass
class SuggestionProgress:
    """Where a training in suggestions stands; ``history`` has a row for each validation: windows, seconds, loss."""

    step: int = 0
    seconds: float = 0.0
    windows: int = 0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class SuggestionTrainer:
    """Fits an adapter to the next titles of windows, by the cross-entropy of their tokens.

    Args:
        model: the base with a fresh adapter, or one to go on from.
        train, validation: where windows come from; those of the second are of other users.
        checkpoint: where an interrupted run is kept.
        identity: what must not differ between a run and its resumption.
        on_validation: called with each row of the history; ``loss`` is nats a token on the held-out windows.
    """

    def __init__(
        self,
        model: NoiseModel,
        prompter: Prompter,
        train: Sampler,
        validation: Sampler,
        settings: SuggestionSettings,
        *,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
        on_step: Callable[[SuggestionProgress], None] = lambda progress: None,
        on_validation: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        self.model = model
        self.prompter = prompter
        self.train = train
        self.settings = settings
        self.checkpoint = checkpoint
        self.identity = {"settings": asdict(settings), **(identity or {})}
        self.on_step = on_step
        self.on_validation = on_validation
        self.progress = SuggestionProgress()
        self.device = next(model.parameters()).device
        self._held_out = [validation.draw_titles(number) for number in range(settings.validation_windows)]
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=settings.learning_rate, weight_decay=0.0)
        self._pool: tuple[int, list[TitleBatch]] = (-1, [])

    def run(self) -> SuggestionProgress:
        """Train to the end.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the step in hand was finished and the checkpoint saved.
        """
        with deferred_interrupt() as interrupted:
            if not self.progress.history:
                self.validate()
            if self._fraction() < 1:
                self._gradient(self._batch(self.progress.step))  # compiles, outside of the time budget
                self._optimizer.zero_grad(set_to_none=True)
            while (done := self._fraction()) < 1:
                if done * VALIDATIONS >= len(self.progress.history):
                    self.validate()
                    self.save()
                self._step()
                self.on_step(self.progress)
                if interrupted():
                    self.save()
                    raise KeyboardInterrupt
            if self.progress.history[-1]["windows"] != self.progress.windows:
                self.validate()
            self.save()
        return self.progress

    def validate(self) -> None:
        """Add a row to the history: cross-entropy of the held-out windows' next titles, in nats a token."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for at in range(0, len(self._held_out), self.settings.batch_windows):
                titles = self._held_out[at : at + self.settings.batch_windows]
                batch = collate_titles([self.prompter.prompt(row) for row in titles]).to(self.device)
                total += float(self.model.title_loss(batch).item())
                count += len(batch.targets)
        self.model.train()
        progress = self.progress
        row = {"windows": progress.windows, "seconds": round(progress.seconds, 1), "loss": round(total / count, 4)}
        progress.history.append(row)
        self.on_validation(row)

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        if self.checkpoint is None:
            return
        save_checkpoint(
            self.checkpoint,
            {
                "identity": self.identity,
                "progress": asdict(self.progress),
                "lora": lora_state(self.model.backbone),
                "optimizer": self._optimizer.state_dict(),
            },
        )

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            OptionError: it is of other settings, data or base model.
        """
        assert self.checkpoint is not None
        saved = load_checkpoint(self.checkpoint, self.identity)
        load_lora_state(self.model.backbone, saved["lora"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.progress = SuggestionProgress(**saved["progress"])

    def _fraction(self) -> float:
        done = self.progress.step / self.settings.total_steps
        if self.settings.time_budget is not None:
            done = max(done, self.progress.seconds / self.settings.time_budget)
        return done

    def _step(self) -> None:
        began = time.monotonic()
        progress, done = self.progress, min(1.0, self._fraction())
        warm_up = min(1.0, max((progress.step + 1) / 20, done / WARM_UP_SHARE))
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * done))
        batch = self._batch(progress.step)
        self._gradient(batch)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.windows += len(batch.tokens)
        progress.tokens += int(batch.present.sum())
        progress.seconds += time.monotonic() - began

    def _gradient(self, batch: TitleBatch) -> None:
        (self.model.title_loss(batch.to(self.device)) / len(batch.targets)).backward()

    def _batch(self, step: int) -> TitleBatch:
        """The step's windows, of similar length."""
        pool, place = divmod(step, POOL_STEPS)
        if self._pool[0] != pool:
            n = self.settings.batch_windows
            numbers = range(pool * POOL_STEPS * n, (pool + 1) * POOL_STEPS * n)
            prompts = sorted(
                (self.prompter.prompt(self.train.draw_titles(number)) for number in numbers),
                key=lambda prompt: len(prompt.tokens),
            )
            batches = [collate_titles(prompts[at : at + n]) for at in range(0, len(prompts), n)]
            order = np.random.default_rng([self.settings.seed, 4, pool]).permutation(POOL_STEPS)
            self._pool = (pool, [batches[i] for i in order])
        return self._pool[1][place]

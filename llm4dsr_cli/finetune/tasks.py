"""Tasks: what an adapter is fitted to, where its examples come from, and how well held-out users are told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llm4dsr_cli.evaluation.metrics import auroc, average_precision
from llm4dsr_cli.finetune.batch import Batch, Example
from llm4dsr_cli.finetune.data import LabelledWindow, Sampler
from llm4dsr_cli.finetune.model import NoiseModel
from llm4dsr_cli.model.prompts import Prompter

Row = dict[str, float]

# What the AUROC of some hundred windows differs by without any difference in the weights.
LUCK = 0.005
# A detector that lost so much AUROC, and so much of what its best had above chance, has diverged.
DIVERGED, DIVERGED_SHARE = 0.03, 0.25
# A suggester that lost this share of what it had left has diverged: held-out titles cost so much more.
COSTLIER = 0.1
# Without so much more AUROC in so many validations, a run past its half has nothing more to gain ...
PATIENCE, IMPROVEMENT = 4, 0.002
# ... unless it has not yet begun to learn, as in the first thousand windows from a base model alone.
LEARNING = 0.55


class Task(ABC):
    """What a ``Trainer`` must know of what is learned.

    Attributes:
        parts: batches of a step, each of windows of similar length.
        stream: of the random numbers that order the steps.
        warm_up_share: the learning rate has risen after this share of a run that is short.
        warm: the first weights know something: to go on from them may turn out to be no gain.
        train: where training windows come from.
        validation: windows of other users, to measure.
    """

    parts: int
    stream: int
    warm_up_share: float

    def __init__(self, prompter: Prompter, train: Sampler, validation: Sequence[Any], *, warm: bool = False) -> None:
        self.prompter = prompter
        self.train = train
        self.validation = validation
        self.warm = warm

    @abstractmethod
    def example(self, number: int) -> Example:
        """The training example of this number; the same whenever it is asked for."""

    @abstractmethod
    def loss(self, model: NoiseModel, batch: Batch) -> torch.Tensor:
        """The loss of a batch, summed over its places."""

    @abstractmethod
    def measure(self, model: NoiseModel, n: int | None, size: int) -> Row:
        """What held-out users say of the model as it is, by the first ``n`` of their windows, ``size`` to a batch."""

    @abstractmethod
    def quality(self, row: Row) -> float:
        """Of what ``measure`` found, what should be high; NaN where it could not be measured."""

    @abstractmethod
    def tolerance(self, best: Row) -> float:
        """How much quality a model that has had this best one may lose without having diverged."""

    @abstractmethod
    def keeps_last(self, first: Row, best: Row, last: Row) -> bool:
        """Whether a run's last weights are kept, or its best ones."""

    def exhausted(self, history: Sequence[Row]) -> bool:
        """Whether nothing more is to be gained."""
        return False


class Detecting(Task):
    """Telling the items that were replaced, by binary cross-entropy over all items of a ``LabelledWindow``.

    The last weights are kept, for which the learning rate has fallen to nothing; those of the best validation by AUROC
    only where that was better by more than luck would be.
    """

    # A batch of short windows and one of long ones, for little padding: steps of short ones alone, or of long ones
    # alone, would pull the weights to and fro, the more so as domains differ in length.
    parts, stream, warm_up_share = 2, 2, 0.15

    def example(self, number: int) -> Example:
        return self._example(self.train.draw(number))

    def loss(self, model: NoiseModel, batch: Batch) -> torch.Tensor:
        return model.noise_loss(batch)

    def measure(self, model: NoiseModel, n: int | None, size: int) -> Row:
        """AUROC and average precision over the windows' items, the last one of each left out, and by domain."""
        windows = self.validation[:n]
        log_odds = self.log_odds(model, windows, size)
        score = np.concatenate([row[:-1] for row in log_odds])
        label = np.concatenate([window.labels[:-1] for window in windows])
        of_domain = np.repeat([w.domain for w in windows], [len(w.labels) - 1 for w in windows])
        parts = {"": np.ones(len(score), dtype=bool)}
        names = [domain.name for domain in self.train.domains]
        if len(names) > 1 and len(set(names)) == len(names):
            parts |= {f"_{name}": of_domain == number for number, name in enumerate(names)}
        known = bool(np.isfinite(score).all())
        return {
            f"{measure.__name__}{name}": round(measure(score[here], label[here]), 4) if known else np.nan
            for name, here in parts.items()
            for measure in (auroc, average_precision)
        }

    def log_odds(self, model: NoiseModel, windows: Sequence[LabelledWindow], size: int) -> list[NDArray[np.float32]]:
        """Noise log-odds of each window's items, shape (n_items,)."""
        results = [np.empty(0, dtype=np.float32)] * len(windows)
        with model.judging():
            for numbers, batch in Batch.by_length([self._example(window) for window in windows], size):
                flat = model(batch.to(model.device)).float().cpu().numpy()
                bounds = np.cumsum([len(windows[i].titles) for i in numbers])[:-1]
                for i, part in zip(numbers, np.split(flat, bounds), strict=True):
                    results[i] = part
        return results

    def quality(self, row: Row) -> float:
        return row["auroc"]

    def tolerance(self, best: Row) -> float:
        return max(DIVERGED, DIVERGED_SHARE * (best["auroc"] - 0.5))

    def keeps_last(self, first: Row, best: Row, last: Row) -> bool:
        return last["auroc"] + LUCK >= best["auroc"]

    def exhausted(self, history: Sequence[Row]) -> bool:
        aurocs = [row["auroc"] for row in history]
        if len(aurocs) <= PATIENCE or not (self.warm or max(aurocs) > LEARNING):
            return False
        return max(aurocs[-PATIENCE:]) <= max(aurocs[:-PATIENCE]) + IMPROVEMENT

    def _example(self, window: LabelledWindow) -> Example:
        return Example.of_noise(self.prompter.prompt(window.titles), window.labels)


class Suggesting(Task):
    """Going on with the titles that were taken out of a list of titles, by the cross-entropy of their tokens.

    The last weights are kept unless they know no more than the first ones did; then the best.
    """

    parts, stream, warm_up_share = 1, 4, 0.05

    def example(self, number: int) -> Example:
        return Example.of_titles(self.prompter.prompt(self.train.draw_titles(number)))

    def loss(self, model: NoiseModel, batch: Batch) -> torch.Tensor:
        return model.title_loss(batch)

    def measure(self, model: NoiseModel, n: int | None, size: int) -> Row:
        """``held_out_loss``: cross-entropy of the windows' next titles, in nats a token."""
        examples = [Example.of_titles(self.prompter.prompt(titles)) for titles in self.validation[:n]]
        with model.judging():
            losses = [float(model.title_loss(b.to(model.device))) for _, b in Batch.by_length(examples, size)]
        return {"held_out_loss": round(sum(losses) / sum(len(example.targets) for example in examples), 4)}

    def quality(self, row: Row) -> float:
        return -row["held_out_loss"]

    def tolerance(self, best: Row) -> float:
        return COSTLIER * best["held_out_loss"]

    def keeps_last(self, first: Row, best: Row, last: Row) -> bool:
        return last["held_out_loss"] <= first["held_out_loss"]

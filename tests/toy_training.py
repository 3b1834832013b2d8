"""A toy domain that the tiny model can learn, and trainers of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm4dsr_cli.finetune.batch import Batch
from llm4dsr_cli.finetune.data import Domain, Sampler, split_users
from llm4dsr_cli.finetune.lora import add_lora, lora_state
from llm4dsr_cli.finetune.model import NoiseModel
from llm4dsr_cli.finetune.run import Finetuned, finetune
from llm4dsr_cli.finetune.settings import Settings
from llm4dsr_cli.finetune.start import find_start
from llm4dsr_cli.finetune.tasks import Detecting
from llm4dsr_cli.finetune.trainer import Trainer
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter
from llm4dsr_cli.model.torch_model import load_base

SETTINGS = Settings(
    windows=64,
    learning_rate=3e-3,
    rank=4,
    alpha=8.0,
    batch_windows=8,
    warmup_steps=2,
    max_window=6,
    max_title_tokens=8,
    validation=0.2,
    calibration=0.2,
    test=0.1,
    validation_windows=20,
    validate_every=3,
    early_stop=False,
)
STEPS = 8
SHARES = {"validation": 0.2, "calibration": 0.2, "test": 0.1}


def two_clusters(seed: int = 0, n_users: int = 60) -> Domain:
    """Users who like titles of one of two alphabets, in a catalog that is mostly of a third: most noise shows."""
    rng = np.random.default_rng(seed)
    titles = [
        [a + b + a for a in letters for b in letters][:size]
        for letters, size in (("abcd", 12), ("wxyz", 12), ("01234567", 60))
    ]
    sequences = [
        (user, [str(t) for t in rng.choice(titles[user % 2], rng.integers(4, 9), replace=False)])
        for user in range(n_users)
    ]
    return Domain.build("toy", [title for cluster in titles for title in cluster], sequences)


@dataclass
class Bench:
    """Makes trainers of the tiny model, each from fresh weights."""

    base: Path
    validation_windows: int = 20

    def __call__(
        self, settings: Settings = SETTINGS, checkpoint: Path | None = None, *, warm: bool = False, **more: Any
    ) -> Trainer:
        with Model(self.base, vocab_only=True) as vocabulary:
            tokens = {title: vocabulary.tokenize(title) for title in [*two_clusters().titles, "\n", " yes", " no"]}
        prompter = Prompter(DEFAULT_FORMAT, tokens.__getitem__, settings.max_title_tokens)
        torch.manual_seed(settings.seed)
        model = NoiseModel(load_base(self.base, "llama", torch.float32), prompter.answers)
        add_lora(model.backbone, settings.rank, settings.alpha)
        split = split_users([two_clusters()], **SHARES)
        train = Sampler(split.train, max_window=6, rates=settings.rates, shorten=0.25, seed=settings.seed)
        held_out = Sampler(split.validation, max_window=6, rates=(0.2,), shorten=0, seed=99)
        windows = list(held_out.windows(self.validation_windows))
        task = Detecting(prompter, train, windows, warm=warm)
        return Trainer(model, task, settings, checkpoint=checkpoint, **more)


def weights(trainer: Trainer) -> dict[str, Any]:
    return lora_state(trainer.model.backbone)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def interrupt_at(step: int, part: str | None = None) -> Callable[..., None]:
    """For ``on_step`` of a trainer, or of a whole run, whose part is then meant."""

    def on_step(*told: Any) -> None:
        if told[-1].step == step and told[0] in (part, told[-1]):
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def rows_without_time(trainer: Trainer) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in trainer.progress.history]


def train(base: Path, output: Path, settings: Settings = SETTINGS, init: str = "none", **more: Any) -> Finetuned:
    """Fine-tune the tiny model on the toy domain."""
    start = find_start(init, str(base))
    return finetune([two_clusters()], output, start, settings, device="cpu", compile_layers=False, **more)


def unlearn_titles(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Let the training in suggestions go the wrong way, from its so-manieth step on."""
    loss, steps = NoiseModel.title_loss, 0

    def turned(model: NoiseModel, batch: Batch) -> torch.Tensor:
        nonlocal steps
        steps += torch.is_grad_enabled()
        return loss(model, batch) * (-1 if torch.is_grad_enabled() and steps > after else 1)

    monkeypatch.setattr(NoiseModel, "title_loss", turned)


def adapter_tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data.copy() for tensor in open_gguf(path).tensors}


def same_tensors(one: Path, other: Path) -> bool:
    first, second = adapter_tensors(one), adapter_tensors(other)
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)

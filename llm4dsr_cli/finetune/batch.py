"""Batches: prompts with what a model should say at some of their tokens, padded to one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llm4dsr_cli.model.prompts import Prompt


@dataclass(frozen=True)
class Example:
    """A window to learn from.

    Attributes:
        tokens: the prompt's, int32, shape (n_tokens,).
        places: tokens at which the model is read, shape (n_places,).
        targets: what it should say there, shape (n_places,): a label (1.0 = noise), or the token that comes next.
    """

    tokens: NDArray[np.int32]
    places: NDArray[np.integer[Any]]
    targets: NDArray[Any]

    @classmethod
    def of_noise(cls, prompt: Prompt, labels: NDArray[Any]) -> Example:
        """One that tells the items' labels (shape (n_items,), 1 = noise) at their probes."""
        return cls(prompt.tokens, prompt.probes, labels.astype(np.float32))

    @classmethod
    def of_titles(cls, prompt: Prompt) -> Example:
        """One that predicts every token after the first title."""
        places = np.arange(prompt.probes[0], len(prompt.tokens) - 1)
        return cls(prompt.tokens, places, prompt.tokens[places + 1].astype(np.int64))


@dataclass(frozen=True)
class Batch:
    """Examples of one optimizer step, padded at the right.

    Attributes:
        tokens: int64, shape (n_windows, length).
        present: bool, the same shape, False at padding.
        rows, columns: where the model is read, int64, shape (n_places,).
        targets: what it should say there, shape (n_places,): float32 labels, or int64 tokens.
    """

    tokens: torch.Tensor
    present: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], multiple: int = 8) -> Batch:
        """One batch of all the examples; its length is rounded up to ``multiple`` tokens."""
        longest = max(len(example.tokens) for example in examples)
        tokens = np.zeros((len(examples), -(-longest // multiple) * multiple), dtype=np.int64)
        present = np.zeros(tokens.shape, dtype=bool)
        for row, example in enumerate(examples):
            tokens[row, : len(example.tokens)] = example.tokens
            present[row, : len(example.tokens)] = True
        rows = np.repeat(np.arange(len(examples)), [len(example.places) for example in examples])
        columns = np.concatenate([example.places for example in examples]).astype(np.int64)
        targets = np.concatenate([example.targets for example in examples])
        return cls(*map(torch.from_numpy, (tokens, present, rows, columns, targets)))

    @classmethod
    def by_length(cls, examples: Sequence[Example], size: int) -> Iterator[tuple[list[int], Batch]]:
        """Batches of ``size`` examples of similar length, shortest first, each with its examples' numbers."""
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            yield chosen, cls.of([examples[i] for i in chosen])

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

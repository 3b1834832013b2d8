"""The model in training: a base GGUF dequantized by transformers.

It is read in two ways: bidirectionally at its probes, for noise, and causally, for the titles that come next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.finetune.batch import Batch
from llm4dsr_cli.model.torch_model import last_hidden


class NoiseModel(nn.Module):
    """Noise log-odds at the probes of a batch, from a decoder without its causal mask; next titles, with it.

    Args:
        causal_lm: a transformers causal language model.
        answers: token ids (noise, belongs), shape (2,).
    """

    def __init__(self, causal_lm: nn.Module, answers: NDArray[np.int32]) -> None:
        super().__init__()
        self.backbone = causal_lm.model
        head = causal_lm.get_output_embeddings().weight.detach()
        self.register_buffer("head", head, persistent=False)
        rows = head[torch.from_numpy(answers.astype(np.int64))].float()
        self.register_buffer("direction", rows[0] - rows[1])

    def forward(self, batch: Batch) -> torch.Tensor:
        """Log-odds that each probed item is noise, float32, shape (n_probes,)."""
        hidden = last_hidden(self.backbone, batch.tokens, batch.present, causal=False)
        return hidden[batch.rows, batch.columns].float() @ self.direction

    @property
    def device(self) -> torch.device:
        device: torch.device = self.head.device
        return device

    @contextmanager
    def judging(self) -> Iterator[None]:
        """For forward passes that train nothing."""
        self.eval()
        with torch.no_grad():
            yield
        self.train()

    def noise_loss(self, batch: Batch) -> torch.Tensor:
        """Sum of the binary cross-entropies of the items' labels, in nats."""
        return binary_cross_entropy_with_logits(self(batch), batch.targets, reduction="sum")

    def title_loss(self, batch: Batch) -> torch.Tensor:
        """Sum of the cross-entropies of the next tokens, in nats."""
        hidden = last_hidden(self.backbone, batch.tokens, batch.present, causal=True)
        logits = hidden[batch.rows, batch.columns] @ self.head.t()
        return cross_entropy(logits.float(), batch.targets, reduction="sum")


def check_prompts(causal_lm: nn.Module, longest: int) -> None:
    """Raises OptionError for prompts of ``longest`` tokens that a model with sliding windows would not see whole."""
    config: Any = causal_lm.config
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) and longest > config.sliding_window:
        raise OptionError(
            f"windows of up to {longest} tokens do not fit the base model's sliding window of {config.sliding_window}",
            remedy="give a smaller `max_window` or `max_title_tokens`",
        )

"""The model in training: a base GGUF dequantized by transformers.

It is read in two ways: bidirectionally at its probes, for noise, and causally, for the titles that come next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.finetune.architectures import ARCHITECTURES
from llm4dsr_cli.finetune.batch import Batch
from llm4dsr_cli.model.gguf_file import open_gguf


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
        n, length = batch.tokens.shape
        # Every token sees every present token of its window: a key mask alone, no triangle.
        hidden = self._hidden(batch.tokens, batch.present[:, None, None, :].expand(n, 1, length, length))
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
        length = batch.tokens.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=batch.tokens.device).tril()
        hidden = self._hidden(batch.tokens, batch.present[:, None, None, :] & seen)
        logits = hidden[batch.rows, batch.columns] @ self.head.t()
        return cross_entropy(logits.float(), batch.targets, reduction="sum")

    def _hidden(self, tokens: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """Last hidden states, shape (n_windows, length, width); ``sees`` is bool, (n_windows, 1, length, length)."""
        dtype = next(self.backbone.parameters()).dtype
        mask = torch.zeros(sees.shape, dtype=dtype, device=tokens.device).masked_fill_(~sees, torch.finfo(dtype).min)
        return self.backbone(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state


def pick_device(name: str = "auto") -> torch.device:
    """The device named, or the best there is: CUDA, then Apple's MPS, then the CPU."""
    there = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    if name not in ("auto", *there):
        raise OptionError(f"`device` is {name}: no such device here", remedy=f"choose {', '.join(['auto', *there])}")
    return torch.device(there[0] if name == "auto" else name)


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it fast, else float32."""
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if device.type == "mps" or torch.cuda.is_bf16_supported() else torch.float32


def compile_backbone(model: NoiseModel, wanted: bool | None = None) -> None:
    """Compile each layer with torch.compile; ``wanted`` None does it on a CPU where there is a C++ compiler."""
    if wanted is None:
        on_cpu = model.device.type == "cpu"
        wanted = on_cpu and any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
    if wanted:
        for layer in model.backbone.layers:
            layer.compile(dynamic=True)


def load_base(path: Path, architecture: str, dtype: torch.dtype, layers: int | None = None) -> nn.Module:
    """The base GGUF's dequantized weights as a transformers causal language model.

    Args:
        layers: keep only the first so many layers; None keeps all.

    Raises:
        OptionError: the base has fewer layers.
        ModelError: the architecture is not one that both transformers and llama.cpp can train and serve here.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"fine-tuning does not support the architecture {architecture!r}",
            where=str(path),
            remedy=f"choose a base of {', '.join(ARCHITECTURES)}",
        )
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        causal_lm = transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            quantization_config=transformers.GgufConfig(dequantize=True),
            dtype=dtype,
            attn_implementation="eager",
        )
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"transformers cannot load this {architecture} ({reason})", where=str(path), remedy="choose another base"
        ) from error
    if layers is not None:
        there = len(causal_lm.model.layers)
        if layers > there:
            raise OptionError(f"`layers` is {layers}: {path.name} has {there}", remedy=f"give at most {there}")
        causal_lm.model.layers = causal_lm.model.layers[:layers]
        causal_lm.config.num_hidden_layers = layers
    ARCHITECTURES[architecture].correct(causal_lm, open_gguf(path))
    return causal_lm


def check_prompts(causal_lm: nn.Module, longest: int) -> None:
    """Raises OptionError for prompts of ``longest`` tokens that a model with sliding windows would not see whole."""
    config: Any = causal_lm.config
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) and longest > config.sliding_window:
        raise OptionError(
            f"windows of up to {longest} tokens do not fit the base model's sliding window of {config.sliding_window}",
            remedy="give a smaller `max_window` or `max_title_tokens`",
        )

"""The model in training: a base GGUF dequantized by transformers.

It is read in two ways: bidirectionally at its probes, for noise, and causally, for the titles that come next.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.prompts import Prompt

# transformers reads these from a GGUF, and llama.cpp's non-causal mode is tested with them.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
# llama.cpp takes a gemma3 of so many layers for the 27B, whose attention is scaled by another width.
LAYERS_OF_GEMMA3_27B = 62


@dataclass(frozen=True)
class Batch:
    """Windows of one optimizer step, padded at the right.

    Attributes:
        tokens: int64, shape (n_windows, length).
        present: bool, the same shape, False at padding.
        rows, columns: where the probes are, int64, shape (n_probes,).
        labels: float32, shape (n_probes,), 1 = noise.
    """

    tokens: torch.Tensor
    present: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, name).to(device) for name in ("tokens", "present", "rows", "columns", "labels")))


@dataclass(frozen=True)
class TitleBatch:
    """Windows whose next titles are to be predicted, padded at the right.

    Attributes:
        tokens, present: as in ``Batch``.
        rows, columns: where a prediction is read, int64, shape (n_predictions,): from the first title's end on.
        targets: the token that comes next there, int64, shape (n_predictions,).
    """

    tokens: torch.Tensor
    present: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> TitleBatch:
        names = ("tokens", "present", "rows", "columns", "targets")
        return TitleBatch(*(getattr(self, name).to(device) for name in names))


def collate(prompts: list[Prompt], labels: list[NDArray[np.int8]], multiple: int = 8) -> Batch:
    """One padded batch from prompts and their items' labels; the length is rounded up to ``multiple`` tokens."""
    tokens, present = _padded(prompts, multiple)
    return Batch(
        tokens=tokens,
        present=present,
        rows=torch.from_numpy(np.repeat(np.arange(len(prompts)), [len(prompt.probes) for prompt in prompts])),
        columns=torch.from_numpy(np.concatenate([prompt.probes for prompt in prompts]).astype(np.int64)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.float32)),
    )


def collate_titles(prompts: list[Prompt], multiple: int = 8) -> TitleBatch:
    """One padded batch in which every token after a window's first title is predicted."""
    tokens, present = _padded(prompts, multiple)
    columns = [np.arange(prompt.probes[0], len(prompt.tokens) - 1) for prompt in prompts]
    rows = torch.from_numpy(np.repeat(np.arange(len(prompts)), [len(part) for part in columns]))
    flat = torch.from_numpy(np.concatenate(columns).astype(np.int64))
    return TitleBatch(tokens=tokens, present=present, rows=rows, columns=flat, targets=tokens[rows, flat + 1])


def _padded(prompts: list[Prompt], multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(prompt.tokens) for prompt in prompts)
    length = -(-longest // multiple) * multiple
    tokens = np.zeros((len(prompts), length), dtype=np.int64)
    present = np.zeros((len(prompts), length), dtype=bool)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt.tokens)] = prompt.tokens
        present[i, : len(prompt.tokens)] = True
    return torch.from_numpy(tokens), torch.from_numpy(present)


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

    def title_loss(self, batch: TitleBatch) -> torch.Tensor:
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
        raise OptionError(f"--device {name}: no such device here", remedy=f"choose {', '.join(['auto', *there])}")
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
        on_cpu = next(model.parameters()).device.type == "cpu"
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
            raise OptionError(f"--layers {layers}: {path.name} has {there}", remedy=f"give at most {there}")
        causal_lm.model.layers = causal_lm.model.layers[:layers]
        causal_lm.config.num_hidden_layers = layers
    if architecture == "gemma3":
        _as_llama_cpp_reads_gemma3(causal_lm, open_gguf(path))
    return causal_lm


def _as_llama_cpp_reads_gemma3(causal_lm: Any, base: gguf.GGUFReader) -> None:
    """Set what transformers' GGUF reader leaves at its default: attention scale, and rotary scale of global layers."""
    config, model = causal_lm.config, causal_lm.model
    scaled_by = config.head_dim
    if config.num_hidden_layers == LAYERS_OF_GEMMA3_27B:
        scaled_by = config.hidden_size // config.num_attention_heads
    for layer in model.layers:
        layer.self_attn.scaling = scaled_by**-0.5
    factor = base.fields.get("gemma3.rope.scaling.factor")
    if factor is not None and hasattr(model.rotary_emb, "full_attention_inv_freq"):
        model.rotary_emb.full_attention_inv_freq /= float(factor.contents())


def check_prompts(causal_lm: nn.Module, longest: int) -> None:
    """Raises OptionError for prompts of ``longest`` tokens that a model with sliding windows would not see whole."""
    config: Any = causal_lm.config
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) and longest > config.sliding_window:
        raise OptionError(
            f"windows of up to {longest} tokens do not fit the base model's sliding window of {config.sliding_window}",
            remedy="give a smaller --max-window or --max-title-tokens",
        )

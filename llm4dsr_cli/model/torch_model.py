"""A GGUF as a transformers model, for training, and for the engine on torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import torch
import transformers
from torch import nn

from llm4dsr_cli.errors import ModelError, OptionError, OutOfMemoryError
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.torch_architectures import ARCHITECTURES, left_out


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


def compile_layers(backbone: nn.Module, wanted: bool | None = None) -> None:
    """Compile each layer with torch.compile; ``wanted`` None does it on a CPU where there is a C++ compiler."""
    if wanted is None:
        on_cpu = next(backbone.parameters()).device.type == "cpu"
        wanted = on_cpu and any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
    if wanted:
        for layer in backbone.layers:
            layer.compile(dynamic=True)


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Where torch finds too little memory for what it does with a model's file, OutOfMemoryError says so."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch's allocator raises no error of its own.
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in str(error):
            raise
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise OutOfMemoryError(f"torch has too little memory ({reason})", where=str(path)) from None


def load_base(path: Path, architecture: str, dtype: torch.dtype, layers: int | None = None) -> nn.Module:
    """A GGUF's dequantized weights as a transformers causal language model.

    Args:
        layers: keep only the first so many layers; None keeps all.

    Raises:
        OptionError: the base has fewer layers.
        OutOfMemoryError: there is too little memory.
        ModelError: the architecture is not one that both transformers and llama.cpp can run here, or the model has
            something that transformers leaves out.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"this version does not support the architecture {architecture!r} with torch",
            where=str(path),
            remedy=f"choose a base of {', '.join(ARCHITECTURES)}",
        )
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        # Its progress bar would stand among our lines, and heeds no setting of transformers.
        with room(path), redirect_stderr(StringIO()):
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
    base = open_gguf(path)
    missing = left_out(base, causal_lm.state_dict())
    if missing is not None:
        raise ModelError(
            f"torch would run this {architecture} without its {missing}", where=str(path), remedy="choose another base"
        )
    if layers is not None:
        there = len(causal_lm.model.layers)
        if layers > there:
            raise OptionError(f"`layers` is {layers}: {path.name} has {there}", remedy=f"give at most {there}")
        causal_lm.model.layers = causal_lm.model.layers[:layers]
        causal_lm.config.num_hidden_layers = layers
    ARCHITECTURES[architecture].correct(causal_lm, base)
    return causal_lm


def last_hidden(backbone: nn.Module, tokens: torch.Tensor, present: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Last hidden states, shape (n_windows, length, width).

    Args:
        tokens: ids, int64, shape (n_windows, length).
        present: bool, the same shape, False at padding, which nothing sees.
        causal: each token sees those before it and itself; else all of its window.
    """
    n, length = tokens.shape
    sees = present[:, None, None, :].expand(n, 1, length, length)
    if causal:
        sees = sees & torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    dtype = next(backbone.parameters()).dtype
    mask = torch.zeros(sees.shape, dtype=dtype, device=tokens.device).masked_fill_(~sees, torch.finfo(dtype).min)
    found: torch.Tensor = backbone(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
    return found

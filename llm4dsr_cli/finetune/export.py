"""Trained tensors under GGUF's names and in its order of rows, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch

from llm4dsr_cli.finetune.adapter import Adapter
from llm4dsr_cli.finetune.architectures import ARCHITECTURES


@dataclass(frozen=True)
class Shape:
    """What of a model's architecture decides its adapter's tensors."""

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int

    @classmethod
    def of(cls, causal_lm: Any, architecture: str) -> Shape:
        config = causal_lm.config
        return cls(architecture, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)

    def gguf_name(self, layer: str) -> str:
        """GGUF's name of a layer such as ``layers.0.self_attn.q_proj``."""
        arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[self.architecture]
        name = gguf.get_tensor_name_map(arch, self.n_layers).get_name(f"model.{layer}")
        if name is None:
            raise ValueError(f"GGUF has no name for {layer} in architecture {self.architecture}")
        return str(name)

    def rotary_heads(self, layer: str) -> int | None:
        """Number of heads whose rows are in another order in the GGUF; None where the order is the same."""
        if not ARCHITECTURES[self.architecture].permuted:
            return None
        if layer.endswith("q_proj"):
            return self.n_heads
        return self.n_kv_heads if layer.endswith("k_proj") else None


def to_gguf(state: dict[str, torch.Tensor], shape: Shape, alpha: float) -> Adapter:
    """``lora_state`` under GGUF names, rows in llama.cpp's order."""
    tensors = {}
    for key, tensor in state.items():
        layer, side = key.removesuffix(".weight").rsplit(".", 1)
        array = tensor.numpy()
        heads = shape.rotary_heads(layer)
        if side == "lora_B" and heads:
            # Per head, the two halves of the rotary dimensions become neighbouring pairs.
            out, rank = array.shape
            array = array.reshape(heads, 2, out // heads // 2, rank).swapaxes(1, 2).reshape(out, rank)
        tensors[f"{shape.gguf_name(layer)}.weight.{side.lower()}"] = np.ascontiguousarray(array, dtype=np.float32)
    return Adapter(tensors, alpha)


def from_gguf(adapter: Adapter, layers: Iterable[str], shape: Shape, alpha: float) -> dict[str, torch.Tensor]:
    """The reverse of ``to_gguf``, for the layers named, and under the scale of another ``alpha``.

    Raises:
        KeyError: the adapter does not adapt one of them.
    """
    state = {}
    for layer in layers:
        for side in ("lora_A", "lora_B"):
            array = adapter.tensors[f"{shape.gguf_name(layer)}.weight.{side.lower()}"]
            heads = shape.rotary_heads(layer)
            if side == "lora_B":
                out, rank = array.shape
                if heads:
                    array = array.reshape(heads, out // heads // 2, 2, rank).swapaxes(1, 2).reshape(out, rank)
                array = array * np.float32(adapter.alpha / alpha)
            state[f"{layer}.{side}.weight"] = torch.from_numpy(np.ascontiguousarray(array))
    return state

"""Architectures of base models that can be trained and served: the one table of what differs between them.

transformers reads each of them from a GGUF, and llama.cpp's non-causal mode is tested with them (tests/model).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

if TYPE_CHECKING:
    from llm4dsr_cli.model.gguf_file import GgufFile

# llama.cpp takes a gemma3 of so many layers for the 27B, whose attention is scaled by another width.
LAYERS_OF_GEMMA3_27B = 62


@dataclass(frozen=True)
class Architecture:
    """What training and export must know of an architecture.

    Attributes:
        targets: the linear layers of a block that are adapted, by transformers' names.
        permuted: llama.cpp stores the rows of query and key in another order than transformers does.
        correct: sets in a transformers model what its GGUF reader leaves wrong; given the base's file.
    """

    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    permuted: bool = False
    correct: Callable[[Any, GgufFile], None] = lambda causal_lm, base: None


def _correct_gemma3(causal_lm: Any, base: GgufFile) -> None:
    """Attention scale, and rotary scale of global layers, as llama.cpp has them."""
    config, model = causal_lm.config, causal_lm.model
    scaled_by = config.head_dim
    if config.num_hidden_layers == LAYERS_OF_GEMMA3_27B:
        scaled_by = config.hidden_size // config.num_attention_heads
    for layer in model.layers:
        layer.self_attn.scaling = scaled_by**-0.5
    factor = base.fields.get("gemma3.rope.scaling.factor")
    if factor is not None and hasattr(model.rotary_emb, "full_attention_inv_freq"):
        model.rotary_emb.full_attention_inv_freq /= float(factor.contents())


def _correct_rotation(causal_lm: Any, base: GgufFile) -> None:
    """Rotary frequencies as llama.cpp has them: one factor for all, or Llama 3's, one for each."""
    rotary = causal_lm.model.rotary_emb
    factor = base.value(f"{base.value('general.architecture')}.rope.scaling.factor")
    if factor and _scaling(base) == "linear":
        rotary.inv_freq /= float(factor)
    for tensor in base.tensors:
        if tensor.name == _FREQUENCIES:
            factors = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            rotary.inv_freq /= rotary.inv_freq.new_tensor(factors)


def _scaling(base: GgufFile) -> str:
    """How rotary positions are scaled; where a file does not say, llama.cpp takes "linear"."""
    return str(base.value(f"{base.value('general.architecture')}.rope.scaling.type") or "linear")


_FREQUENCIES = "rope_freqs.weight"

# By GGUF's names.
ARCHITECTURES = {
    "llama": Architecture(permuted=True, correct=_correct_rotation),
    "qwen2": Architecture(correct=_correct_rotation),
    "qwen3": Architecture(correct=_correct_rotation),
    "gemma3": Architecture(correct=_correct_gemma3),
}


def left_out(base: GgufFile, parameters: Iterable[str]) -> str | None:
    """Something in a base's file that llama.cpp uses and a transformers model has no place for; None if there is none.

    Args:
        parameters: the names of the model's parameters, all layers among them.
    """
    architecture = base.value("general.architecture")
    if _scaling(base) not in ("linear", "none"):
        return f"rope scaling {_scaling(base)}"
    if base.value(f"{architecture}.final_logit_softcapping"):
        return "final_logit_softcapping"
    by_name = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(by_name[architecture], int(base.value(f"{architecture}.block_count")))
    read = {names.get_name(name, try_suffixes=(".weight", ".bias")) for name in parameters}
    if architecture == "llama":
        read.add(_FREQUENCIES)
    return next((tensor.name for tensor in base.tensors if tensor.name not in read), None)

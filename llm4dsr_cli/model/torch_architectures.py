"""Architectures of base models that can be trained and served: the one table of what differs between them.

transformers reads each of them from a GGUF, and llama.cpp's non-causal mode is tested with them (tests/model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


# By GGUF's names.
ARCHITECTURES = {
    "llama": Architecture(permuted=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "gemma3": Architecture(correct=_correct_gemma3),
}

"""Export of trained tensors to a GGUF adapter.

File format: GGUF as llama.cpp's ``llama_adapter_lora_init`` reads it: ``general.type`` "adapter", ``adapter.type``
"lora", and for each adapted weight a pair of tensors ``NAME.lora_a`` (rank, in) and ``NAME.lora_b`` (out, rank).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata

Floats = NDArray[np.float32]

# llama.cpp stores these architectures' query and key rows in another order than transformers does.
PERMUTED = ("llama",)


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
        if self.architecture not in PERMUTED:
            return None
        if layer.endswith("q_proj"):
            return self.n_heads
        return self.n_kv_heads if layer.endswith("k_proj") else None


def to_gguf(state: dict[str, torch.Tensor], shape: Shape) -> dict[str, Floats]:
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
    return tensors


def from_gguf(tensors: Mapping[str, Floats], layers: Iterable[str], shape: Shape) -> dict[str, torch.Tensor]:
    """The reverse of ``to_gguf``, for the layers named.

    Raises:
        KeyError: they do not adapt one of them.
    """
    state = {}
    for layer in layers:
        for side in ("lora_A", "lora_B"):
            array = tensors[f"{shape.gguf_name(layer)}.weight.{side.lower()}"]
            heads = shape.rotary_heads(layer)
            if side == "lora_B" and heads:
                out, rank = array.shape
                array = array.reshape(heads, out // heads // 2, 2, rank).swapaxes(1, 2).reshape(out, rank)
            state[f"{layer}.{side}.weight"] = torch.from_numpy(np.ascontiguousarray(array))
    return state


def adapter_state(path: Path, layers: Iterable[str], shape: Shape, alpha: float) -> dict[str, torch.Tensor]:
    """A denoiser's weights in ``lora_state``'s form, for the layers named, under the scale of ``alpha``.

    Raises:
        ModelError: it does not adapt one of them.
    """
    reader = open_gguf(path)
    try:
        state = from_gguf(detector_tensors(reader), layers, shape)
        factor = float(reader.fields["adapter.lora.alpha"].contents()) / alpha
    except KeyError as error:
        raise ModelError(f"it does not adapt {error}", where=str(path), remedy="start from another denoiser") from None
    return {name: t * factor if name.endswith("lora_B.weight") else t for name, t in state.items()}


def detector_tensors(adapter: gguf.GGUFReader) -> dict[str, Floats]:
    """The tensors of a denoiser's detector, under GGUF names."""
    return {t.name: _values(t) for t in adapter.tensors if not t.name.startswith(SUGGESTER)}


def suggester_tensors(adapter: gguf.GGUFReader) -> dict[str, Floats]:
    """The tensors by which a denoiser suggests titles, under GGUF names; none where it does not."""
    return {t.name.removeprefix(SUGGESTER): _values(t) for t in adapter.tensors if t.name.startswith(SUGGESTER)}


def _values(tensor: gguf.ReaderTensor) -> Floats:
    values: Floats = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    return values


def write_adapter(
    path: Path,
    tensors: dict[str, Floats],
    alpha: float,
    metadata: DenoiserMetadata,
    suggester: Mapping[str, Floats] | None = None,
) -> None:
    """Write a denoiser, atomically; tensors are stored as 16-bit floats.

    Args:
        suggester: those of its second adapter, if ``metadata.suggestion_alpha`` says that it has one.
    """
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, metadata.base_architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        metadata.write(writer)
        named = {f"{SUGGESTER}{name}": tensor for name, tensor in (suggester or {}).items()}
        for name, tensor in {**tensors, **named}.items():
            writer.add_tensor(name, tensor.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

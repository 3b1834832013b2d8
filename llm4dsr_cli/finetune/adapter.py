"""Adapters as GGUF has them: the two that a denoiser's file holds.

File format: GGUF as llama.cpp's ``llama_adapter_lora_init`` reads it: ``general.type`` "adapter", ``adapter.type``
"lora", and for each adapted weight a pair of tensors ``NAME.lora_a`` (rank, in) and ``NAME.lora_b`` (out, rank).
Those of the second adapter, by which the denoiser suggests titles, have ``SUGGESTER`` before their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.files import atomic_path
from llm4dsr_cli.model.adapter import Part, read_alpha, read_pairs
from llm4dsr_cli.model.gguf_file import GgufFile, open_gguf
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata
from llm4dsr_cli.model.torch_architectures import ARCHITECTURES

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter.

    Attributes:
        tensors: under GGUF names, rows in llama.cpp's order.
        alpha: its scale times its rank.
    """

    tensors: dict[str, Floats]
    alpha: float

    @property
    def rank(self) -> int:
        return next(len(tensor) for name, tensor in self.tensors.items() if name.endswith(".lora_a"))


def read_adapters(path: Path) -> tuple[Adapter, Adapter | None]:
    """A denoiser's detector, and its suggester if it has one.

    Raises:
        ModelError: the file holds no whole adapter.
    """
    file = open_gguf(path)
    metadata = DenoiserMetadata.read(file, path)
    if file.value("general.type") != "adapter":
        raise ModelError("it is no adapter, but a merged model", where=str(path), remedy="start from its adapter")
    detector = _read(file, metadata, "detector")
    return detector, None if metadata.suggestion_alpha is None else _read(file, metadata, "suggester")


def _read(file: GgufFile, metadata: DenoiserMetadata, part: Part) -> Adapter:
    pairs = read_pairs(file, part)
    if len({pair.rank for pair in pairs.values()}) > 1:
        raise ModelError(
            "its adapter is of more than one rank", where=str(file.path), remedy="start from another denoiser"
        )
    tensors = {
        f"{name}.{side}": values
        for name, pair in pairs.items()
        for side, values in (("lora_a", pair.a), ("lora_b", pair.b))
    }
    return Adapter(tensors, read_alpha(file, metadata, part))


def write_adapters(path: Path, metadata: DenoiserMetadata, detector: Adapter, suggester: Adapter | None = None) -> None:
    """Write a denoiser, atomically; tensors are stored as 16-bit floats.

    Raises:
        ModelError: a weight is no number that fits into 16 bits; what was at ``path`` stays.
    """
    second = {} if suggester is None else {f"{SUGGESTER}{name}": t for name, t in suggester.tensors.items()}
    with np.errstate(over="ignore"):
        tensors = {name: tensor.astype(np.float16) for name, tensor in {**detector.tensors, **second}.items()}
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelError("not written, since some of its weights are no 16-bit numbers", where=str(path))
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, metadata.base_architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", detector.alpha)
        replace(metadata, suggestion_alpha=None if suggester is None else suggester.alpha).write(writer)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


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


def to_gguf(state: Mapping[str, Any], shape: Shape, alpha: float) -> Adapter:
    """``lora_state`` under GGUF names, rows in llama.cpp's order."""
    tensors = {}
    for key, tensor in state.items():
        layer, side = key.removesuffix(".weight").rsplit(".", 1)
        array, heads = np.asarray(tensor), shape.rotary_heads(layer)
        if side == "lora_B" and heads:
            # Per head, the two halves of the rotary dimensions become neighbouring pairs.
            out, rank = array.shape
            array = array.reshape(heads, 2, out // heads // 2, rank).swapaxes(1, 2).reshape(out, rank)
        tensors[f"{shape.gguf_name(layer)}.weight.{side.lower()}"] = np.ascontiguousarray(array, dtype=np.float32)
    return Adapter(tensors, alpha)


def from_gguf(adapter: Adapter, layers: Iterable[str], shape: Shape, alpha: float) -> dict[str, Floats]:
    """The reverse of ``to_gguf``, for the layers named, and under the scale of another ``alpha``.

    Raises:
        KeyError: the adapter does not adapt one of them.
    """
    state = {}
    for layer in layers:
        for side in ("lora_A", "lora_B"):
            array = adapter.tensors[f"{shape.gguf_name(layer)}.weight.{side.lower()}"]
            if side == "lora_B":
                out, rank = array.shape
                if heads := shape.rotary_heads(layer):
                    array = array.reshape(heads, out // heads // 2, 2, rank).swapaxes(1, 2).reshape(out, rank)
                array = array * np.float32(adapter.alpha / alpha)
            state[f"{layer}.{side}.weight"] = np.ascontiguousarray(array)
    return state

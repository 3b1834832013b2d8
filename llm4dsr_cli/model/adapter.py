"""The adapters in a denoiser's file: pairs of low-rank matrices.

File format: GGUF as llama.cpp's ``llama_adapter_lora_init`` reads it: ``adapter.lora.alpha``, and for each adapted
weight a pair of tensors ``NAME.lora_a`` (rank, in) and ``NAME.lora_b`` (out, rank). Those by which a denoiser suggests
titles have ``SUGGESTER`` before their names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.gguf_file import GgufFile, Tensor
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata
from llm4dsr_cli.model.weight_types import MATRIX_TYPES, all_finite
from llm4dsr_cli.text import shortened

# A denoiser file holds two adapters: one finds noise, the other suggests what belongs.
Part = Literal["detector", "suggester"]
_SIDES = {"lora_a", "lora_b"}


@dataclass(frozen=True)
class Pair:
    """What is added to one weight is alpha / rank times ``b`` times ``a``.

    Attributes:
        a: float32, shape (rank, in).
        b: float32, shape (out, rank).
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]

    @property
    def rank(self) -> int:
        return len(self.a)


def read_alpha(file: GgufFile, metadata: DenoiserMetadata, part: Part = "detector") -> float:
    """The scale of one of a denoiser's adapters times its rank.

    Raises:
        ModelError: there is none, or it is no number.
    """
    if part == "suggester":
        alpha = metadata.suggestion_alpha
    else:
        field = file.fields.get("adapter.lora.alpha")
        alpha = field.value if field is not None and list(field.types) == [gguf.GGUFValueType.FLOAT32] else None
    if alpha is None or not math.isfinite(alpha):
        raise _not_whole(file, "its scale is missing, or no number")
    return float(alpha)


def read_pairs(file: GgufFile, part: Part = "detector") -> dict[str, Pair]:
    """The matrices of one of a denoiser's adapters, by the name of the weight that they adapt.

    Raises:
        ModelError: there are none, or one is missing, of the wrong type or shape, or holds what is no number.
    """
    sides: dict[str, dict[str, NDArray[np.float32]]] = {}
    for tensor in file.tensors:
        if tensor.name.startswith(SUGGESTER) == (part == "suggester"):
            name, _, side = tensor.name.removeprefix(SUGGESTER).rpartition(".")
            sides.setdefault(name, {})[side] = _matrix(file, tensor)
    if not sides:
        raise _not_whole(file, "it has no tensors")
    pairs = {}
    for name, both in sides.items():
        if both.keys() != _SIDES:
            raise _not_whole(file, f"{shortened(name)} has {' and '.join(sorted(map(shortened, both)))}")
        pairs[name] = Pair(both["lora_a"], both["lora_b"])
        if pairs[name].rank != both["lora_b"].shape[1]:
            raise _not_whole(file, f"{shortened(name)} is of two ranks")
    return pairs


def _matrix(file: GgufFile, tensor: Tensor) -> NDArray[np.float32]:
    if len(tensor.shape) != 2 or tensor.tensor_type not in MATRIX_TYPES:
        raise _not_whole(
            file, f"{shortened(tensor.name)} is of the type {tensor.tensor_type.name} and shape {tensor.shape}"
        )
    if not all_finite(tensor):
        raise _not_whole(file, f"some of {shortened(tensor.name)} is no number")
    # A copy: training changes it, and Windows replaces no file that is mapped.
    return np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)


def _not_whole(file: GgufFile, what: str) -> ModelError:
    return ModelError(f"this is no whole LoRA adapter ({what})", where=str(file.path), remedy="fetch or make it again")

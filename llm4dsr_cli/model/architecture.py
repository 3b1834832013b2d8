"""What a language model's GGUF must hold: checked before llama.cpp loads it, which aborts the process for much of it.

The keys are those of ggml's ``docs/gguf.md``. Which of them are read, what they must be, and which tensors of which
shapes there are, is llama.cpp's ``llama_model_base::load_hparams``, ``llama_vocab::impl::load`` and
``src/models/{llama,qwen2,qwen3,gemma3}.cpp``: what ends in one of its assertions is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.gguf_file import GgufFile, Tensor
from llm4dsr_cli.model.weight_types import MATRIX_TYPES, all_finite
from llm4dsr_cli.text import shortened

# transformers reads these from a GGUF, and llama.cpp's non-causal mode is tested with them.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")

T = TypeVar("T", int, float, str)

_TYPES: dict[type, GGUFValueType] = {
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
}
# Whole numbers that llama.cpp acts on, and the largest of each: its own limit, or far beyond any model.
_LARGEST = {
    "block_count": 512,
    "context_length": 2**31 - 1,
    "embedding_length": 2**17,
    "feed_forward_length": 2**20,
    "attention.head_count": 2**10,
    "attention.head_count_kv": 2**10,
}
# Of a model with experts, with heads to predict several tokens, or of one that embeds texts.
_MUST_BE_NOTHING = (
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_group_used_count",
    "nextn_predict_layers",
    "pooling_type",
)
# All heads are of one width, which rotates as a whole.
_HEAD_WIDTHS = (
    "attention.key_length",
    "attention.value_length",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "rope.dimension_count",
    "rope.dimension_count_swa",
)
# (smallest, largest) of numbers that are optional but for the first; beyond them the model computes none.
_RANGES = {
    "attention.layer_norm_rms_epsilon": (1e-20, 1.0),
    "rope.freq_base": (1.0, 1e15),
    "rope.freq_base_swa": (1.0, 1e15),
    "rope.scaling.factor": (1e-3, 1e6),
    "rope.scaling.attn_factor": (1e-3, 1e3),
    "rope.scale_linear": (1e-3, 1e6),
    "final_logit_softcapping": (0.0, 1e6),
}
_ROPE_SCALINGS = ("none", "linear", "yarn")
_TOKENIZERS = ("gpt2", "llama")


@dataclass(frozen=True)
class Hyperparameters:
    """The sizes of a model, on which its tensors' shapes depend.

    Attributes:
        layers: how many blocks of attention and feed-forward network.
        width: of the hidden states.
        inner: of the feed-forward network.
        heads, kv_heads: of attention: for queries, and for keys and values.
        head: width of one of them.
        n_vocab: tokens of the vocabulary.
    """

    architecture: str
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    n_vocab: int


def check_model(file: GgufFile) -> Hyperparameters:
    """Its sizes, if a GGUF is a whole language model that llama.cpp can load.

    Raises:
        ModelError: it is of another architecture, or something in it is missing, damaged or contradicts the rest, or
            some of its weights are no numbers.
    """
    try:
        found = _hyperparameters(_Keys(file))
        _check_tensors(file, found)
    except _UnsupportedError as error:
        raise ModelError(
            f"this base model is not supported: {error}", where=str(file.path), remedy="choose another base model"
        ) from None
    except ValueError as error:
        raise ModelError(
            f"this is no model that can be used ({error})", where=str(file.path), remedy="fetch or make it again"
        ) from None
    return found


class _UnsupportedError(ValueError):
    """The file may be sound, but nothing here is made for models of its kind."""


class _Keys:
    """The keys of a file, whose values are checked as they are taken; raises ValueError with the reason."""

    def __init__(self, file: GgufFile) -> None:
        self._fields = file.fields
        self.architecture = self.take("general.architecture", str)
        if self.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise _UnsupportedError(f"its architecture is {shortened(self.architecture)}, not one of {known}")

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of a key; a ``default`` is for one that may be missing."""
        field = self._fields.get(key)
        if field is None:
            if default is None:
                raise ValueError(f"it lacks {key}")
            return default
        if list(field.types) != [_TYPES[kind]]:
            raise ValueError(f"{key} is of the type {field.types[0].name}")
        value: T = field.value
        return value

    def own(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The same for a key of the model's architecture."""
        return self.take(f"{self.architecture}.{key}", kind, default)

    def array(self, key: str, items: GGUFValueType) -> Any | None:
        """A list of texts, or an array of numbers; None where there is none."""
        field = self._fields.get(key)
        if field is None:
            return None
        if list(field.types) != [GGUFValueType.ARRAY, items]:
            raise ValueError(f"{key} is no array of {items.name}")
        return field.value

    def has(self, key: str) -> bool:
        return key in self._fields


def _hyperparameters(keys: _Keys) -> Hyperparameters:
    if (kind := keys.take("general.type", str, "model")) != "model":
        raise ValueError(f"it is of the type {shortened(kind)}")
    if keys.has("split.count"):
        raise _UnsupportedError("it is one part of a model that was split: join them with llama-gguf-split")
    counts: dict[str, int] = {}
    for name, largest in _LARGEST.items():
        counts[name] = keys.own(name, int, counts["attention.head_count"] if name.endswith("_kv") else None)
        if not 1 <= counts[name] <= largest:
            raise ValueError(f"{name} is {counts[name]}")
    for name in _MUST_BE_NOTHING:
        if count := keys.own(name, int, 0):
            raise _UnsupportedError(f"its {name} is {count}, and only plain decoders are served")
    for name, (least, most) in _RANGES.items():
        number = keys.own(name, float, None if name.endswith("epsilon") else least)
        if not least <= number <= most:  # NaN is not, either
            raise ValueError(f"{name} is {number:g}")
    if (scaling := keys.own("rope.scaling.type", str, "none")) not in _ROPE_SCALINGS:
        raise _UnsupportedError(
            f"its rope.scaling.type is {shortened(scaling)}, not one of {', '.join(_ROPE_SCALINGS)}"
        )
    width, heads, kv_heads = (
        counts[n] for n in ("embedding_length", "attention.head_count", "attention.head_count_kv")
    )
    head = keys.own("attention.key_length", int, width // heads)
    for name in _HEAD_WIDTHS:
        if (count := keys.own(name, int, head)) != head:
            raise ValueError(f"{name} is {count}, not {head}")
    if heads % kv_heads or head % 2 or not 2 <= head <= 1024:
        raise ValueError(f"{heads} heads of {head} numbers, {kv_heads} for keys and values")
    return Hyperparameters(
        architecture=keys.architecture,
        layers=counts["block_count"],
        width=width,
        inner=counts["feed_forward_length"],
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        n_vocab=_vocabulary(keys),
    )


def _vocabulary(keys: _Keys) -> int:
    """How many tokens there are, if llama.cpp can tokenize with them."""
    model = keys.take("tokenizer.ggml.model", str)
    if model not in _TOKENIZERS:
        raise _UnsupportedError(f"its tokenizer is {shortened(model)}, not one of {', '.join(_TOKENIZERS)}")
    tokens = keys.array("tokenizer.ggml.tokens", GGUFValueType.STRING)
    if not tokens:
        raise ValueError("it lacks tokenizer.ggml.tokens")
    # llama.cpp gives empty tokens such names.
    different = {token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)}
    if len(different) != len(tokens):
        raise ValueError(f"{len(tokens) - len(different)} of its tokens are there twice")
    types = keys.array("tokenizer.ggml.token_type", GGUFValueType.INT32)
    scores = keys.array("tokenizer.ggml.scores", GGUFValueType.FLOAT32)
    for name, values in (("types", types), ("scores", scores)):
        if values is not None and len(values) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens, and {len(values)} {name} of tokens")
    if scores is not None and not np.isfinite(scores).all():
        raise ValueError("its tokens' scores are no numbers")
    if model == "gpt2":
        if keys.array("tokenizer.ggml.merges", GGUFValueType.STRING) is None:
            raise ValueError("it lacks tokenizer.ggml.merges")
    elif missing := [byte for byte in range(256) if f"<0x{byte:02X}>" not in different]:
        # A text with such a byte would end the process.
        raise ValueError(f"its vocabulary lacks {len(missing)} of the 256 bytes")
    return len(tokens)


def _check_tensors(file: GgufFile, sizes: Hyperparameters) -> None:
    required, optional = dict(_required(sizes)), dict(_optional(sizes))
    for tensor in file.tensors:
        shape = required.pop(tensor.name, None) or optional.get(tensor.name)
        if shape is None:
            raise ValueError(f"a {sizes.architecture} of {sizes.layers} layers has no tensor {shortened(tensor.name)}")
        if tensor.shape != shape:
            raise ValueError(f"{tensor.name} is of the shape {tensor.shape}, not {shape}")
        _check_numbers(tensor)
    if required:
        raise ValueError(f"it lacks {len(required)} tensors, of which {next(iter(required))} is the first")


def _check_numbers(tensor: Tensor) -> None:
    if tensor.tensor_type not in MATRIX_TYPES or (
        len(tensor.shape) == 1 and tensor.tensor_type != GGMLQuantizationType.F32
    ):
        raise ValueError(f"{tensor.name} is of the type {tensor.tensor_type.name}")
    if not all_finite(tensor):
        raise ValueError(f"some of {tensor.name} is no number")


def _required(sizes: Hyperparameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that there must be, the dimensions as ggml counts them."""
    width, inner = (sizes.width,), sizes.inner
    queries, keys = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    yield "token_embd.weight", (sizes.width, sizes.n_vocab)
    yield "output_norm.weight", width
    norms = ["attn_norm", "ffn_norm"]
    if sizes.architecture == "gemma3":
        norms += ["post_attention_norm", "post_ffw_norm"]
    head_norms = ["attn_q_norm", "attn_k_norm"] if sizes.architecture in ("qwen3", "gemma3") else []
    for layer in range(sizes.layers):
        block = f"blk.{layer}."
        for name in norms:
            yield f"{block}{name}.weight", width
        for name in head_norms:
            yield f"{block}{name}.weight", (sizes.head,)
        yield f"{block}attn_q.weight", (sizes.width, queries)
        yield f"{block}attn_k.weight", (sizes.width, keys)
        yield f"{block}attn_v.weight", (sizes.width, keys)
        yield f"{block}attn_output.weight", (queries, sizes.width)
        yield f"{block}ffn_gate.weight", (sizes.width, inner)
        yield f"{block}ffn_up.weight", (sizes.width, inner)
        yield f"{block}ffn_down.weight", (inner, sizes.width)


def _optional(sizes: Hyperparameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The same for those that there may be."""
    queries, keys = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    yield "output.weight", (sizes.width, sizes.n_vocab)
    if sizes.architecture == "qwen2":
        yield "output.bias", (sizes.n_vocab,)
    if sizes.architecture == "llama":
        yield "rope_freqs.weight", (sizes.head // 2,)
    for layer in range(sizes.layers):
        block = f"blk.{layer}."
        yield f"{block}attn_q.bias", (queries,)
        yield f"{block}attn_k.bias", (keys,)
        yield f"{block}attn_v.bias", (keys,)
        if sizes.architecture == "llama":
            yield f"{block}attn_output.bias", (sizes.width,)
            yield f"{block}ffn_gate.bias", (inner := sizes.inner,)
            yield f"{block}ffn_up.bias", (inner,)
            yield f"{block}ffn_down.bias", (sizes.width,)

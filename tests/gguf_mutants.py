"""Damaged and hostile GGUF files: a good file is taken apart, changed somewhere, and written again.

The format is that of ggml's ``docs/gguf.md``. Nothing here uses the code under test, or the gguf package's reader.
"""

from __future__ import annotations

import contextlib
import copy
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STRING, ARRAY = 8, 9
# GGUF's value types, and struct's letters for them.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32, FLOAT32 = 4, 6
ALIGNMENT = 32

BYTES = [b"", b"\xff\xfe\xfd", b"\x1b]0;pwned\x07\x1b[2J", b"x" * 100_000, b"a\nb", b"\xed\xa0\x80", b"\x00", b"llama"]
INTEGERS = [0, 1, 2, 3, 7, 31, 65, 127, 513, 1024, 65_535, 2**31 - 1, 2**31, 2**32 - 1]
LENGTHS = [0, 1, 3, 2**16, 2**31, 2**32, 2**40, 2**61, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e-45, 1e30, -1e30, 3.4e38, 1.0]
# Keys that a loader reads, and that a good file of ours need not have.
OTHER_KEYS = [
    "general.alignment",
    "general.type",
    "general.architecture",
    "general.tensor_extra.name",
    "split.count",
    "split.no",
    "split.tensors.count",
    "adapter.lora.alpha",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.token_type_count",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.suppress_tokens",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.precompiled_charsmap",
    "llm4dsr.base.layers",
    "llm4dsr.suggestion.alpha",
    *(
        f"{{architecture}}.{name}"
        for name in (
            "attention.layer_norm_epsilon",
            "attention.sliding_window_pattern",
            "final_logit_softcapping",
            "rope.freq_base_swa",
            "embedding_length_out",
            "attention.causal",
            "pooling_type",
            "classifier.output_labels",
            "nextn_predict_layers",
            "expert_count",
            "expert_used_count",
            "expert_group_count",
            "expert_group_used_count",
            "vocab_size",
            "attention.key_length",
            "attention.value_length",
            "attention.key_length_swa",
            "attention.scale",
            "attention.sliding_window",
            "rope.dimension_count",
            "rope.dimension_count_swa",
            "rope.freq_base",
            "rope.scaling.type",
            "rope.scaling.factor",
            "rope.scaling.attn_factor",
            "rope.scaling.original_context_length",
            "rope.scaling.finetuned",
            "rope.scaling.yarn_ext_factor",
            "rope.scale_linear",
        )
    ),
]
TEXTS = [
    b"none", b"linear", b"yarn", b"longrope", b"su", b"gpt2", b"llama", b"bert", b"t5", b"rwkv", b"clip", b"gemma3",
    b"qwen2", b"mamba", b"adapter", b"model", b"default", b"gemma4", b"sarvam-moe", b"whitespace", b"superbpe",
    b"kimi-k2", b"chameleon", b"tekken", b"llama-bpe",
]  # fmt: skip


@dataclass
class Value:
    """One value: ``content`` is bytes of a text, a number, or a list of such; ``kinds`` its type and its elements'."""

    kind: int
    content: Any
    items: int = UINT32
    length: int | None = None  # what is written for an array's or a text's length, if it is not the true one

    def encoded(self) -> bytes:
        if self.kind == STRING:
            return _text(self.content, self.length)
        if self.kind == ARRAY:
            length = len(self.content) if self.length is None else self.length
            return struct.pack("<IQ", self.items, length) + b"".join(_element(self.items, e) for e in self.content)
        return _element(self.kind, self.content)


@dataclass
class Tensor:
    """One tensor; ``dimensions`` as in the file, the fastest first. ``offset`` is None where it belongs."""

    name: bytes
    dimensions: list[int]
    kind: int
    data: bytes
    offset: int | None = None
    n_dimensions: int | None = None


@dataclass
class File:
    """A whole GGUF, taken apart."""

    values: list[tuple[bytes, Value]]
    tensors: list[Tensor]
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_values: int | None = None
    notes: list[str] = field(default_factory=list)

    def encoded(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_values = len(self.values) if self.n_values is None else self.n_values
        parts = [self.magic, struct.pack("<IQQ", self.version, n_tensors, n_values)]
        for name, value in self.values:
            parts += [_text(name), struct.pack("<I", value.kind), value.encoded()]
        at = 0
        for tensor in self.tensors:
            n = len(tensor.dimensions) if tensor.n_dimensions is None else tensor.n_dimensions
            parts += [_text(tensor.name), struct.pack("<I", n)]
            parts += [struct.pack("<Q", d % 2**64) for d in tensor.dimensions]
            parts.append(struct.pack("<IQ", tensor.kind, (at if tensor.offset is None else tensor.offset) % 2**64))
            at += len(tensor.data) + -len(tensor.data) % ALIGNMENT
        header = b"".join(parts)
        parts = [header, bytes(-len(header) % ALIGNMENT)]
        for tensor in self.tensors:
            parts += [tensor.data, bytes(-len(tensor.data) % ALIGNMENT)]
        return b"".join(parts)


def _text(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def _element(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        return bytes(value.encoded())
    letter = SCALARS[kind]
    if letter in "fd":
        return struct.pack(f"<{letter}", float(value))
    if letter == "?":
        return bytes([int(value) % 256])
    return (int(value) % 256 ** struct.calcsize(letter)).to_bytes(struct.calcsize(letter), "little")


def take_apart(path: Path) -> File:
    """A file of ours, which is taken to be good."""
    data = path.read_bytes()
    at = 24
    version, n_tensors, n_values = struct.unpack_from("<IQQ", data, 4)

    def take(letters: str) -> Any:
        nonlocal at
        values = struct.unpack_from(f"<{letters}", data, at)
        at += struct.calcsize(f"<{letters}")
        return values[0] if len(values) == 1 else values

    def text() -> bytes:
        nonlocal at
        length = take("Q")
        at += length
        return data[at - length : at]

    def value(kind: int) -> Any:
        return text() if kind == STRING else take(SCALARS[kind])

    values = []
    for _ in range(n_values):
        name, kind = text(), take("I")
        if kind == ARRAY:
            items, length = take("IQ")
            values.append((name, Value(ARRAY, [value(items) for _ in range(length)], items)))
        else:
            values.append((name, Value(kind, value(kind))))
    infos = [(text(), [take("Q") for _ in range(take("I"))], *take("IQ")) for _ in range(n_tensors)]
    at += -at % ALIGNMENT
    ends = [offset for *_, offset in infos[1:]] + [len(data) - at]
    tensors = [
        Tensor(name, dimensions, kind, data[at + offset : at + end])
        for (name, dimensions, kind, offset), end in zip(infos, ends, strict=True)
    ]
    return File(values, tensors, version=version)


def _value(rng: random.Random, kind: int) -> Any:
    if kind == STRING:
        return rng.choice(BYTES + TEXTS)
    letter = SCALARS[kind]
    if letter in "fd":
        return rng.choice(FLOATS)
    return rng.choice(INTEGERS) if rng.random() < 0.8 else rng.getrandbits(32)


def _any_value(rng: random.Random) -> Value:
    kind = rng.choice([*SCALARS, STRING, ARRAY, UINT32, UINT32, FLOAT32])
    if kind != ARRAY:
        return Value(kind, _value(rng, kind))
    items = rng.choice([*SCALARS, STRING])
    return Value(ARRAY, [_value(rng, items) for _ in range(rng.choice([0, 1, 2, 300]))], items)


def _change_value(file: File, rng: random.Random) -> str:
    """Another value of the same type."""
    name, value = rng.choice(file.values)
    if value.kind != ARRAY:
        value.content = _value(rng, value.kind)
    elif value.content:
        for _ in range(rng.choice([1, 1, 5, len(value.content)])):
            value.content[rng.randrange(len(value.content))] = _value(rng, value.items)
    return f"value of {name!r}"


def _change_type(file: File, rng: random.Random) -> str:
    at = rng.randrange(len(file.values))
    name, _ = file.values[at]
    file.values[at] = (name, _any_value(rng))
    return f"type of {name!r}"


def _wrong_type(file: File, rng: random.Random) -> str:
    """A type number that belies what follows, or that there is not."""
    name, value = rng.choice(file.values)
    kind = rng.choice([*range(15), 2**31, 2**32 - 1])
    if rng.random() < 0.5 and value.kind == ARRAY and kind in (*SCALARS, STRING):
        value.content, value.items = [b"" if kind == STRING else 0 for _ in value.content], kind
        return f"elements of {name!r}"
    raw = value.encoded()
    value.kind, value.content, value.length = kind, raw, None
    value.encoded = lambda: raw  # type: ignore[method-assign]
    return f"type number of {name!r}"


def _drop_value(file: File, rng: random.Random) -> str:
    name, _ = file.values.pop(rng.randrange(len(file.values)))
    return f"without {name!r}"


def _add_value(file: File, rng: random.Random) -> str:
    architectures = [value.content for key, value in file.values if key == b"general.architecture"]
    architecture = architectures[0].decode(errors="replace") if architectures else "llama"
    name = rng.choice(OTHER_KEYS).format(architecture=architecture).encode()
    file.values = [(key, value) for key, value in file.values if key != name]
    kind = rng.choice([UINT32, UINT32, FLOAT32, STRING])
    content: Any = rng.choice(TEXTS) if kind == STRING and rng.random() < 0.7 else _value(rng, kind)
    file.values.insert(rng.randrange(len(file.values) + 1), (name, Value(kind, content)))
    return f"with {name!r}"


def _copy_value(file: File, rng: random.Random) -> str:
    name, value = rng.choice(file.values)
    file.values.append((rng.choice([name, b"", name + b"x", b"k" * 70_000, b"\xff"]), value))
    return f"copy of {name!r}"


def _wrong_length(file: File, rng: random.Random) -> str:
    long = [(name, value) for name, value in file.values if value.kind in (STRING, ARRAY)]
    name, value = rng.choice(long)
    value.length = rng.choice([*LENGTHS, len(value.content) + 1, max(0, len(value.content) - 1)])
    return f"length of {name!r}"


def _resize_array(file: File, rng: random.Random) -> str:
    name, value = rng.choice([(name, value) for name, value in file.values if value.kind == ARRAY])
    n = len(value.content)
    if rng.random() < 0.5 or not n:
        value.content = value.content[: rng.choice([0, 1, n // 2, max(0, n - 1)])]
    else:
        value.content += [rng.choice(value.content) for _ in range(rng.choice([1, 5, n]))]
    return f"size of {name!r}"


def _nest(file: File, rng: random.Random) -> str:
    name, _ = file.values[at := rng.randrange(len(file.values))]
    depth = rng.choice([2, 3, 5_000])
    raw = b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(depth - 1)) + struct.pack("<IQ", UINT32, 0)
    value = Value(ARRAY, [])
    value.encoded = lambda: raw  # type: ignore[method-assign]
    file.values[at] = (name, value)
    return f"nested {name!r}"


def _header(file: File, rng: random.Random) -> str:
    what = rng.choice(["magic", "version", "n_tensors", "n_values"])
    counts = [*LENGTHS, len(file.tensors) - 1, len(file.values) + 1, len(file.values) - 1]
    choices: dict[str, list[Any]] = {
        "magic": [b"GGML", b"FUGG", b"\0\0\0\0"],
        "version": [0, 1, 2, 4, 3 << 24, 2**32 - 1],
        "n_tensors": counts,
        "n_values": counts,
    }
    setattr(file, what, rng.choice(choices[what]))
    return what


def _tensor_info(file: File, rng: random.Random) -> str:
    tensor = rng.choice(file.tensors)
    what = rng.choice(["dimensions", "dimension", "n", "kind", "offset", "name", "swap"])
    if what == "dimensions":
        tensor.dimensions = [rng.choice([*LENGTHS, *INTEGERS[:9]]) for _ in range(rng.randrange(6))]
    elif what == "dimension" and tensor.dimensions:
        tensor.dimensions[rng.randrange(len(tensor.dimensions))] = rng.choice([*LENGTHS, 63, 64, 128])
    elif what == "n":
        tensor.n_dimensions = rng.choice([0, 1, 3, 4, 5, 255, 2**31, 2**32 - 1])
    elif what == "kind":
        tensor.kind = rng.choice([*range(42), 2**31, 2**32 - 1])
    elif what == "offset":
        tensor.offset = rng.choice([0, 1, 16, 32, 2**40, 2**63, 2**64 - 32, len(tensor.data)])
    elif what == "name":
        others = [other.name for other in file.tensors]
        tensor.name = rng.choice([*BYTES, b"x" * 64, rng.choice(others), tensor.name + b"2"])
    else:
        other = rng.choice(file.tensors)
        tensor.name, other.name = other.name, tensor.name
    return f"{what} of {tensor.name[:40]!r}"


def _reshape(file: File, rng: random.Random) -> str:
    """Another shape or type, with data to match."""
    tensor = rng.choice(file.tensors)
    what = rng.choice(["transposed", "flat", "smaller", "integers", "halves", "doubles", "blocks", "scalar", "empty"])
    if what == "transposed":
        tensor.dimensions.reverse()
    elif what == "flat":
        n = 1
        for dimension in tensor.dimensions:
            n *= dimension
        tensor.dimensions = [n]
    elif what == "smaller" and len(tensor.dimensions) == 2 and tensor.dimensions[1] > 1:
        tensor.data = tensor.data[: len(tensor.data) // 2]
        tensor.dimensions[1] //= 2
    elif what in ("integers", "halves", "doubles") and tensor.kind == 0:
        tensor.kind = rng.choice({"integers": [24, 25, 26, 27], "halves": [1, 30], "doubles": [28]}[what])
        size = {24: 1, 25: 2, 26: 4, 27: 8, 1: 2, 30: 2, 28: 8}[tensor.kind]
        tensor.data = (tensor.data * 2)[: len(tensor.data) // 4 * size]
    elif what == "blocks" and tensor.dimensions[0] % 32 == 0:
        tensor.kind, size = rng.choice([(2, 18), (3, 20), (6, 22), (7, 24), (8, 34), (9, 36), (20, 18), (39, 17)])
        n = tensor.dimensions[0] // 32 * (tensor.dimensions[1] if len(tensor.dimensions) > 1 else 1)
        tensor.data = (tensor.data * 2)[: n * size].ljust(n * size, b"\x01")
    elif what == "scalar":
        tensor.dimensions, tensor.data = [], tensor.data[:4]
    elif what == "empty":
        tensor.dimensions = [0 for _ in tensor.dimensions]
        tensor.data = b""
    return f"{what} {tensor.name!r}"


def _tensors(file: File, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"without {file.tensors.pop(rng.randrange(len(file.tensors))).name!r}"
    tensor = copy.deepcopy(rng.choice(file.tensors))
    tensor.name = rng.choice(
        [tensor.name, b"other", b"output.weight", b"blk.1.attn_qkv.weight", b"blk.0.attn_q.bias", b"rope_freqs.weight",
         b"blk.600.attn_norm.weight", b"blk.0.ffn_gate.scale", b"token_embd.weight.lora_a"]
    )  # fmt: skip
    file.tensors.insert(rng.randrange(len(file.tensors) + 1), tensor)
    return f"with {tensor.name!r}"


def _data(file: File, rng: random.Random) -> str:
    tensor = rng.choice(file.tensors)
    data = bytearray(tensor.data)
    filling = rng.choice([struct.pack("<f", rng.choice(FLOATS)), b"\x00\x7e\x80\x7f", b"\xff\xff\xff\xff", None])
    for _ in range(rng.choice([1, 1, 50])):
        if len(data) >= 4:
            at = rng.randrange(len(data) // 4) * 4
            data[at : at + 4] = rng.randbytes(4) if filling is None else filling
    if rng.random() < 0.2 and filling is not None:
        data = bytearray(filling * (len(data) // 4) + data[len(data) // 4 * 4 :])
    tensor.data = bytes(data)
    return f"data of {tensor.name!r}"


def of_other_architecture(base: File, denoiser: File) -> File:
    """A merged denoiser made of any base: it takes over another one's description of itself."""
    described = [(name, value) for name, value in denoiser.values if name.startswith(b"llm4dsr.")]
    return File([*base.values, *described], base.tensors)


CHANGES: list[Callable[[File, random.Random], str]] = [
    _change_value, _change_value, _change_value, _change_type, _wrong_type, _drop_value, _add_value, _add_value,
    _copy_value, _wrong_length, _resize_array, _nest, _header, _tensor_info, _tensor_info, _reshape, _tensors, _data,
]  # fmt: skip


def structured(original: File, seed: int) -> tuple[bytes, str]:
    """A file that is changed where the format says something, and what was done to it."""
    rng = random.Random(seed)
    file = copy.deepcopy(original)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if file.values and file.tensors:
            # A change may come on top of one that took away what it needs.
            with contextlib.suppress(IndexError, TypeError, AttributeError, KeyError, ValueError):
                file.notes.append(rng.choice(CHANGES)(file, rng))
    return file.encoded(), ", ".join(file.notes)


def flipped(whole: bytes, seed: int, header: int) -> tuple[bytes, str]:
    """A file with some bytes replaced, cut short, put in or taken out, mostly in its first ``header`` bytes."""
    rng = random.Random(seed)
    data = bytearray(whole)
    size = header if rng.random() < 0.7 else len(data)
    what = rng.choice(["bits", "bits", "bits", "bytes", "cut", "put in", "taken out"])
    if what == "cut":
        del data[rng.randrange(size) :]
    elif what == "put in":
        at = rng.randrange(size)
        data[at:at] = rng.randbytes(rng.choice([1, 4, 8, 32]))
    elif what == "taken out":
        at = rng.randrange(size)
        del data[at : at + rng.choice([1, 4, 8, 32])]
    else:
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            at = rng.randrange(size)
            data[at] = data[at] ^ (1 << rng.randrange(8)) if what == "bits" else rng.randrange(256)
    return bytes(data), what

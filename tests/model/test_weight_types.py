"""Weights that are numbers, told by their bits as by their values."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape

from llm4dsr_cli.model.gguf_file import Tensor
from llm4dsr_cli.model.weight_types import MATRIX_TYPES, all_finite

STORED = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


def tensor(kind: GGMLQuantizationType, data: bytes) -> Tensor:
    block, size = GGML_QUANT_SIZES[kind]
    shape = (len(data) // size * block,)
    raw = np.frombuffer(data, np.uint8)
    stored = raw.view(STORED[kind]) if kind in STORED else raw.reshape(quant_shape_to_byte_shape(shape, kind))
    return Tensor("w", kind, shape, stored)


def is_number(found: Tensor) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.isfinite(gguf.dequantize(found.data, found.tensor_type).astype(np.float64)).all())


@pytest.mark.parametrize("kind", sorted(MATRIX_TYPES), ids=lambda kind: kind.name)
def test_what_the_bits_say_is_what_the_values_are(kind: GGMLQuantizationType) -> None:
    """Guards scales looked for at another place of a block than ggml has them, a sign forgotten, and a type that is
    let through unread. The blocks are random bytes, of which one in 16 scales is no number."""
    rng = np.random.default_rng(int(kind))
    _, size = GGML_QUANT_SIZES[kind]
    found = []
    for n_blocks in [1] * 600 + [5] * 100:
        one = tensor(kind, rng.bytes(n_blocks * size))
        found.append(all_finite(one))
        assert found[-1] == is_number(one), one.data.tobytes().hex()
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize(
    ("kind", "bits", "expected"),
    [
        ("F32", 0x7F7FFFFF, True), ("F32", 0x7F800000, False), ("F32", 0x7F800001, False), ("F32", 0x7FFFFFFF, False),
        ("F32", 0xFF7FFFFF, True), ("F32", 0xFF800000, False), ("F32", 0xFFFFFFFF, False), ("F32", 0x80000000, True),
        ("F16", 0x7BFF, True), ("F16", 0x7C00, False), ("F16", 0xFBFF, True), ("F16", 0xFC00, False),
        ("BF16", 0x7F7F, True), ("BF16", 0x7F80, False), ("BF16", 0xFF7F, True), ("BF16", 0xFF80, False),
    ],
)  # fmt: skip
def test_the_largest_number_is_one_and_infinity_is_none(kind: str, bits: int, expected: bool) -> None:
    """Guards a limit that is off by one, for either sign, among weights of both."""
    width = 4 if kind == "F32" else 2
    others = {"F32": 0x3F800000, "F16": 0x3C00, "BF16": 0x3F80}[kind]
    sign = 1 << (8 * width - 1)
    data = b"".join(value.to_bytes(width, "little") for value in (others, others | sign, bits, others))
    assert all_finite(tensor(GGMLQuantizationType[kind], data)) == expected

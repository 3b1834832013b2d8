"""Types of weights that can be read, and whether what is stored in them are numbers.

Layouts of blocks are those of ggml's ``ggml-common.h``
(https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h). llama.cpp has such a check of its own
(``ggml_validate_row_data``, behind ``check_tensors``), which prints what it finds to file descriptor 2, past its log.
"""

from __future__ import annotations

from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from llm4dsr_cli.model.gguf_file import Tensor

# Bytes of a float, and the bits of infinity: as integers, only those of NaN are larger.
_FLOATS = {
    GGMLQuantizationType.F32: (4, 0x7F80_0000),
    GGMLQuantizationType.F16: (2, 0x7C00),
    GGMLQuantizationType.BF16: (2, 0x7F80),
}
# Where in a block its scales lie, which are 16-bit floats; all else in it are integers.
_SCALES_AT = {
    GGMLQuantizationType[name]: at
    for name, at in {
        **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL"), (0,)),
        **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), (0,)),
        **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
        "Q2_K": (80, 82),
        "Q3_K": (108,),
        "Q6_K": (208,),
        "TQ1_0": (52,),
        "TQ2_0": (64,),
    }.items()
}
# ``gguf.dequantize`` reads each of them. Vectors are 32-bit in every model that llama.cpp's converter has made.
MATRIX_TYPES = frozenset(_FLOATS) | frozenset(_SCALES_AT)


def all_finite(tensor: Tensor) -> bool:
    """Whether no weight of a tensor, whose type is one of ``MATRIX_TYPES``, is NaN or infinite.

    It is judged by the bits, of quantized weights by those of their scales: .02 s of CPU time for 107 MB.
    """
    if tensor.tensor_type in _FLOATS:
        return _finite(tensor.data, *_FLOATS[tensor.tensor_type])
    _, size = GGML_QUANT_SIZES[tensor.tensor_type]
    blocks = tensor.data.reshape(-1, size)
    half = _FLOATS[GGMLQuantizationType.F16]
    return all(_finite(blocks[:, at : at + 2], *half) for at in _SCALES_AT[tensor.tensor_type])


def _finite(floats: NDArray[Any], width: int, infinity: int) -> bool:
    sign = 1 << (8 * width - 1)
    positive, negative = floats.view(f"<i{width}"), floats.view(f"<u{width}")
    return bool(positive.max() < infinity and negative.max() < sign + infinity)

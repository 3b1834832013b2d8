"""GGUF files, read with bounds.

The format is that of ggml's ``docs/gguf.md`` (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A model may
come from a stranger, or from a failing disk, and neither the gguf package's reader nor llama.cpp looks at a length
before it believes it. So every count and length is compared here with the size of the file, before anything else
sees it. Where llama.cpp (``gguf_init_from_reader`` in ggml's gguf.cpp) is stricter than the format, so is this: arrays
hold no arrays, and the tensors follow each other without a gap.
"""

from __future__ import annotations

import errno
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import quant_shape_to_byte_shape
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError, OutOfMemoryError
from llm4dsr_cli.text import shortened

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
# Far beyond any model: the longest vocabularies of today make headers of 15 MB.
MAX_HEADER = 64 << 20
MAX_ENTRIES = 1 << 16  # keys, and tensors
MAX_KEY = 65_535  # bytes, by the format
MAX_TENSOR_NAME = 63  # bytes, GGML_MAX_NAME less its terminator
MAX_DIMENSIONS = 4

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
# Types of tensors whose numbers numpy knows; others are blocks of bytes.
_NUMBERS: dict[GGMLQuantizationType, str] = {
    GGMLQuantizationType.F32: "<f4",
    GGMLQuantizationType.F16: "<f2",
    GGMLQuantizationType.F64: "<f8",
    GGMLQuantizationType.I8: "<i1",
    GGMLQuantizationType.I16: "<i2",
    GGMLQuantizationType.I32: "<i4",
    GGMLQuantizationType.I64: "<i8",
}


@dataclass(frozen=True)
class Field:
    """The value of one key.

    Attributes:
        types: its type, followed by that of its elements if it is an array.
        value: a number, a text, a list of texts, or an array of numbers.
    """

    types: Sequence[GGUFValueType]
    value: Any

    def contents(self) -> Any:
        """The value; an array as a list."""
        return self.value.tolist() if isinstance(self.value, np.ndarray) else self.value


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Attributes:
        shape: its dimensions, the last first, as ggml counts them.
        data: numbers in numpy's order of the dimensions, or blocks of bytes (``gguf.dequantize`` takes either).
    """

    name: str
    tensor_type: GGMLQuantizationType
    shape: tuple[int, ...]
    data: NDArray[Any]


@dataclass(frozen=True)
class GgufFile:
    """A GGUF whose header was read and found sound; the numbers of its tensors stay in the file until they are used."""

    path: Path
    fields: dict[str, Field]
    tensors: list[Tensor]

    def value(self, key: str) -> Any:
        """The value of a key, a list for an array; None where there is none."""
        field = self.fields.get(key)
        return None if field is None else field.contents()


def open_gguf(path: str | Path) -> GgufFile:
    """Read a GGUF file's header, and map its tensors.

    The time and memory that it takes are bounded by the size of the header, and that by ``MAX_HEADER``.

    Raises:
        OutOfMemoryError: there is too little address space for it.
        ModelError: it is missing, no GGUF, cut short or damaged.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ModelError("no such model file", where=str(path), remedy="check the path")
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        fields, tensors = _Header(data).read()
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise OutOfMemoryError("there is no room to map the file", where=str(path)) from None
        what = f"this model file cannot be read ({error.strerror or error})"
        raise ModelError(what, where=str(path), remedy="check its permissions, and the disk") from None
    except ValueError as error:  # mmap raises one for an empty file
        what = f"this is no whole GGUF file ({error})"
        raise ModelError(what, where=str(path), remedy="fetch or make it again") from None
    return GgufFile(path, fields, tensors)


class _Header:
    """Walks the header from its start; raises ValueError with the reason where it cannot go on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._end = min(len(data), MAX_HEADER)

    def read(self) -> tuple[dict[str, Field], list[Tensor]]:
        if self._bytes(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        (version,) = self._numbers("I")
        if version not in VERSIONS:
            swapped = version & 0xFFFF == 0 and version
            raise ValueError("it is big-endian" if swapped else f"its version is {version}, not {VERSIONS[-1]}")
        n_tensors, n_keys = self._numbers("QQ")
        if max(n_tensors, n_keys) > MAX_ENTRIES:
            raise ValueError(f"{n_tensors} tensors and {n_keys} keys are beyond any model")
        fields: dict[str, Field] = {}
        for _ in range(n_keys):
            name = self._name("key", MAX_KEY)
            if name in fields:
                raise ValueError(f"the key {shortened(name)} is there twice")
            fields[name] = self._field(name)
        infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(n_tensors):
            name = self._name("tensor", MAX_TENSOR_NAME)
            if name in infos:
                raise ValueError(f"the tensor {shortened(name)} is there twice")
            (n,) = self._numbers("I")
            if not 1 <= n <= MAX_DIMENSIONS:
                raise ValueError(f"the tensor {shortened(name)} has {n} dimensions")
            infos[name] = (self._numbers("Q" * n), *self._numbers("IQ"))
        return fields, self._tensors(infos, _alignment(fields))

    def _tensors(self, infos: dict[str, tuple[tuple[int, ...], int, int]], alignment: int) -> list[Tensor]:
        start = self._at + -self._at % alignment
        expected = 0
        tensors = []
        for name, (shape, number, offset) in infos.items():
            try:
                kind = GGMLQuantizationType(number)
                block, size = GGML_QUANT_SIZES[kind]
            except (ValueError, KeyError):
                raise ValueError(f"the tensor {shortened(name)} is of the unknown type {number}") from None
            n_items = 1
            for dimension in shape:
                n_items *= dimension
            if not n_items or shape[0] % block:
                raise ValueError(f"the tensor {shortened(name)} has the shape {shape}")
            n_bytes = n_items // block * size
            if offset != expected:
                raise ValueError(f"the tensor {shortened(name)} begins at {offset}, not {expected}")
            if start + offset + n_bytes > len(self._data):
                raise ValueError(f"the tensor {shortened(name)} goes beyond its end")
            expected += n_bytes + -n_bytes % alignment
            raw = np.frombuffer(self._data, np.uint8, n_bytes, start + offset)
            rows = shape[::-1]
            data = (
                raw.view(_NUMBERS[kind]).reshape(rows)
                if kind in _NUMBERS
                else raw.reshape(quant_shape_to_byte_shape(rows, kind))
            )
            tensors.append(Tensor(name, kind, shape, data))
        return tensors

    def _field(self, name: str) -> Field:
        kind = self._type(name)
        if kind != GGUFValueType.ARRAY:
            return Field([kind], self._scalar(name, kind))
        items = self._type(name)
        (length,) = self._numbers("Q")
        if items == GGUFValueType.ARRAY:
            raise ValueError(f"{shortened(name)} is an array of arrays")
        if items == GGUFValueType.STRING:
            return Field([kind, items], self._strings(name, length))
        # What is left is compared by division: a product could be any size.
        dtype = np.dtype("?" if items == GGUFValueType.BOOL else f"<{_SCALARS[items]}")
        if length > (self._end - self._at) // dtype.itemsize:
            raise ValueError(f"{shortened(name)} goes beyond its end")
        values = np.frombuffer(self._data, dtype, length, self._at)
        if items == GGUFValueType.BOOL and (values.view(np.uint8) > 1).any():
            raise ValueError(f"{shortened(name)} holds what is neither true nor false")
        self._at += values.nbytes
        return Field([kind, items], values)

    def _type(self, name: str) -> GGUFValueType:
        (number,) = self._numbers("I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise ValueError(f"{shortened(name)} is of the unknown type {number}") from None

    def _scalar(self, name: str, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self._strings(name, 1)[0]
        if kind == GGUFValueType.BOOL:
            (value,) = self._numbers("B")
            if value > 1:
                raise ValueError(f"{shortened(name)} is neither true nor false")
            return bool(value)
        return self._numbers(_SCALARS[kind])[0]

    def _name(self, what: str, longest: int) -> str:
        name = self._strings(f"the name of a {what}", 1)[0]
        if not name or len(name.encode()) > longest or not name.isprintable():
            raise ValueError(f"no {what} is called {shortened(name)!r}")
        return name

    def _strings(self, name: str, n: int) -> list[str]:
        data, at, end = self._data, self._at, self._end
        if n > (end - at) // 8:
            raise ValueError(f"{shortened(name)} goes beyond its end")
        texts = []
        length_at = struct.Struct("<Q").unpack_from
        try:
            for _ in range(n):
                start = at + 8
                if start > end:
                    break
                at = start + length_at(data, at)[0]
                if at > end:
                    break
                texts.append(data[start:at].decode())
        except UnicodeDecodeError:
            raise ValueError(f"{shortened(name)} is no text in UTF-8") from None
        if len(texts) < n:
            raise ValueError(f"{shortened(name)} goes beyond its end")
        self._at = at
        return texts

    def _numbers(self, letters: str) -> tuple[Any, ...]:
        layout = f"<{letters}"
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, n: int) -> bytes:
        if self._at + n > self._end:
            raise ValueError("it is cut short" if self._end == len(self._data) else "its header has no end")
        self._at += n
        return self._data[self._at - n : self._at]


def _alignment(fields: dict[str, Field]) -> int:
    """Of the tensors' data in the file. llama.cpp's buffers take multiples of 32 only, and it aborts for others."""
    field = fields.get("general.alignment")
    if field is None:
        return DEFAULT_ALIGNMENT
    value = field.value
    if list(field.types) != [GGUFValueType.UINT32] or value < 32 or value > 1 << 16 or value & (value - 1):
        raise ValueError(f"its alignment is {field.contents()!s:.20}")
    return int(value)

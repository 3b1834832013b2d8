"""GGUF headers: read as the gguf package reads sound ones; damaged ones are refused, in bounded time."""

from __future__ import annotations

import copy
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_mutants import ARRAY, STRING, UINT32, File, Value, take_apart

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model import gguf_file as module
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.merged_model import merge


def refusal(path: Path) -> str:
    """Why a file is refused, in one sentence that names it."""
    with pytest.raises(ModelError) as caught:
        open_gguf(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: this is no whole GGUF file (")
    assert sentence.isprintable()
    assert len(sentence) < 500 + len(str(path))
    return sentence


@pytest.fixture
def changed(tiny_base: Path, tmp_path: Path) -> Callable[[Callable[[File], object]], Path]:
    """``changed(change)``: the tiny base's file with a change."""
    original = take_apart(tiny_base)

    def write(change: Callable[[File], object]) -> Path:
        file = copy.deepcopy(original)
        change(file)
        path = tmp_path / "changed.gguf"
        path.write_bytes(file.encoded())
        return path

    return write


@pytest.mark.parametrize("weights", ["bf16", "q8_0", "q4_0", None])
def test_a_sound_file_is_read_as_the_gguf_package_reads_it(
    tiny_base: Path, tiny_denoiser: Path, tmp_path: Path, weights: str | None
) -> None:
    """Guards values, types, shapes and weights that differ from what was written."""
    path = tiny_denoiser
    if weights:
        path = tmp_path / "merged.gguf"
        merge(tiny_denoiser, tiny_base, path, weights)
    found, expected = open_gguf(path), gguf.GGUFReader(path)
    assert [*found.fields] == [name for name in expected.fields if not name.startswith("GGUF.")]
    for name, field in found.fields.items():
        assert field.contents() == expected.fields[name].contents() == found.value(name)
        assert [*field.types] == expected.fields[name].types[: len(field.types)]
    assert found.value("none") is None
    for tensor, other in zip(found.tensors, expected.tensors, strict=True):
        assert (tensor.name, tensor.tensor_type) == (other.name, other.tensor_type)
        assert tensor.shape == tuple(other.shape)
        assert np.array_equal(tensor.data, other.data)
        assert np.array_equal(
            gguf.dequantize(tensor.data, tensor.tensor_type), gguf.dequantize(other.data, other.tensor_type)
        )


BOMB = (
    "import sys; from pathlib import Path; import resource\n"
    "from llm4dsr_cli.errors import ModelError\n"
    "from llm4dsr_cli.model.gguf_file import open_gguf\n"
    "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
    "try: open_gguf(Path(sys.argv[1]))\n"
    "except ModelError as error: print(error)\n"
)


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no address space")
@pytest.mark.parametrize("kind", [0, STRING, ARRAY])
@pytest.mark.parametrize("length", [2**32, 2**40, 2**61, 2**64 - 1])
def test_a_short_file_that_promises_a_long_array_is_refused_at_once(tmp_path: Path, kind: int, length: int) -> None:
    """Guards the 49 bytes that were read for ever, and took all memory."""
    path = tmp_path / "bomb.gguf"
    key = struct.pack("<QcIIQ", 1, b"z", ARRAY, kind, length)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key)
    command = [sys.executable, "-c", BOMB, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"{path}: this is no whole GGUF file (z ")


def test_a_header_without_end_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards hours, and all memory, for a large file of empty texts."""
    monkeypatch.setattr(module, "MAX_HEADER", 1 << 16)
    path = tmp_path / "long.gguf"
    n = 1 << 20
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<QcIIQ", 1, b"z", ARRAY, STRING, n)
    path.write_bytes(head + bytes(8 * n))
    assert "z goes beyond its end" in refusal(path)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 2**40, 2**40) + bytes(1 << 20))
    assert "beyond any model" in refusal(path)


def test_a_long_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    """Guards seconds for a base model's tokens at every start: the gguf package takes four."""
    path = tmp_path / "tokens.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"token {i}" for i in range(20_000)])
    writer.add_token_types([gguf.TokenType.NORMAL] * 20_000)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    times = []
    for read in (open_gguf, gguf.GGUFReader):
        began = time.process_time()
        file = read(path)
        times.append(time.process_time() - began)
    assert file.fields["tokenizer.ggml.tokens"].contents()[-1] == "token 19999"
    assert times[0] < times[1] / 5


def test_every_file_that_is_cut_short_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Guards a download that broke off."""
    whole = tiny_base.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(60), *range(60, len(whole), 997), len(whole) - 33, len(whole) - 1]:
        path.write_bytes(whole[:size])
        refusal(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    """Guards tracebacks, and a read of a device that has no end."""
    for path in (tmp_path, tmp_path / "none.gguf", Path(os.devnull)):
        with pytest.raises(ModelError, match="no such model file"):
            open_gguf(path)


HEADERS: list[tuple[dict[str, object], str]] = [
    ({"magic": b"GGML"}, "does not begin with GGUF"),
    ({"version": 1}, "its version is 1"),
    ({"version": 4}, "its version is 4"),
    ({"version": 3 << 24}, "big-endian"),
    ({"n_values": 2**63}, "beyond any model"),
    ({"n_tensors": 2**20}, "beyond any model"),
]


@pytest.mark.parametrize(("change", "reason"), HEADERS)
def test_headers_that_are_none_are_refused(
    changed: Callable[[Callable[[File], object]], Path], change: dict[str, object], reason: str
) -> None:
    """Guards counts that are believed, and formats that are read as if they were this one."""
    assert reason in refusal(changed(lambda file: file.__dict__.update(change)))


def value_of(kind: int, content: object, **more: int) -> Callable[[File], object]:
    return lambda file: file.values.append((b"x.y", Value(kind, content, **more)))


VALUES: list[tuple[Callable[[File], object], str]] = [
    (value_of(STRING, b"\xff\xfe"), "x.y is no text in UTF-8"),
    (value_of(STRING, b"\xed\xa0\x80"), "x.y is no text in UTF-8"),
    (value_of(STRING, b"abc", length=2**63), "x.y goes beyond its end"),
    (value_of(ARRAY, [b"\xff"], items=STRING), "x.y is no text in UTF-8"),
    (value_of(ARRAY, [1, 2], length=2**62), "x.y goes beyond its end"),
    (value_of(ARRAY, [Value(ARRAY, [])], items=ARRAY), "x.y is an array of arrays"),
    (value_of(7, 2), "x.y is neither true nor false"),
    (value_of(ARRAY, [0, 1, 255], items=7), "x.y holds what is neither true nor false"),
    (lambda file: file.values.append(file.values[3]), f"the key {'llama.context_length'} is there twice"),
    (lambda file: file.values.append((b"", Value(UINT32, 1))), "no key is called ''"),
    (lambda file: file.values.append((b"\x1b[2J", Value(UINT32, 1))), r"no key is called"),
    (lambda file: file.values.append((b"k" * 70_000, Value(UINT32, 1))), "no key is called 'kkk"),
    (lambda file: file.values.append((b"general.alignment", Value(UINT32, 16))), "its alignment is 16"),
    (lambda file: file.values.append((b"general.alignment", Value(UINT32, 48))), "its alignment is 48"),
    (lambda file: file.values.append((b"general.alignment", Value(UINT32, 2**31))), "its alignment is 2147483648"),
    (lambda file: file.values.append((b"general.alignment", Value(STRING, b"32"))), "its alignment is 32"),
]


@pytest.mark.parametrize(("change", "reason"), VALUES)
def test_values_that_are_none_are_refused(
    changed: Callable[[Callable[[File], object]], Path], change: Callable[[File], object], reason: str
) -> None:
    """Guards UnicodeDecodeError, RecursionError and MemoryError, and control characters of a stranger's keys."""
    assert reason in refusal(changed(change))


@pytest.mark.parametrize("kind", [13, 14, 255, 2**31, 2**32 - 1])
def test_unknown_types_of_values_are_refused(tmp_path: Path, kind: int) -> None:
    """Guards a value of unknown length, after which everything is read from the wrong place."""
    path = tmp_path / "type.gguf"
    for data in (struct.pack("<I", kind), struct.pack("<IIQ", ARRAY, kind, 1)):
        path.write_bytes(struct.pack("<4sIQQQc", b"GGUF", 3, 0, 1, 1, b"z") + data + bytes(64))
        assert f"z is of the unknown type {kind}" in refusal(path)


def second(**changes: object) -> Callable[[File], object]:
    return lambda file: file.tensors[1].__dict__.update(changes)


TENSORS: list[tuple[Callable[[File], object], str]] = [
    (second(n_dimensions=0), "has 0 dimensions"),
    (second(n_dimensions=5), "has 5 dimensions"),
    (second(n_dimensions=2**32 - 1), f"has {2**32 - 1} dimensions"),
    (second(dimensions=[0]), "has the shape (0,)"),
    (second(dimensions=[2**62, 2**62]), "goes beyond its end"),
    (second(dimensions=[2**64 - 1]), "goes beyond its end"),
    (second(kind=2, dimensions=[40]), "has the shape (40,)"),
    (second(kind=4), "is of the unknown type 4"),
    (second(kind=2**31), f"is of the unknown type {2**31}"),
    (second(offset=0), "begins at 0"),
    (second(offset=1), "begins at 1"),
    (second(offset=2**64 - 32), f"begins at {2**64 - 32}"),
    (second(name=b"token_embd.weight"), "the tensor token_embd.weight is there twice"),
    (second(name=b""), "no tensor is called ''"),
    (second(name=b"x" * 64), "no tensor is called 'xxx"),
    (second(name=b"\xff"), "the name of a tensor is no text in UTF-8"),
    (lambda file: file.tensors[-1].__dict__.update(dimensions=[64, 97]), "goes beyond its end"),
]


@pytest.mark.parametrize(("change", "reason"), TENSORS)
def test_tensors_that_are_not_where_they_say_are_refused(
    changed: Callable[[Callable[[File], object]], Path], change: Callable[[File], object], reason: str
) -> None:
    """Guards overlapping tensors, products of dimensions that overflow, and reads beyond the file."""
    assert reason in refusal(changed(change))

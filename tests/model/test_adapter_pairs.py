"""Adapters: pairs of matrices that fit, or one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_tiny_adapter
from gguf_mutants import FLOAT32, STRING, UINT32, File, Tensor, Value, take_apart

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.finetune.adapter import read_adapters
from llm4dsr_cli.model.adapter import read_alpha, read_pairs
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.merged_model import merge
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata

A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


def tensor(file: File, name: str) -> Tensor:
    return next(tensor for tensor in file.tensors if tensor.name == name.encode())


def filled(name: str, value: float) -> Callable[[File], object]:
    def change(file: File) -> None:
        found = tensor(file, name)
        found.data = np.full(len(found.data) // 4, value, np.float32).tobytes()

    return change


def shaped(name: str, dimensions: list[int], kind: int = 0, size: int = 4) -> Callable[[File], object]:
    def change(file: File) -> None:
        found = tensor(file, name)
        found.dimensions, found.kind, found.data = dimensions, kind, bytes(int(np.prod(dimensions)) * size)

    return change


def alpha(kind: int, content: object) -> Callable[[File], object]:
    def change(file: File) -> None:
        file.values = [(k, Value(kind, content) if k == b"adapter.lora.alpha" else v) for k, v in file.values]

    return change


def dropped(name: str) -> Callable[[File], object]:
    def change(file: File) -> None:
        file.tensors = [tensor for tensor in file.tensors if not re.fullmatch(name, tensor.name.decode())]
        file.values = [(key, value) for key, value in file.values if key.decode() != name]

    return change


DAMAGES = [
    (shaped(A, [64]), r"attn_q.weight.lora_a is of the type F32 and shape \(64,\)"),
    (shaped(A, [64, 4, 1]), r"lora_a is of the type F32 and shape \(64, 4, 1\)"),
    (shaped(A, [64, 2]), "attn_q.weight is of two ranks"),
    (shaped(B, [3, 64]), "attn_q.weight is of two ranks"),
    (shaped(A, [64, 4], 24, 1), "is of the type I8"),
    (shaped(A, [64, 4], 26, 4), "is of the type I32"),
    (shaped(A, [64, 4], 28, 8), "is of the type F64"),
    (filled(A, float("nan")), "some of blk.0.attn_q.weight.lora_a is no number"),
    (filled(B, float("-inf")), "some of blk.0.attn_q.weight.lora_b is no number"),
    (dropped(A), "attn_q.weight has lora_b"),
    (dropped(r"blk.*"), "it has no tensors"),
    (lambda file: tensor(file, A).__dict__.update(name=b"alone"), "has alone"),
    (alpha(STRING, b"8"), "its scale is missing, or no number"),
    (alpha(UINT32, 8), "its scale is missing, or no number"),
    (alpha(FLOAT32, float("inf")), "its scale is missing, or no number"),
    (alpha(FLOAT32, float("nan")), "its scale is missing, or no number"),
    (dropped("adapter.lora.alpha"), "its scale is missing, or no number"),
]


@pytest.mark.parametrize(("change", "reason"), DAMAGES)
def test_damaged_adapters_are_one_sentence(
    tiny_base: Path, tiny_denoiser: Path, tmp_path: Path, change: Callable[[File], object], reason: str
) -> None:
    """Guards IndexError, TypeError and ValueError out of numpy, in a merge and at the start of a training."""
    file = take_apart(tiny_denoiser)
    change(file)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(file.encoded())
    for use in (lambda: merge(path, tiny_base, tmp_path / "merged.gguf", "bf16"), lambda: read_adapters(path)):
        with pytest.raises(ModelError, match=reason) as caught:
            use()
        assert str(caught.value).startswith(f"{path}: this is no whole LoRA adapter (")
    assert not (tmp_path / "merged.gguf").exists()


def test_a_product_beyond_all_numbers_is_refused(tiny_base: Path, tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards infinities in a merged model, and numpy's warnings on standard error."""
    path = tmp_path / "large.gguf"
    for value in (1e30, 1e38):
        file = take_apart(tiny_denoiser)
        filled(A, value)(file)
        filled(B, value)(file)
        path.write_bytes(file.encoded())
        with pytest.raises(ModelError, match=r"some of blk.0.attn_q.weight is no number that a model has") as caught:
            merge(path, tiny_base, tmp_path / "merged.gguf", "q8_0")
        assert str(caught.value).startswith(f"{path}: ")


def test_a_base_that_holds_no_numbers_is_refused_by_its_name(tiny_base: Path, tmp_path: Path) -> None:
    """Guards a damaged base model that makes one merged model after the other."""
    for name, value in (("output_norm.weight", float("nan")), ("token_embd.weight", 1e6)):
        file = take_apart(tiny_base)
        filled(name, value)(file)
        base = tmp_path / "base.gguf"
        base.write_bytes(file.encoded())
        adapter = write_tiny_adapter(tmp_path / "adapter.gguf", base)
        with pytest.raises(ModelError, match=f"some of {name} is no number") as caught:
            merge(adapter, base, tmp_path / "merged.gguf", "bf16")
        assert str(caught.value).startswith(f"{base}: ")


def test_an_adapter_of_another_architecture_is_refused(tiny_base: Path, tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards keys of one architecture in a file of another."""
    file = take_apart(tiny_denoiser)
    file.values = [
        (key, Value(STRING, b"qwen2") if key == b"llm4dsr.base.architecture" else value) for key, value in file.values
    ]
    path = tmp_path / "qwen2.gguf"
    path.write_bytes(file.encoded())
    with pytest.raises(ModelError, match="it adapts a qwen2, the base is a llama"):
        merge(path, tiny_base, tmp_path / "merged.gguf", "bf16")


def test_each_adapter_is_read_alone(tiny_base: Path, tmp_path: Path) -> None:
    """Guards one adapter's matrices or scale taken for the other's, and names left with their prefix."""
    path = write_tiny_adapter(tmp_path / "both.gguf", tiny_base, suggests=True, layers=1)
    file = open_gguf(path)
    metadata = DenoiserMetadata.read(file, path)
    detector, suggester = read_pairs(file, "detector"), read_pairs(file, "suggester")
    assert (len(detector), len(suggester)) == (7, 14)
    assert not any(name.startswith(SUGGESTER) for name in suggester)
    assert {pair.rank for pair in detector.values()} == {4}
    assert {pair.rank for pair in suggester.values()} == {2}
    assert (read_alpha(file, metadata), read_alpha(file, metadata, "suggester")) == (8.0, 3.0)
    tensors = {tensor.name: tensor.data for tensor in file.tensors}
    assert np.array_equal(suggester["blk.1.ffn_up.weight"].a, tensors[f"{SUGGESTER}blk.1.ffn_up.weight.lora_a"])
    assert np.array_equal(detector["blk.0.ffn_up.weight"].b, tensors["blk.0.ffn_up.weight.lora_b"])


def test_an_adapter_of_several_ranks_cannot_be_trained_on(tiny_denoiser: Path, tmp_path: Path) -> None:
    """Guards a run that fails when its first weights are loaded."""
    file = take_apart(tiny_denoiser)
    shaped(A, [64, 2])(file)
    shaped(B, [2, 64])(file)
    path = tmp_path / "ranks.gguf"
    path.write_bytes(file.encoded())
    assert len(read_pairs(open_gguf(path))) == 14
    with pytest.raises(ModelError, match="of more than one rank"):
        read_adapters(path)

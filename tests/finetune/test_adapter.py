"""Adapters in a denoiser's file: read as they were written, and never anything that is no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_tiny_adapter

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.finetune.adapter import Adapter, read_adapters, write_adapters
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.merged_model import merge
from llm4dsr_cli.model.metadata import DenoiserMetadata


@pytest.fixture
def path(tmp_path: Path, tiny_base: Path) -> Path:
    return write_tiny_adapter(tmp_path / "a.gguf", tiny_base, suggests=True)


def test_what_is_read_is_written_and_read_again_to_the_bit(path: Path, tmp_path: Path) -> None:
    """Guards one adapter under the other's names, a scale that is lost, and a second adapter that only its metadata
    knows of."""
    metadata = DenoiserMetadata.read(open_gguf(path), path)
    detector, suggester = (rounded(adapter) for adapter in read_adapters(path) if adapter)
    for second, name in ((suggester, "both.gguf"), (None, "one.gguf")):
        write_adapters(tmp_path / name, metadata, detector, second)
        found = read_adapters(tmp_path / name)
        for one, other in zip(found, (detector, second), strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert (one.alpha, one.rank, {*one.tensors}) == (other.alpha, other.rank, {*other.tensors})
                assert all(np.array_equal(one.tensors[key], other.tensors[key]) for key in one.tensors)
        assert DenoiserMetadata.read(open_gguf(tmp_path / name), path).suggestion_alpha == (second and second.alpha)


def rounded(adapter: Adapter) -> Adapter:
    """With weights that 16 bits hold."""
    tensors = {name: tensor.astype(np.float16).astype(np.float32) for name, tensor in adapter.tensors.items()}
    return replace(adapter, tensors=tensors)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
@pytest.mark.parametrize("part", [0, 1])
def test_a_weight_that_is_no_number_is_never_written(path: Path, value: float, part: int) -> None:
    """Guards a good denoiser overwritten by one that is good for nothing; 1e6 is more than 16 bits hold."""
    before = path.read_bytes()
    metadata = DenoiserMetadata.read(open_gguf(path), path)
    detector, suggester = read_adapters(path)
    spoilt = [detector, suggester][part]
    assert spoilt is not None
    next(iter(spoilt.tensors.values()))[0, 0] = value
    with pytest.raises(ModelError, match="no 16-bit numbers"):
        write_adapters(path, metadata, detector, suggester)
    assert path.read_bytes() == before


def test_a_file_that_is_no_adapter_or_holds_no_numbers_is_no_start(
    path: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards hours of training that start from NaN, from which nothing leads away."""
    merge(path, tiny_base, tmp_path / "merged.gguf", "q8_0")
    with pytest.raises(ModelError, match="merged model: start from its adapter"):
        read_adapters(tmp_path / "merged.gguf")
    metadata = DenoiserMetadata.read(open_gguf(path), path)
    detector, suggester = read_adapters(path)
    next(iter(detector.tensors.values()))[0, 0] = np.nan
    with monkeypatch.context() as patch:
        patch.setattr(np, "isfinite", lambda values: np.ones(np.shape(values), dtype=bool))
        write_adapters(path, metadata, detector, suggester)
    with pytest.raises(ModelError, match="is no number"):
        read_adapters(path)

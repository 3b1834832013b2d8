"""What llama.cpp would end the process for is refused before it sees the file; what it can run is not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HEADS, KV_HEADS, WIDTH, write_tiny_base
from gguf_mutants import ARRAY, FLOAT32, STRING, UINT32, File, Tensor, Value, take_apart

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.model.architecture import ARCHITECTURES, check_model
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model

INT32, BOOL = 5, 7


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: write_tiny_base(folder / f"{name}.gguf", architecture=name) for name in ARCHITECTURES}


@pytest.fixture
def refusal(bases: dict[str, Path], tmp_path: Path) -> Callable[..., str]:
    """``refusal(change, architecture)``: why a tiny base with a change is refused, by the check and on loading."""

    def refuse(change: Callable[[File], object], architecture: str = "llama") -> str:
        file = take_apart(bases[architecture])
        change(file)
        path = tmp_path / "changed.gguf"
        path.write_bytes(file.encoded())
        with pytest.raises(ModelError) as caught:
            check_model(open_gguf(path))
        sentence = str(caught.value)
        kinds = ("this is no model that can be used (", "this base model is not supported: ")
        assert sentence.startswith(tuple(f"{path}: {kind}" for kind in kinds))
        assert sentence.isprintable()
        for vocab_only in (False, True):
            with pytest.raises(ModelError) as caught:
                Model(path, vocab_only=vocab_only)
            assert str(caught.value) == sentence
        return sentence

    return refuse


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_of_every_architecture_pass_and_run(tmp_path: Path, architecture: str) -> None:
    """Guards a table of tensors that is not llama.cpp's: good models refused."""
    # As many layers as have one of each kind: an older llama.cpp gives up a gemma3 of fewer.
    path = write_tiny_base(tmp_path / "base.gguf", architecture=architecture, layers=6)
    sizes = check_model(open_gguf(path))
    assert (sizes.architecture, sizes.layers, sizes.width) == (architecture, 6, WIDTH)
    assert (sizes.heads, sizes.kv_heads) == (HEADS, KV_HEADS)
    with Model(path) as model, Engine(model, causal=False, threads=1) as engine:
        assert model.n_vocab == sizes.n_vocab
        tokens = model.tokenize("Alien\nHeat\n")
        (found,) = engine.log_probabilities([Request(tokens, np.array([3]))], tokens)
        assert np.isfinite(found).all()


def test_the_architectures_are_those_that_can_be_trained() -> None:
    """Guards a base that is trained for hours, and whose denoiser is then refused; or the other way round."""
    from llm4dsr_cli.model import torch_architectures

    assert {*ARCHITECTURES} == {*torch_architectures.ARCHITECTURES}


def put(key: str, kind: int, content: Any, items: int = UINT32) -> Callable[[File], object]:
    """A change that gives a key another value, or drops it (content None)."""

    def change(file: File) -> None:
        file.values = [(name, value) for name, value in file.values if name != key.encode()]
        if content is not None:
            file.values.append((key.encode(), Value(kind, content, items)))

    return change


NAN = float("nan")
KEYS = [
    # the assertions of load_hparams, all of which were seen
    ("llama.block_count", UINT32, 0, "block_count is 0"),
    ("llama.block_count", UINT32, 513, "block_count is 513"),
    ("llama.block_count", UINT32, 2**32 - 1, "block_count is 4294967295"),
    ("llama.expert_count", UINT32, 8, "expert_count is 8"),
    ("llama.expert_used_count", UINT32, 2, "expert_used_count is 2"),
    ("llama.expert_group_count", UINT32, 2, "expert_group_count is 2"),
    ("llama.nextn_predict_layers", UINT32, 9, "nextn_predict_layers is 9"),
    ("llama.rope.scaling.type", STRING, b"other", "rope.scaling.type is other"),
    ("llama.attention.layer_norm_rms_epsilon", FLOAT32, NAN, "layer_norm_rms_epsilon is nan"),
    ("llama.attention.layer_norm_rms_epsilon", FLOAT32, -1.0, "layer_norm_rms_epsilon is -1"),
    ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 0.0, "layer_norm_rms_epsilon is 0"),
    ("llama.attention.layer_norm_rms_epsilon", FLOAT32, math.inf, "layer_norm_rms_epsilon is inf"),
    # sizes that contradict each other, of which a graph could not be built
    ("llama.block_count", UINT32, 1, "a llama of 1 layers has no tensor blk.1.attn_norm.weight"),
    ("llama.block_count", UINT32, 3, "it lacks 9 tensors, of which blk.2.attn_norm.weight"),
    ("llama.attention.head_count", UINT32, 0, "head_count is 0"),
    ("llama.attention.head_count", UINT32, 3, "dimension_count is 16, not 21"),
    ("llama.attention.head_count", ARRAY, [4, 4], "head_count is of the type ARRAY"),
    ("llama.attention.head_count_kv", UINT32, 0, "head_count_kv is 0"),
    ("llama.attention.head_count_kv", UINT32, 3, "4 heads of 16 numbers, 3 for keys and values"),
    ("llama.attention.key_length", UINT32, 32, "is 16, not 32"),
    ("llama.attention.value_length", UINT32, 8, "value_length is 8, not 16"),
    ("llama.rope.dimension_count", UINT32, 0, "dimension_count is 0, not 16"),
    ("llama.embedding_length", UINT32, 0, "embedding_length is 0"),
    ("llama.embedding_length", UINT32, 128, "not 32"),
    ("llama.feed_forward_length", UINT32, 97, "is of the shape (64, 96), not (64, 97)"),
    ("llama.context_length", UINT32, None, "it lacks llama.context_length"),
    ("llama.pooling_type", UINT32, 77, "pooling_type is 77"),
    # numbers by which it computes none
    ("llama.rope.freq_base", FLOAT32, NAN, "freq_base is nan"),
    ("llama.rope.freq_base", FLOAT32, 0.0, "freq_base is 0"),
    ("llama.rope.scaling.factor", FLOAT32, 1e-40, "factor is"),
    ("llama.rope.scaling.attn_factor", FLOAT32, math.inf, "attn_factor is inf"),
    # what is no model, or a part of one
    ("general.architecture", STRING, b"clip", "its architecture is clip"),
    ("general.architecture", STRING, b"\x1b[2J", r"its architecture is \x1b[2J"),
    ("general.architecture", UINT32, 1, "general.architecture is of the type UINT32"),
    ("general.architecture", STRING, None, "it lacks general.architecture"),
    ("general.type", STRING, b"adapter", "it is of the type adapter"),
    ("split.count", 2, 7, "one part of a model that was split"),
    # vocabularies
    ("tokenizer.ggml.model", STRING, b"t5", "its tokenizer is t5"),
    ("tokenizer.ggml.model", STRING, b"none", "its tokenizer is none"),
    ("tokenizer.ggml.model", STRING, b"llama", "lacks 256 of the 256 bytes"),
    ("tokenizer.ggml.tokens", ARRAY, None, "it lacks tokenizer.ggml.tokens"),
    ("tokenizer.ggml.tokens", ARRAY, [1, 2], "tokens is no array of STRING"),
    ("tokenizer.ggml.merges", ARRAY, None, "it lacks tokenizer.ggml.merges"),
    ("tokenizer.ggml.token_type", ARRAY, [1] * 9, "token_type is no array of INT32"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "kind", "content", "reason"), KEYS)
def test_keys_that_llama_cpp_would_abort_for_are_refused(
    refusal: Callable[..., str], key: str, kind: int, content: Any, reason: str
) -> None:
    """Guards GGML_ASSERT(...) failed, SIGABRT, and the core dump of a run."""
    assert reason in refusal(put(key, kind, content))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tokens: tokens.__setitem__(5, tokens[6]), "1 of its tokens are there twice"),
        (lambda tokens: tokens.__setitem__(slice(0, 2), [b"", b"[EMPTY_0]"]), "1 of its tokens are there twice"),
        (lambda tokens: tokens.pop(), "tokens, and"),
    ],
)
def test_damaged_token_lists_are_refused(
    refusal: Callable[..., str], change: Callable[[list[bytes]], object], reason: str
) -> None:
    """Guards the assertion that tokens are different, and arrays that are read beyond their end."""

    def apply(file: File) -> None:
        change(next(value.content for name, value in file.values if name == b"tokenizer.ggml.tokens"))

    assert reason in refusal(apply)


def test_a_vocabulary_of_another_length_than_the_embeddings_is_refused(refusal: Callable[..., str]) -> None:
    """Guards token numbers that have no row."""

    def cut(file: File) -> None:
        for name, value in file.values:
            if name in (b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_type"):
                value.content.pop()

    assert "token_embd.weight is of the shape (64, 263), not (64, 262)" in refusal(cut)


def test_scores_of_tokens_that_are_no_numbers_are_refused(refusal: Callable[..., str], bases: dict[str, Path]) -> None:
    """Guards comparisons that are never true, in the queue of a tokenizer."""
    n = check_model(open_gguf(bases["llama"])).n_vocab
    assert "scores are no numbers" in refusal(put("tokenizer.ggml.scores", ARRAY, [NAN] * n, FLOAT32))
    assert f"{n} tokens, and 1 scores" in refusal(put("tokenizer.ggml.scores", ARRAY, [0.0], FLOAT32))


def tensor(file: File, name: str) -> Tensor:
    return next(tensor for tensor in file.tensors if tensor.name == name.encode())


def retyped(name: str, kind: int, bytes_each: int) -> Callable[[File], object]:
    def change(file: File) -> None:
        found = tensor(file, name)
        found.kind, found.data = kind, bytes(len(found.data) // 4 * bytes_each)

    return change


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_is_needed(refusal: Callable[..., str], bases: dict[str, Path], architecture: str) -> None:
    """Guards a weight that is missing, and one that nobody reads."""
    names = [tensor.name for tensor in take_apart(bases[architecture]).tensors]
    required = [name for name in names if not name.endswith(b".bias")]
    for name in required[:: 1 if architecture == "llama" else 3]:

        def drop(file: File, name: bytes = name) -> None:
            file.tensors = [tensor for tensor in file.tensors if tensor.name != name]

        assert f"it lacks 1 tensors, of which {name.decode()} is the first" in refusal(drop, architecture)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: tensor(file, "blk.0.attn_q.weight").__dict__.update(name=b"blk.0.attn_qkv.weight"), "no tensor"),
        (lambda file: tensor(file, "blk.0.ffn_up.weight").dimensions.reverse(), "shape (96, 64), not (64, 96)"),
        (lambda file: tensor(file, "output_norm.weight").dimensions.append(1), "shape (64, 1), not (64,)"),
        (retyped("output_norm.weight", 1, 2), "output_norm.weight is of the type F16"),
        (retyped("output_norm.weight", 26, 4), "output_norm.weight is of the type I32"),
        (retyped("blk.1.attn_k.weight", 24, 1), "blk.1.attn_k.weight is of the type I8"),
        (retyped("blk.1.attn_k.weight", 28, 8), "blk.1.attn_k.weight is of the type F64"),
    ],
)
def test_tensors_of_the_wrong_name_shape_or_type_are_refused(
    refusal: Callable[..., str], change: Callable[[File], object], reason: str
) -> None:
    """Guards assertions about operands in the middle of a run."""
    assert reason in refusal(change)


def test_weights_that_are_no_numbers_are_refused_on_loading(bases: dict[str, Path], tmp_path: Path) -> None:
    """Guards a damaged weight that is found, if at all, after a part of the records."""
    path = tmp_path / "nan.gguf"
    for name in ("output_norm.weight", "blk.1.ffn_up.weight"):
        for value in (NAN, math.inf):
            file = copy.deepcopy(take_apart(bases["llama"]))
            data = np.frombuffer(tensor(file, name).data, np.float32).copy()
            data[7] = value
            tensor(file, name).data = data.tobytes()
            path.write_bytes(file.encoded())
            with pytest.raises(ModelError, match=f"no model that can be used .some of {name} is no number"):
                Model(path)

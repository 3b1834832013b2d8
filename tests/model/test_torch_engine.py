"""The engine on torch: the same log-probabilities as llama.cpp's, in the same order, whatever it batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from command_line import call
from conftest import write_tiny_adapter, write_tiny_base
from test_engine import float_denoiser, random_window

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llm4dsr_cli.errors import MissingExtraError, ModelError, OptionError, OutOfMemoryError  # noqa: E402
from llm4dsr_cli.model import torch_engine  # noqa: E402
from llm4dsr_cli.model.denoiser import Denoiser  # noqa: E402
from llm4dsr_cli.model.engine import Engine, Request  # noqa: E402
from llm4dsr_cli.model.gguf_file import open_gguf  # noqa: E402
from llm4dsr_cli.model.llama import Model  # noqa: E402
from llm4dsr_cli.model.torch_engine import TorchEngine  # noqa: E402
from llm4dsr_cli.model.torch_model import load_base  # noqa: E402

# Log-probabilities, in nats, which span about 40; llama.cpp's flash attention rounds to 16 bits (see test_engine).
TOLERANCE = 0.1
RandomTitles = Callable[[int, int], list[list[str]]]


@pytest.fixture(autouse=True)
def in_32_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random model amplifies what 16 bits round."""
    monkeypatch.setattr(torch_engine, "pick_dtype", lambda device: torch.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("torch") / "base.gguf", seed=3)


def requests(n: int, longest: int = 60) -> list[Request]:
    rng = np.random.default_rng(n)
    found = []
    for length in rng.integers(1, longest, n).tolist():
        positions = np.sort(rng.permutation(length)[: int(rng.integers(1, length + 1))]).astype(np.int32)
        found.append(Request(rng.integers(10, 90, length).astype(np.int32), positions))
    return found


@pytest.mark.parametrize("causal", [False, True])
def test_both_engines_give_the_same_log_probabilities(base: Path, causal: bool) -> None:
    """Guards another mask, padding that is seen, positions that are counted with it, and logits that are no
    log-probabilities."""
    some = requests(30)
    candidates = np.array([5, 40, 7], dtype=np.int32)
    with Model(base) as model, Engine(model, causal=causal, threads=1) as engine:
        expected = list(engine.log_probabilities(some, candidates))
    with TorchEngine(base, "llama", causal=causal, threads=1) as engine:
        found = list(engine.log_probabilities(some, candidates))
    assert [rows.shape for rows in found] == [(len(one.positions), 3) for one in some]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0)
    with TorchEngine(base, "llama", causal=not causal) as engine:
        others = list(engine.log_probabilities(some, candidates))
    assert max(float(np.abs(one - other).max()) for one, other in zip(found, others, strict=True)) > 2


@pytest.mark.parametrize("tokens", [1, 64, 500])
def test_batches_change_neither_results_nor_their_order(
    base: Path, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """Guards sequences sorted for batches and handed out in that order, and one that is longer than a batch."""
    monkeypatch.setattr(torch_engine, "_BATCH_TOKENS", {"cpu": tokens})
    monkeypatch.setattr(torch_engine, "_SORTED", 7)
    some = requests(20)
    candidates = np.array([5, 40], dtype=np.int32)
    with TorchEngine(base, "llama", causal=False) as engine:
        together = list(engine.log_probabilities(some, candidates))
        alone = [next(iter(engine.log_probabilities([one], candidates))) for one in some]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=0)


def test_too_little_memory_on_a_gpu_is_one_sentence(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a traceback of torch's where another program has filled the GPU."""

    def full(*arguments: object, **more: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch_engine, "last_hidden", full)
    with TorchEngine(base, "llama", causal=False) as engine, pytest.raises(OutOfMemoryError, match=r"base\.gguf"):
        list(engine.log_probabilities(requests(3), np.array([5], dtype=np.int32)))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), MemoryError("none")],
    ids=["torch", "Python"],
)
def test_too_little_memory_while_loading_is_one_sentence(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Guards a traceback, and the advice to delete a file that is as it should be."""

    def full(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(OutOfMemoryError, match=r"out of memory .*close other programs"):
        Denoiser.load(write_tiny_adapter(tmp_path / "adapter.gguf", base), base=base, engine="torch")


def variant(path: Path, base: Path, fields: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A base with more in its file."""
    file = open_gguf(base)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in file.fields.items():
        if name != "general.architecture":
            writer.add_key_value(name, field.contents(), *field.types[:2])
    for name, value in fields.items():
        kind = gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.FLOAT32
        writer.add_key_value(f"llama.{name}", value, kind)
    read = {one.name: gguf.dequantize(one.data, one.tensor_type) for one in file.tensors}
    for name, values in (read | tensors).items():
        writer.add_tensor(name, np.array(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_loading_prints_nothing(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Guards transformers' progress bar among the lines of a command."""
    load_base(base, "llama", torch.float32)
    assert capfd.readouterr() == ("", "")


LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
OF_EACH = {"rope_freqs.weight": np.array([1, 1, 1, 1, 4, 8, 32, 32])}


@pytest.mark.parametrize(
    ("fields", "tensors"),
    [(LINEAR, {}), ({"rope.scaling.factor": 8.0}, {}), ({**LINEAR, "rope.scaling.type": "none"}, {}), ({}, OF_EACH)],
    ids=["linear", "unnamed", "none", "Llama 3"],
)
def test_scaled_positions_are_scaled_by_either_engine(
    base: Path, tmp_path: Path, fields: dict[str, Any], tensors: dict[str, Any]
) -> None:
    """Guards Llama 3 with the positions of Llama 2: transformers reads no scaling from a GGUF."""
    path = variant(tmp_path / "scaled.gguf", base, fields, tensors)
    some, candidates = requests(8, longest=150), np.array([5, 40, 7], dtype=np.int32)
    with Model(path) as model, Engine(model, causal=False, threads=1) as engine:
        expected = np.concatenate(list(engine.log_probabilities(some, candidates)))
    with TorchEngine(path, "llama", causal=False, threads=1) as torch_one:
        found = np.concatenate(list(torch_one.log_probabilities(some, candidates)))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("fields", "tensors", "told"),
    [
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, {}, "rope scaling yarn"),
        ({}, {"blk.1.attn_q.bias": np.ones(64)}, "blk.1.attn_q.bias"),
        ({"final_logit_softcapping": 30.0}, {}, "final_logit_softcapping"),
    ],
    ids=["yarn", "bias", "soft cap"],
)
def test_what_torch_would_leave_out_is_refused(
    base: Path, tmp_path: Path, fields: dict[str, Any], tensors: dict[str, Any], told: str
) -> None:
    """Guards a model that is trained, or scores, without a part that it has."""
    path = variant(tmp_path / "more.gguf", base, fields, tensors)
    with pytest.raises(ModelError, match=f"without its {told}: choose another base"):
        load_base(path, "llama", torch.float32)
    with pytest.raises(OptionError, match=f"`engine` is torch: .*{told}: leave it out"):
        TorchEngine(path, "llama", causal=False)


def test_requests_are_taken_as_they_are_needed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards memory: a generator of a large file's windows that is read to its end before the first is judged."""
    monkeypatch.setattr(torch_engine, "_SORTED", 4)
    taken = []

    def those() -> Iterator[Request]:
        for one in requests(20):
            taken.append(one)
            yield one

    with TorchEngine(base, "llama", causal=False) as engine:
        results = engine.log_probabilities(those(), np.array([5], dtype=np.int32))
        next(results)
        assert len(taken) == 4
        assert list(engine.log_probabilities([], np.array([5], dtype=np.int32))) == []


def test_a_denoiser_scores_alike_by_either_engine(base: Path, tmp_path: Path) -> None:
    """Guards a denoiser's long sequences, equal titles and empty sequences, that one engine alone would serve, and
    reports that do not tell which one did."""
    path = float_denoiser(tmp_path, base, 6)
    sequences = [random_window(n, seed) for seed, n in enumerate((1, 3, 6, 17, 40))] + [[], ["a", "a", "b"]]
    with Denoiser.load(path, threads=1) as llama, Denoiser.load(path, engine="torch") as by_torch:
        for one, other in zip(by_torch.score(sequences), llama.score(sequences), strict=True):
            np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0)
        assert by_torch.description() == {**llama.description(), "engine": "torch"}


def test_an_adapter_is_merged_with_16_bit_weights_for_torch(base: Path, tmp_path: Path) -> None:
    """Guards weights that are timed with llama.cpp, which is not going to run, and weights rounded to 8 bits."""
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf", base)
    said: list[str] = []
    with Denoiser.load(adapter, base=base, engine="torch", say=said.append) as denoiser:
        assert "-bf16-" in denoiser.runtime.name and "auto" not in denoiser.runtime.name
    assert not any("as fast" in line for line in said)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"engine": "jax"}, "`engine` is jax"), ({"engine": "torch", "gpu_layers": 3}, "`gpu_layers` is of llama.cpp")],
)
def test_what_contradicts_the_engine_is_refused(
    base: Path, tmp_path: Path, given: dict[str, object], words: str
) -> None:
    """Guards a GPU option that does nothing, and a misspelt engine that is llama.cpp."""
    with pytest.raises(OptionError) as caught:
        Denoiser.load(write_tiny_adapter(tmp_path / "adapter.gguf", base), base=base, **given)  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_torch_or_transformers_the_engine_names_the_extra(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Guards a traceback where the extra is not installed."""
    for name in ("torch_engine", "torch_model"):
        monkeypatch.delitem(sys.modules, f"llm4dsr_cli.model.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    path = float_denoiser(tmp_path, base, 6)
    with pytest.raises(MissingExtraError, match=rf"{missing} is not installed.*llm4dsr-cli\[finetune\]"):
        Denoiser.load(path, engine="torch")


def test_commands_take_the_engine(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Guards an option that no command hands on."""
    path = float_denoiser(tmp_path, base, 6)
    source = tmp_path / "in.jsonl"
    source.write_text('{"items": ["a", "bc", "d e", "f"]}\n')
    seen: list[str] = []
    start = TorchEngine.__init__

    def watched(self: TorchEngine, *arguments: object, **more: object) -> None:
        seen.append("torch")
        start(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchEngine, "__init__", watched)
    model = ("--model", str(path), "--engine", "torch")
    for command in (
        ("score", str(source), str(tmp_path / "scored.jsonl")),
        ("clean", str(source), str(tmp_path / "cleaned.jsonl"), "--threshold", "0.5"),
    ):
        assert call(monkeypatch, capfdbinary, *command, *model).code == 0
    assert len(seen) == 2

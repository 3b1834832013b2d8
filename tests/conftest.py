"""A tiny random model in the real file format, and a denoiser made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from command_line import Call, call, clean_environment
from hypothesis import settings

from llm4dsr_cli.cache import cache_folder
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT
from llm4dsr_cli.thresholds import ThresholdCurve

# A busy machine is no bug.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 2, 64, 4, 2, 96
RANK = 4
SUGGESTER_RANK, SUGGESTER_ALPHA = 2, 3.0


def byte_vocabulary() -> tuple[list[str], list[str]]:
    """A byte-level BPE vocabulary in GPT-2's alphabet: all bytes, and the two answers as tokens of their own."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [alphabet[byte] for byte in range(256)]
    merges = []
    for word in ("Ġyes", "Ġno"):
        for end in range(2, len(word) + 1):
            merges.append(f"{word[: end - 1]} {word[end - 1]}")
            tokens.append(word[:end])
    return [*tokens, "<|endoftext|>", "<|im_end|>"], merges


def write_tiny_base(path: Path, seed: int = 0, *, architecture: str = "llama", layers: int = LAYERS) -> Path:
    """A random model with grouped-query attention (4 query heads, 2 key-value heads), 32-bit; llama, qwen2, qwen3 or
    gemma3 with the tensors that these have."""
    rng = np.random.default_rng(seed)
    tokens, merges = byte_vocabulary()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    # transformers takes every qwen3 to have heads of 128, as the real ones do.
    head = 128 if architecture == "qwen3" else WIDTH // HEADS
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if architecture in ("qwen3", "gemma3"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    if architecture == "gemma3":
        writer.add_sliding_window(512)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(True)  # prompts must not have it all the same

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 1.5 / np.sqrt(shape[-1])).astype(np.float32)

    def near_one(width: int) -> np.ndarray:
        return 1 + 0.1 * rng.standard_normal(width).astype(np.float32)

    writer.add_tensor("token_embd.weight", random(len(tokens), WIDTH) * 4)
    writer.add_tensor("output_norm.weight", near_one(WIDTH))
    norms = {"gemma3": ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")}
    for n in range(layers):
        for name in norms.get(architecture, ("attn_norm", "ffn_norm")):
            writer.add_tensor(f"blk.{n}.{name}.weight", near_one(WIDTH))
        writer.add_tensor(f"blk.{n}.attn_q.weight", random(HEADS * head, WIDTH))
        writer.add_tensor(f"blk.{n}.attn_k.weight", random(KV_HEADS * head, WIDTH))
        writer.add_tensor(f"blk.{n}.attn_v.weight", random(KV_HEADS * head, WIDTH))
        writer.add_tensor(f"blk.{n}.attn_output.weight", random(WIDTH, HEADS * head))
        writer.add_tensor(f"blk.{n}.ffn_gate.weight", random(INNER, WIDTH))
        writer.add_tensor(f"blk.{n}.ffn_up.weight", random(INNER, WIDTH))
        writer.add_tensor(f"blk.{n}.ffn_down.weight", random(WIDTH, INNER))
        if architecture == "qwen2":
            for name, width in (("attn_q", WIDTH), ("attn_k", KV_HEADS * head), ("attn_v", KV_HEADS * head)):
                writer.add_tensor(f"blk.{n}.{name}.bias", random(width))
        if architecture in ("qwen3", "gemma3"):
            for name in ("attn_q_norm", "attn_k_norm"):
                writer.add_tensor(f"blk.{n}.{name}.weight", near_one(head))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny_adapter(
    path: Path,
    base: Path,
    seed: int = 1,
    *,
    calibrated: bool = True,
    max_window: int = 6,
    layers: int | None = None,
    suggests: bool = False,
) -> Path:
    """A random adapter (B not zero) for ``write_tiny_base``'s model, with a denoiser's metadata; ``layers`` cuts it.

    With ``suggests`` there is a second adapter, of all layers; the first one is the same as without.
    """
    from llm4dsr_cli.cache import file_sha256

    rng = np.random.default_rng(seed)
    head = WIDTH // HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (KV_HEADS * head, WIDTH),
        "attn_v": (KV_HEADS * head, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    metadata = DenoiserMetadata(
        name="tiny-denoiser",
        form=DEFAULT_FORMAT,
        max_window=max_window,
        max_title_tokens=16,
        base_name=str(base),
        base_sha256=file_sha256(base),
        base_architecture="llama",
        licence="Apache-2.0",
        calibration=ThresholdCurve.fit(rng.standard_normal(5000)) if calibrated else None,
        training={"windows": 0},
        layers=layers,
        suggestion_alpha=SUGGESTER_ALPHA if suggests else None,
    )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    metadata.write(writer)

    def add(prefix: str, layers: int, rank: int) -> None:
        for n in range(layers):
            for name, (out, width) in shapes.items():
                for side, shape in (("lora_a", (rank, width)), ("lora_b", (out, rank))):
                    values = (rng.standard_normal(shape) * 0.15).astype(np.float32)
                    writer.add_tensor(f"{prefix}blk.{n}.{name}.weight.{side}", values)

    add("", layers or LAYERS, RANK)
    if suggests:
        add(SUGGESTER, LAYERS, SUGGESTER_RANK)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# The user's own cache, read before a fixture hides it: the base model is 98 MB, and is pulled once.
REAL_CACHE = cache_folder()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests never see, nor fill, the cache of whoever runs them."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LLM4DSR_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "tiny-base.gguf")


@pytest.fixture(scope="session")
def tiny_denoiser(tiny_base: Path) -> Path:
    return write_tiny_adapter(tiny_base.with_name("tiny-denoiser.gguf"), tiny_base)


@pytest.fixture
def random_titles() -> Callable[[int, int], list[list[str]]]:
    """``random_titles(n, seed)``: n sequences of random words as titles, of 1 to 6 items."""

    def make(n: int, seed: int) -> list[list[str]]:
        rng = np.random.default_rng(seed)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
        return [
            ["".join(rng.choice(letters, rng.integers(2, 12))).strip() or "x" for _ in range(rng.integers(1, 7))]
            for _ in range(n)
        ]

    return make


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for many tests, so that the tiny model is merged once."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture
def warm_environment(own_cache: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)
    monkeypatch.setenv("LLM4DSR_CACHE", str(warm_cache))


@pytest.fixture
def engine(tiny_denoiser: Path) -> list[str]:
    """Options that choose the tiny denoiser."""
    return ["--model", str(tiny_denoiser), "--threads", "1", "--weights", "q8_0"]


@pytest.fixture
def clean(engine: list[str], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """``clean(IN, OUT, ...)`` in this process, with the tiny denoiser; it drops, unless it is told otherwise."""
    return lambda *arguments: call(monkeypatch, capfdbinary, "clean", "--action", "drop", *engine, *arguments)


@pytest.fixture
def clean_quietly(clean: Call) -> Call:
    """The same, saying nothing but what went wrong."""
    return lambda *arguments: clean(*arguments, "--quiet")


@pytest.fixture(scope="module")
def two_cpus(warm_cache: Path) -> Iterator[None]:
    """A real Ray on this machine, with two CPUs. Its processes inherit the cache folder that the tests use."""
    from llm4dsr_cli.distributed.cluster import OBJECT_STORE_BYTES, quiet_ray

    with pytest.MonkeyPatch.context() as environment:
        clean_environment(environment)
        environment.setenv("LLM4DSR_CACHE", str(warm_cache))
        ray = quiet_ray()
        ray.init(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES // 4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()

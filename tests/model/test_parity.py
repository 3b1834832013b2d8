"""One adapter, four ways to run it: our model in training, PEFT, llama.cpp's own adapters, and the merged file.

The base has grouped-query attention and B is random: with as many key heads as query heads, or B = 0, a wrong
permutation of the query and key rows goes unseen.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from conftest import HEADS, KV_HEADS, LAYERS, RANK, write_tiny_base

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from llm4dsr_cli.cache import file_sha256  # noqa: E402
from llm4dsr_cli.finetune.adapter import Shape, from_gguf, read_adapters, to_gguf, write_adapters  # noqa: E402
from llm4dsr_cli.finetune.batch import Batch, Example  # noqa: E402
from llm4dsr_cli.finetune.lora import LoraLinear, add_lora, load_lora_state, lora_layers, lora_state, save_peft  # noqa: E402
from llm4dsr_cli.finetune.model import NoiseModel  # noqa: E402
from llm4dsr_cli.model import merged_model as runtime_model  # noqa: E402
from llm4dsr_cli.model.denoiser import Denoiser  # noqa: E402
from llm4dsr_cli.model.engine import Engine, Request  # noqa: E402
from llm4dsr_cli.model.gguf_file import open_gguf  # noqa: E402
from llm4dsr_cli.model.llama import Model  # noqa: E402
from llm4dsr_cli.model.metadata import DenoiserMetadata  # noqa: E402
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter  # noqa: E402
from llm4dsr_cli.model.torch_architectures import ARCHITECTURES, Architecture  # noqa: E402
from llm4dsr_cli.model.torch_model import load_base  # noqa: E402

ALPHA = 6.0
# Log-odds and log-probabilities, in nats; they span about 40. A wrong permutation, scale or mask changes them by more
# than 1.
TOLERANCE = 0.002
# Where llama.cpp rounds activations to 16 bits.
TOLERANCE_16_BIT = 0.4

# PEFT reads an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
TITLES = [
    ["abc def", "x y z", "foo", "abc", "The End", "q"],
    ["one"],
    [*"qrstuv"],
    ["a longer title that will be cut somewhere", "b", "", "dd"],
]


@pytest.fixture(autouse=True)
def attention_in_32_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flash attention, whose kernel rounds to 16 bits, and no 16-bit key-value cache: the random model amplifies
    both. What they cost is tested with the engine."""
    default = llama_cpp.llama_context_default_params

    def exact() -> Any:
        params = default()
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        return params

    monkeypatch.setattr(llama_cpp, "llama_context_default_params", exact)
    monkeypatch.setattr(llama_cpp, "LLAMA_FLASH_ATTN_TYPE_ENABLED", llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED)


class Setup:
    """The tiny base with a random adapter in memory, as a GGUF and as a PEFT folder."""

    def __init__(self, base: Path, folder: Path, architecture: str = "llama", layers: int | None = None) -> None:
        self.base = base
        self.architecture = architecture
        self.layers = layers
        with Model(base, vocab_only=True) as vocabulary:
            self.prompter = Prompter(DEFAULT_FORMAT, vocabulary.tokenize, 16)
            self.prompts = [self.prompter.prompt(titles) for titles in TITLES]
        causal_lm = load_base(base, architecture, torch.float32, layers)
        self.model = NoiseModel(causal_lm, self.prompter.answers).eval()
        add_lora(self.model.backbone, RANK, ALPHA)
        generator = torch.Generator().manual_seed(0)
        for _, layer in lora_layers(self.model.backbone):
            for parameter in (layer.lora_a, layer.lora_b):
                # The adapter file holds 16-bit floats.
                values = (0.3 * torch.randn(parameter.shape, generator=generator)).half().float()
                parameter.data.copy_(values)
        self.state = lora_state(self.model.backbone)
        self.shape = Shape.of(causal_lm, architecture)
        self.peft = folder / "peft"
        save_peft(self.state, self.peft, rank=RANK, alpha=ALPHA, base_name="tiny")
        self.adapter = self.write(folder / "adapter.gguf")

    def write(self, path: Path) -> Path:
        metadata = DenoiserMetadata(
            name="parity",
            form=DEFAULT_FORMAT,
            max_window=6,
            max_title_tokens=16,
            base_name="tiny",
            base_sha256=file_sha256(self.base),
            base_architecture=self.architecture,
            licence="",
            layers=self.layers,
        )
        write_adapters(path, metadata, to_gguf(self.state, self.shape, ALPHA))
        return path

    def in_training(self) -> list[np.ndarray]:
        """Noise log-odds by NoiseModel, all windows in one padded batch."""
        examples = [Example.of_noise(prompt, np.zeros(len(prompt.probes))) for prompt in self.prompts]
        with torch.no_grad():
            flat = self.model(Batch.of(examples)).numpy()
        return np.split(flat, np.cumsum([len(titles) for titles in TITLES])[:-1])

    def by_peft(self, *, causal: bool) -> list[np.ndarray]:
        """Log-probabilities of the whole vocabulary at the probes, by transformers and PEFT, a window at a time."""
        model = peft.PeftModel.from_pretrained(
            load_base(self.base, self.architecture, torch.float32, self.layers), str(self.peft)
        ).eval()
        rows = []
        for prompt in self.prompts:
            tokens = torch.from_numpy(prompt.tokens.astype(np.int64))[None]
            length = tokens.shape[1]
            mask = None if causal else torch.zeros(1, 1, length, length)
            with torch.no_grad():
                logits = model(input_ids=tokens, attention_mask=mask).logits[0]
            rows.append(logits.log_softmax(-1)[prompt.probes].numpy())
        return rows

    def by_llama_cpp(self, path: Path, adapter: Path | None, *, causal: bool) -> list[np.ndarray]:
        """The same by llama.cpp, with the adapter applied by llama.cpp itself."""
        with Model(path) as model, Engine(model, causal=causal, threads=1) as engine:
            if adapter is not None:
                loaded = llama_cpp.llama_adapter_lora_init(model.handle, os.fsencode(adapter))
                assert loaded, "llama.cpp refuses the adapter"
                adapters: Any = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded)
                assert (
                    llama_cpp.llama_set_adapters_lora(engine._context.handle, adapters, 1, (ctypes.c_float * 1)(1.0))
                    == 0
                )
            requests = [Request(prompt.tokens, prompt.probes) for prompt in self.prompts]
            return list(engine.log_probabilities(requests, np.arange(model.n_vocab, dtype=np.int32)))

    def log_odds(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        noise, belongs = self.prompter.answers
        return [row[:, noise] - row[:, belongs] for row in rows]

    def in_32_bit(self, path: Path, adapter: Path | None = None) -> Path:
        """The same adapter with 32-bit tensors: with 16-bit ones, llama.cpp rounds what it multiplies them with."""
        reader = open_gguf(adapter or self.adapter)
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", reader.fields["adapter.lora.alpha"].contents())
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def merged(self, path: Path) -> Path:
        """The merged file, with 32-bit weights."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(runtime_model._TYPES, "bf16", (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32))
            runtime_model.merge(self.adapter, self.base, path, "bf16")
        return path


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("parity")
    return Setup(write_tiny_base(folder / "base.gguf", seed=3), folder)


def assert_near(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = TOLERANCE) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)


def distance(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("causal", [False, True])
def test_llama_cpp_with_the_exported_adapter_is_peft_with_the_saved_one(
    setup: Setup, tmp_path: Path, causal: bool
) -> None:
    """Guards query and key rows in the wrong order, A and B in the wrong shape, alpha not divided by the rank, and
    tensors under wrong names, on either side."""
    expected = setup.by_peft(causal=causal)
    exact = setup.in_32_bit(tmp_path / "a.gguf")
    assert_near(setup.by_llama_cpp(setup.base, exact, causal=causal), expected)
    assert_near(setup.by_llama_cpp(setup.base, setup.adapter, causal=causal), expected, TOLERANCE_16_BIT)
    # The adapter matters, and so does the mask.
    assert distance(setup.by_llama_cpp(setup.base, None, causal=causal), expected) > 2
    assert distance(setup.by_llama_cpp(setup.base, setup.adapter, causal=not causal), expected) > 2


@pytest.mark.parametrize("causal", [False, True])
def test_the_merged_file_is_the_adapter_applied(setup: Setup, tmp_path: Path, causal: bool) -> None:
    """Guards a merge that differs from what llama.cpp does with base and adapter."""
    merged = setup.by_llama_cpp(setup.merged(tmp_path / "m.gguf"), None, causal=causal)
    exact = setup.in_32_bit(tmp_path / "a.gguf")
    assert_near(merged, setup.by_llama_cpp(setup.base, exact, causal=causal))
    assert_near(merged, setup.by_peft(causal=causal))


def test_the_model_in_training_is_the_denoiser_that_serves(setup: Setup, tmp_path: Path) -> None:
    """Guards training with another mask, position, head or padding than scoring: it learns what will not be asked."""
    trained = setup.in_training()
    assert_near(trained, setup.log_odds(setup.by_peft(causal=False)), 1e-3)
    exact = setup.in_32_bit(tmp_path / "a.gguf")
    assert_near(trained, setup.log_odds(setup.by_llama_cpp(setup.base, exact, causal=False)))
    with Denoiser.load(str(setup.merged(tmp_path / "m.gguf")), threads=1) as denoiser:
        assert_near(denoiser.score(TITLES), trained)


@pytest.mark.parametrize(
    ("architecture", "there", "kept"),
    [*((name, 7, None) for name in ARCHITECTURES), ("llama", 3, 2), ("gemma3", 7, 6)],
)
def test_other_architectures_and_fewer_layers_score_as_they_were_trained(
    tmp_path: Path, architecture: str, there: int, kept: int | None
) -> None:
    """Guards biases and norms that are lost, another scale or rotation of attention (gemma3's sixth layer is a global
    one), and layers that training left out but scoring runs, or the other way round."""
    base = write_tiny_base(tmp_path / "base.gguf", seed=3, architecture=architecture, layers=there)
    setup = Setup(base, tmp_path, architecture, kept)
    trained = setup.in_training()
    merged = setup.merged(tmp_path / "merged.gguf")
    assert_near(setup.log_odds(setup.by_peft(causal=False)), trained, 1e-3)
    with Denoiser.load(str(merged), threads=1) as denoiser:
        assert denoiser.metadata.layers == kept
        found = denoiser.score(TITLES)
    # llama.cpp looks gemma's GELU up in a table of 16 bits; scores are rounded, and cut at 20.
    assert_near(found, [np.clip(scores, -20, 20) for scores in trained], 0.01)
    # What is compared matters.
    assert max(float(np.ptp(scores)) for scores in trained) > 1
    assert len({tensor.name.split(".")[1] for tensor in open_gguf(merged).tensors if "blk." in tensor.name}) == (
        kept or there
    )


@pytest.mark.parametrize("broken", ["not permuted", "heads mixed up"])
def test_a_wrong_permutation_would_be_seen(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Guards these very tests: with a base of equal heads, or B = 0, they would pass whatever the order."""
    if broken == "not permuted":
        monkeypatch.setitem(ARCHITECTURES, "llama", Architecture())
    else:
        monkeypatch.setattr(Shape, "rotary_heads", lambda self, layer: HEADS if "k_proj" in layer else None)
    wrong = setup.write(tmp_path / "wrong.gguf")
    expected = setup.by_peft(causal=False)
    assert distance(setup.by_llama_cpp(setup.base, wrong, causal=False), expected) > 1


def test_from_gguf_undoes_to_gguf(setup: Setup) -> None:
    """Guards --init starting from permuted weights."""
    layers = [name for name, _ in lora_layers(setup.model.backbone)]
    found = from_gguf(read_adapters(setup.adapter)[0], layers, setup.shape, ALPHA)
    assert found.keys() == setup.state.keys()
    assert len(found) == LAYERS * 7 * 2
    for name, tensor in setup.state.items():
        assert np.array_equal(found[name], tensor)


def test_only_query_and_key_rows_of_llama_are_reordered(setup: Setup) -> None:
    """Guards a permutation of A, of the value rows, or of architectures that store rows in transformers' order."""
    tensors = to_gguf(setup.state, setup.shape, ALPHA).tensors
    for name, tensor in tensors.items():
        layer = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj"}
        block, kind = name.split(".")[1:3]
        if kind in layer:
            side = "A" if name.endswith("lora_a") else "B"
            same = np.array_equal(tensor, setup.state[f"layers.{block}.{layer[kind]}.lora_{side}.weight"].numpy())
            assert same == (side == "A")
    qwen = to_gguf(setup.state, Shape("qwen2", LAYERS, HEADS, KV_HEADS), ALPHA)
    values = {array.tobytes() for array in qwen.tensors.values()}
    assert values == {tensor.numpy().tobytes() for tensor in setup.state.values()}


def test_load_lora_state_undoes_lora_state_and_refuses_another_rank(setup: Setup) -> None:
    """Guards tensors swapped or broadcast on resuming."""
    other = load_base(setup.base, "llama", torch.float32).model
    add_lora(other, RANK, ALPHA)
    load_lora_state(other, setup.state)
    assert all(torch.equal(tensor, setup.state[name]) for name, tensor in lora_state(other).items())
    narrow = load_base(setup.base, "llama", torch.float32).model
    add_lora(narrow, RANK // 2, ALPHA)
    with pytest.raises(ValueError, match="lora_A"):
        load_lora_state(narrow, setup.state)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_the_adapted_layer_are_those_of_autograd(bias: bool) -> None:
    """Guards a hand-written backward pass that trains something else; B starts at zero, the base is left alone."""
    torch.manual_seed(0)
    base = torch.nn.Linear(12, 8, bias=bias).requires_grad_(False)
    layer = LoraLinear(base, 3, 6.0)
    x = torch.randn(2, 5, 12, requires_grad=True)
    torch.testing.assert_close(layer(x), base(x))
    layer.lora_b.data.normal_()
    outward = torch.randn(2, 5, 8)
    plain = base(x) + 2.0 * (x @ layer.lora_a.t() @ layer.lora_b.t())
    torch.testing.assert_close(layer(x), plain)
    parameters = [x, layer.lora_a, layer.lora_b]
    expected = torch.autograd.grad((plain * outward).sum(), parameters)
    found = torch.autograd.grad((layer(x) * outward).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"lora_a", "lora_b"}

"""Fine-tuning from end to end on a tiny model: what comes out is a denoiser, measured and calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from conftest import write_tiny_adapter, write_tiny_base

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from toy_training import SETTINGS, SHARES, STEPS, adapter_tensors, interrupt_at, same_tensors, train, two_clusters  # noqa: E402

from llm4dsr_cli.errors import ModelError, OptionError  # noqa: E402
from llm4dsr_cli.finetune.data import Domain, split_users  # noqa: E402
from llm4dsr_cli.finetune.outputs import Outputs  # noqa: E402
from llm4dsr_cli.finetune.run import finetune  # noqa: E402
from llm4dsr_cli.finetune.settings import SuggestionSettings  # noqa: E402
from llm4dsr_cli.finetune.start import find_start  # noqa: E402
from llm4dsr_cli.model.denoiser import Denoiser  # noqa: E402
from llm4dsr_cli.model.gguf_file import open_gguf  # noqa: E402
from llm4dsr_cli.model.llama import Model  # noqa: E402
from llm4dsr_cli.model.metadata import DenoiserMetadata  # noqa: E402
from llm4dsr_cli.model.torch_model import load_base, pick_device  # noqa: E402

# PEFT reads an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("finetune") / "base.gguf", seed=2)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser trained on the toy domain."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM4DSR_CACHE", str(folder / "cache"))
        train(base, folder / "toy.gguf", licence="CC0-1.0")
    return folder / "toy.gguf"


def test_what_comes_out_is_a_calibrated_denoiser(base: Path, trained: Path) -> None:
    """Guards a file that only its maker can read: metadata, calibration and tensors all serve."""
    metadata = DenoiserMetadata.read(open_gguf(trained), trained)
    assert (metadata.name, metadata.licence, metadata.base_name) == ("toy", "CC0-1.0", "base.gguf")
    assert (metadata.max_window, metadata.max_title_tokens) == (6, 8)
    assert metadata.training["domains"][0]["titles"] == 84
    assert metadata.training["windows"] == 64
    assert metadata.calibration is not None
    split = split_users([two_clusters()], **SHARES)
    windows = sum(min(6, len(sequence)) - 1 for sequence in split.calibration[0].sequences)
    assert 0.7 * windows < metadata.calibration.n_items < windows  # some were replaced; the last ones are left out
    with Denoiser.load(str(trained), base=str(base), weights="bf16", threads=1) as denoiser:
        scores = np.concatenate(denoiser.score([["abcd", "aabb", "wxyz", "dcba", "cc"], ["abcd"]]))
    assert np.isfinite(scores).all()
    # Trained: B is no longer zero anywhere.
    for name, tensor in adapter_tensors(trained).items():
        assert tensor.any(), name


def test_the_peft_folder_holds_the_same_adapter(base: Path, trained: Path) -> None:
    """Guards a PEFT folder that transformers cannot load, or loads as another adapter."""
    folder = Outputs(trained).peft
    model = peft.PeftModel.from_pretrained(load_base(base, "llama", torch.float32), str(folder))
    found = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(found) == len(adapter_tensors(trained))
    value = found["base_model.model.model.layers.0.self_attn.v_proj.lora_B.default.weight"].detach().numpy()
    assert value.any()
    np.testing.assert_allclose(value, adapter_tensors(trained)["blk.0.attn_v.weight.lora_b"], rtol=1e-3, atol=1e-6)
    assert model.peft_config["default"].r == 4
    assert model.peft_config["default"].lora_alpha == 8


def test_no_vocabulary_is_left_open(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a model of llama.cpp that every run leaves in memory, interrupted or not."""
    models: list[Model] = []
    make = Model.__init__

    def remember(model: Model, *arguments: Any, **options: Any) -> None:
        make(model, *arguments, **options)
        models.append(model)

    monkeypatch.setattr(Model, "__init__", remember)
    lessons = SuggestionSettings(windows=8, validation_windows=4)
    train(base, tmp_path / "toy.gguf", replace(SETTINGS, windows=8), suggestions=lessons)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "stopped.gguf", on_step=interrupt_at(1, "detector"))
    assert len(models) > 3
    assert not any(model.handle for model in models)


def test_a_run_in_the_way_is_refused_and_an_interrupted_one_goes_on_to_the_same_end(
    base: Path, trained: Path, tmp_path: Path
) -> None:
    """Guards hours of training overwritten by a command typed again, and a denoiser written by half a run."""
    output = tmp_path / "toy.gguf"
    with pytest.raises(KeyboardInterrupt):
        train(base, output, on_step=interrupt_at(4, "detector"))
    assert not output.exists()
    assert Outputs(output).checkpoint("detector").is_file()
    with pytest.raises(OptionError, match="an earlier run is here: go on with `resume`"):
        train(base, output)
    with pytest.raises(OptionError, match="had other settings"):
        train(base, output, replace(SETTINGS, learning_rate=1e-4), resume=True)
    checkpoint = Outputs(output).checkpoint("detector")
    whole = checkpoint.read_bytes()
    for damaged in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(OptionError, match="is no whole checkpoint: remove its folder"):
            train(base, output, resume=True)
    checkpoint.write_bytes(whole)
    history = train(base, output, resume=True).history
    assert history[-1]["step"] == STEPS
    assert same_tensors(output, trained)
    assert [orjson.loads(line) for line in Outputs(output).history("detector").read_bytes().splitlines()] == history


def test_a_run_that_is_not_there_is_not_resumed(base: Path, tmp_path: Path) -> None:
    """Guards --resume that trains anew, or leaves an empty folder behind."""
    with pytest.raises(OptionError, match="there is no run to resume: leave out `resume`"):
        train(base, tmp_path / "toy.gguf", resume=True)
    assert not Outputs(tmp_path / "toy.gguf").folder.exists()


def test_many_sequences_of_few_users_promise_no_more_than_the_users_do(base: Path, tmp_path: Path) -> None:
    """Guards a calibration that counts a user's alike sequences as so many witnesses."""
    once = two_clusters()
    often = replace(once, sequences=once.sequences * 30, users=once.users * 30)
    start = find_start("none", str(base))
    settings = replace(SETTINGS, windows=8)
    finetune([often], tmp_path / "toy.gguf", start, settings, device="cpu", compile_layers=False)
    split = split_users([once], **SHARES)
    calibration = DenoiserMetadata.read(open_gguf(tmp_path / "toy.gguf"), tmp_path / "toy.gguf").calibration
    assert calibration is not None
    assert calibration.n_items > 30 * len(split.calibration[0].users)
    assert calibration.rates.min() * (len(split.calibration[0].users) + 1) >= 0.99


def test_a_run_starts_from_the_adapter_it_is_given(base: Path, trained: Path, tmp_path: Path) -> None:
    """Guards --init that is ignored, permuted or scaled: without learning, the same adapter comes out."""
    still = replace(SETTINGS, windows=8, learning_rate=0.0)
    train(base, tmp_path / "same.gguf", still, init=str(trained))
    assert same_tensors(tmp_path / "same.gguf", trained)
    half = replace(still, alpha=16.0)
    train(base, tmp_path / "half.gguf", half, init=str(trained))
    before, after = adapter_tensors(trained), adapter_tensors(tmp_path / "half.gguf")
    for name in before:
        # Twice the scale, half of B: the same weights.
        factor = 0.5 if name.endswith("lora_b") else 1
        np.testing.assert_allclose(after[name], factor * before[name].astype(np.float32), rtol=1e-2, atol=1e-6)


def test_a_run_shows_its_start_other_noise_than_made_it(base: Path, trained: Path, tmp_path: Path) -> None:
    """Guards a second run with the same data and seed that repeats the first one's windows, noise and all."""
    still = replace(SETTINGS, windows=64, learning_rate=0.0)
    half, again = replace(still, alpha=16.0), tmp_path / "again.gguf"
    of_trained = train(base, tmp_path / "half.gguf", half, init=str(trained)).history[-1]["loss"]
    assert train(base, again, still, init=str(trained)).history[-1]["loss"] == pytest.approx(of_trained, abs=1e-3)
    # The same weights in another file, so that only the windows differ.
    of_half = train(base, tmp_path / "more.gguf", half, init=str(tmp_path / "half.gguf")).history[-1]["loss"]
    assert of_half != pytest.approx(of_trained, abs=5e-3)


def test_an_adapter_that_does_not_fit_is_no_start(base: Path, trained: Path, tmp_path: Path) -> None:
    """Guards weights of another base, or of another rank, taken for a start; and a traceback for either."""
    other = write_tiny_base(tmp_path / "other.gguf", seed=8)
    foreign = write_tiny_adapter(tmp_path / "foreign.gguf", other)
    with pytest.raises(OptionError, match="adapts another base model"):
        train(base, tmp_path / "out.gguf", init=str(foreign))
    with pytest.raises(ModelError, match="no such model file"):
        train(base, tmp_path / "out.gguf", init=str(tmp_path / "none.gguf"))
    assert not (tmp_path / "out.gguf").exists()


def test_windows_that_no_denoiser_reads_are_refused_before_training(base: Path, tmp_path: Path) -> None:
    """Guards: a traceback after hours of training, and nothing written."""
    with pytest.raises(OptionError, match="tokens are too long"):
        settings = replace(SETTINGS, max_title_tokens=1001)
        finetune([two_clusters()], tmp_path / "x.gguf", find_start("none", str(base)), settings, device="cpu")
    assert not (tmp_path / "x.gguf").exists()


def test_too_few_titles_are_refused_before_training(base: Path, tmp_path: Path) -> None:
    """Guards a traceback in the middle of training from a catalog too small to draw noise from."""
    titles = [f"t{i}" for i in range(10)]
    domain = Domain.build("small", titles, [(user, titles[:6]) for user in range(60)])
    with pytest.raises(OptionError, match=r"small: 10 titles are too few"):
        finetune([domain], tmp_path / "x.gguf", find_start("none", str(base)), SETTINGS, device="cpu")
    assert not (tmp_path / "x.run").exists()


def test_architectures_that_cannot_be_served_are_refused(tmp_path: Path) -> None:
    """Guards an adapter exported in an order of rows that nobody checked."""
    base = write_tiny_base(tmp_path / "b.gguf", architecture="phi3")
    with pytest.raises(ModelError, match="does not support the architecture 'phi3'"):
        load_base(base, "phi3", torch.float32)


def test_a_device_that_is_not_there_is_refused() -> None:
    """Guards torch's own traceback for a mistyped device."""
    with pytest.raises(OptionError, match="`device` is gpu: no such device here: choose auto"):
        pick_device("gpu")


def test_the_library_offers_what_the_command_does() -> None:
    """Guards a name that was moved, or that hides the module of its own name."""
    import llm4dsr_cli.finetune as offered

    assert sorted(offered.__all__) == sorted(offered._MODULE_OF)
    for name, module in offered._MODULE_OF.items():
        assert getattr(offered, name).__module__ == f"llm4dsr_cli.finetune.{module}"


@pytest.mark.parametrize(("given", "tokens"), [(None, 24), (20, 20)])
def test_titles_are_cut_as_the_catalog_asks_unless_told(
    base: Path, tmp_path: Path, given: int | None, tokens: int
) -> None:
    """Guards a start's cut of 16 tokens for titles in another script, of which six characters are read then."""
    toy = two_clusters()
    long = Domain(toy.name, [f"{title} of the same long name" for title in toy.titles], toy.sequences, toy.users)
    start = find_start(str(write_tiny_adapter(tmp_path / "start.gguf", base)), str(base))
    said: list[str] = []
    settings = replace(
        SETTINGS,
        rank=start.settings().rank,
        windows=8,
        validate_every=None,
        max_title_tokens=given,
        validation_windows=4,
    )
    finetune([long], tmp_path / "long.gguf", start, settings, device="cpu", compile_layers=False, say=said.append)
    metadata = DenoiserMetadata.read(open_gguf(tmp_path / "long.gguf"), tmp_path / "long.gguf")
    assert metadata.max_title_tokens == metadata.training["settings"]["max_title_tokens"] == tokens
    assert any("`max_title_tokens`" in line for line in said) == (given is None)
    with Denoiser.load(str(tmp_path / "long.gguf"), base=str(base), weights="bf16", threads=1) as denoiser:
        denoiser.score([long.titles[:6]])
        assert (denoiser.cut_titles.cut == 0) == (given is None)

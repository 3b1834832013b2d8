"""Fine-tuning both parts of a denoiser from end to end on a tiny model: each keeps the other as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tiny_base

pytest.importorskip("torch")
pytest.importorskip("transformers")

from toy_training import (
    SETTINGS,
    SHARES,
    adapter_tensors,
    interrupt_at,
    same_tensors,
    train,
    two_clusters,
    unlearn_titles,
)

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.finetune.data import Sampler, split_users
from llm4dsr_cli.finetune.model import NoiseModel
from llm4dsr_cli.finetune.outputs import Outputs
from llm4dsr_cli.finetune.run import Finetuned, finetune
from llm4dsr_cli.finetune.settings import SuggestionSettings
from llm4dsr_cli.finetune.start import find_start
from llm4dsr_cli.model.engine import Engine, Request
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.llama import Model
from llm4dsr_cli.model.merged_model import runtime_model
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter

QUICK = replace(SETTINGS, windows=16)
LESSONS = SuggestionSettings(windows=128, learning_rate=3e-3, rank=2, alpha=6.0, batch_windows=8, validation_windows=20)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("runs") / "base.gguf", seed=2)


@pytest.fixture(scope="module")
def plain(base: Path) -> Path:
    """A denoiser that suggests nothing."""
    path = base.with_name("plain.gguf")
    assert in_own_cache(base, path, licence="CC0-1.0").suggestions == []
    return path


@pytest.fixture(scope="module")
def both(base: Path) -> tuple[Path, list[dict[str, float]]]:
    """One trained alike, and then in suggestions, and the history of these."""
    path = base.with_name("both.gguf")
    return path, in_own_cache(base, path, suggestions=LESSONS, licence="CC0-1.0").suggestions


def in_own_cache(base: Path, output: Path, **more: Any) -> Finetuned:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM4DSR_CACHE", str(base.with_name("cache")))
        return train(base, output, QUICK, **more)


def suggest(
    base: Path, output: Path, init: Path | str, lessons: SuggestionSettings = LESSONS, seed: int = 0, **more: Any
) -> list[dict[str, float]]:
    """Train suggestions alone on the toy domain."""
    start = find_start(str(init), str(base))
    domains = [two_clusters(seed)]
    more |= {"detector": False, "device": "cpu", "compile_layers": False}
    done = finetune(domains, output, start, QUICK, lessons, **more)
    assert done.history == []
    return done.suggestions


def part(path: Path, *, suggester: bool) -> dict[str, np.ndarray]:
    return {name: t for name, t in adapter_tensors(path).items() if name.startswith(SUGGESTER) == suggester}


def same_part(one: Path, other: Path, *, suggester: bool) -> bool:
    first, second = part(one, suggester=suggester), part(other, suggester=suggester)
    assert first.keys() == second.keys()
    return bool(first) and all(np.array_equal(first[name], second[name]) for name in first)


def metadata_of(path: Path) -> DenoiserMetadata:
    return DenoiserMetadata.read(open_gguf(path), path)


def same_detector(one: Path, other: Path) -> bool:
    """Tensors, their scale, calibration, and all that the files say of their detector."""
    alphas = [open_gguf(path).fields["adapter.lora.alpha"].contents() for path in (one, other)]
    curves = [metadata_of(path).calibration for path in (one, other)]
    facts = [
        replace(metadata_of(path), name="", calibration=None, suggestion_alpha=None, training={})
        for path in (one, other)
    ]
    assert curves[0] is not None and curves[1] is not None
    return (
        same_part(one, other, suggester=False)
        and alphas[0] == alphas[1]
        and facts[0] == facts[1]
        and np.array_equal(curves[0].rates, curves[1].rates)
        and np.array_equal(curves[0].log_odds, curves[1].log_odds)
        and curves[0].n_items == curves[1].n_items
    )


def loss_by_llama_cpp(path: Path, base: Path) -> float:
    """Of lessons of the held-out users, with the merged suggester."""
    quietly: dict[str, Any] = {"weights": "bf16", "say": lambda line: None, "part": "suggester"}
    held_out = split_users([two_clusters()], **SHARES).validation
    sampler = Sampler(held_out, max_window=6, rates=(0.0,), shorten=0, seed=9)
    losses: list[float] = []
    with Model(runtime_model(path, metadata_of(path), base, **quietly)) as model:
        prompter = Prompter(DEFAULT_FORMAT, model.tokenize, SETTINGS.max_title_tokens)
        everything = np.arange(model.n_vocab, dtype=np.int32)
        with Engine(model, causal=True, threads=1) as engine:
            for prompt in (prompter.prompt(sampler.draw_titles(number)) for number in range(40)):
                places = np.arange(prompt.probes[0], len(prompt.tokens) - 1, dtype=np.int32)
                (rows,) = engine.log_probabilities([Request(prompt.tokens, places)], everything)
                losses += (-rows[np.arange(len(places)), prompt.tokens[places + 1]]).tolist()
    return float(np.mean(losses))


def test_a_run_trains_suggestions_too_and_its_detector_is_that_of_a_run_without_them(
    base: Path, plain: Path, both: tuple[Path, list[dict[str, float]]]
) -> None:
    """Guards a second adapter over the first one, a calibration of another model, and suggestions that learn nothing
    or are exported as they were half-way."""
    path, history = both
    assert same_detector(path, plain)
    assert metadata_of(plain).suggestion_alpha is None
    assert metadata_of(path).suggestion_alpha == 6.0
    assert (metadata_of(path).name, metadata_of(path).licence) == ("both", "CC0-1.0")
    assert metadata_of(path).training["suggestions"]["validation"] == history[-1]
    assert metadata_of(path).training["windows"] == 16
    assert history[-1]["windows"] == 128
    assert history[-1]["held_out_loss"] < 0.8 * history[0]["held_out_loss"]
    for name, tensor in part(path, suggester=True).items():
        assert tensor.any(), name
        assert 2 in tensor.shape
    # Other lessons of the same users.
    assert loss_by_llama_cpp(path, base) == pytest.approx(history[-1]["held_out_loss"], abs=0.3)


def test_suggestions_alone_leave_the_detector_as_it_is(
    base: Path, plain: Path, both: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    """Guards --train suggester that rounds, rescales or recalibrates the detector, or that learns otherwise."""
    before = plain.read_bytes()
    history = suggest(base, tmp_path / "added.gguf", plain)
    assert plain.read_bytes() == before
    assert same_detector(tmp_path / "added.gguf", plain)
    assert same_tensors(tmp_path / "added.gguf", both[0])
    assert [row["held_out_loss"] for row in history] == [row["held_out_loss"] for row in both[1]]
    assert metadata_of(tmp_path / "added.gguf").name == "added"


def test_a_detector_trained_alone_keeps_the_suggestions_of_its_start(
    base: Path, both: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    """Guards a training of the detector that loses suggestions, or takes them for the detector's first weights."""
    path, _ = both
    assert train(base, tmp_path / "d.gguf", QUICK, init=str(path)).suggestions == []
    assert same_part(tmp_path / "d.gguf", path, suggester=True)
    assert metadata_of(tmp_path / "d.gguf").suggestion_alpha == 6.0
    assert metadata_of(tmp_path / "d.gguf").training["suggestions"] == metadata_of(path).training["suggestions"]
    assert not same_part(tmp_path / "d.gguf", path, suggester=False)
    train(base, tmp_path / "still.gguf", replace(QUICK, learning_rate=0.0), init=str(path))
    assert same_tensors(tmp_path / "still.gguf", path)


def test_a_second_run_goes_on_from_the_suggestions_of_the_first(
    base: Path, both: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    """Guards hours of training in suggestions forgotten, permuted or rescaled; the adapter's shape is the first's."""
    path, history = both
    lessons = replace(LESSONS, windows=8, rank=7, alpha=1.0, learning_rate=0.0)
    again = suggest(base, tmp_path / "again.gguf", path, lessons)
    assert again[0]["held_out_loss"] == pytest.approx(history[-1]["held_out_loss"], abs=0.05)
    assert same_tensors(tmp_path / "again.gguf", path)
    assert metadata_of(tmp_path / "again.gguf").suggestion_alpha == 6.0
    # Both parts of a start are gone on from by a run that trains both.
    more = train(base, tmp_path / "more.gguf", replace(QUICK, learning_rate=0.0), init=str(path), suggestions=lessons)
    assert more.suggestions[0]["held_out_loss"] == pytest.approx(history[-1]["held_out_loss"], abs=0.05)
    assert same_tensors(tmp_path / "more.gguf", path)


def test_suggestions_that_get_worse_are_not_kept(
    base: Path, both: tuple[Path, list[dict[str, float]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a training that spoils what the start knew, in silence."""
    said: list[str] = []
    unlearn_titles(monkeypatch)
    history = suggest(base, tmp_path / "worse.gguf", both[0], replace(LESSONS, windows=64), say=said.append)
    assert history[-1]["held_out_loss"] > history[0]["held_out_loss"]
    assert same_part(tmp_path / "worse.gguf", both[0], suggester=True)
    assert metadata_of(tmp_path / "worse.gguf").training == metadata_of(both[0]).training
    assert any("did not get better" in line for line in said)


def test_one_gradient_that_is_no_number_spoils_no_suggestions(
    base: Path, both: tuple[Path, list[dict[str, float]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards good suggestions of the start overwritten by NaN, since NaN is not worse than anything."""
    loss, calls = NoiseModel.title_loss, []

    def broken(model: NoiseModel, batch: Any) -> Any:
        calls.append(1)
        return loss(model, batch) * (float("nan") if len(calls) == 20 else 1.0)

    monkeypatch.setattr(NoiseModel, "title_loss", broken)
    history = suggest(base, tmp_path / "still.gguf", both[0])
    assert len(calls) > 20
    assert all(np.isfinite(tensor).all() for tensor in adapter_tensors(tmp_path / "still.gguf").values())
    assert metadata_of(tmp_path / "still.gguf").training["suggestions"]["validation"] in history
    assert history[-1]["held_out_loss"] <= history[0]["held_out_loss"]


def test_a_start_without_suggestions_gets_none_that_are_no_gain(
    base: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a suggester that has learned nothing, and says so nowhere, in the file of a denoiser."""
    said: list[str] = []
    unlearn_titles(monkeypatch)
    # So few that training ends before it goes back: from there small steps may be a gain by chance.
    suggest(base, tmp_path / "none.gguf", plain, replace(LESSONS, windows=32), say=said.append)
    assert same_tensors(tmp_path / "none.gguf", plain)
    assert metadata_of(tmp_path / "none.gguf").suggestion_alpha is None
    assert metadata_of(tmp_path / "none.gguf").training == metadata_of(plain).training
    assert "the suggestions did not get better: there are none" in said


def test_a_run_interrupted_in_suggestions_goes_on_to_the_same_end(
    base: Path, plain: Path, both: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    """Guards a trained detector lost with Ctrl-C, hours overwritten by a command typed again, and a run of two
    kinds."""
    output = tmp_path / "both.gguf"
    with pytest.raises(KeyboardInterrupt):
        train(base, output, QUICK, suggestions=LESSONS, on_step=interrupt_at(5, "suggester"), licence="CC0-1.0")
    assert same_tensors(output, plain)
    assert metadata_of(output).suggestion_alpha is None
    with pytest.raises(OptionError, match="an earlier run is here: go on with `resume`"):
        train(base, output, QUICK, suggestions=LESSONS)
    with pytest.raises(OptionError, match="had other settings"):
        train(base, output, QUICK, suggestions=replace(LESSONS, learning_rate=1e-4), resume=True)
    steps: list[int] = []
    done = train(
        base,
        output,
        QUICK,
        suggestions=LESSONS,
        resume=True,
        licence="CC0-1.0",
        on_step=lambda part, progress: steps.append(progress.step) if part == "suggester" else None,
    )
    assert steps[0] == 6
    assert [row["held_out_loss"] for row in done.suggestions] == [row["held_out_loss"] for row in both[1]]
    assert same_tensors(output, both[0])
    assert same_detector(output, both[0])


def test_suggestions_alone_are_resumed_with_the_same_settings_data_and_start(
    base: Path, plain: Path, both: tuple[Path, list[dict[str, float]]], tmp_path: Path
) -> None:
    """Guards an unfinished run overwritten, one that goes on with other data, and half a run taken for a whole."""
    output = tmp_path / "added.gguf"
    with pytest.raises(KeyboardInterrupt):
        suggest(base, output, plain, on_step=interrupt_at(3, "suggester"))
    assert not output.exists()
    assert Outputs(output).checkpoint("suggester").is_file()
    with pytest.raises(OptionError, match="an earlier run is here: go on with `resume`"):
        suggest(base, output, plain)
    with pytest.raises(OptionError, match="an earlier run is here: go on with `resume`"):
        train(base, output, QUICK)
    with pytest.raises(OptionError, match="had other settings"):
        suggest(base, output, plain, replace(LESSONS, windows=64), resume=True)
    with pytest.raises(OptionError, match="had other data"):
        suggest(base, output, plain, seed=1, resume=True)
    with pytest.raises(OptionError, match="had other init"):
        suggest(base, output, both[0], resume=True)
    assert not output.exists()
    suggest(base, output, plain, resume=True)
    assert same_tensors(output, both[0])


def test_suggestions_alone_take_a_denoiser_of_this_base(base: Path, plain: Path, tmp_path: Path) -> None:
    """Guards a file with suggestions and no detector, suggestions of another model, and a run resumed from nothing."""
    with pytest.raises(OptionError, match="`init`"):
        suggest(base, tmp_path / "x.gguf", "none")
    other = write_tiny_base(tmp_path / "other.gguf", seed=8)
    with pytest.raises(OptionError, match="adapts another base model"):
        suggest(other, tmp_path / "x.gguf", plain)
    with pytest.raises(OptionError, match="there is no run to resume: leave out `resume`"):
        suggest(base, tmp_path / "x.gguf", plain, resume=True)
    assert not (tmp_path / "x.run").exists()

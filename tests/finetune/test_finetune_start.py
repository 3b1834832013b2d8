"""Where a run starts, what follows from it, and what contradicts it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import RANK, write_tiny_adapter, write_tiny_base

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.finetune.pace import Pace
from llm4dsr_cli.finetune.start import COLD, WARM, find_start
from llm4dsr_cli.model.registry import Registry


@pytest.fixture
def registry(tmp_path: Path, tiny_base: Path, tiny_denoiser: Path) -> Registry:
    """One whose shipped denoiser is the tiny one."""
    path = tmp_path / "registry.toml"
    path.write_text(f'default_denoiser = "tiny"\n[denoiser.tiny]\nfile = "{tiny_denoiser}"\n')
    return Registry.load(path)


def test_a_run_starts_from_the_denoiser_that_ships_and_takes_its_shape(
    registry: Registry, tiny_base: Path, tiny_denoiser: Path
) -> None:
    """Guards hours of training from nothing where a denoiser is there, and a rank that differs."""
    said: list[str] = []
    start = find_start(registry=registry, say=said.append)
    assert (start.denoiser, start.base, said) == (tiny_denoiser, str(tiny_base), [])
    settings = start.settings(windows=64)
    assert (settings.rank, settings.alpha, settings.layers) == (RANK, 2 * RANK, None)
    assert settings.max_title_tokens is None, "the catalog decides, not the start, which may have read another language"
    assert start.settings(max_title_tokens=12).max_title_tokens == 12
    assert (settings.learning_rate, settings.warmup_steps) == (WARM["learning_rate"], WARM["warmup_steps"])
    assert start.settings(learning_rate=1e-4, rank=RANK).learning_rate == 1e-4
    assert find_start(base=str(tiny_base), registry=registry).denoiser == tiny_denoiser
    for named in ("tiny", str(tiny_denoiser)):
        assert find_start(named, registry=registry).denoiser == tiny_denoiser


def test_none_starts_from_the_base_model_alone(registry: Registry, tiny_base: Path) -> None:
    """Guards a word taken for a file, and a warm start's learning rate for a cold one."""
    start = find_start("none", str(tiny_base), registry=registry)
    assert (start.denoiser, start.base) == (None, str(tiny_base))
    settings = start.settings(rank=8)
    assert (settings.rank, settings.alpha, settings.learning_rate) == (8, 16.0, COLD["learning_rate"])
    assert settings.warmup_steps < WARM["warmup_steps"]


def test_another_base_model_starts_alone_and_says_so(registry: Registry, tmp_path: Path) -> None:
    """Guards a refusal, or weights of another model, for everyone who brings a base of their own."""
    other = write_tiny_base(tmp_path / "other.gguf", seed=8)
    said: list[str] = []
    start = find_start(base=str(other), registry=registry, say=said.append)
    assert (start.denoiser, start.base) == (None, str(other))
    assert len(said) == 1
    assert "starting from" in said[0]
    assert "adapts another base model" in said[0]
    with pytest.raises(OptionError, match="adapts another base model"):
        find_start("tiny", str(other), registry=registry).check_base(other)


@pytest.mark.parametrize("given", [{"rank": RANK + 1}, {"rank": 0}])
def test_what_contradicts_the_denoiser_is_refused(registry: Registry, given: dict[str, int]) -> None:
    """Guards a tensor of another shape in the middle of a run; one sentence names the option and the way out."""
    with pytest.raises(OptionError, match=f"`{next(iter(given))}` is .* has .*`init` none"):
        find_start(registry=registry).settings(**given)


def test_a_denoiser_of_fewer_layers_gives_its_own_or_fewer_but_not_more(tmp_path: Path, tiny_base: Path) -> None:
    """Guards layers without weights to start from; leaving layers out is a choice."""
    path = write_tiny_adapter(tmp_path / "one.gguf", tiny_base, layers=1)
    start = find_start(str(path), str(tiny_base))
    assert start.settings().layers == start.settings(layers=1).layers == 1
    with pytest.raises(OptionError, match=r"`layers` is 2: .* has 1"):
        start.settings(layers=2)


def test_a_start_that_is_no_adapter_is_refused(tmp_path: Path, tiny_base: Path, tiny_denoiser: Path) -> None:
    """Guards a traceback for a merged model, a missing file, and an adapter whose base nobody can find."""
    from llm4dsr_cli.model.merged_model import merge

    merged = tmp_path / "merged.gguf"
    merge(tiny_denoiser, tiny_base, merged, "q8_0")
    with pytest.raises(ModelError, match="merged model: start from its adapter"):
        find_start(str(merged))
    with pytest.raises(ModelError, match="no such model file"):
        find_start(str(tmp_path / "none.gguf"))


# Pace


def test_the_pace_says_how_far_a_budget_gets_and_how_long_windows_take() -> None:
    """Guards minutes taken for seconds, and a resumed run that promises the whole again."""
    pace = Pace(tokens=1612.0, windows=13.4)
    cold = find_start("none")
    assert pace.sentence(cold.settings(time_budget=3600.0), 3718) == (
        "about 1,600 tokens/s: 60 min will see about 48,000 windows, 13 times the 3,718 sequences"
    )
    assert pace.sentence(cold.settings(windows=20_000), 3718) == (
        "about 1,600 tokens/s: 20,000 windows, 5.4 times the 3,718 sequences, will take about 25 min"
    )
    assert "of which 19,000 are done" in pace.sentence(cold.settings(windows=20_000), 3718, 19_000)
    assert "about 75 s" in pace.sentence(cold.settings(windows=20_000), 3718, 19_000)

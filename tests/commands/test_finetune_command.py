"""``llm4dsr finetune`` as a user meets it, on a tiny model: what it says, writes and refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Call, Outcome, call, clean_environment, write
from conftest import write_tiny_adapter, write_tiny_base

pytest.importorskip("torch")
pytest.importorskip("transformers")

from toy_training import adapter_tensors, two_clusters

from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.gguf_file import open_gguf
from llm4dsr_cli.model.metadata import SUGGESTER, DenoiserMetadata
from llm4dsr_cli.model.registry import Registry
from llm4dsr_cli.replacing.generate.suggester import Suggester


@pytest.fixture
def finetune(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, tiny_base: Path
) -> Callable[..., Outcome]:
    """``finetune(...)`` on the toy domain's 200 users, a few steps on the tiny base."""
    clean_environment(monkeypatch)
    domain = two_clusters(n_users=200)
    data = write(
        tmp_path / "my.jsonl", [{"user_id": u, "items": row.tolist()} for u, row in enumerate(domain.sequences)]
    )
    catalog = write(tmp_path / "catalog.jsonl", [{"id": n, "title": t} for n, t in enumerate(domain.titles)])

    def run(*arguments: object) -> Outcome:
        fixed = ["--device", "cpu", "--no-compile", "--catalog", catalog, "--windows", 64]
        if "suggester" not in arguments:
            fixed += ["--max-window", 6]
        if "--base" not in arguments:
            fixed += ["--base", tiny_base]
        return call(monkeypatch, capfdbinary, "finetune", data, *fixed, *arguments)

    return run


def test_a_run_says_what_it_will_do_measures_what_it_did_and_keeps_the_numbers(
    finetune: Call, tmp_path: Path, tiny_denoiser: Path
) -> None:
    """Guards a run that ends without telling whether it helped, or how much its gate finds."""
    output, picture = tmp_path / "mine.gguf", tmp_path / "curve.svg"
    done = finetune("--output", output, "--init", tiny_denoiser, "--plot", picture, "--train", "both")
    assert (done.code, done.out) == (0, b""), done.err
    assert "starting from tiny-denoiser" in done.err
    assert "64 windows for the detector, then 16 for suggestions" in done.err
    assert "64 windows, 0." in done.err
    assert "suggestions, before: " in done.err
    assert "suggestions, 16 windows, " in done.err
    rows = {tuple(line.split()[:2]): line for line in done.err.splitlines() if line.startswith("my ")}
    assert {("my", "before"), ("my", "after"), ("my", "popularity"), ("my", "co-occurrence"), ("my", "EASE")} == {*rows}
    assert "its calibration is too small for --false-edit-rate 0.01" in done.err or "injected noise" in done.err
    history = [json.loads(line) for line in (tmp_path / "mine.run" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == sorted({row["step"] for row in history})
    assert history[0]["step"] == 0
    assert len(history) >= 4
    svg = picture.read_text()
    for word in ("Training loss", "AUROC", "Average precision", "before", "exported", "popularity"):
        assert word in svg, word
    metadata = DenoiserMetadata.read(open_gguf(output), output)
    assert metadata.training["start"] == "tiny-denoiser"
    assert metadata.training["validation"] in history


def test_without_scikit_learn_it_says_how_to_get_the_baselines(
    finetune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards an hour of training that ends in a traceback for want of a baseline."""
    for module in [name for name in sys.modules if name.partition(".")[0] in ("sklearn", "scipy")]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("sklearn", "scipy"):
        monkeypatch.setitem(sys.modules, module, None)
    output = tmp_path / "mine.gguf"
    done = finetune("--output", output, "--init", "none")
    assert done.code == 0, done.err
    assert output.is_file()
    assert done.err.count("pip install 'llm4dsr-cli[benchmark]'") == 1
    assert "before (untrained)" in done.err


def test_a_plot_that_cannot_be_drawn_is_told_before_the_training(
    finetune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards an hour of training, and then no picture."""
    finetune("--output", tmp_path / "mine.gguf", "--plot", tmp_path / "curve.jpeg").failed(2, "--plot", ".png")
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = finetune("--output", tmp_path / "mine.gguf", "--plot", tmp_path / "curve.png")
    outcome.failed(1, "matplotlib is not installed", "llm4dsr-cli[plot]")
    assert not (tmp_path / "mine.run").exists()


def test_a_module_of_ours_that_is_missing_is_no_missing_extra(
    finetune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards "pip install the extra" said to someone who has it, of a bug of ours."""
    monkeypatch.delitem(sys.modules, "llm4dsr_cli.finetune.run")
    monkeypatch.setitem(sys.modules, "llm4dsr_cli.finetune.lora", None)
    with pytest.raises(ModuleNotFoundError, match="lora"):
        finetune("--output", tmp_path / "mine.gguf", "--init", "none")


def test_another_base_and_fewer_layers_make_a_denoiser_of_their_own(finetune: Call, tmp_path: Path) -> None:
    """Guards a base of another architecture, cut to fewer layers, that trains but does not serve."""
    base = write_tiny_base(tmp_path / "qwen.gguf", seed=4, architecture="qwen2")
    output = tmp_path / "mine.gguf"
    done = finetune("--output", output, "--base", base, "--layers", 1, "--train", "both")
    assert done.code == 0, done.err
    assert "starting from" in done.err.splitlines()[0]
    assert "the denoiser that ships, adapts another base model" in done.err.splitlines()[0]
    metadata = DenoiserMetadata.read(open_gguf(output), output)
    assert (metadata.base_architecture, metadata.layers) == ("qwen2", 1)
    names = {*adapter_tensors(output)}
    suggester = {name for name in names if name.startswith(SUGGESTER)}
    assert {name.split(".")[1] for name in names - suggester} == {"0"}
    assert {name.removeprefix(SUGGESTER).split(".")[1] for name in suggester} == {"0", "1"}
    with Suggester.load(str(output), base=str(base), weights="q8_0", threads=1) as loaded:
        assert loaded.continuations(loaded.trie(["abc", "b"]), [["abc"]], [2], [[]])[0]
    with Denoiser.load(str(output), base=str(base), weights="bf16", threads=1) as denoiser:
        assert np.isfinite(denoiser.score([["abc", "b", "abc"]])[0]).all()


def test_an_architecture_that_cannot_be_served_is_one_sentence(finetune: Call, tmp_path: Path) -> None:
    """Guards a traceback of transformers, or a training whose result llama.cpp cannot read as it was trained."""
    base = write_tiny_base(tmp_path / "b.gguf", architecture="phi3")
    done = finetune("--output", tmp_path / "mine.gguf", "--base", base, "--quiet")
    done.failed(1, "b.gguf", "its architecture is phi3", "llama, qwen2, qwen3, gemma3")
    assert not (tmp_path / "mine.gguf").exists()


def test_one_part_is_trained_alone_and_the_other_kept(finetune: Call, tmp_path: Path) -> None:
    """Guards a suggester that is trained unasked, --train that trains the other part, and a budget of a fifth."""
    detector, added = tmp_path / "detector.gguf", tmp_path / "added.gguf"
    done = finetune("--output", detector, "--init", "none")
    assert done.code == 0, done.err
    assert done.err.count("suggest") == 1
    assert "trains the detector alone (--train both trains a suggester too)" in done.err
    assert DenoiserMetadata.read(open_gguf(detector), detector).suggestion_alpha is None
    done = finetune("--output", added, "--init", detector, "--train", "suggester", "--batch-windows", "1")
    assert done.code == 0, done.err
    assert "trains the suggester; the detector stays as it is" in done.err
    assert "suggestions, 64 windows, " in done.err
    assert "AUROC" not in done.err
    assert DenoiserMetadata.read(open_gguf(added), added).suggestion_alpha is not None
    before, after = adapter_tensors(detector), adapter_tensors(added)
    assert all(np.array_equal(tensor, after[name]) for name, tensor in before.items())
    assert len(after) == 2 * len(before)


def test_the_suggester_of_the_start_stays_unless_it_is_asked_for(
    finetune: Call, tmp_path: Path, tiny_base: Path
) -> None:
    """Guards a denoiser that no longer suggests once its detector was trained on."""
    start, output = write_tiny_adapter(tmp_path / "start.gguf", tiny_base, suggests=True), tmp_path / "mine.gguf"
    done = finetune("--output", output, "--init", start, "--train", "detector")
    assert done.code == 0, done.err
    assert "trains the detector; the suggester stays as it is (--train both trains it too)" in done.err
    before, after = adapter_tensors(start), adapter_tensors(output)
    suggester = {name for name in before if name.startswith(SUGGESTER)}
    assert suggester == {name for name in after if name.startswith(SUGGESTER)}
    assert all(np.array_equal(before[name].astype(np.float16), after[name]) for name in suggester)
    metadata = [DenoiserMetadata.read(open_gguf(path), path) for path in (start, output)]
    assert metadata[0].suggestion_alpha == metadata[1].suggestion_alpha


def test_parts_that_cannot_be_trained_are_refused(finetune: Call, tmp_path: Path) -> None:
    """Guards a mistyped part that trains everything, suggestions added to nothing, and options dropped in silence."""
    output = ["--output", tmp_path / "mine.gguf"]
    finetune(*output, "--train", "gate").failed(2, "--train gate", "detector, suggester or both")
    outcome = finetune(*output, "--train", "suggester", "--init", "none")
    assert outcome.code == 2
    assert "suggestions alone take a denoiser to add them to: name it with --init" in outcome.err
    given = {"--learning-rate": 0.001, "--licence": "MIT", "--plot": tmp_path / "curve.png", "--no-early-stop": None}
    for name, value in given.items():
        option = [name] if value is None else [name, value]
        outcome = finetune(*output, "--train", "suggester", *option)
        outcome.failed(2, name, "is of the detector, which stays as it is")
    assert not (tmp_path / "mine.run").exists()


def test_the_start_is_not_overwritten_however_it_is_named(
    finetune: Call, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a denoiser that is lost to its own fine-tuning, and compared with itself."""
    start = write_tiny_adapter(tmp_path / "start.gguf", tiny_base)
    before = start.read_bytes()
    (tmp_path / "registry.toml").write_text('default_denoiser = "tiny"\n[denoiser.tiny]\nfile = "start.gguf"\n')
    registry = Registry.load(tmp_path / "registry.toml")
    monkeypatch.setattr(Registry, "load", lambda: registry)
    for named in ([], ["--init", "tiny"], ["--init", start]):
        finetune("--output", start, *named).failed(2, "--init and --output are the same file")
        assert start.read_bytes() == before


def test_short_sequences_are_counted_and_left_out(finetune: Call, tmp_path: Path) -> None:
    """Guards data that vanish without a word."""
    short = write(tmp_path / "short.jsonl", [{"user_id": u, "items": [0, 1]} for u in range(7)])
    done = finetune(short, "--output", tmp_path / "mine.gguf", "--init", "none")
    assert done.code == 0, done.err
    assert "left out: 7 sequences of fewer than 3 items" in done.err


def test_bad_lines_are_left_out_when_asked(finetune: Call, tmp_path: Path) -> None:
    """Guards data with one broken line that cannot be trained on at all, and a line left out without a word."""
    bad = write(tmp_path / "bad.jsonl", [{"user_id": 7, "items": 3}])
    options = ["--init", "none", "--quiet"]
    good, skipped = tmp_path / "good.gguf", tmp_path / "skipped.gguf"
    assert finetune("--output", good, *options).code == 0
    outcome = finetune(bad, "--output", skipped, *options)
    assert outcome.code == 1
    assert "bad.jsonl:1" in outcome.err
    outcome = finetune(bad, "--output", skipped, *options, "--on-error", "skip")
    assert outcome.code == 3, outcome.err
    assert "skipped 1 lines" in outcome.err
    before, after = adapter_tensors(good), adapter_tensors(skipped)
    assert all(np.array_equal(tensor, after[name]) for name, tensor in before.items())


def test_a_run_of_one_window_has_one_for_each_part(finetune: Call, tmp_path: Path) -> None:
    """Guards a division by the none that a fifth of next to nothing is, when the detector is trained already."""
    output = tmp_path / "mine.gguf"
    done = finetune("--output", output, "--init", "none", "--windows", 1, "--train", "both")
    assert done.code == 0, done.err
    assert DenoiserMetadata.read(open_gguf(output), output).suggestion_alpha is not None


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--layers", 9], ["--layers is 9", "at most 2"]),
        (["--init", "denoiser", "--rank", 9], ["--rank is 9", "--init none"]),
    ],
)
def test_more_than_there_is_is_refused(
    finetune: Call, tmp_path: Path, tiny_base: Path, option: list[object], words: list[str]
) -> None:
    """Guards a traceback, or a run of another shape than asked for."""
    denoiser = write_tiny_adapter(tmp_path / "denoiser.gguf", tiny_base)
    given = [denoiser if value == "denoiser" else value for value in option]
    if "--init" not in given:
        given += ["--init", "none"]
    outcome = finetune("--output", tmp_path / "mine.gguf", *given)
    assert outcome.code == 2
    for word in words:
        assert word in outcome.err

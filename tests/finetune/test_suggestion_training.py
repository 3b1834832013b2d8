"""Training in suggestions: what is to be predicted, whether it is learned, and that llama.cpp predicts the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import RANK, write_tiny_base
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from toy_training import SHARES, interrupt_at, same, two_clusters, unlearn_titles, weights  # noqa: E402

from llm4dsr_cli.cache import file_sha256  # noqa: E402
from llm4dsr_cli.errors import OptionError  # noqa: E402
from llm4dsr_cli.finetune.adapter import Adapter, Shape, to_gguf, write_adapters  # noqa: E402
from llm4dsr_cli.finetune.batch import Batch, Example  # noqa: E402
from llm4dsr_cli.finetune.data import Sampler, split_users  # noqa: E402
from llm4dsr_cli.finetune.lora import add_lora, lora_layers, lora_state  # noqa: E402
from llm4dsr_cli.finetune.model import NoiseModel  # noqa: E402
from llm4dsr_cli.finetune.settings import SuggestionSettings  # noqa: E402
from llm4dsr_cli.finetune.tasks import Suggesting  # noqa: E402
from llm4dsr_cli.finetune.trainer import POOL_STEPS, Trainer  # noqa: E402
from llm4dsr_cli.model import merged_model as runtime_model  # noqa: E402
from llm4dsr_cli.model.engine import Engine, Request  # noqa: E402
from llm4dsr_cli.model.llama import Model  # noqa: E402
from llm4dsr_cli.model.metadata import DenoiserMetadata  # noqa: E402
from llm4dsr_cli.model.prompts import DEFAULT_FORMAT, Prompter  # noqa: E402
from llm4dsr_cli.model.torch_model import load_base  # noqa: E402

LESSONS = SuggestionSettings(windows=96, learning_rate=3e-3, rank=4, alpha=8.0, batch_windows=8, validation_windows=20)
STEPS = 12
SAMPLING: dict[str, Any] = {"max_window": 6, "rates": (0.0,), "shorten": 0.25, "seed": 0}
MAX_TITLE_TOKENS = 8
# llama.cpp rounds to 16 bits in its attention: nats a token, of some 20. A wrong order of rows, scale or mask changes
# them by more than 1.
TOLERANCE = 0.02

unhurried = hypothesis_settings(deadline=None, max_examples=20)
titles = st.text("abcdé ", min_size=1, max_size=12)
windows = st.lists(st.lists(titles, min_size=1, max_size=6), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("suggestions") / "base.gguf", seed=2)


@pytest.fixture(scope="module")
def vocabulary(base: Path) -> Iterator[Model]:
    with Model(base, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def prompter(vocabulary: Model) -> Prompter:
    return Prompter(DEFAULT_FORMAT, vocabulary.tokenize, MAX_TITLE_TOKENS)


Lesson = tuple[np.ndarray, int]


@pytest.fixture(scope="module")
def read(vocabulary: Model) -> Callable[[list[str]], Lesson]:
    """``read(window)``: its tokens, and how many of them the first title takes, with what is before and behind it."""

    def read(window: list[str]) -> Lesson:
        newline = vocabulary.tokenize("\n")
        lines = [vocabulary.tokenize(" ".join(title.split()))[:MAX_TITLE_TOKENS] for title in window]
        tokens = np.concatenate([newline, *(part for line in lines for part in (line, newline))])
        return tokens, len(lines[0]) + 2

    return read


class RandomModel:
    """The tiny base with a random adapter, as it is trained and by transformers itself."""

    def __init__(self, base: Path, prompter: Prompter) -> None:
        self.causal_lm = load_base(base, "llama", torch.float32).eval()
        self.training = NoiseModel(self.causal_lm, prompter.answers).eval()
        add_lora(self.causal_lm.model, RANK, 6.0)
        generator = torch.Generator().manual_seed(0)
        for _, layer in lora_layers(self.causal_lm.model):
            for parameter in (layer.lora_a, layer.lora_b):
                # The adapter file holds 16-bit floats.
                parameter.data.copy_((0.3 * torch.randn(parameter.shape, generator=generator)).half())

    def loss(self, batch: Any) -> float:
        with torch.no_grad():
            return float(self.training.title_loss(batch))


@pytest.fixture(scope="module")
def model(base: Path, prompter: Prompter) -> RandomModel:
    return RandomModel(base, prompter)


@dataclass
class Bench:
    """Makes trainers of the tiny model, each from fresh weights."""

    base: Path
    prompter: Prompter

    def __call__(self, settings: SuggestionSettings = LESSONS, checkpoint: Path | None = None, **more: Any) -> Trainer:
        torch.manual_seed(settings.seed)
        model = NoiseModel(load_base(self.base, "llama", torch.float32), self.prompter.answers)
        add_lora(model.backbone, settings.rank, settings.alpha)
        split = split_users([two_clusters()], **SHARES)
        train, held_out = (Sampler(part, **SAMPLING) for part in (split.train, split.validation))
        lessons = [held_out.draw_titles(number) for number in range(settings.validation_windows)]
        return Trainer(
            model, Suggesting(self.prompter, train, lessons, warm=True), settings, checkpoint=checkpoint, **more
        )


@pytest.fixture(scope="module")
def bench(base: Path, prompter: Prompter) -> Bench:
    return Bench(base, prompter)


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Trainer:
    """One that was never stopped."""
    trainer = bench()
    trainer.run()
    return trainer


def history(trainer: Trainer) -> list[tuple[float, float]]:
    return [(row["windows"], row["held_out_loss"]) for row in trainer.progress.history]


# What is to be predicted


@unhurried
@given(windows, st.sampled_from([1, 8, 64]))
@example([["a"], ["abcdabcdabcd", "b"]], 8)
def test_what_is_predicted_are_the_tokens_after_the_first_title(
    prompter: Prompter, read: Callable[[list[str]], Lesson], drawn: list[list[str]], multiple: int
) -> None:
    """Guards targets off by one, of another window, of the padding, or of a title that nothing announces."""
    batch = Batch.of([Example.of_titles(prompter.prompt(window)) for window in drawn], multiple)
    expected = []
    for row, window in enumerate(drawn):
        tokens, first = read(window)
        expected += [(row, place - 1, tokens[place]) for place in range(first, len(tokens))]
        assert batch.tokens[row][batch.present[row]].tolist() == tokens.tolist()
    assert [*zip(batch.rows.tolist(), batch.columns.tolist(), batch.targets.tolist(), strict=True)] == expected
    assert batch.tokens.shape[1] % multiple == 0


@unhurried
@given(windows, st.integers(0, 2**32 - 1))
def test_the_loss_is_the_causal_cross_entropy_of_each_window_whatever_the_padding(
    model: RandomModel, prompter: Prompter, read: Callable[[list[str]], Lesson], drawn: list[list[str]], seed: int
) -> None:
    """Guards titles predicted by a model that sees them, another position or head, and padding that is read."""
    batch = Batch.of([Example.of_titles(prompter.prompt(window)) for window in drawn])
    expected = 0.0
    for window in drawn:
        tokens, first = read(window)
        labels = torch.from_numpy(tokens.astype(np.int64))[None].clone()
        labels[:, :first] = -100
        if len(tokens) > first:
            with torch.no_grad():
                loss = model.causal_lm(input_ids=torch.from_numpy(tokens.astype(np.int64))[None], labels=labels).loss
            expected += float(loss) * (len(tokens) - first)
    assert model.loss(batch) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    other = torch.from_numpy(np.random.default_rng(seed).integers(0, 250, batch.tokens.shape))
    padded = replace(batch, tokens=torch.where(batch.present, batch.tokens, other))
    assert model.loss(padded) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_llama_cpp_predicts_as_the_model_in_training(
    model: RandomModel, base: Path, prompter: Prompter, read: Callable[[list[str]], Lesson], tmp_path: Path
) -> None:
    """Guards suggestions exported in another order of rows, under another scale, or in place of the detector."""
    shape = Shape.of(model.causal_lm, "llama")
    adapter = to_gguf(lora_state(model.causal_lm.model), shape, 6.0)
    metadata = DenoiserMetadata(
        name="parity",
        form=DEFAULT_FORMAT,
        max_window=6,
        max_title_tokens=MAX_TITLE_TOKENS,
        base_name="tiny",
        base_sha256=file_sha256(base),
        base_architecture="llama",
        licence="",
    )
    other = Adapter({name: -tensor for name, tensor in adapter.tensors.items()}, 16.0)
    write_adapters(tmp_path / "a.gguf", metadata, other, adapter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runtime_model._TYPES, "bf16", (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32))
        runtime_model.merge(tmp_path / "a.gguf", base, tmp_path / "merged.gguf", "bf16", "suggester")
    lessons = [["abc def", "x y z", "foo", "abc", "The End", "q"], ["q"] * 6, ["a longer title, cut", "é", "", "dd"]]
    with Model(tmp_path / "merged.gguf") as served, Engine(served, causal=True, threads=1) as engine:
        for window in lessons:
            tokens, first = read(window)
            request = Request(tokens, np.arange(first - 1, len(tokens) - 1, dtype=np.int32))
            (rows,) = engine.log_probabilities([request], np.arange(served.n_vocab, dtype=np.int32))
            by_llama_cpp = -rows[np.arange(len(rows)), tokens[first:]].mean()
            trained = model.loss(Batch.of([Example.of_titles(prompter.prompt(window))])) / len(rows)
            assert trained == pytest.approx(by_llama_cpp, abs=TOLERANCE)


# Learning


def test_training_learns_what_there_is_to_learn_and_says_what_is_left(bench: Bench, prompter: Prompter) -> None:
    """Guards gradients that do not reach the adapter, a learning rate of zero, a base that is changed, and a loss of
    other windows than the held-out users' or a mean over batches."""
    trainer = bench(replace(LESSONS, windows=8 * 30))
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.run()
    first, last = (trainer.progress.history[place]["held_out_loss"] for place in (0, -1))
    assert last < 0.6 * first
    assert all(torch.equal(p, frozen[name]) for name, p in trainer.model.named_parameters() if name in frozen)
    held_out = Sampler(split_users([two_clusters()], **SHARES).validation, **SAMPLING)
    lessons = [Example.of_titles(prompter.prompt(held_out.draw_titles(number))) for number in range(20)]
    batches = [Batch.of([lesson]) for lesson in lessons]
    with torch.no_grad():
        total = sum(float(trainer.model.title_loss(batch)) for batch in batches)
    assert last == pytest.approx(total / sum(len(batch.targets) for batch in batches), abs=1e-3)


def test_every_lesson_is_given_once_in_batches_of_similar_length(bench: Bench) -> None:
    """Guards windows left out or given twice where they are sorted, and batches that come in order of length."""
    trainer = bench()
    batches = [batch for step in range(2 * POOL_STEPS) for batch in trainer._batches(step)]
    given = [tuple(row[there].tolist()) for b in batches for row, there in zip(b.tokens, b.present, strict=True)]
    prompt, train = trainer.task.prompter.prompt, trainer.task.train
    wanted = [tuple(prompt(train.draw_titles(n)).tokens.tolist()) for n in range(2 * POOL_STEPS * 8)]
    assert sorted(given) == sorted(wanted)
    assert sorted(given[: len(given) // 2]) == sorted(wanted[: len(wanted) // 2])
    assert np.mean([np.ptp(batch.present.sum(1).numpy()) for batch in batches]) < 2
    assert np.ptp([len(tokens) for tokens in given]) > 8
    lengths = [batch.tokens.shape[1] for batch in batches[:POOL_STEPS]]
    assert lengths != sorted(lengths)


@pytest.mark.parametrize("stopped_at", [3, STEPS])
def test_a_run_stopped_and_resumed_equals_one_that_was_not(
    bench: Bench, whole: Trainer, tmp_path: Path, stopped_at: int
) -> None:
    """Guards optimizer state, learning rate, data order or validations lost on the way."""
    checkpoint = tmp_path / "checkpoint.pt"
    stopped = bench(checkpoint=checkpoint, on_step=interrupt_at(stopped_at))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert stopped.progress.step == stopped_at
    resumed = bench(checkpoint=checkpoint)
    resumed.resume()
    assert same(weights(resumed), weights(stopped))
    resumed.run()
    assert same(weights(resumed), weights(whole))
    assert history(resumed) == history(whole)
    assert (resumed.progress.windows, resumed.progress.tokens) == (whole.progress.windows, whole.progress.tokens)


def test_a_run_has_its_seed_s_weights_and_ends_when_it_is_told(bench: Bench, whole: Trainer) -> None:
    """Guards randomness that no seed fixes, a seed that fixes nothing, and a time budget that is not kept."""
    again, other = bench(), bench(replace(LESSONS, seed=1))
    for trainer in (again, other):
        assert trainer.run().step == STEPS
        assert [row["windows"] for row in trainer.progress.history] == [0, 16, 24, 40, 48, 64, 72, 88, 96]
    assert same(weights(again), weights(whole))
    assert not same(weights(other), weights(whole))
    timed = bench(replace(LESSONS, windows=None, time_budget=0.2)).run()
    assert 0.2 <= timed.seconds < 5
    for wrong in ({"windows": None}, {"windows": 0}):
        with pytest.raises(OptionError, match="`windows`"):
            replace(LESSONS, **wrong)


def test_a_run_that_diverges_goes_back_to_its_best_weights(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards suggestions worse than those of an hour before."""
    unlearn_titles(monkeypatch, after=20)
    trainer = bench(replace(LESSONS, windows=8 * 40))
    trainer.run()
    losses = [row["held_out_loss"] for row in trainer.progress.history]
    assert trainer.progress.slow_down < 1
    assert trainer.chosen["held_out_loss"] <= losses[0]
    trainer.validate()
    assert trainer.progress.history[-1]["held_out_loss"] == trainer.chosen["held_out_loss"] < 1.1 * min(losses)


@pytest.mark.parametrize("broken", ["gradient", "weights"])
def test_what_is_no_number_does_not_end_in_the_adapter(bench: Bench, broken: str) -> None:
    """Guards one gradient of NaN in hours of training that ends in an adapter of NaN, which is not worse than any."""
    seen: list[int] = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * float("nan") if len(seen) == 9 else gradient

    def poison(progress: Any) -> None:
        if progress.step == STEPS:
            layer.lora_b.data[0, 0] = torch.nan

    trainer = bench(on_step=poison) if broken == "weights" else bench()
    layer = next(lora_layers(trainer.model.backbone))[1]
    if broken == "gradient":
        layer.lora_b.register_hook(spoil)
    before = weights(trainer)
    trainer.run()
    after = weights(trainer)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not same(before, after)
    assert trainer.chosen["held_out_loss"] < trainer.progress.history[0]["held_out_loss"]
    if broken == "gradient":
        assert len(seen) > 9
        assert trainer.chosen["step"] == STEPS

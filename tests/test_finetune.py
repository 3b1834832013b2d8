"""Fine-tuning on a tiny model: it learns, it repeats, it resumes, and what comes out is a denoiser."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tiny_adapter, write_tiny_base
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from llm4dsr_cli.denoiser import Denoiser  # noqa: E402
from llm4dsr_cli.engine import Model  # noqa: E402
from llm4dsr_cli.errors import ModelError, OptionError  # noqa: E402
from llm4dsr_cli.finetune.data import Domain, Sampler, split_users  # noqa: E402
from llm4dsr_cli.finetune.lora import add_lora, lora_state  # noqa: E402
from llm4dsr_cli.finetune.model import NoiseModel, load_base, pick_device  # noqa: E402
from llm4dsr_cli.finetune.run import Outputs, finetune  # noqa: E402
from llm4dsr_cli.finetune.settings import Settings  # noqa: E402
from llm4dsr_cli.finetune.trainer import Progress, Trainer  # noqa: E402
from llm4dsr_cli.metadata import DenoiserMetadata, open_gguf  # noqa: E402
from llm4dsr_cli.noise import inject_noise  # noqa: E402
from llm4dsr_cli.prompts import DEFAULT_FORMAT, Prompter  # noqa: E402

# PEFT reads an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

# A busy machine is no bug.
unhurried = hypothesis_settings(deadline=None, max_examples=50)

SETTINGS = Settings(
    windows=64,
    learning_rate=3e-3,
    rank=4,
    alpha=8.0,
    batch_windows=8,
    warmup_steps=2,
    max_window=6,
    max_title_tokens=8,
    validation=0.2,
    calibration=0.2,
    validation_windows=20,
    validate_every=3,
)
STEPS = 8


def two_clusters(seed: int = 0, n_users: int = 60) -> Domain:
    """Users who like titles of one of two alphabets, in a catalog that is mostly of a third: most noise shows."""
    rng = np.random.default_rng(seed)
    titles = [
        [a + b + a for a in letters for b in letters][:size]
        for letters, size in (("abcd", 12), ("wxyz", 12), ("01234567", 60))
    ]
    sequences = [
        (user, [str(t) for t in rng.choice(titles[user % 2], rng.integers(4, 9), replace=False)])
        for user in range(n_users)
    ]
    return Domain.build("toy", [title for cluster in titles for title in cluster], sequences)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("finetune") / "base.gguf", seed=2)


@dataclass
class Bench:
    """Makes trainers of the tiny model, each from fresh weights."""

    base: Path

    def __call__(self, settings: Settings = SETTINGS, checkpoint: Path | None = None, **more: Any) -> Trainer:
        with Model(self.base, vocab_only=True) as vocabulary:
            tokens = {title: vocabulary.tokenize(title) for title in [*two_clusters().titles, "\n", " yes", " no"]}
        prompter = Prompter(DEFAULT_FORMAT, tokens.__getitem__, settings.max_title_tokens)
        torch.manual_seed(settings.seed)
        model = NoiseModel(load_base(self.base, "llama", torch.float32), prompter.answers)
        add_lora(model.backbone, settings.rank, settings.alpha)
        split = split_users([two_clusters()], validation=0.2, calibration=0.2)
        train = Sampler(split.train, max_window=6, rates=settings.rates, shorten=0.25, seed=settings.seed)
        held_out = Sampler(split.validation, max_window=6, rates=(0.2,), shorten=0, seed=99)
        return Trainer(model, prompter, train, list(held_out.windows(20)), settings, checkpoint=checkpoint, **more)


@pytest.fixture(scope="module")
def bench(base: Path) -> Bench:
    return Bench(base)


def weights(trainer: Trainer) -> dict[str, Any]:
    return lora_state(trainer.model.backbone)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def interrupt_at(step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def rows_without_time(trainer: Trainer) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in trainer.progress.history]


def test_training_learns_what_there_is_to_learn(bench: Bench) -> None:
    """Guards labels shifted against probes, gradients that do not reach the adapter, and a learning rate of zero."""
    trainer = bench(replace(SETTINGS, windows=16 * 120, batch_windows=16, validate_every=1000))
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    untrained = trainer.validate()["auroc"]
    losses: list[float] = []

    def held_out_loss() -> float:
        scores = np.concatenate(trainer.log_odds(trainer.validation))
        labels = np.concatenate([window.labels for window in trainer.validation])
        return float(np.mean(np.logaddexp(0, np.where(labels == 1, -scores, scores))))

    losses.append(held_out_loss())
    trainer.run()
    losses.append(held_out_loss())
    assert losses[1] < 0.5 * losses[0]
    assert trainer.progress.history[-1]["auroc"] > max(0.8, untrained + 0.15)
    assert all(torch.equal(p, frozen[name]) for name, p in trainer.model.named_parameters() if name in frozen)


def test_the_same_seed_gives_the_same_tensors_and_another_seed_others(bench: Bench) -> None:
    """Guards randomness that no seed fixes, and a seed that fixes nothing."""
    first, again, other = bench(), bench(), bench(replace(SETTINGS, seed=1))
    for trainer in (first, again, other):
        assert trainer.run().step == STEPS
    assert same(weights(first), weights(again))
    assert rows_without_time(first) == rows_without_time(again)
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("stopped_at", [1, 3, 5, STEPS])
def test_a_run_stopped_and_resumed_equals_one_that_was_not(bench: Bench, tmp_path: Path, stopped_at: int) -> None:
    """Guards optimizer state, learning rate, data order or validations lost on the way; stopping falls between
    validations, right on one, and on the last step."""
    whole = bench()
    whole.run()
    checkpoint = tmp_path / "checkpoint.pt"
    stopped = bench(checkpoint=checkpoint, on_step=interrupt_at(stopped_at))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.progress.step == stopped_at
    resumed = bench(checkpoint=checkpoint)
    resumed.resume()
    assert same(weights(resumed), weights(stopped))
    resumed.run()
    assert same(weights(resumed), weights(whole))
    assert rows_without_time(resumed) == rows_without_time(whole)
    for name in ("step", "windows", "tokens", "loss"):
        assert getattr(resumed.progress, name) == getattr(whole.progress, name)


def test_a_run_that_diverges_goes_back_to_its_best_weights_resumed_or_not(bench: Bench, tmp_path: Path) -> None:
    """Guards a learning rate too high that ends in a denoiser worse than one of an hour before, and a resumed run
    that forgot its best weights."""
    # A warm-up that soon goes too far.
    settings = replace(SETTINGS, windows=8 * 12, learning_rate=0.3, warmup_steps=20, validate_every=2)
    whole = bench(settings)
    whole.run()
    assert whole.progress.slow_down < 1
    best = max(row["auroc"] for row in whole.progress.history)
    checkpoint = tmp_path / "checkpoint.pt"
    stopped = bench(settings, checkpoint, on_step=interrupt_at(7))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = bench(settings, checkpoint)
    resumed.resume()
    resumed.run()
    assert same(weights(resumed), weights(whole))
    assert resumed.progress.slow_down == whole.progress.slow_down
    # Whatever the last steps brought, what is left is near the best.
    assert whole.validate()["auroc"] > best - max(0.03, 0.25 * (best - 0.5)) - 1e-9


def test_resuming_with_other_settings_or_data_is_refused(bench: Bench, tmp_path: Path) -> None:
    """Guards a run that is half of one kind and half of another."""
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(OptionError, match="no run to resume"):
        bench(checkpoint=checkpoint).resume()
    bench(checkpoint=checkpoint, identity={"data": "x"}).save()
    bench(checkpoint=checkpoint, identity={"data": "x"}).resume()
    with pytest.raises(OptionError, match="had other settings"):
        bench(replace(SETTINGS, learning_rate=1e-4), checkpoint, identity={"data": "x"}).resume()
    with pytest.raises(OptionError, match="had other data"):
        bench(checkpoint=checkpoint, identity={"data": "y"}).resume()


def test_scores_of_the_trainer_come_back_in_the_windows_order(bench: Bench) -> None:
    """Guards scores of windows sorted by length that are handed back sorted."""
    trainer = bench()
    windows = trainer.validation
    assert len({len(window.titles) for window in windows}) > 1
    for together, window in zip(trainer.log_odds(windows), windows, strict=True):
        np.testing.assert_allclose(together, trainer.log_odds([window])[0], atol=1e-3)


# Data


@unhurried
@given(st.integers(1, 40), st.integers(0, 200), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 2**32))
def test_labels_say_which_items_were_replaced(n_items: int, more: int, rate: float, seed: int) -> None:
    """Guards labels that lie, noise that was in the window before, the same noise twice, and a changed input."""
    n_titles = 2 * n_items + more
    rng = np.random.default_rng(seed)
    window = rng.integers(0, n_titles, n_items)
    before = window.copy()
    noisy, labels = inject_noise(window, n_titles, rate, rng)
    assert np.array_equal(window, before)
    assert np.array_equal(labels, (noisy != window).astype(np.int8))
    injected = noisy[labels == 1].tolist()
    assert not {*injected} & {*window.tolist()}
    assert len({*injected}) == len(injected)
    assert all(0 <= title < n_titles for title in injected)
    assert rate > 0 or not labels.any()
    assert rate < 1 or labels.all()


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_noise_is_as_frequent_as_asked_and_uniform(rate: float) -> None:
    """Guards exactly one noise item in each window, places that are favoured, and titles never drawn."""
    rng = np.random.default_rng(0)
    draws = 4000
    labels = np.empty((draws, 10))
    drawn = np.zeros(40)
    for i in range(draws):
        noisy, labels[i] = inject_noise(np.arange(10), 40, rate, rng)
        np.add.at(drawn, noisy[labels[i] == 1], 1)
    assert labels.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / labels.size))
    assert np.abs(labels.mean(axis=0) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / draws)
    assert (labels.sum(axis=1) == 0).mean() == pytest.approx((1 - rate) ** 10, abs=0.03)
    share = drawn[10:] / drawn.sum()
    assert drawn[:10].sum() == 0
    assert np.abs(share * 30 - 1).max() < 0.3


def test_too_few_titles_are_refused(bench: Bench) -> None:
    """Guards a search for fresh noise that never ends."""
    with pytest.raises(ValueError, match="too few"):
        inject_noise(np.arange(10), 19, 0.5, np.random.default_rng(0))


@unhurried
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.3]), st.sampled_from([0.1, 0.3]))
def test_no_user_is_in_two_parts(seed: int, validation: float, calibration: float) -> None:
    """Guards a user's taste learned in training and met again in calibration: a gate that promises too much. A user
    of two domains counts as one."""
    rng = np.random.default_rng(seed)
    domains = [
        Domain("a", ["x"] * 9, [np.arange(3)] * 300, [*rng.integers(0, 120, 300).tolist()]),
        Domain("b", ["y"] * 9, [np.arange(4)] * 200, [*rng.integers(0, 120, 200).tolist()]),
    ]
    split = split_users(domains, validation=validation, calibration=calibration)
    parts = [split.train, split.validation, split.calibration]
    users = [{user for domain in part for user in domain.users} for part in parts]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert not users[1] & users[2]
    for number, domain in enumerate(domains):
        assert sum(len(part[number].sequences) for part in parts) == len(domain.sequences)
    again = split_users(domains, validation=validation, calibration=calibration)
    assert [d.users for d in again.calibration] == [d.users for d in split.calibration]


def test_too_few_users_to_split_are_refused() -> None:
    """Guards an empty calibration found after hours of training."""
    with pytest.raises(OptionError, match="toy: 2 users are too few"):
        split_users([two_clusters(n_users=2)], validation=0.05, calibration=0.1)


def test_a_drawn_window_depends_on_its_number_alone() -> None:
    """Guards windows that a resumed run draws differently, and a sequence seen twice in an epoch."""
    domain = two_clusters()
    make = lambda seed=0: Sampler([domain], max_window=5, rates=(0.1, 0.3), shorten=0.5, seed=seed)  # noqa: E731
    sampler = make()
    forward = [sampler.draw(number) for number in range(150)]
    backward = make()
    for number in reversed(range(150)):
        window = backward.draw(number)
        assert window.titles == forward[number].titles
        assert np.array_equal(window.labels, forward[number].labels)
    assert [w.titles for w in make(1).windows(20)] != [w.titles for w in forward[:20]]
    assert {len(window.titles) for window in forward} == {3, 4, 5}
    assert [w.titles for w in forward[:60]] != [w.titles for w in forward[60:120]]  # fresh noise each epoch


def test_the_sampler_labels_items_that_are_not_in_their_place() -> None:
    """Guards windows cut from one sequence and labelled by another; titles that belong keep their order."""
    domain = two_clusters()
    clean = {"".join(domain.titles[i] for i in sequence) for sequence in domain.sequences}
    sampler = Sampler([domain], max_window=5, rates=(0.3,), shorten=0, seed=0)
    for window in sampler.windows(60):
        kept = [title for title, label in zip(window.titles, window.labels, strict=True) if not label]
        assert any(all(title in line for title in kept) for line in clean)
    untouched = Sampler([domain], max_window=5, rates=(1e-12,), shorten=0, seed=0)
    assert all(any("".join(w.titles) in line for line in clean) for w in untouched.windows(60))


def test_a_domain_counts_equal_titles_as_one_item_and_leaves_out_short_sequences() -> None:
    """Guards noise that is the very title it replaces, under another id or with other white space."""
    domain = Domain.build("d", ["A", "B", " A"], [("u", ["A", "B\n", "C"]), ("v", ["A", "B"]), ("w", ["A"] * 3)])
    assert domain.titles == ["A", "B", "C"]
    assert [s.tolist() for s in domain.sequences] == [[0, 1, 2], [0, 0, 0]]
    assert domain.users == ["u", "w"]


def test_settings_that_cannot_train_are_refused() -> None:
    """Guards a run that never ends, or ends in a traceback."""
    for wrong in ({"windows": None}, {"max_window": 2}, {"rates": (0.0,)}, {"rates": (1.0,)}):
        with pytest.raises(OptionError):
            Settings(**wrong)


# From end to end


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser trained on the toy domain."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM4DSR_CACHE", str(folder / "cache"))
        train(base, folder / "toy.gguf", licence="CC0-1.0")
    return folder / "toy.gguf"


def train(base: Path, output: Path, settings: Settings = SETTINGS, **more: Any) -> list[dict[str, float]]:
    return finetune([two_clusters()], output, settings, base=str(base), device="cpu", compile_layers=False, **more)


def adapter_tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data.copy() for tensor in open_gguf(path).tensors}


def same_tensors(one: Path, other: Path) -> bool:
    first, second = adapter_tensors(one), adapter_tensors(other)
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_what_comes_out_is_a_calibrated_denoiser(base: Path, trained: Path) -> None:
    """Guards a file that only its maker can read: metadata, calibration and tensors all serve."""
    metadata = DenoiserMetadata.read(open_gguf(trained), trained)
    assert (metadata.name, metadata.licence, metadata.base_name) == ("toy", "CC0-1.0", "base.gguf")
    assert (metadata.max_window, metadata.max_title_tokens) == (6, 8)
    assert metadata.training["domains"][0]["titles"] == 84
    assert metadata.training["windows"] == 64
    assert metadata.calibration is not None
    split = split_users([two_clusters()], validation=0.2, calibration=0.2)
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


def test_a_run_in_the_way_is_refused_and_an_interrupted_one_goes_on_to_the_same_end(
    base: Path, trained: Path, tmp_path: Path
) -> None:
    """Guards hours of training overwritten by a command typed again, and a denoiser written by half a run."""
    output = tmp_path / "toy.gguf"
    with pytest.raises(KeyboardInterrupt):
        train(base, output, on_step=interrupt_at(4))
    assert not output.exists()
    assert Outputs(output).checkpoint.is_file()
    with pytest.raises(OptionError, match="an earlier run is here: go on with --resume"):
        train(base, output)
    with pytest.raises(OptionError, match="had other settings"):
        train(base, output, replace(SETTINGS, learning_rate=1e-4), resume=True)
    history = train(base, output, resume=True)
    assert history[-1]["step"] == STEPS
    assert same_tensors(output, trained)
    assert Outputs(output).history.read_bytes().count(b"\n") == len(history)


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


def test_an_adapter_that_does_not_fit_is_no_start(base: Path, trained: Path, tmp_path: Path) -> None:
    """Guards weights of another base, or of another rank, taken for a start; and a traceback for either."""
    other = write_tiny_base(tmp_path / "other.gguf", seed=8)
    foreign = write_tiny_adapter(tmp_path / "foreign.gguf", other)
    with pytest.raises(ModelError, match="adapts another base model"):
        train(base, tmp_path / "out.gguf", init=str(foreign))
    with pytest.raises(ModelError, match="rank"):
        train(base, tmp_path / "out.gguf", replace(SETTINGS, rank=2, alpha=4.0), init=str(trained))
    with pytest.raises(ModelError, match="no such model file"):
        train(base, tmp_path / "out.gguf", init=str(tmp_path / "none.gguf"))
    assert not (tmp_path / "out.gguf").exists()


def test_too_few_titles_are_refused_before_training(base: Path, tmp_path: Path) -> None:
    """Guards a traceback in the middle of training from a catalog too small to draw noise from."""
    titles = [f"t{i}" for i in range(10)]
    domain = Domain.build("small", titles, [(user, titles[:6]) for user in range(60)])
    with pytest.raises(OptionError, match=r"small: 10 titles are too few"):
        finetune([domain], tmp_path / "x.gguf", SETTINGS, base=str(base), device="cpu", compile_layers=False)
    assert not (tmp_path / "x.run").exists()


def test_architectures_that_cannot_be_served_are_refused(tmp_path: Path) -> None:
    """Guards an adapter exported in an order of rows that nobody checked."""
    base = write_tiny_base(tmp_path / "b.gguf", architecture="phi3")
    with pytest.raises(ModelError, match="does not support the architecture 'phi3'"):
        load_base(base, "phi3", torch.float32)


def test_a_device_that_is_not_there_is_refused() -> None:
    """Guards torch's own traceback for a mistyped device."""
    with pytest.raises(OptionError, match="--device gpu: no such device here: choose auto"):
        pick_device("gpu")

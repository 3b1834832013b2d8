"""The training loop: it learns, it repeats, it resumes, it knows when to stop and what to keep."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tiny_base

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from toy_training import SETTINGS, STEPS, Bench, interrupt_at, rows_without_time, same, weights  # noqa: E402

from llm4dsr_cli.errors import OptionError  # noqa: E402
from llm4dsr_cli.finetune.data import LabelledWindow  # noqa: E402
from llm4dsr_cli.finetune.lora import fold_lower_layers, load_lora_state, lora_layers  # noqa: E402
from llm4dsr_cli.finetune.settings import Settings  # noqa: E402
from llm4dsr_cli.finetune.tasks import LUCK  # noqa: E402
from llm4dsr_cli.finetune.trainer import Progress, Trainer  # noqa: E402


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(write_tiny_base(tmp_path_factory.mktemp("trainer") / "base.gguf", seed=2))


def test_training_learns_what_there_is_to_learn(bench: Bench) -> None:
    """Guards labels shifted against probes, gradients that do not reach the adapter, and a learning rate of zero."""
    trainer = bench(replace(SETTINGS, windows=16 * 120, batch_windows=16, validate_every=1000))
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    untrained = trainer.validate()["auroc"]
    losses: list[float] = []

    def held_out_loss() -> float:
        windows = trainer.task.validation
        scores = np.concatenate(trainer.task.log_odds(trainer.model, windows, 16))
        labels = np.concatenate([window.labels for window in windows])
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


def test_b_matrices_learn_at_a_rate_of_their_own(bench: Bench) -> None:
    """Guards LoRA+ that changes nothing, or speeds up A."""
    # A's first gradient is zero, since B is; Adam's first steps are of one size, whatever the gradient's is.
    two_steps = replace(SETTINGS, windows=16, warmup_steps=1)
    plain, fast = (bench(replace(two_steps, b_rate=rate)) for rate in (1.0, 8.0))
    before = weights(plain)
    moved = []
    for trainer in (plain, fast):
        trainer.run()
        moved.append({name: float((tensor - before[name]).abs().mean()) for name, tensor in weights(trainer).items()})
    for name in before:
        assert moved[1][name] / moved[0][name] == pytest.approx(8 if "lora_B" in name else 1, rel=0.3)


@pytest.mark.parametrize("averaging", [0.0, 0.8])
@pytest.mark.parametrize("stopped_at", [1, 3, 5, STEPS])
def test_a_run_stopped_and_resumed_equals_one_that_was_not(
    bench: Bench, tmp_path: Path, stopped_at: int, averaging: float
) -> None:
    """Guards optimizer state, means, learning rate, data order or validations lost on the way; stopping falls between
    validations, right on one, and on the last step."""
    settings = replace(SETTINGS, averaging=averaging)
    whole = bench(settings)
    whole.run()
    checkpoint = tmp_path / "checkpoint.pt"
    stopped = bench(settings, checkpoint, on_step=interrupt_at(stopped_at))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.progress.step == stopped_at
    resumed = bench(settings, checkpoint)
    resumed.resume()
    assert same(weights(resumed), weights(stopped))
    resumed.run()
    assert same(weights(resumed), weights(whole))
    assert rows_without_time(resumed) == rows_without_time(whole)
    for name in ("step", "windows", "tokens", "loss"):
        assert getattr(resumed.progress, name) == getattr(whole.progress, name)


def test_what_is_left_is_the_mean_of_the_weights_on_the_way(bench: Bench) -> None:
    """Guards a mean that is measured and not kept, or kept and not measured, and one that steps do not go on from."""
    on_the_way: list[dict[str, torch.Tensor]] = []
    last = bench()
    last.on_step = lambda progress: on_the_way.append(weights(last))
    last.run()
    trainer = bench(replace(SETTINGS, averaging=0.5))
    mean = weights(trainer)
    trainer.run()
    for step, those in enumerate(on_the_way):
        keep = min(0.5, step / (step + 10))
        mean = {name: keep * old + (1 - keep) * those[name] for name, old in mean.items()}
    assert all(torch.allclose(kept, mean[name], atol=1e-6) for name, kept in weights(trainer).items())
    row = trainer.progress.history[-1]
    assert trainer.validate()["auroc"] == row["auroc"]
    assert not same(weights(trainer), weights(last))


def test_the_learning_rate_stays_until_its_decay_begins(bench: Bench) -> None:
    """Guards a decay of the whole run whatever is asked for, and one that does not end at nothing."""
    settings = replace(SETTINGS, windows=8 * 20, warmup_steps=1, decay=0.25, validate_every=1)
    trainer = bench(settings)
    trainer.run()
    rates = [row["learning_rate"] for row in trainer.progress.history]
    peak = settings.learning_rate
    assert rates[1:15] == pytest.approx([peak] * 14)
    assert rates[-1] == 0
    assert rates[15:] == sorted(rates[15:], reverse=True)
    assert rates[-3] == pytest.approx(peak * 0.5 * (1 + math.cos(math.pi * 0.6)), rel=1e-3)


def test_lower_layers_that_are_not_adapted_stay_as_they_are_and_count(bench: Bench) -> None:
    """Guards an adapter of the start that is lost below the trained layers, or trained on."""
    trainer = bench(replace(SETTINGS, learning_rate=0.03))
    trainer.run()
    learned, before = weights(trainer), trainer.validate()["auroc"]
    again = bench()
    load_lora_state(again.model.backbone, learned)
    with pytest.raises(OptionError, match="`adapted_layers` is 99: the model has"):
        fold_lower_layers(again.model.backbone, 99)
    fold_lower_layers(again.model.backbone, 1)
    again = Trainer(again.model, again.task, SETTINGS)
    again.progress.validation_windows = trainer.progress.validation_windows
    assert again.validate()["auroc"] == pytest.approx(before, abs=1e-3)
    again.progress = Progress()
    again.run()
    moved = {name for name, tensor in weights(again).items() if not torch.equal(tensor, learned[name])}
    n_layers = len(again.model.backbone.layers)
    assert n_layers > 1
    assert moved == {name for name in learned if name.startswith(f"layers.{n_layers - 1}.")}


def test_a_run_that_diverges_goes_back_to_its_best_weights_resumed_or_not(bench: Bench, tmp_path: Path) -> None:
    """Guards a learning rate too high that ends in a denoiser worse than one of an hour before, and a resumed run
    that forgot its best weights."""
    # A warm-up that soon goes too far.
    settings = replace(SETTINGS, windows=8 * 40, learning_rate=0.3, warmup_steps=20, validate_every=2)
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
    windows, model = trainer.task.validation, trainer.model
    assert len({len(window.titles) for window in windows}) > 1
    for together, window in zip(trainer.task.log_odds(model, windows, 8), windows, strict=True):
        np.testing.assert_allclose(together, trainer.task.log_odds(model, [window], 8)[0], atol=1e-3)


def test_settings_that_cannot_train_are_refused() -> None:
    """Guards a run that never ends, or ends in a traceback."""
    nobody_trains = {"validation": 0.5, "calibration": 0.3, "test": 0.2}
    for wrong in ({"windows": None}, {"max_window": 2}, {"rates": (0.0,)}, {"rates": (1.0,)}, nobody_trains):
        with pytest.raises(OptionError):
            Settings(**wrong)


def test_a_run_that_gains_nothing_stops_early_and_one_that_may_not_goes_on(bench: Bench, tmp_path: Path) -> None:
    """Guards hours spent on nothing, a stop in the first half, a learning rate that is cut off instead of falling,
    a resumed run that forgot that it was stopping, and a stop decided by a handful of windows."""
    few, bench = bench, replace(bench, validation_windows=50)
    settings = replace(SETTINGS, windows=8 * 30, learning_rate=1e-9, validate_every=2, early_stop=True)
    said: list[str] = []
    rates: list[float] = []
    whole = bench(settings, warm=True, say=said.append, on_step=lambda progress: rates.append(whole._learning_rate()))
    whole.run()
    assert 15 <= whole.progress.step <= 20
    assert sum("it stops at" in line for line in said) == 1
    assert rates[-1] < 0.5 * rates[-3]
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        bench(settings, checkpoint, warm=True, on_step=interrupt_at(17)).run()
    resumed = bench(settings, checkpoint, warm=True)
    resumed.resume()
    assert resumed.progress.ends_at < 1
    resumed.run()
    assert same(weights(resumed), weights(whole))
    assert rows_without_time(resumed) == rows_without_time(whole)
    to_the_end = bench(replace(settings, early_stop=False), warm=True)
    assert to_the_end.run().step == 30
    assert few(settings, warm=True).run().step == 30


def test_a_run_of_few_validations_goes_to_its_end(bench: Bench) -> None:
    """Guards a short run that stops since nothing came before its first validations."""
    patient = replace(bench, validation_windows=50)
    settings = replace(SETTINGS, windows=8 * 8, validate_every=2, learning_rate=1e-9, early_stop=True)
    assert patient(settings, warm=True).run().step == 8


def test_ctrl_c_while_the_last_weights_are_validated_is_heard(bench: Bench, tmp_path: Path) -> None:
    """Guards a run that goes on to calibrate for minutes after it was told to stop, and one that then trains anew."""

    def press(row: dict[str, float]) -> None:
        if row["step"] == STEPS:
            os.kill(os.getpid(), signal.SIGINT)

    checkpoint = tmp_path / "checkpoint.pt"
    stopped = bench(checkpoint=checkpoint, on_validation=press)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = bench(checkpoint=checkpoint)
    resumed.resume()
    assert resumed.run().step == STEPS
    assert same(weights(resumed), weights(stopped))


def test_a_step_whose_gradient_is_no_number_is_left_out(bench: Bench) -> None:
    """Guards a run that one overflow ends in weights of NaN, from which nothing goes back."""
    trainer = bench()
    draw = trainer.task.train.draw

    def broken(number: int) -> LabelledWindow:
        window = draw(number)
        return replace(window, labels=np.full(len(window.labels), np.nan)) if number == 5 else window

    trainer.task.train.draw = broken  # type: ignore[method-assign]
    before = weights(trainer)
    trainer.run()
    after = weights(trainer)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert np.isfinite([row["loss"] for row in trainer.progress.history[1:]]).all()
    assert not same(before, after)


def test_weights_that_are_no_numbers_give_way_to_the_best(bench: Bench) -> None:
    """Guards a traceback, or weights of NaN exported, when a device or a driver spoils them at the end of an hour."""

    def spoil(progress: Progress) -> None:
        if progress.step == STEPS:
            next(lora_layers(trainer.model.backbone))[1].lora_b.data[0, 0] = torch.nan

    trainer = bench(on_step=spoil)
    trainer.run()
    assert all(tensor.isfinite().all() for tensor in weights(trainer).values())
    assert trainer.chosen["step"] in (3, 6)


def test_a_run_whose_weights_become_no_numbers_goes_on_from_its_best(bench: Bench) -> None:
    """Guards a run that trains nothing for an hour, since the mean that it measures is still sound."""

    def spoil(progress: Progress) -> None:
        if progress.step == 4 and not progress.slow_down < 1:
            next(lora_layers(trainer.model.backbone))[1].lora_b.data[0, 0] = torch.nan

    trainer = bench(replace(SETTINGS, averaging=0.5), on_step=spoil)
    trainer.run()
    assert trainer.progress.slow_down < 1
    assert all(tensor.isfinite().all() for tensor in weights(trainer).values())
    assert trainer.validate()["auroc"] == trainer.chosen["auroc"]


def test_the_weights_left_are_the_last_or_those_of_a_clearly_better_validation(bench: Bench, tmp_path: Path) -> None:
    """Guards an export of weights that lost much, of a lucky validation half-way, and of an untrained model that was
    lucky; resumed when it was over, a run leaves the same."""
    settings = replace(SETTINGS, windows=8 * 6, learning_rate=0.02, warmup_steps=1, validate_every=1)
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def remember(row: dict[str, float]) -> None:
        seen[int(row["step"])] = weights(trainer)

    for warm in (False, True):
        seen.clear()
        checkpoint = tmp_path / f"{warm}.pt"
        trainer = bench(settings, checkpoint, warm=warm, on_validation=remember)
        history = trainer.run().history
        eligible = history if warm else history[1:]
        best = max(eligible, key=lambda row: row["auroc"])
        assert trainer.chosen == (best if best["auroc"] > history[-1]["auroc"] + LUCK else history[-1])
        assert same(weights(trainer), seen[int(trainer.chosen["step"])])
        again = bench(settings, checkpoint, warm=warm)
        again.resume()
        again.run()
        assert same(weights(again), weights(trainer))
        assert again.chosen == trainer.chosen
    still = bench(replace(settings, windows=8, learning_rate=1e-9))
    still.run()
    assert [row["auroc"] for row in still.progress.history[1:]] == [still.progress.history[0]["auroc"]]
    assert still.chosen["step"] == 1


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        (Settings(windows=None, time_budget=300.0), 6, 12),
        (Settings(windows=None, time_budget=3600.0), 15, 30),
        (Settings(windows=500), 6, 12),
        (Settings(windows=48_000), 15, 30),
    ],
)
def test_short_runs_validate_often_enough_and_long_ones_not_too_often(
    settings: Settings, least: int, most: int
) -> None:
    """Guards a five-minute run that never looks, and best weights chosen from one or two."""
    assert least <= settings.validations <= most


def test_validating_costs_a_small_share_of_the_training(bench: Bench) -> None:
    """Guards a short run that spends its time on validation: fewer windows for it, the same ones when resumed."""
    trainer = bench(replace(SETTINGS, windows=8 * 4, validate_every=None))
    trainer.task.validation = trainer.task.validation * 20
    measured: list[int] = []
    log_odds = trainer.task.log_odds

    def watched(model: Any, windows: list[LabelledWindow], size: int) -> list[np.ndarray]:
        measured.append(len(windows))
        return log_odds(model, windows, size)

    trainer.task.log_odds = watched
    trainer.run()
    assert {*measured} == {trainer.progress.validation_windows} == {50}
    assert len(trainer.progress.history) >= 5

"""The trial as a whole, on edits that help, that harm, and that do nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial.compare import Estimate
from llm4dsr_cli.trial.editing import Edited
from llm4dsr_cli.trial.fits import Fits
from llm4dsr_cli.trial.items import Histories
from llm4dsr_cli.trial.kept import Kept
from llm4dsr_cli.trial.plots import plot_trial
from llm4dsr_cli.trial.recommenders import Recommender, Validation
from llm4dsr_cli.trial.recommenders.neighbours import Neighbours
from llm4dsr_cli.trial.run import Trial, run_trial
from llm4dsr_cli.trial.settings import AS_IT_IS, Setting, TrialSettings
from llm4dsr_cli.trial.splits import Split, leave_two_out

N_ITEMS, N_GROUPS = 200, 10
SETTINGS = TrialSettings(recommenders=("neighbours",), shares=(0.1, 0.25), actions=("drop",), seeds=2)


def noisy_split(n: int = 400, noise: float = 0.25, seed: int = 0) -> tuple[Split, list[NDArray[np.bool_]]]:
    """Users of one taste each, an item in so many from anywhere; and which items of the training part are such."""
    rng = np.random.default_rng(seed)
    sequences, labels = [], []
    for user in range(n):
        items = rng.choice(np.arange(user % N_GROUPS, N_ITEMS, N_GROUPS), 10, replace=False)
        label = rng.random(10) < noise
        label[-2:] = False
        items = np.where(label, rng.integers(0, N_ITEMS, 10), items)
        sequences.append(ItemSequence([f"item {i}" for i in items], user=user))
        labels.append(label[:-2])
    return leave_two_out(Histories.of(sequences)), labels


class Judge:
    """Drops by labels, so far as the share goes; or, like its control, anything."""

    def __init__(self, split: Split, labels: list[NDArray[np.bool_]], *, knows: bool = True) -> None:
        self.split, self.labels, self.knows = split, labels, knows

    def edited(self, setting: Setting, seed: int = 0) -> Edited:
        if setting == AS_IT_IS:
            return Edited(self.split.sequences)
        rng = np.random.default_rng([seed, int(setting.at_random)])
        draw = [rng.random(len(label)) for label in self.labels]
        if self.knows and not setting.at_random:
            draw = [one - label for one, label in zip(draw, self.labels, strict=True)]
        cut = np.quantile(np.concatenate(draw), setting.share)
        kept = [items[one > cut] for items, one in zip(self.split.sequences, draw, strict=True)]
        return Edited(kept, None, self.split.n_editable - sum(map(len, kept)))


def test_dropping_what_is_noise_is_found_to_help() -> None:
    """Guards the whole way from edits to the verdict."""
    split, labels = noisy_split()
    trial = run_trial(split, Judge(split, labels), SETTINGS)
    assert trial.setting == Setting("drop", 0.25)
    assert trial.sentence.startswith('use "drop 25%"')


def test_items_that_are_lost_are_counted_and_told() -> None:
    """Guards a gain that is paid for with the catalog, and a share of interactions taken for one of items."""
    split, labels = noisy_split(60)
    judge = Judge(split, labels)
    trial = run_trial(split, judge, replace(SETTINGS, shares=(0.1, 0.9)))

    def different(sequences: list[Any]) -> set[int]:
        return {int(item) for one, trains in zip(sequences, split.trains, strict=True) if trains for item in one}

    before = different(split.sequences)
    for one in trial.compared:
        after = different(judge.edited(one.setting).sequences)
        assert one.items_left == pytest.approx(len(before & after) / len(before))
        assert one.as_dict()["items_left"] == one.items_left
    assert trial.compared[-1].items_left < 1
    for left, told in ((0.94, True), (0.96, False)):
        best = replace(trial.compared[0], items_left=left, test=Estimate(1, 1, 1), over_random=Estimate(1, 1, 1))
        lost = replace(trial, best=best)
        assert ("leaves out 6% of the different items" in lost.sentence) == told


@pytest.mark.parametrize("edits", ["random", "none"])
def test_no_setting_helps_where_labels_are_noise_or_edits_do_nothing(edits: str) -> None:
    """Guards a verdict of luck."""
    for seed in range(2):
        split, labels = noisy_split(200, seed=seed)
        judge = Judge(split, labels, knows=False)
        if edits == "none":
            judge.edited = lambda setting, seed=0, split=split: Edited(split.sequences)  # type: ignore[method-assign, misc]
        trial = run_trial(split, judge, SETTINGS)
        assert trial.setting is None
        assert trial.sentence.startswith("no setting helps measurably on these data")


class Chancy(Neighbours):
    """Depends on its seed, and may be interrupted."""

    name = "chancy"
    seeded = True
    fits = 0
    stop_after = 10**6

    def fit(self, sequences: Any, weights: Any, n_items: int, seed: int, validation: Validation) -> None:
        if Chancy.fits == Chancy.stop_after:
            raise KeyboardInterrupt
        Chancy.fits += 1
        super().fit(sequences, weights, n_items, seed, validation)
        self._noise = np.random.default_rng(seed).random(n_items).astype(np.float32) * 0.05

    def scores(self, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        return super().scores(histories) + self._noise


def made(name: str) -> Recommender:
    return Chancy() if name == "chancy" else Neighbours()


def figures(trial: Trial) -> str:
    return json.dumps(trial.as_dict(), sort_keys=True)


def test_an_interrupted_trial_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards fits that are made again, and fits of other data or seeds that are taken for one's own."""
    split, labels = noisy_split(80)
    settings = TrialSettings(recommenders=("neighbours", "chancy"), shares=(0.1, 0.25), actions=("drop",), seeds=3)
    whole = run_trial(split, Judge(split, labels), settings, make=made)
    n_fits = Chancy.fits
    assert n_fits == 3 * 5  # as it is, two settings and their controls
    for stop in (1, 9):
        monkeypatch.setattr(Chancy, "fits", 0)
        monkeypatch.setattr(Chancy, "stop_after", stop)
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            run_trial(split, Judge(split, labels), settings, Kept(folder), make=made)
        monkeypatch.setattr(Chancy, "stop_after", 10**6)
        again = run_trial(split, Judge(split, labels), settings, Kept(folder), make=made)
        assert Chancy.fits == n_fits
        assert figures(again) == figures(whole)
        assert run_trial(split, Judge(split, labels), settings, Kept(folder), make=made).as_dict() == again.as_dict()
        assert Chancy.fits == n_fits
    other, other_labels = noisy_split(80, seed=1)
    run_trial(other, Judge(other, other_labels), settings, Kept(folder), make=made)
    assert Chancy.fits == 2 * n_fits


def test_another_seed_draws_anew() -> None:
    """Guards: `--seed` without effect, so that a repeated trial looked like a confirmation."""
    split, labels = noisy_split(80)

    class Editor(Judge):
        def edited(self, setting: Setting, seed: int = 0) -> Edited:
            return super().edited(setting, seed if setting.at_random else 0)  # the same as an editor's

    found = []
    for seed in (0, 0, 5):
        settings = TrialSettings(recommenders=("neighbours",), shares=(0.25,), actions=("drop",), seeds=2, seed=seed)
        (one,) = run_trial(split, Editor(split, labels), settings, make=made).compared
        found.append((one.random.value, one.test.low))
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))  # what is drawn, and the intervals


def test_a_recommender_that_finds_nothing_takes_the_figures_of_no_other() -> None:
    """Guards: "+nan%" for all recommenders because of one."""
    split, labels = noisy_split(80)

    class Blind(Neighbours):
        name = "blind"

        def scores(self, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
            return -np.arange(len(split.items), dtype=np.float32)[None].repeat(len(histories), 0) * 0 - np.inf

    def make(name: str) -> Recommender:
        return Blind() if name == "blind" else Neighbours()

    def trial(*names: str) -> Trial:
        settings = TrialSettings(recommenders=names, shares=(0.25,), actions=("drop",), seeds=2)
        return run_trial(split, Judge(split, labels), settings, make=make)

    assert trial("neighbours", "blind").compared[0].test == trial("neighbours").compared[0].test
    assert trial("blind").sentence.startswith("nothing can be told from these data")


def test_what_is_done_is_told_with_its_share() -> None:
    """Guards a bar that goes back, or that ends early."""
    split, labels = noisy_split(100)
    told: list[float | None] = []
    run_trial(
        split,
        Judge(split, labels),
        TrialSettings(recommenders=("neighbours", "chancy"), shares=(0.1,), actions=("drop",), seeds=2),
        advance=lambda text, share: told.append(share),
        make=made,
    )
    assert told[-1] == 1.0
    assert all(share is not None and 0 < share <= 1 for share in told)


def test_a_time_budget_leaves_out_what_does_not_fit_and_says_so(tmp_path: Path) -> None:
    """Guards a budget without effect, and a resumed trial that plans anew from fits that cost nothing."""
    split, labels = noisy_split(100)
    wanted = TrialSettings(
        recommenders=("chancy",), shares=(0.05, 0.1, 0.2), actions=("drop",), seeds=5, time_budget=1e-6
    )
    said: list[str] = []
    first = run_trial(split, Judge(split, labels), wanted, Kept(tmp_path), say=said.append, make=made)
    assert first.protocol["seeds"] == 1
    assert [one.setting.share for one in first.compared] == [0.1]
    assert said == [f"the time allows {first.protocol['left_out']}"]
    generous = TrialSettings(**{**vars(wanted), "time_budget": 1e6})
    assert len(run_trial(split, Judge(split, labels), generous, Kept(tmp_path), make=made).compared) == 3
    again = run_trial(split, Judge(split, labels), wanted, Kept(tmp_path), make=made)
    assert again.as_dict() == first.as_dict()


def test_histories_are_masked_unless_users_come_back_to_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards targets that no recommender may name, lists full of what the user has, and kept ranks of another rule."""
    split, _ = noisy_split(100)
    masked = Fits(split, Kept(None))
    assert masked.masks_history
    monkeypatch.setattr("llm4dsr_cli.trial.fits.REPEATS", -1.0)
    edited, model = Edited(split.sequences), made("chancy")
    assert Fits(split, Kept(None)).key(model, edited, 0) != masked.key(model, edited, 0)
    monkeypatch.undo()
    again = [ItemSequence(["a", "b", f"{user}", "a", "b", "c"], user=user) for user in range(50)]
    assert not Fits(leave_two_out(Histories.of(again)), Kept(None)).masks_history


def test_histories_may_stay_as_they_are() -> None:
    """Guards an option without effect: a recommender that is asked with edited histories all the same."""
    split, labels = noisy_split(100)
    asked: dict[bool, list[int]] = {}

    class Listening(Neighbours):
        def scores(self, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
            asked[cleaned] += [len(history) for history in histories]
            return super().scores(histories)

    for cleaned in (True, False):
        asked[cleaned] = []
        edited = Judge(split, labels).edited(Setting("drop", 0.25))
        Fits(split, Kept(None), clean_histories=cleaned).fit(Listening(), edited, 0)
    assert sum(asked[True]) < sum(asked[False]) == sum(len(one) for one in split.sequences) * 2 + 100


@pytest.mark.parametrize("name", ["trial.png", "trial.svg", "trial.pdf"])
def test_a_plot_is_drawn_of_every_action(tmp_path: Path, name: str) -> None:
    """Guards a plot that fails after an hour of fits."""
    pytest.importorskip("matplotlib")
    split, labels = noisy_split(60)
    settings = TrialSettings(recommenders=("neighbours",), shares=(0.1, 0.25), actions=("drop", "weigh"), seeds=1)
    plot_trial(run_trial(split, Judge(split, labels), settings), tmp_path / name)
    assert (tmp_path / name).stat().st_size > 2_000

"""The comparison: intervals that hold the truth as often as they say, verdicts that see nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llm4dsr_cli.trial.compare import Compared, Draws, Edits, Measured, chosen, compare
from llm4dsr_cli.trial.run import Trial
from llm4dsr_cli.trial.settings import AS_IT_IS, Setting

DROP, REPLACE = Setting("drop", 0.05), Setting("replace", 0.05)
EDITS = Edits(10, 0, 1.0)


@pytest.mark.parametrize(("n_seeds", "of_seed"), [(5, 0.0), (5, 0.03), (10, 0.15), (1, 0.0)])
def test_an_interval_holds_the_truth_as_often_as_it_says(n_seeds: int, of_seed: float) -> None:
    """Guards intervals that know of users and not of seeds, or the other way round."""
    rng = np.random.default_rng(0)
    held, tries, n_users = 0, 300, 150
    for attempt in range(tries):
        # What users have in common, what seeds have in common, and what neither explains; the truth is .1.
        values = (
            0.1
            + 0.5 * rng.standard_normal(n_users)
            + of_seed * rng.standard_normal((n_seeds, 1))
            + 0.2 * rng.standard_normal((n_seeds, n_users))
        )
        draws = Draws(np.arange(n_users), n_seeds, draws=300, seed=attempt)
        found = draws.estimate(draws.means(values))
        assert found.value == pytest.approx(values.mean())
        held += found.low <= 0.1 <= found.high
    assert 0.90 <= held / tries <= 0.995


def test_targets_of_one_user_are_drawn_together() -> None:
    """Guards windows of a user that count as independent: an interval that is too narrow by far."""
    rng = np.random.default_rng(0)
    by_user = rng.standard_normal(40)
    values = np.repeat(by_user, 25)[None]
    width = []
    for users in (np.repeat(np.arange(40), 25), np.arange(1000)):
        draws = Draws(users, 1)
        found = draws.estimate(draws.means(values))
        width.append(found.high - found.low)
    assert 4 < width[0] / width[1] < 6  # the square root of 25


def measured(effect: float, n_seeds: int, seed: int, n_users: int = 300) -> Measured:
    """Ranks of two recommenders: DROP finds a share of the targets more; its control and REPLACE change nothing."""
    rng = np.random.default_rng(seed)
    ranks: dict[tuple[Setting, str], NDArray[np.float32]] = {}
    for name in ("a", "b"):
        chance = rng.uniform(0.05, 0.5, n_users)
        for setting in (AS_IT_IS, DROP, DROP.control, REPLACE, REPLACE.control):
            more = effect if setting == DROP else 0.0
            found = rng.random((n_seeds, n_users)) < chance + more
            ranks[setting, name] = np.where(found, rng.integers(1, 11, found.shape), 100).astype(np.float32)
    return Measured(ranks, np.arange(n_users))


def tried(effect: float, seed: int, n_seeds: int = 4) -> list[Compared]:
    edits: dict[Setting, Edits] = dict.fromkeys((DROP, REPLACE), EDITS)
    validation, test = measured(effect, n_seeds, 2 * seed), measured(effect, n_seeds, 2 * seed + 1)
    return compare([DROP, REPLACE], ["a", "b"], validation, test, edits, draws=200)


def protocol() -> dict[str, float]:
    return {"confidence": 0.95, "editable_items": 80, "items": 100}


def test_no_setting_helps_where_edits_do_nothing() -> None:
    """Guards the winner's curse: the best of several settings that do nothing looks better than nothing."""
    helped = 0
    for seed in range(60):
        compared = tried(0.0, seed)
        trial = Trial(compared, chosen(compared), protocol())
        helped += trial.helps
        assert trial.sentence.startswith("no setting helps measurably on these data") != trial.helps
    assert helped <= 3


def test_a_setting_that_helps_is_found_with_its_size() -> None:
    """Guards a verdict that never says yes, and a gain that is another figure's."""
    for seed in range(5):
        compared = tried(0.15, seed)
        best = chosen(compared)
        assert best is not None and best.setting == DROP and best.helps
        trial = Trial(compared, best, protocol())
        assert trial.setting == DROP
        assert trial.sentence.startswith('use "drop 5%": NDCG@20 changes by +')
        assert trial.clean_share() == pytest.approx(0.04)
        assert best.test.low < best.test.value < best.test.high
        found = best.figures["a"]["HR@20"]
        assert found["value"] - found["as it is"] == pytest.approx(found["difference"].value)
        assert found["difference"].value == pytest.approx(0.15, abs=0.06)
        assert found["random difference"].low < 0 < found["random difference"].high


def test_what_random_edits_do_as_well_is_no_help() -> None:
    """Guards a gain of less data, or of luck, that is taken for the cleaning's."""
    ranks = dict(measured(0.2, 4, 0).ranks)
    for name in ("a", "b"):
        ranks[DROP.control, name] = ranks[DROP, name]
    both = Measured(ranks, np.arange(300))
    (found,) = compare([DROP], ["a", "b"], both, both, {DROP: EDITS}, draws=200)
    assert found.test.is_positive
    assert not found.helps


def test_a_recommender_that_finds_nothing_has_no_relative_change() -> None:
    """Guards a division by zero, and a verdict from it."""
    none = Measured(
        {(setting, "a"): np.full((2, 30), 99, np.float32) for setting in (AS_IT_IS, DROP, DROP.control)}, np.arange(30)
    )
    compared = compare([DROP], ["a"], none, none, {DROP: EDITS}, draws=50)
    assert np.isnan(compared[0].test.value)
    assert chosen(compared) is None
    assert not compared[0].helps


def test_a_setting_is_chosen_by_validation_targets_alone() -> None:
    """Guards a choice that has seen the figures by which it is reported."""
    validation, test = measured(0.0, 3, 0), measured(0.0, 3, 1)
    for ranks, better in ((dict(validation.ranks), REPLACE), (dict(test.ranks), DROP)):
        for name in ("a", "b"):
            ranks[better, name] = np.ones_like(ranks[better, name])
        if better == REPLACE:
            validation = Measured(ranks, validation.users)
        else:
            test = Measured(ranks, test.users)
    best = chosen(compare([DROP, REPLACE], ["a", "b"], validation, test, {DROP: EDITS, REPLACE: EDITS}, draws=50))
    assert best is not None and best.setting == REPLACE
    assert not best.helps

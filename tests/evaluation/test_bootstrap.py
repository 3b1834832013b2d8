"""Weighted metrics, and intervals by resampling users."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4dsr_cli import EvaluationSettings
from llm4dsr_cli.evaluation.bootstrap import bootstrap_intervals
from llm4dsr_cli.evaluation.metrics import Ranking, detection_quality, edit_quality

pytestmark = pytest.mark.usefixtures("warm_environment")

QUICK = EvaluationSettings(threshold=0.0, bootstrap=0)
# A busy machine is no bug.
unhurried = settings(deadline=None, max_examples=30)


# --- metrics with weights --------------------------------------------------------------------------------------------

weighted_items = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=30)


@unhurried
@given(weighted_items)
def test_weights_are_repetitions(items: list[tuple[int, int, int]]) -> None:
    """Guards: weights that miss one of the measures, or a score whose items all have weight 0."""
    scores, labels, weights = (np.array(column) for column in zip(*items, strict=True))
    repeated = detection_quality(np.repeat(scores, weights), np.repeat(labels, weights))
    found = Ranking(scores, labels).quality(weights)
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(repeated), nan_ok=True)
    edited = scores > 0
    assert dataclasses.asdict(edit_quality(edited, labels, weights)) == pytest.approx(
        dataclasses.asdict(edit_quality(np.repeat(edited, weights), np.repeat(labels, weights))), nan_ok=True
    )


@unhurried
@given(weighted_items)
def test_weighted_figures_are_scikit_learns(items: list[tuple[int, int, int]]) -> None:
    """Guards: precision and recall swapped, F1 of the wrong counts, weights applied to one class only."""
    oracle = pytest.importorskip("sklearn.metrics")
    scores, labels, weights = (np.array(column) for column in zip(*items, strict=True))
    quality, edits = Ranking(scores, labels).quality(weights), edit_quality(scores > 0, labels, weights)
    if 0 < (weights * labels).sum() < weights.sum():
        assert quality.auroc == pytest.approx(oracle.roc_auc_score(labels, scores, sample_weight=weights))
        expected = oracle.average_precision_score(labels, scores, sample_weight=weights)
        assert quality.average_precision == pytest.approx(expected)
        wanted = oracle.precision_recall_fscore_support(
            labels, scores > 0, sample_weight=weights, average="binary", zero_division=np.nan
        )[:2]
        assert (edits.precision, edits.recall) == pytest.approx(wanted, nan_ok=True)
        expected = oracle.f1_score(labels, scores > 0, sample_weight=weights, zero_division=0)
        assert edits.f1 == pytest.approx(expected)


# --- bootstrap -------------------------------------------------------------------------------------------------------


def users_with_items(n_users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that find noise, labels and users, 1 to 9 items a user."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), rng.integers(1, 10, n_users))
    labels = (rng.random(len(users)) < 0.2).astype(int)
    taste = rng.normal(size=n_users)[users]
    return np.round(labels + taste + rng.normal(size=len(users)), 1), labels, users


def intervals_of(scores: np.ndarray, labels: np.ndarray, users: np.ndarray, draws: int = 200) -> dict[str, Any]:
    ranking = Ranking(scores, labels)
    statistic = lambda drawn: dataclasses.asdict(ranking.quality(drawn[users]))  # noqa: E731
    (found,) = bootstrap_intervals([statistic], int(users.max()) + 1, draws=draws, seed=3)
    return found


def test_intervals_are_those_of_users_copied_one_by_one() -> None:
    """Guards: items resampled instead of users, weights that slid against the items, other percentiles."""
    oracle = pytest.importorskip("sklearn.metrics")
    scores, labels, users = users_with_items(40, seed=1)
    rng, naive = np.random.default_rng(3), []
    for _ in range(100):
        places = np.concatenate([np.flatnonzero(users == user) for user in rng.integers(40, size=40)])
        naive.append(
            (
                oracle.roc_auc_score(labels[places], scores[places]),
                oracle.average_precision_score(labels[places], scores[places]),
            )
        )
    low, high = np.percentile(naive, [2.5, 97.5], axis=0)
    found = intervals_of(scores, labels, users, draws=100)
    assert found["auroc"] == pytest.approx((low[0], high[0]))
    assert found["average_precision"] == pytest.approx((low[1], high[1]))


def test_items_said_twice_by_a_user_make_nothing_more_certain() -> None:
    """Guards: overlapping windows of a user counted as independent, which makes intervals too narrow."""
    scores, labels, users = users_with_items(60, seed=2)
    once = intervals_of(scores, labels, users)["auroc"]
    assert intervals_of(np.tile(scores, 5), np.tile(labels, 5), np.tile(users, 5))["auroc"] == pytest.approx(once)


def test_intervals_hold_the_figure_and_shrink_with_more_users() -> None:
    """Guards: intervals of something else than the figure, or of a number of users that is not the data's."""
    widths = []
    for n_users in (50, 800):
        scores, labels, users = users_with_items(n_users, seed=4)
        quality = dataclasses.asdict(detection_quality(scores, labels))
        found = intervals_of(scores, labels, users)
        for name in ("auroc", "average_precision", "precision_at_3pct", "precision_at_5pct"):
            assert found[name][0] <= quality[name] <= found[name][1], name
        widths.append({name: high - low for name, (low, high) in found.items()})
    for name in ("auroc", "average_precision", "precision_at_5pct"):
        assert widths[1][name] < widths[0][name] / 2, name


def test_draws_in_which_a_figure_is_undefined_are_left_out() -> None:
    """Guards: one draw without noise that makes a whole interval null."""
    found = intervals_of(np.array([0.9, 0.1, 0.2]), np.array([1, 0, 0]), np.array([0, 1, 2]))
    assert found["auroc"] == (1.0, 1.0)
    assert all(math.isnan(bound) for bound in intervals_of(np.ones(2), np.zeros(2, int), np.arange(2))["auroc"])

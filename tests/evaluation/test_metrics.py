"""Properties of the detection metrics; scikit-learn is the oracle."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4dsr_cli.evaluation.metrics import auroc, average_precision, detection_quality, edit_quality, precision_at

# A busy machine is no bug.
unhurried = settings(deadline=None, max_examples=50)

# Few distinct scores, so that most examples are full of ties.
tied_items = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 1)), min_size=1, max_size=40)


def split(items: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*items, strict=True)
    return np.array(scores) / 3, np.array(labels)


@unhurried
@given(tied_items)
def test_auroc_and_average_precision_are_scikit_learns_with_ties_too(items: list[tuple[int, int]]) -> None:
    """Guards against ties counted for or against the scorer, which makes a constant score look good or bad."""
    oracle = pytest.importorskip("sklearn.metrics")
    scores, labels = split(items)
    if 0 < labels.sum() < len(labels):
        assert auroc(scores, labels) == pytest.approx(oracle.roc_auc_score(labels, scores))
    else:
        assert math.isnan(auroc(scores, labels))
    if labels.any():
        assert average_precision(scores, labels) == pytest.approx(oracle.average_precision_score(labels, scores))
    else:
        assert math.isnan(average_precision(scores, labels))


@unhurried
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6), st.floats(0.01, 1))
def test_precision_at_is_the_mean_over_all_orders_of_tied_items(items: list[tuple[int, int]], share: float) -> None:
    """Guards against ties broken by position, which would reward the order in which the file was written."""
    scores, labels = split(items)
    taken = math.ceil(round(share * len(items), 9))
    orders = [
        labels[list(order)][:taken].mean()
        for order in itertools.permutations(range(len(items)))
        if (np.diff(scores[list(order)]) <= 0).all()
    ]
    assert precision_at(scores, labels, share) == pytest.approx(np.mean(orders))


def test_precision_at_takes_no_extra_item_for_a_rounding_error() -> None:
    """Guards against ceil(0.07 * 100) being 8."""
    labels = np.arange(100) >= 93
    assert precision_at(np.arange(100), labels, 0.07) == 1.0
    assert precision_at(np.arange(100), labels, 0.08) == 7 / 8


@unhurried
@given(tied_items)
def test_detection_quality_ignores_any_increasing_transformation(items: list[tuple[int, int]]) -> None:
    """Guards against measures that depend on log-odds being turned into probabilities."""
    scores, labels = split(items)
    before, after = detection_quality(scores, labels), detection_quality(np.exp(scores), labels)
    np.testing.assert_equal(vars(before), vars(after))


@unhurried
@given(tied_items)
def test_auroc_of_reversed_scores_is_the_complement(items: list[tuple[int, int]]) -> None:
    """Guards against the sign: higher must mean more suspicious."""
    scores, labels = split(items)
    np.testing.assert_allclose(auroc(-scores, labels), 1 - auroc(scores, labels))


def test_permuted_labels_give_chance() -> None:
    """Guards against a measure that finds quality where there is none."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=20_000)
    labels = (scores + generator.normal(size=20_000)) > 1.5
    assert auroc(scores, labels) > 0.8
    permuted = detection_quality(scores, generator.permutation(labels))
    assert permuted.auroc == pytest.approx(0.5, abs=0.02)
    assert permuted.average_precision == pytest.approx(labels.mean(), abs=0.02)
    assert permuted.precision_at_3pct == pytest.approx(labels.mean(), abs=0.06)


def test_infinite_log_odds_are_ranked() -> None:
    """Guards against a probability of exactly 1 spoiling the measurement."""
    assert auroc([math.inf, 0.0, -math.inf, math.inf], [1, 0, 0, 1]) == 1.0


def test_detection_quality_holds_every_measure_and_the_counts() -> None:
    """Guards against fields filled in the wrong order."""
    scores, labels = np.arange(200.0), np.arange(200) % 7 == 0
    quality = detection_quality(scores, labels)
    assert quality.auroc == auroc(scores, labels)
    assert quality.average_precision == average_precision(scores, labels)
    assert quality.precision_at_1pct == precision_at(scores, labels, 0.01)
    assert quality.precision_at_3pct == precision_at(scores, labels, 0.03)
    assert (quality.n_items, quality.n_noise) == (200, 29)


def test_false_edit_rate_counts_clean_items_only() -> None:
    """Guards against dividing by all edits or by all items."""
    assert edit_quality([True, True, False, False, False], [1, 0, 0, 0, 0]).false_edit_rate == 0.25
    assert math.isnan(edit_quality([True], [1]).false_edit_rate)


def test_no_items_give_nan_and_no_warning() -> None:
    """Guards against a crash on a file whose windows hold nothing but protected items."""
    quality = detection_quality([], [])
    assert (quality.n_items, quality.n_noise) == (0, 0)
    assert all(math.isnan(value) for value in list(vars(quality).values())[:4])
    assert math.isnan(edit_quality([], []).false_edit_rate)


@pytest.mark.parametrize(
    ("scores", "labels"), [([0.1], [0, 1]), ([math.nan], [1]), ([0.1, 0.2], [1, 2]), ([[0.1]], [[1]])]
)
def test_arrays_that_do_not_fit_are_refused(scores: list[float], labels: list[int]) -> None:
    """Guards against NaN ranking as the most suspicious, and against broadcasting."""
    with pytest.raises(ValueError, match="must"):
        detection_quality(scores, labels)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    """Guards against a percentage passed as a share."""
    with pytest.raises(ValueError, match="share"):
        precision_at([0.1], [1], share)

"""The gate edits what is suspicious enough and no more, and its calibration keeps its promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llm4dsr_cli.errors import ModelError, OptionError
from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.scores import log_odds_of
from llm4dsr_cli.thresholds import ThresholdCurve

# A busy machine is no bug.
unhurried = settings(deadline=None, max_examples=100)

# Few distinct scores, so that ties and scores equal to the threshold are common.
scores_of_a_sequence = st.lists(st.integers(-3, 5), max_size=12).map(lambda s: np.array(s, dtype=np.float32))
limits = st.one_of(st.none(), st.integers(0, 5).map(float), st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.99]))
gates = st.builds(Gate, threshold=st.integers(-4, 6).map(float), max_edits=limits, protect_last=st.integers(0, 4))


@unhurried
@given(scores_of_a_sequence, gates)
@example(np.array([9, 9, 9], dtype=np.float32), Gate(0.0, protect_last=0))
@example(np.array([9], dtype=np.float32), Gate(-math.inf, protect_last=0))
def test_only_items_above_the_threshold_and_not_protected_are_edited(log_odds: np.ndarray, gate: Gate) -> None:
    """Guards edits of items at or below the threshold, of the recommender's target, and of all items."""
    before = log_odds.copy()
    edits = gate.decide(log_odds)
    n = len(log_odds)
    assert edits.shape == (n,)
    assert edits.dtype == bool
    assert (log_odds[edits] > gate.threshold).all()
    assert not edits[n - min(n, gate.protect_last) :].any()
    assert n == 0 or not edits.all()
    assert np.array_equal(log_odds, before)


@unhurried
@given(scores_of_a_sequence, gates)
def test_the_limit_keeps_the_most_suspicious(log_odds: np.ndarray, gate: Gate) -> None:
    """Guards a limit read as a share where it is a number (or the reverse), one applied in order of place, one that
    counts protected items, and one that edits fewer than it may."""
    edits = gate.decide(log_odds)
    n = len(log_odds)
    free = n - min(n, gate.protect_last)
    candidates = [i for i in range(free) if log_odds[i] > gate.threshold]
    allowed = n - 1 if n else 0
    if gate.max_edits is not None:
        allowed = min(allowed, math.floor(gate.max_edits * n if gate.max_edits < 1 else gate.max_edits))
    assert edits.sum() == min(len(candidates), allowed)
    spared = [i for i in candidates if not edits[i]]
    for kept in spared:
        assert all(
            log_odds[i] > log_odds[kept] or (log_odds[i] == log_odds[kept] and i < kept) for i in edits.nonzero()[0]
        )


@unhurried
@given(scores_of_a_sequence, limits, st.integers(0, 3), st.integers(-4, 6), st.integers(0, 5))
def test_raising_the_threshold_never_adds_an_edit(
    log_odds: np.ndarray, limit: float | None, protect: int, threshold: int, more: int
) -> None:
    """Guards a stricter user who is given other edits than a laxer one, not fewer."""
    lax = Gate(threshold, limit, protect).decide(log_odds)
    strict = Gate(threshold + more, limit, protect).decide(log_odds)
    assert not (strict & ~lax).any()


@pytest.mark.parametrize(
    ("max_edits", "edited"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (0.0, []),
        (0.05, []),
        (0.2, [7, 8]),
        (0.39, [6, 7, 8]),
        (1.0, [8]),
        (2.0, [7, 8]),
        (50.0, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_a_limit_below_one_is_a_share_and_from_one_on_a_number(max_edits: float | None, edited: list[int]) -> None:
    """Guards --max-edits 1 read as everything, and shares rounded up."""
    log_odds = np.arange(1, 11, dtype=np.float32)
    assert Gate(0.0, max_edits).decide(log_odds).nonzero()[0].tolist() == edited


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": math.nan},
        {"threshold": 0.0, "max_edits": -0.5},
        {"threshold": 0.0, "max_edits": 1.5},
        {"threshold": 0.0, "max_edits": math.nan},
        {"threshold": 0.0, "max_edits": math.inf},
        {"threshold": 0.0, "protect_last": -1},
    ],
)
def test_options_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    """Guards a gate that quietly edits nothing, or everything, for a mistyped option."""
    with pytest.raises(OptionError):
        Gate(**arguments)


def test_thresholds_given_as_probabilities_become_log_odds() -> None:
    """Guards a probability compared with log-odds, and overflow at 0 and 1."""
    assert log_odds_of(0.5) == 0
    assert log_odds_of(0.9) == pytest.approx(math.log(9))
    assert log_odds_of(0.1) == pytest.approx(-math.log(9))
    assert log_odds_of(1e-300) < -600
    assert (log_odds_of(0), log_odds_of(1)) == (-math.inf, math.inf)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(OptionError):
            log_odds_of(wrong)


@pytest.mark.parametrize(
    ("n", "rate", "draws"), [(19, 0.05, 400), (19, 0.1, 600), (99, 0.02, 500), (99, 0.05, 1500), (130, 0.02, 800)]
)
def test_the_calibrated_threshold_keeps_its_rate(n: int, rate: float, draws: int) -> None:
    """Guards a quantile rank off by one.

    Of n + 1 exchangeable scores the new one lies above the k-th smallest of the others with probability
    (n + 1 - k) / (n + 1), so the best that can be promised for a rate is floor((n + 1) rate) / (n + 1). A wrong rank
    changes that by 1 / (n + 1), which the tolerance would not hide.
    """
    calibrations = np.random.default_rng(0).standard_normal((draws, n)).astype(np.float32)
    # The probability that a fresh score lies above the threshold, without the noise of drawing one.
    above = [_normal_tail(ThresholdCurve.fit(scores).threshold(rate)) for scores in calibrations]
    expected = math.floor((n + 1) * rate + 1e-9) / (n + 1)
    tolerance = 4 * np.std(above) / math.sqrt(draws)
    assert tolerance < 0.8 / (n + 1)
    assert expected - tolerance < np.mean(above) < min(expected, rate) + tolerance


@pytest.mark.parametrize("n", [1, 2, 19, 99, 100, 1000])
def test_the_threshold_is_the_conformal_quantile_itself(n: int) -> None:
    """Guards a quantile rank off by one, exactly: among n distinct scores, floor((n + 1) rate) - 1 lie above the
    threshold, the new one being the one that may."""
    scores = np.random.default_rng(n).permutation(n).astype(np.float32)
    calibration = ThresholdCurve.fit(scores)
    for rate in (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5):
        may = math.floor((n + 1) * rate + 1e-9)
        if may == 0:
            with pytest.raises(ModelError, match=f"calibration on {n} items cannot promise"):
                calibration.threshold(rate)
        else:
            assert (scores > calibration.threshold(rate)).sum() == may - 1


@unhurried
@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.integers(-20, 20).map(float)),
    st.floats(0.0005, 0.9999),
    st.floats(0.0005, 0.9999),
)
def test_no_rate_gets_a_laxer_threshold_than_promised(scores: np.ndarray, rate: float, other: float) -> None:
    """Guards rounding up between the rates that the curve holds, ties, and a curve that is not monotone."""
    calibration = ThresholdCurve.fit(scores)
    n = len(scores)
    try:
        threshold = calibration.threshold(rate)
    except ModelError:
        # Refused only where the nearest rate of the curve, at most 6 % lower, cannot be promised.
        assert (n + 1) * rate < 1.07
        return
    assert ((scores > threshold).sum() + 1) / (n + 1) <= rate * (1 + 1e-5)
    if other >= rate:
        assert calibration.threshold(other) <= threshold
    assert (np.diff(calibration.rates) > 0).all()


def _normal_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


def test_a_share_of_edits_is_counted_exactly() -> None:
    """Guards floating point: 0.29 of 100 items is a little less than 29."""
    assert Gate(0.0, max_edits=0.29).decide(np.full(100, 1.0)).sum() == 29

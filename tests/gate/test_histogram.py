"""The histogram: a survey of parts is the survey of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.gate.histogram import MergedSurvey, ScoreHistogram, scores_in
from llm4dsr_cli.gate.survey import KnownNoise, Survey
from llm4dsr_cli.scores import canonical

SHARES = (0.001, 0.01, 0.05, 0.1, 0.29, 0.5, 0.99)
anything = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1.0, 20.0, -20.0, math.nan])
sequences = st.lists(st.lists(anything, max_size=7), max_size=20)
gates = st.builds(Gate, st.just(0.0), max_edits=st.sampled_from([None, 0, 1, 2, 0.3]), protect_last=st.integers(0, 3))
NOISE = KnownNoise([-2.0, 0.0, 1.0, 5.0], 40)


def parts_of(arrays: list[np.ndarray], gate: Gate) -> tuple[ScoreHistogram, np.ndarray]:
    """What three machines have found, together."""
    found = [ScoreHistogram.of(arrays[start::3], gate) for start in range(3)]
    return ScoreHistogram.merged([one for one, _ in found]), np.concatenate([scores for _, scores in found])


@given(sequences, gates)
def test_of_a_denoisers_scores_nothing_is_lost(lists: list[list[float]], gate: Gate) -> None:
    """Guards: a score that is rounded into another step, items that cannot be edited, and a share of other items."""
    arrays = [canonical(np.array(one, dtype=np.float32)) for one in lists]
    whole, merged = Survey(arrays, gate, NOISE), MergedSurvey(parts_of(arrays, gate)[0], NOISE)
    assert merged.n_items == whole.n_items
    assert merged.most_noise() == whole.most_noise()
    for share in SHARES:
        assert merged.outlook(share) == whole.outlook(share)
    for threshold in (-math.inf, -20.0, 0.0, 1.0, 20.0, math.inf):
        assert merged.edits(threshold) == whole.edits(threshold)


@given(sequences, gates)
def test_fused_scores_give_the_same_threshold_with_those_of_its_step(lists: list[list[float]], gate: Gate) -> None:
    """Guards: a threshold that is off by the width of a step, which edits other items than one process would."""
    arrays = [np.array(one, dtype=np.float32) for one in lists]
    whole = Survey(arrays, gate)
    histogram, editable = parts_of(arrays, gate)
    for share in SHARES:
        survey = MergedSurvey(histogram)
        step = survey.step(share)
        if step is not None:
            survey = MergedSurvey(histogram, None, (step, scores_in(step, editable)))
        assert survey.threshold(share) == whole.threshold(share)
        assert survey.edits(survey.threshold(share)) == whole.edits(whole.threshold(share))


@pytest.mark.parametrize("n", [1_000, 100_000])
def test_a_histogram_does_not_grow_with_the_data(n: int) -> None:
    """Guards: a driver that holds a score for each item of a billion."""
    scores = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    histogram, _ = ScoreHistogram.of([scores], Gate(0.0))
    assert len(histogram.steps) <= min(n, 12_000)
    assert histogram.counts.sum() == n - 1

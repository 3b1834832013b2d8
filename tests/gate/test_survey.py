"""The survey: what a share of edits would do is what it then does."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.gate.histogram import MergedSurvey, ScoreHistogram
from llm4dsr_cli.gate.survey import ASSUMED_NOISE, KnownNoise, Survey

scores = st.floats(-5, 5, width=32) | st.sampled_from([0.0, 1.0, math.nan])
sequences = st.lists(st.lists(scores, max_size=7), max_size=12)
gates = st.builds(Gate, st.just(0.0), max_edits=st.sampled_from([None, 0, 1, 2, 0.3]), protect_last=st.integers(0, 3))


def arrays(lists: list[list[float]]) -> list[np.ndarray]:
    return [np.array(one, dtype=np.float32) for one in lists]


def edited(lists: list[list[float]], gate: Gate, threshold: float) -> list[tuple[int, int]]:
    """What a gate with this threshold edits: (sequence, position)."""
    gate = Gate(threshold, gate.max_edits, gate.protect_last)
    return [
        (number, int(position))
        for number, one in enumerate(arrays(lists))
        for position in np.flatnonzero(gate.decide(one))
    ]


@given(sequences, gates, st.sampled_from([0.01, 0.1, 0.29, 0.5, 0.99]))
def test_the_edits_that_are_announced_are_those_that_are_made(
    lists: list[list[float]], gate: Gate, share: float
) -> None:
    """Guards: a share that is exceeded, or not used up while more could be edited; other edits than announced."""
    survey = Survey(arrays(lists), gate)
    threshold = survey.threshold(share)
    made = edited(lists, gate, threshold)
    assert survey.edits(threshold) == len(made) == survey.outlook(share).edits
    n_items = sum(map(len, lists))
    assert len(made) <= share * n_items + 1e-6
    assert {(number, position) for number, position, _ in survey.examples(threshold, 10**6)} == set(made)
    if math.isfinite(threshold):
        lower = float(np.nextafter(np.float32(threshold), np.float32(-10)))
        assert len(edited(lists, gate, lower)) > math.floor(round(share * n_items, 9))


@pytest.mark.parametrize(
    ("lists", "share", "threshold"),
    [
        ([[1.0, 2.0, 2.0, 0.0]], 0.5, 1.0),
        ([[1.0, 2.0, 2.0, 0.0]], 0.25, 2.0),  # a tie that one edit would break
        ([[1.0, 2.0]], 0.1, 1.0),  # not one item
        ([[1.0, 2.0]], 0.9, -math.inf),
        ([[1.0], []], 0.9, math.inf),
        ([], 0.5, math.inf),
    ],
)
def test_a_share_is_never_exceeded(lists: list[list[float]], share: float, threshold: float) -> None:
    """Guards: ties that double the edits."""
    assert Survey(arrays(lists), Gate(-math.inf)).threshold(share) == threshold


@given(sequences, st.integers(0, 6))
def test_examples_are_the_most_and_the_least_certain(lists: list[list[float]], n: int) -> None:
    """Guards: examples of items that stay, and the same one twice."""
    survey = Survey(arrays(lists), Gate(0.0))
    threshold = survey.threshold(0.5)
    everything = survey.examples(threshold, 10**6)
    assert [score for *_, score in everything] == sorted((score for *_, score in everything), reverse=True)
    chosen = survey.examples(threshold, n)
    assert len(chosen) == min(n, len(everything)) == len(set(chosen))
    if len(everything) > n:
        assert chosen == everything[: n - n // 2] + everything[len(everything) - n // 2 :]


def noisy(share: float, n: int = 20_000, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Sequences of ten items of which such a share is noise, with labels; and scores of other such noise."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n // 10, 10)) < share
    found = rng.normal(size=labels.shape) + 2 * labels
    return [row.astype(np.float32) for row in found], labels, rng.normal(size=10_000) + 2


def known(noise: np.ndarray) -> KnownNoise:
    return KnownNoise(np.quantile(noise, np.linspace(0, 1, 101)).tolist(), len(noise))


@pytest.mark.parametrize("share", ASSUMED_NOISE)
def test_the_share_that_is_right_is_the_share_that_is_right(share: float) -> None:
    """Guards: precision promised from the wrong recall, or of all items instead of those that can be edited."""
    lists, labels, noise = noisy(share)
    survey = Survey(lists, Gate(0.0, protect_last=2), known(noise))
    for edit in (0.01, 0.02, 0.05, 0.1):
        outlook = survey.outlook(edit)
        assert outlook.right is not None
        right = [labels[number, position] for number, position, _ in survey.examples(outlook.threshold, 10**6)]
        assert outlook.right[share] == pytest.approx(np.mean(right), abs=0.09)


@pytest.mark.parametrize("n_noise", [10, 50, 10_000])
def test_surer_edits_are_never_said_to_be_right_less_often(n_noise: int) -> None:
    """Guards: README's own table, in which the surest 1% were right 25% of the time, and the surest 5% 55%."""
    for seed in range(20):
        lists, _, noise = noisy(0.05, n=400, seed=seed)
        survey = Survey(lists, Gate(0.0), known(noise[:n_noise]))
        for noise_share in ASSUMED_NOISE:
            right = [(survey.outlook(edit).right or {})[noise_share] for edit in (0.01, 0.02, 0.05, 0.1, 0.2)]
            assert right == sorted(right, reverse=True)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3])
def test_at_most_so_much_noise_is_no_less_than_there_is(share: float) -> None:
    """Guards: a bound below the truth, and one that says nothing."""
    for seed in range(5):
        lists, _, noise = noisy(share, seed=seed)
        few = noise[:100]
        for those in (noise, few):
            survey = Survey(lists, Gate(0.0), known(those))
            most = survey.most_noise()
            assert most is not None
            assert share <= most <= 1.3 * share + 0.1


@pytest.mark.parametrize("n", [10, 20, 50, 400])
def test_of_a_few_sequences_nothing_is_said_to_be_without_noise(n: int) -> None:
    """Guards: "at most 0% of the data is noise" of 15 items, three of which are: none of few is not none of all."""
    below = 0
    for seed in range(60):
        lists, labels, noise = noisy(0.15, n=n, seed=seed)
        most = Survey(lists, Gate(0.0, protect_last=0), known(noise)).most_noise()
        assert most is not None and most > 0
        below += most < labels.mean()
    assert below <= 9


@pytest.mark.parametrize(("length", "gate"), [(3, Gate(0.0, protect_last=0)), (10, Gate(0.0, protect_last=3))])
def test_items_that_no_gate_would_take_are_a_part_of_the_data(length: int, gate: Gate) -> None:
    """Guards: a share of noise among what could be edited, where the least suspicious item of each sequence is left
    out of that: of short sequences a third of the edits was said to be right where half of them were."""
    rng = np.random.default_rng(length)
    sample = np.quantile(rng.normal(3, 1, 2000), np.linspace(0, 1, 101)).tolist()
    noise = rng.permutation(np.arange(4_000 * length) % 20 == 0).reshape(-1, length)
    scores = [rng.normal(0, 1, length) + 3 * one for one in noise]
    survey = Survey(scores, gate, KnownNoise(sample, 2000))
    threshold = survey.threshold(0.05)
    decided = [Gate(threshold, None, gate.protect_last).decide(one) for one in scores]
    right = sum((edits & one).sum() for edits, one in zip(decided, noise, strict=True)) / sum(map(np.sum, decided))
    told = survey.right(threshold)
    assert told is not None and told[0.05] == pytest.approx(right, abs=0.04)
    merged = MergedSurvey(ScoreHistogram.of(scores, gate)[0], survey.noise)
    assert merged.right(threshold) == pytest.approx(told, abs=0.01)
    assert merged.most_noise() == pytest.approx(survey.most_noise(), abs=0.005)


def test_without_noise_to_measure_by_nothing_is_said() -> None:
    survey = Survey(arrays([[1.0, 2.0, 3.0]]), Gate(0.0))
    assert survey.outlook(0.5).right is None and survey.most_noise() is None
    empty = Survey([], Gate(0.0), KnownNoise([0.0, 1.0], 2))
    assert empty.most_noise() is None and empty.outlook(0.5).edits == 0 and empty.examples(0.0, 3) == []


def test_a_survey_takes_few_bytes_an_item() -> None:
    """Guards: 600 MB for a million lines of four items, where a thousand lines took 60."""
    n = 20_000
    tracemalloc.start()
    survey = Survey((np.zeros(4, dtype=np.float32) for _ in range(n)), Gate(0.0))
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert survey.n_editable == 3 * n
    assert held < 16 * 4 * n and most < 24 * 4 * n


def test_scores_in_double_precision_stay_within_the_share() -> None:
    """Guards: a threshold that was rounded below a score, so that all items that have it were edited."""
    scores = np.array([0.7] * 200 + [5.0] * 10)
    threshold = Survey([scores[i : i + 2] for i in range(0, 210, 2)], Gate(0.0)).threshold(0.045)
    assert (scores > threshold).sum() <= 10
    rng = np.random.default_rng(0)
    for share in rng.random(200):
        found = rng.random((50, 4))
        gate = Gate(Survey(list(found), Gate(0.0)).threshold(share))
        assert sum(int(gate.decide(one).sum()) for one in found) <= share * 200

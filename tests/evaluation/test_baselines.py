"""Properties of the baseline scorers, on catalogs small enough to know the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from llm4dsr_cli.errors import MissingExtraError, ModelError, OptionError
from llm4dsr_cli.evaluation.baselines import CoOccurrenceTfidf, Ease, NoiseScorer, Popularity
from llm4dsr_cli.evaluation.metrics import auroc

pytest.importorskip("sklearn")

CLUSTERS, PER_CLUSTER = 4, 15
N_ITEMS = CLUSTERS * PER_CLUSTER
WORDS = ["garden hose", "chess board", "guitar string", "baby bottle"]
TITLES = [f"{WORDS[item // PER_CLUSTER]} number {item}" for item in range(N_ITEMS)]
NO_TITLES = ["the same title"] * N_ITEMS

BASELINES: dict[str, Callable[[], NoiseScorer]] = {
    "popularity": lambda: Popularity(N_ITEMS),
    "ease": lambda: Ease(N_ITEMS, regularization=10),
    "co-occurrence": lambda: CoOccurrenceTfidf(NO_TITLES, n_factors=4),
    "co-occurrence and titles": lambda: CoOccurrenceTfidf(TITLES, n_factors=4),
}
every_baseline = pytest.mark.parametrize("make", BASELINES.values(), ids=BASELINES)


def clustered(generator: np.random.Generator, sequences: int) -> list[list[int]]:
    """Sequences that stay inside one cluster each, whose first items are the popular ones."""
    popular = np.arange(PER_CLUSTER, 0, -1) / np.arange(PER_CLUSTER + 1).sum()
    return [
        (
            generator.integers(CLUSTERS) * PER_CLUSTER + generator.choice(PER_CLUSTER, 6, replace=False, p=popular)
        ).tolist()
        for _ in range(sequences)
    ]


def planted(generator: np.random.Generator, sequences: int) -> tuple[list[list[int]], np.ndarray]:
    """Clustered sequences, in each of which one item became one of another cluster; labels of shape (sequences, 6)."""
    histories, labels = clustered(generator, sequences), np.zeros((sequences, 6), int)
    for history, label in zip(histories, labels, strict=True):
        position = generator.integers(6)
        foreign = [item for item in range(N_ITEMS) if item // PER_CLUSTER != history[0] // PER_CLUSTER]
        history[position], label[position] = int(generator.choice(foreign)), 1
    return histories, labels


@every_baseline
def test_planted_foreign_items_rank_above_chance(make: Callable[[], NoiseScorer]) -> None:
    """Guards against a wrong sign or a shuffled index; only popularity cannot see clusters and has less to go by."""
    generator = np.random.default_rng(1)
    baseline = make()
    baseline.fit(clustered(generator, 300))
    judged, labels = planted(generator, 300)
    quality = auroc(np.concatenate(baseline.score(judged)), labels.ravel())
    assert quality > (0.55 if isinstance(baseline, Popularity) else 0.9)


@pytest.mark.parametrize("make", [BASELINES["ease"], BASELINES["co-occurrence"]], ids=["ease", "co-occurrence"])
def test_unrelated_training_sequences_give_chance(make: Callable[[], NoiseScorer]) -> None:
    """Guards against a leak of the judged sequence into its own scores."""
    generator = np.random.default_rng(2)
    baseline = make()
    baseline.fit([generator.choice(N_ITEMS, 6, replace=False).tolist() for _ in range(300)])
    judged, labels = planted(generator, 500)
    assert auroc(np.concatenate(baseline.score(judged)), labels.ravel()) == pytest.approx(0.5, abs=0.08)


@every_baseline
def test_an_item_does_not_vouch_for_itself(make: Callable[[], NoiseScorer]) -> None:
    """Guards against the diagonal: repeating a foreign item must not make it look at home."""
    baseline = make()
    baseline.fit(clustered(np.random.default_rng(3), 300))
    once, thrice = baseline.score([[0, 1, 2, 3, 40], [40, 0, 1, 40, 2, 3, 40]])
    np.testing.assert_allclose(thrice[[0, 3, 6]], once[4], rtol=1e-5)
    np.testing.assert_allclose(thrice[[1, 2, 4, 5]], once[:4], rtol=1e-5)


def test_item_alone_has_no_evidence_for_it() -> None:
    """Guards against self-similarity where there is nothing else to sum over."""
    ease = Ease(N_ITEMS, regularization=10)
    ease.fit(clustered(np.random.default_rng(4), 300))
    assert ease.score([[5], [5, 5]])[1].tolist() == [0.0, 0.0]
    both = CoOccurrenceTfidf(TITLES, n_factors=4)
    both.fit(clustered(np.random.default_rng(4), 300))
    alone, popular_alone = both.score([[5], [0]])
    assert alone == popular_alone > both.score([[5, 6, 7]])[0][0]


@every_baseline
def test_a_score_depends_on_its_own_sequence_only(make: Callable[[], NoiseScorer]) -> None:
    """Guards against standardizing over whatever happens to be scored together."""
    baseline = make()
    generator = np.random.default_rng(5)
    baseline.fit(clustered(generator, 100))
    judged, _ = planted(generator, 20)
    for together, sequence in zip(baseline.score(judged), judged, strict=True):
        np.testing.assert_array_equal(together, baseline.score([sequence])[0])


@every_baseline
def test_order_of_items_moves_scores_with_them(make: Callable[[], NoiseScorer]) -> None:
    """Guards against scores handed back in sorted order."""
    baseline = make()
    generator = np.random.default_rng(6)
    baseline.fit(clustered(generator, 100))
    sequence = np.array(planted(generator, 1)[0][0])
    order = generator.permutation(6)
    scores, moved = baseline.score([sequence.tolist(), sequence[order].tolist()])
    np.testing.assert_allclose(moved, scores[order], rtol=1e-5)


@every_baseline
def test_fit_twice_counts_only_the_second_time(make: Callable[[], NoiseScorer]) -> None:
    """Guards against the counts of one fold leaking into the next."""
    generator = np.random.default_rng(7)
    first, second = clustered(generator, 60), clustered(generator, 60)
    again, fresh = make(), make()
    again.fit(first)
    again.fit(second)
    fresh.fit(second)
    np.testing.assert_allclose(again.score(first), fresh.score(first), rtol=1e-6)


def test_ease_is_ridge_regression_of_each_item_on_all_others() -> None:
    """Guards against the closed form's transposition: columns, not rows, are divided by the diagonal."""
    generator = np.random.default_rng(8)
    seen = (generator.random((40, 7)) < [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]).astype(float)
    ease = Ease(7, regularization=3)
    ease.fit([np.flatnonzero(row).tolist() for row in seen])
    for item in range(7):
        others = np.delete(np.arange(7), item)
        gram = seen[:, others].T @ seen[:, others] + 3 * np.eye(6)
        expected = np.linalg.solve(gram, seen[:, others].T @ seen[:, item])
        np.testing.assert_allclose(ease.weights[others, item], expected, atol=1e-5)
        assert ease.weights[item, item] == 0
    sequence = [2, 5, 6]
    expected_scores = [-sum(ease.weights[other, item] for other in sequence if other != item) for item in sequence]
    np.testing.assert_allclose(ease.score([sequence])[0], expected_scores, rtol=1e-5)
    assert ease.weights.dtype == np.float32


def test_popularity_counts_sequences_not_repetitions() -> None:
    """Guards against one user who bought an item ten times."""
    popularity = Popularity(3)
    popularity.fit([[0, 0, 0], [1], [1, 2]])
    np.testing.assert_allclose(popularity.score([[0, 1, 2]])[0], -np.log([2, 3, 2]))


def test_titles_alone_tell_items_that_were_never_seen() -> None:
    """Guards against the title term being lost for new items."""
    baseline = CoOccurrenceTfidf(TITLES, n_factors=4)
    baseline.fit([[0, 20], [1, 21]])
    scores = baseline.score([[50, 51, 52, 33]])[0]
    assert scores.argmax() == 3


@every_baseline
def test_empty_sequences_and_an_empty_training_set_are_fine(make: Callable[[], NoiseScorer]) -> None:
    """Guards against division by zero where nothing was counted."""
    baseline = make()
    baseline.fit([])
    empty, full = baseline.score([[], [3, 4]])
    assert empty.shape == (0,)
    assert np.isfinite(full).all()


@every_baseline
@pytest.mark.parametrize("outside", [-1, N_ITEMS])
def test_indices_outside_the_catalog_are_refused(make: Callable[[], NoiseScorer], outside: int) -> None:
    """Guards against -1 silently meaning the last item."""
    baseline = make()
    with pytest.raises(ValueError, match="indices"):
        baseline.fit([[0, outside]])
    baseline.fit([[0, 1]])
    with pytest.raises(ValueError, match="indices"):
        baseline.score([[0, outside]])


@every_baseline
def test_scoring_before_fitting_is_refused(make: Callable[[], NoiseScorer]) -> None:
    """Guards against scores that rest on nothing."""
    with pytest.raises(ModelError, match="fit"):
        make().score([[0, 1]])


def test_ease_refuses_a_penalty_that_is_not_positive() -> None:
    """Guards against a singular matrix inverted into nonsense."""
    with pytest.raises(OptionError, match="positive"):
        Ease(3, regularization=0)


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn.feature_extraction.text", "scikit-learn"), ("scipy.linalg", "scipy")]
)
def test_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    """Guards against a bare ImportError where a pip command is wanted."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"^{package} is.*llm4dsr-cli\[benchmark\]"):
        CoOccurrenceTfidf(TITLES) if package == "scikit-learn" else Ease(3).fit([[0, 1]])

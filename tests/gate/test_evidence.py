"""Collaborative evidence: counts of other users, with the judged user left out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.gate.evidence import FEATURES, LONGEST_CONTEXT, LONGEST_HISTORY, PRIOR, Evidence

Data = list[tuple[int, list[str]]]
TITLES = [f"{name} {kind}" for name in ("red", "blue", "big") for kind in ("ball", "book", "boat", "brick")]
sequences = st.lists(st.sampled_from(TITLES), min_size=1, max_size=6)
data_sets = st.lists(st.tuples(st.integers(0, 4), sequences), min_size=1, max_size=12)


def naive_features(data: Data, titles: list[str], user: int | None) -> np.ndarray:
    """Straight from the definition: dictionaries of sets, the user's sequences taken away beforehand."""
    holds: dict[int, set[str]] = {}
    for owner, items in data:
        holds.setdefault(owner, set()).update(items)
    n_titles = len(set().union(*holds.values()))
    with_word = {}
    for title in set().union(*holds.values()):
        for word in title.split():
            with_word[word] = with_word.get(word, 0) + 1
    holds.pop(user, None)
    users = list(holds.values())

    def together(one: str, other: str) -> int:
        return sum(one in items and other in items for items in users)

    def partners(title: str) -> np.ndarray:
        return np.array([together(title, other) * (title != other) for other in TITLES], dtype=float)

    def words(title: str) -> dict[str, float]:
        vector = {word: np.log((1 + n_titles) / (1 + with_word.get(word, 0))) + 1 for word in title.split()}
        length = np.sqrt(sum(value**2 for value in vector.values()))
        return {word: value / length for word, value in vector.items()}

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        length = np.linalg.norm(one) * np.linalg.norm(other)
        return float(one @ other / length) if length else 0.0

    different = list(dict.fromkeys(titles))
    rows = []
    for title in titles:
        others = [other for other in different if other != title]
        seen = sum(title in items for items in users)
        association, shared, alike = [], [], []
        for other in others:
            expected = seen * sum(other in items for items in users) / max(1, len(users))
            association.append(np.log((together(title, other) + PRIOR) / (expected + PRIOR)))
            shared.append(cosine(partners(title), partners(other)))
            one, two = words(title), words(other)
            alike.append(sum(one[word] * two.get(word, 0) for word in one))
        rows.append(
            [np.log1p(seen), seen == 0, *(np.mean(column) if others else 0 for column in (association, shared, alike))]
        )
    return np.array(rows)


@given(data_sets, sequences, st.integers(-1, 5))
def test_features_are_those_of_the_definition_with_the_user_taken_away(
    data: Data, titles: list[str], user: int
) -> None:
    """Guards the sparse arithmetic: a pair miscounted, or a left-out user's pair that is still there."""
    found = Evidence.count(data).features(titles, user if user >= 0 else None)
    np.testing.assert_allclose(found, naive_features(data, titles, user if user >= 0 else None), atol=1e-9)


def test_no_item_vouches_for_itself() -> None:
    """Guards self-vouching: items that only their own user has must look as if nobody had them."""
    data = [(1, ["red ball", "blue boat"]), (2, ["big book", "big brick"]), (2, ["big book", "big boat"])]
    evidence = Evidence.count(data)
    alone = evidence.features(["red ball", "blue boat"], 1)
    assert alone[:, :4].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert (evidence.features(["red ball", "blue boat"], None)[:, [0, 2]] > 0).all()


def test_a_users_overlapping_windows_count_once() -> None:
    """Guards noise that vouches for itself by standing in several windows of one user."""
    once = Evidence.count([(1, ["red ball", "blue boat", "big book"])])
    windows = Evidence.count([(1, ["red ball", "blue boat"]), (1, ["blue boat", "big book"]), (1, ["red ball"])])
    np.testing.assert_array_equal(once.held, windows.held)
    np.testing.assert_array_equal(once.starts, windows.starts)


def test_neither_spacing_of_titles_nor_the_type_of_a_users_id_matters() -> None:
    """Guards counts that miss an item for a stray blank, or a user whose id another export wrote as text."""
    evidence = Evidence.count([(5, ["red  ball", "blue boat"]), (6, ["red ball\n"])])
    assert len(evidence.items) == 2
    assert evidence.features(["red ball"], 7)[0, 0] == pytest.approx(np.log(3))
    for user in (5, "5", 5.0):
        assert evidence.features(["red ball"], user)[0, 0] == pytest.approx(np.log(2))


def test_a_very_long_sequence_takes_time_in_proportion_and_short_ones_are_judged_whole() -> None:
    """Guards a stream that one account with thousands of items brings to a halt, and windows that lose items."""
    titles = [f"item {number} of {number % 7}" for number in range(2_000)]
    evidence = Evidence.count((user, titles[user : user + 20]) for user in range(300))
    began = time.process_time()
    features = evidence.features(titles, None)
    assert time.process_time() - began < 20
    assert features.shape == (2_000, len(FEATURES))
    assert features[:100, 0].all()
    first = evidence.features(titles[:LONGEST_CONTEXT], None)
    np.testing.assert_array_equal(features[:10], first[:10])


def test_of_a_long_history_the_last_items_are_counted() -> None:
    """Guards the square growth of pairs, and a cap that keeps the oldest items."""
    evidence = Evidence.count([(1, [f"item {number}" for number in range(3 * LONGEST_HISTORY)])])
    assert len(evidence.items) == LONGEST_HISTORY
    assert evidence.features([f"item {3 * LONGEST_HISTORY - 1}"])[0, 0] > 0
    assert evidence.features(["item 0"])[0, 0] == 0


@pytest.mark.parametrize("data", [[], [(1, [])]])
def test_nothing_counted_says_nothing(data: Data) -> None:
    """Guards look-ups in empty arrays."""
    features = Evidence.count(data).features(["red ball", "blue boat"], 1)
    assert features.shape == (2, len(FEATURES))
    assert features[:, 1].all() and not np.delete(features, 1, axis=1).any()

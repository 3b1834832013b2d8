"""The recommenders that take no torch, against naive computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from llm4dsr_cli.errors import MissingExtraError, OptionError
from llm4dsr_cli.trial import recommenders
from llm4dsr_cli.trial.recommenders import Validation, make_recommender
from llm4dsr_cli.trial.recommenders.ease import Ease
from llm4dsr_cli.trial.recommenders.neighbours import Neighbours

NOTHING = Validation([], np.zeros(0, dtype=np.int64))


def some(n: int, n_items: int, seed: int = 0) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    """Sequences, some with repeated items, and weights."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, n_items, rng.integers(1, 9)) for _ in range(n)]
    return sequences, [rng.choice([0.5, 1.0], len(one)).astype(np.float32) for one in sequences]


@pytest.mark.parametrize(("users", "n_items"), [(60, 25), (20, 45)])
@pytest.mark.parametrize("weighted", [False, True])
def test_ease_is_the_closed_form_by_users_and_by_items(users: int, n_items: int, weighted: bool) -> None:
    """Guards a formula for few users that is not that for few items, and items that speak for themselves."""
    sequences, weights = some(users, n_items)
    ease = Ease(penalty=7.0)
    ease.fit(sequences, weights if weighted else None, n_items, 0, NOTHING)
    x = np.zeros((users, n_items))
    for row, items, weight in zip(x, sequences, weights, strict=True):
        for item, w in zip(items, weight, strict=True):
            row[item] = max(row[item], w if weighted else 1.0)
    inverse = np.linalg.inv(x.T @ x + 7.0 * np.eye(n_items))
    b = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0)
    histories = some(30, n_items, seed=1)[0]
    expected = np.stack([b[sorted(set(history.tolist()))].sum(axis=0) for history in histories])
    np.testing.assert_allclose(ease.scores(histories), expected, rtol=2e-3, atol=2e-5)


def test_ease_refuses_what_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a machine that swaps for hours."""
    monkeypatch.setattr("llm4dsr_cli.trial.recommenders.ease.LARGEST", 10)
    with pytest.raises(OptionError, match="too many for EASE"):
        Ease().fit(some(20, 30)[0], None, 30, 0, NOTHING)
    monkeypatch.setattr("llm4dsr_cli.trial.recommenders.ease.LARGEST_TABLE", 500)
    Ease().fit(some(10, 30)[0], None, 30, 0, NOTHING)
    with pytest.raises(OptionError, match="takes 50 items of so many users"):
        Ease().fit(some(10, 30)[0], None, 60, 0, NOTHING)
    Ease().fit(some(60, 10)[0], None, 10, 0, NOTHING)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [3, 1000])
def test_neighbours_are_those_of_naive_loops(weighted: bool, k: int) -> None:
    """Guards an index that loses sequences, repeated items, or the place from which distances count."""
    n_items = 20
    sequences, weights = some(40, n_items)
    model = Neighbours(k=k, recency=2.0, spread=3.0)
    model.fit(sequences, weights if weighted else None, n_items, 0, NOTHING)
    for history in some(25, n_items, seed=2)[0]:
        recent = list(dict.fromkeys(history[::-1].tolist()))
        similar = []
        for number, (items, weight) in enumerate(zip(sequences, weights, strict=True)):
            last = {item: place for place, item in enumerate(items.tolist())}
            shared = [item for item in recent if item in last]
            if shared:
                similarity = sum(
                    math.exp(-recent.index(item) / 2.0) * (float(weight[last[item]]) if weighted else 1.0)
                    for item in shared
                ) / math.sqrt(len(items))
                similar.append((-similarity, number, last[shared[0]]))
        expected = np.zeros(n_items)
        for similarity, number, place in sorted(similar)[:k]:
            for at, item in enumerate(sequences[number].tolist()):
                own = float(weights[number][at]) if weighted else 1.0
                expected[item] += -similarity * math.exp(-abs(at - place) / 3.0) * own
        np.testing.assert_allclose(model.scores([history])[0], expected, rtol=1e-5, atol=1e-7)


def test_neighbours_of_nothing_known_are_none() -> None:
    """Guards an empty history, an item that nobody has, and data of empty sequences."""
    model = Neighbours()
    model.fit([np.array([0, 1]), np.zeros(0, dtype=np.int64)], None, 4, 0, NOTHING)
    assert not model.scores([np.zeros(0, dtype=np.int64), np.array([3])]).any()
    assert model.scores([np.array([0])])[0, 1] > 0


def test_a_recommender_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a traceback for a typing error, and for torch that is not installed."""
    with pytest.raises(OptionError, match="choose ease, neighbours, sasrec"):
        make_recommender("sasrek")
    monkeypatch.setattr(recommenders, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llm4dsr-cli\[finetune\]'"):
        make_recommender("sasrec")
    assert recommenders.default_names() == ("ease", "neighbours")

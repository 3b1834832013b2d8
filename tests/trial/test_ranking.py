"""Full ranking: where a target stands, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llm4dsr_cli.trial.metrics import METRICS, gains, ranks


class Fixed:
    """Scores that were given: history i, a single item, has row i."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table

    def scores(self, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        return self.table[[int(history[0]) for history in histories]].copy()


def test_ranks_and_gains_are_those_of_a_naive_computation() -> None:
    """Guards ranks that are off by one, ties that count by the order of items, and metrics with another logarithm."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 12, (600, 40)).astype(np.float32)  # many ties; more rows than are ranked at a time
    targets = rng.integers(0, 40, 600)
    found = ranks(Fixed(table), [np.array([i]) for i in range(600)], targets)  # type: ignore[arg-type]
    for row, target, rank in zip(table.tolist(), targets.tolist(), found.tolist(), strict=True):
        better = sum(score > row[target] for score in row)
        equal = sum(score == row[target] for score in row)
        assert rank == np.mean(range(better + 1, better + equal + 1))
    for metric in METRICS:
        name, cut = metric.split("@")
        for rank, gain in zip(found.tolist(), gains(found, metric).tolist(), strict=True):
            expected = (1.0 if name == "HR" else 1 / np.log2(rank + 1)) if rank <= int(cut) else 0.0
            assert gain == pytest.approx(expected)


def test_a_score_that_is_no_number_ranks_last() -> None:
    """Guards: a network whose weights became no numbers, of which every target ranked first."""

    class Broken:
        def scores(self, histories: Any) -> Any:
            return np.array([[np.nan, np.nan, np.nan], [0.1, np.nan, 0.3]], dtype=np.float32)

    found = ranks(Broken(), [np.array([0]), np.array([1])], np.array([2, 1]))  # type: ignore[arg-type]
    assert np.isinf(found).all()


def test_masked_items_are_out_of_the_ranking_and_a_masked_target_is_never_found() -> None:
    """Guards a history that takes the first places, and a target that is hidden and counts as found."""
    table = np.array([[5, 4, 3, 2], [5, 4, 3, 2]], dtype=np.float32)
    found = ranks(
        Fixed(table),  # type: ignore[arg-type]
        [np.array([0]), np.array([1])],
        np.array([2, 1]),
        [np.array([0, 1]), np.array([1])],
    )
    assert found.tolist() == [1.0, np.inf]
    assert gains(found, "NDCG@20").tolist() == [1.0, 0.0]

"""What is put in: as the definition says, drawn step by step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from llm4dsr_cli.gate.noise_source import POPULAR_SHARE, NoiseSource

N = 60_000


def naive(popularity: np.ndarray, rng: np.random.Generator) -> tuple[int, bool]:
    """An item and whether it is lent: by one throw of the dice after the other."""
    if rng.random() < POPULAR_SHARE:
        return int(rng.choice(np.repeat(np.arange(len(popularity)), popularity))), True
    once = np.flatnonzero(popularity == 1)
    unseen = len(once) * (len(once) - 1) / 2 / (np.count_nonzero(popularity == 2) + 1)
    if rng.random() < unseen / (unseen + len(popularity)):
        return int(rng.choice(once)), True
    return int(rng.integers(len(popularity))), False


@pytest.mark.parametrize("counts", [[1, 1, 1, 1, 1, 1, 2, 2, 9, 30], [5, 1, 40], [3], [2, 2, 2], [1] * 8])
def test_items_are_drawn_and_lent_as_often_as_step_by_step(counts: list[int]) -> None:
    """Guards: noise of one kind alone, or lent items that keep their counts."""
    popularity = np.array(counts)
    source, rng = NoiseSource(popularity), np.random.default_rng(0)
    drawn = [source.draw(0, rng) for _ in range(N)]
    found = Counter((item, source.is_lent(item, rng)) for item in drawn)
    wanted = Counter(naive(popularity, rng) for _ in range(N))
    assert any(lent and popularity[item] > 1 for item, lent in found) == (popularity.max() > 1), "popular ones, too"
    for kind in {*found, *wanted}:
        assert found[kind] / N == pytest.approx(wanted[kind] / N, abs=0.01), kind

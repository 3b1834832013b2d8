"""The bootstrap over users: how much a figure would differ had other users been drawn.

Items of one user are not independent (one taste, overlapping windows), so users are resampled, not items (the cluster
bootstrap; Davison and Hinkley, 1997, section 3.8). A draw of n users from n, with replacement, is a multiplicity for
each user; every item then counts as often as its user was drawn. Nothing is copied or sorted again: a figure that takes
weights is enough. Intervals are the percentiles of the figures over the draws (Efron and Tibshirani, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95

Multiplicities = NDArray[np.int64]
# How often each user was drawn, shape (n_users,) -> figures by name, NaN where one is undefined.
Statistic = Callable[[Multiplicities], dict[str, float]]
Intervals = dict[str, tuple[float, float]]


def bootstrap_intervals(
    statistics: Sequence[Statistic], n_users: int, *, draws: int = 1000, seed: int = 0, level: float = LEVEL
) -> list[Intervals]:
    """Percentile intervals of every figure of every statistic, all of them from the same draws.

    Draws in which a figure is undefined (no noise, no edits) are left out of its interval; it is NaN where no draw
    defines it.

    Args:
        n_users: how many users to draw, and to draw from; at least 1.
        draws: how often, at least 1.
        seed: fixes the draws.
        level: share of the draws within the interval, 0 to 1.

    Returns:
        For each statistic, (low, high) by figure.
    """
    rng = np.random.default_rng(seed)
    figures: list[list[dict[str, float]]] = [[] for _ in statistics]
    for _ in range(draws):
        drawn = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
        for statistic, found in zip(statistics, figures, strict=True):
            found.append(statistic(drawn))
    return [{name: _interval(np.array([one[name] for one in found]), level) for name in found[0]} for found in figures]


def _interval(values: NDArray[Any], level: float) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

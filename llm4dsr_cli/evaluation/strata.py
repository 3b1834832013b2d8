"""Strata: items of like kind, measured apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

LENGTHS = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class Stratum:
    """Items whose value lies between two bounds.

    Attributes:
        low, high: the bounds, both within; ``high`` is None where there is none.
        items: which items, ascending, shape (n,).
    """

    low: int
    high: int | None
    items: Indices

    @property
    def name(self) -> str:
        """``5-9``, ``7`` or ``50+``."""
        if self.high is None:
            return f"{self.low}+"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def bins(values: NDArray[np.int64], lows: Sequence[int] = LENGTHS) -> list[Stratum]:
    """The items of each bin that holds any; bin i starts at ``lows[i]``, the last has no upper bound.

    Args:
        values: shape (n,), each at least ``lows[0]``.
    """
    place = np.searchsorted(lows, values, side="right") - 1
    highs = [low - 1 for low in lows[1:]] + [None]
    return [
        Stratum(low, high, np.flatnonzero(place == number))
        for number, (low, high) in enumerate(zip(lows, highs, strict=True))
        if (place == number).any()
    ]


def quintiles(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Quintile 0..4 of each item among all of them, shape (n,); equal values stay together, so one may be empty."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values).astype(np.int64)


def by_quintile(values: NDArray[np.int64]) -> list[Stratum]:
    """The items of each quintile that holds any, with the smallest and largest value in it; lowest first."""
    of_item = quintiles(values)
    return [
        Stratum(int(values[items].min()), int(values[items].max()), items)
        for items in (np.flatnonzero(of_item == part) for part in range(5))
        if len(items)
    ]

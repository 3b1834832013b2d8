"""The survey: what a share of edits would do to scored data, before anything is edited."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.gate.gate import Gate

SHARES = (0.01, 0.02, 0.05, 0.1)
ASSUMED_NOISE = (0.02, 0.05, 0.1)
# Below so much of the noise that was put in, what lies above a threshold tells of the most obvious noise only.
_LEAST_FOUND = 0.3
_DEVIATIONS = 2.0
_LOOKED_AT = 10_000  # numbers of edits


@dataclass(frozen=True)
class KnownNoise:
    """Scores of items that were put in at random.

    Attributes:
        log_odds: quantiles of their noise log-odds, ascending and evenly spaced from the smallest to the largest.
        n_items: how many items there were.
    """

    log_odds: Sequence[float]
    n_items: int

    def above(self, threshold: float | NDArray[np.floating]) -> NDArray[np.float64]:
        """Share of the noise above a threshold, or above each of several."""
        levels = np.linspace(0, 1, len(self.log_odds))
        return np.asarray(1 - np.interp(threshold, self.log_odds, levels, left=0.0, right=1.0))


@dataclass(frozen=True)
class Outlook:
    """What editing a share of the data means.

    Attributes:
        share: of all items.
        edits: how many items that is; fewer where fewer can be edited, or many are equally suspicious.
        threshold: noise log-odds above which they lie.
        right: share of the edited items that are noise, by the share of the data that is; None where no noise was
            put in to measure by.
    """

    share: float
    edits: int
    threshold: float
    right: dict[float, float] | None


class Survey:
    """Noise log-odds of all items of some sequences, in 12 bytes an item and 8 a sequence.

    Args:
        sequences: noise log-odds of each sequence's items, shape (n_items,), NaN for items that nobody could judge.
        gate: says which items could be edited, whatever its threshold: neither protected ones, nor more of a sequence
            than it allows.
        noise: scores of items that were put in; None where there are none.

    Attributes:
        n_items: how many items there are.
        n_judged: how many of them have a score and are not protected.
        n_editable: how many of them could be edited.
    """

    def __init__(self, sequences: Iterable[NDArray[np.floating]], gate: Gate, noise: KnownNoise | None = None) -> None:
        anything = replace(gate, threshold=-math.inf)
        self.n_items = self.n_judged = 0
        # Arrays that grow by their bytes: a small array of numpy's for each sequence takes ten times as much.
        scores, positions, ends = array("f"), array("I"), array("Q")
        for log_odds in sequences:
            self.n_items += len(log_odds)
            self.n_judged += gate.judged(log_odds)
            editable = np.flatnonzero(anything.decide(log_odds))
            if log_odds.dtype == np.float64 and scores.typecode == "f":  # rounded they would not be told apart
                scores = array("d", scores)
            scores.frombytes(log_odds[editable].astype(scores.typecode).tobytes())
            positions.frombytes(editable.astype(np.uint32).tobytes())
            ends.append(len(scores))
        self._scores, self._positions = np.asarray(scores), np.asarray(positions)
        self._ends = np.asarray(ends)  # of the sequences, in these
        self._ascending = np.sort(self._scores)
        self.n_editable = len(scores)
        self.noise = noise

    def threshold(self, share: float) -> float:
        """The threshold above which the most suspicious items lie, as many as a share of all items is.

        Only items that the gate could edit are chosen. Of items that are as suspicious as the threshold none is edited,
        so that the share is never exceeded.

        Args:
            share: of all items, protected ones too; rounded down to whole items.

        Returns:
            Noise log-odds; -inf when fewer items than that could be edited, inf when there is nothing to edit.
        """
        # 0.29 of 100 items is a little less than 29 in floating point.
        edits = math.floor(round(share * self.n_items, 9))
        if edits < self.n_editable:
            return float(self._score_at(np.array([edits]))[0])
        return -math.inf if edits else math.inf

    def edits(self, threshold: float) -> int:
        """How many items a gate with this threshold could edit."""
        return int(self._above(threshold))

    def _above(self, thresholds: float | NDArray[np.floating]) -> NDArray[np.integer]:
        """How many items that could be edited lie above each of these thresholds."""
        return np.asarray(self.n_editable - np.searchsorted(self._ascending, thresholds, side="right"))

    def _score_at(self, ranks: NDArray[np.integer]) -> NDArray[np.floating]:
        """The scores of the items that come after so many others, the most suspicious first."""
        scores: NDArray[np.floating] = self._ascending[self.n_editable - 1 - ranks]
        return scores

    def outlook(self, share: float) -> Outlook:
        """What editing this share means."""
        threshold = self.threshold(share)
        return Outlook(share, self.edits(threshold), threshold, self.right(threshold))

    def right(self, threshold: float) -> dict[float, float] | None:
        """Share of the edits of a gate with this threshold that is right, by the share of the data that is noise.

        If a share q of the items that are judged is noise like that which was put in, and r of such noise lies above
        the threshold, then q * r of them are noise that is edited: so many of the edits are right. Surer edits are
        never right less often: where the samples say otherwise, their figures are pooled (isotonic regression; Barlow
        and others, "Statistical inference under order restrictions", 1972). None where no noise was put in, or nothing
        is edited.
        """
        edits = self.edits(threshold)
        if self.noise is None or not edits:
            return None
        so_many, lifts = self._lifts
        lift = float(lifts[np.searchsorted(so_many, edits)])
        return {noise: min(1.0, noise * lift) for noise in ASSUMED_NOISE}

    @cached_property
    def _lifts(self) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
        """Numbers of edits; and how much more often than a random item one of so many is noise, never rising."""
        assert self.noise is not None
        n = self.n_editable
        ranks = np.unique(np.linspace(1, n, min(n, _LOOKED_AT)).round().astype(np.int64))
        thresholds = np.append(self._score_at(ranks[:-1]), -np.inf)
        edits = self._above(thresholds)
        edits = np.unique(edits[edits > 0])
        thresholds = np.append(self._score_at(edits[edits < n]), [-np.inf] * bool((edits == n).any()))
        return edits, _falling(self.noise.above(thresholds) * self.n_judged / edits, edits)

    def most_noise(self) -> float | None:
        """At most so much of the data is noise like that which was put in; None where none was put in.

        Above every threshold lies at least the noise that the data hold. So the smallest ratio, over thresholds, of
        what lies above it of the data and of the noise that was put in is a bound (Blanchard, Lee and Scott, JMLR 2010,
        section 4). Both are known from samples, and are taken to be two standard deviations off.
        """
        n = self.n_judged
        if self.noise is None or not n:
            return None
        thresholds = np.asarray(self.noise.log_odds)[1:]
        found = self.noise.above(thresholds)
        thresholds, found = thresholds[found >= _LEAST_FOUND], found[found >= _LEAST_FOUND]
        above = self._above(thresholds) / n
        _, most = _interval(above, n)
        least, _ = _interval(found, self.noise.n_items)
        ratios = most[least > 0] / least[least > 0]
        return float(min(1.0, ratios.min())) if len(ratios) else 1.0

    def examples(self, threshold: float, n: int) -> list[tuple[int, int, float]]:
        """Of the items that would be edited the most certain and the least certain ones, half each, most certain first.

        Returns:
            For each the number of its sequence, its position there, and its noise log-odds.
        """
        edits = self.edits(threshold)
        most, least = (edits, 0) if edits <= n else (n - n // 2, n // 2)
        chosen = np.concatenate([self._places(0, most), self._places(edits - least, edits)])
        numbers = np.searchsorted(self._ends, chosen, side="right")
        return [
            (int(number), int(self._positions[place]), float(self._scores[place]))
            for number, place in zip(numbers, chosen, strict=True)
        ]

    def _places(self, first: int, end: int) -> NDArray[np.integer]:
        """Where the items of these ranks are among all, the most suspicious first, and of equal ones the earlier."""
        if first == end:
            return np.empty(0, dtype=np.int64)
        high, low = self._score_at(np.array([first, end - 1]))
        places = np.flatnonzero((self._scores <= high) & (self._scores >= low))
        places = places[np.argsort(-self._scores[places], kind="stable")]
        return places[first - int(self._above(high)) :][: end - first]


def _interval(share: NDArray[np.floating], n: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """What the true share may be where so many of n have something (Wilson, JASA 1927): of none of few, not 0 alone."""
    weight = _DEVIATIONS**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = np.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return centre - half, centre + half


def _falling(values: NDArray[np.float64], weights: NDArray[np.integer]) -> NDArray[np.float64]:
    """The values that never rise and are nearest to these: neighbours that rise are pooled, by their weights."""
    pools: list[tuple[float, float, int]] = []  # weighted sum, weight, how many values
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pool = (value * weight, float(weight), 1)
        while pools and pools[-1][0] / pools[-1][1] <= pool[0] / pool[1]:
            pool = tuple(map(sum, zip(pools.pop(), pool, strict=True)))  # type: ignore[assignment]
        pools.append(pool)
    return np.repeat([total / weight for total, weight, _ in pools], [n for *_, n in pools])

"""The survey: what a share of edits would do to scored data, before anything is edited."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.gate.gate import Gate

SHARES = (0.01, 0.02, 0.05, 0.1)
ASSUMED_NOISE = (0.02, 0.05, 0.1)
# Below so much of the noise that was put in, too little of it lies above a threshold to tell of the data's noise.
_LEAST_FOUND = 0.1


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
    """Noise log-odds of all items of some sequences.

    Args:
        sequences: noise log-odds of each sequence's items, shape (n_items,), NaN for items that nobody could judge.
        gate: says which items could be edited, whatever its threshold: neither protected ones, nor more of a sequence
            than it allows.
        noise_log_odds: quantiles, ascending and evenly spaced, of the noise log-odds of items that were put in.

    Attributes:
        n_items: how many items there are.
    """

    def __init__(
        self, sequences: Iterable[NDArray[np.floating]], gate: Gate, noise_log_odds: Sequence[float] = ()
    ) -> None:
        anything = replace(gate, threshold=-math.inf)
        self.n_items = 0
        scores: list[NDArray[np.floating]] = [np.empty(0, dtype=np.float32)]
        where: list[NDArray[np.int64]] = [np.empty((0, 2), dtype=np.int64)]
        for number, log_odds in enumerate(sequences):
            self.n_items += len(log_odds)
            positions = np.flatnonzero(anything.decide(log_odds))
            scores.append(log_odds[positions])
            where.append(np.column_stack([np.full(len(positions), number), positions]))
        # Stable, so that of equally suspicious items the earlier one comes first.
        flat = np.concatenate(scores)
        order = np.argsort(-flat, kind="stable")
        self._descending = flat[order]
        self._where = np.concatenate(where)[order]
        self._noise = np.asarray(noise_log_odds, dtype=np.float64)

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
        if edits < len(self._descending):
            return float(self._descending[edits])
        return -math.inf if edits else math.inf

    def edits(self, threshold: float) -> int:
        """How many items a gate with this threshold could edit."""
        return int(np.searchsorted(-self._descending, -threshold))

    def found(self, threshold: float) -> float | None:
        """Share of the noise that was put in that lies above a threshold; None where none was put in."""
        if not len(self._noise):
            return None
        return float(1 - np.interp(threshold, self._noise, np.linspace(0, 1, len(self._noise))))

    def outlook(self, share: float) -> Outlook:
        """What editing this share means.

        If a share q of the items that can be edited is noise like that which was put in, and r of such noise lies above
        the threshold, then q * r of them are noise that is edited: so many of the edits are right.
        """
        threshold = self.threshold(share)
        edits, found = self.edits(threshold), self.found(threshold)
        right = None
        if found is not None and edits:
            edited = edits / len(self._descending)
            right = {noise: min(1.0, noise * found / edited) for noise in ASSUMED_NOISE}
        return Outlook(share, edits, threshold, right)

    def most_noise(self) -> float | None:
        """At most so much of the data is noise like that which was put in; None where none was put in.

        Above every threshold lies at least the noise that the data hold. So the smallest ratio, over thresholds, of
        what lies above it of the data and of the noise that was put in is a bound (Blanchard, Lee and Scott, JMLR 2010,
        section 4). Thresholds above which lies little of the noise are left out, for there it is chance.
        """
        if not len(self._noise) or not len(self._descending):
            return None
        levels = np.linspace(0, 1, len(self._noise))
        kept = (levels <= 1 - _LEAST_FOUND) & (levels > 0)
        above = np.searchsorted(-self._descending, -self._noise[kept]) / len(self._descending)
        return float(min(1.0, (above / (1 - levels[kept])).min()))

    def examples(self, threshold: float, n: int) -> list[tuple[int, int, float]]:
        """Of the items that would be edited the most certain and the least certain ones, half each, most certain first.

        Returns:
            For each the number of its sequence, its position there, and its noise log-odds.
        """
        edits = self.edits(threshold)
        chosen = [*range(edits)] if edits <= n else [*range(n - n // 2), *range(edits - n // 2, edits)]
        return [(*map(int, self._where[i]), float(self._descending[i])) for i in chosen]  # type: ignore[misc]


def budget_threshold(sequences: Iterable[NDArray[np.floating]], share: float, *, protect_last: int = 1) -> float:
    """The threshold above which the most suspicious items lie, as many as a share of all items is; see ``Survey``."""
    return Survey(sequences, Gate(-math.inf, protect_last=protect_last)).threshold(share)

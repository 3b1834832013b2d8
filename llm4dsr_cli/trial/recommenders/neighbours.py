"""Neighbouring sequences: what stands near the same items in the sequences that share most with a history.

V-SKNN, "vector multiplication session-based kNN" (Ludewig and Jannach, "Evaluation of session-based recommendation
algorithms", UMUAI 2018, section 3.2), with STAN's weight of a neighbour's items by their distance from the shared one
(Garg et al., "Sequence and time aware neighborhood for session-based recommendations", SIGIR 2019, equation 8).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.trial.recommenders import Validation, Weights


class Neighbours:
    """Sequence k-nearest-neighbours with recency.

    A history's item that is d places before its end weighs exp(-d / recency). A sequence's similarity is the sum of the
    weights of the items that it shares with the history, divided by the square root of its length. Each of the k most
    similar gives its similarity to all of its items, times exp(-distance / spread), where distance is how far the item
    stands from the one that it shares and that the history has had last; all times the interactions' own weights.

    Args:
        k: how many neighbours speak.
        recency, spread: in items.
    """

    name = "neighbours"
    version = 1
    seeded = False

    def __init__(self, k: int = 200, recency: float = 3.0, spread: float = 5.0) -> None:
        self.k = k
        self.recency = recency
        self.spread = spread

    def fit(
        self,
        sequences: Sequence[Indices],
        weights: Sequence[Weights] | None,
        n_items: int,
        seed: int,
        validation: Validation,
    ) -> None:
        """See ``Recommender.fit``."""
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        self._n_items = n_items
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._items = np.concatenate([np.zeros(0, np.int64), *sequences])
        self._weights = (
            np.ones(len(self._items), dtype=np.float32)
            if weights is None
            else np.concatenate([np.zeros(0, np.float32), *weights])
        )
        self._sequence = np.repeat(np.arange(len(lengths)), lengths)
        self._length = np.sqrt(np.maximum(lengths, 1))
        # Where each item stands: of a sequence that has it more than once, the last place counts.
        place = np.arange(len(self._items))
        last = np.ones(len(place), dtype=bool)
        order = np.lexsort((place, self._sequence, self._items))
        same = (np.diff(self._items[order]) == 0) & (np.diff(self._sequence[order]) == 0)
        last[:-1][same] = False
        self._places = order[last]
        self._item_starts = np.searchsorted(self._items[self._places], np.arange(n_items + 1))

    def scores(self, histories: Sequence[Indices]) -> NDArray[np.float32]:
        """See ``Recommender.scores``."""
        found = np.zeros((len(histories), self._n_items), dtype=np.float32)
        for row, history in zip(found, histories, strict=True):
            self._add(row, history)
        return found

    def _add(self, row: NDArray[np.float32], history: Indices) -> None:
        # The different items of a history, the latest first.
        recent = np.array(list(dict.fromkeys(history[::-1].tolist())), dtype=np.int64)
        if not len(recent):
            return
        runs = [self._places[self._item_starts[i] : self._item_starts[i + 1]] for i in recent]
        places = np.concatenate(runs)
        if not len(places):
            return
        lengths = [len(run) for run in runs]
        weight = np.repeat(np.exp(-np.arange(len(recent)) / self.recency), lengths)
        sequence = self._sequence[places]
        # The latest item's places come first, so that the first place of a sequence is the one to measure from.
        near, first, which = np.unique(sequence, return_index=True, return_inverse=True)
        similarity = np.bincount(which, weights=weight * self._weights[places]) / self._length[near]
        if len(near) > self.k:
            # Of equally similar ones the earlier, on every machine.
            chosen = np.sort(np.argsort(-similarity, kind="stable")[: self.k])
            near, first, similarity = near[chosen], first[chosen], similarity[chosen]
        starts, sizes = self._starts[near], self._starts[near + 1] - self._starts[near]
        at = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        distance = np.abs(at - np.repeat(places[first], sizes))
        votes = np.repeat(similarity, sizes) * np.exp(-distance / self.spread) * self._weights[at]
        row += np.bincount(self._items[at], weights=votes, minlength=self._n_items).astype(np.float32)

"""Noise of several kinds in one training: what stands in a sequence by mistake is not always any title at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.finetune.data import Domain
from llm4dsr_cli.gate.counting import word_hashes

# Shares of two kinds in training; what is left is drawn uniformly.
POPULAR, NEAR = 0.15, 0.15
# The nearest of so many random titles is of the item's kind, and rarely its very neighbour.
CANDIDATES = 200


class MixedNoise:
    """Draws titles to replace a domain's items: any title, a popular one, or one of the item's own kind.

    A popular one is drawn by how often it stands in the domain's sequences. One of the item's kind is, of
    ``CANDIDATES`` titles that users have, the one whose words are nearest, by the cosine of their TF-IDF vectors.

    Args:
        popular, near: shares of these kinds.
    """

    def __init__(self, domain: Domain, popular: float = POPULAR, near: float = NEAR) -> None:
        self._popular, self._near_to = popular, popular + near
        self._n_titles = len(domain.titles)
        self._stands = np.concatenate(domain.sequences)
        self._had = np.unique(self._stands)
        words = [word_hashes(title) for title in domain.titles]
        starts = np.cumsum([0, *map(len, words)])
        known, self._word = np.unique(np.array([w for title in words for w in title], np.uint64), return_inverse=True)
        self._starts = starts
        in_titles = np.bincount(self._word, minlength=len(known))
        self._weight = np.log(1 + len(words) / np.maximum(in_titles, 1))
        self._length = np.sqrt(np.add.reduceat(np.append(self._weight[self._word] ** 2, 0), starts[:-1]))

    def __call__(self, item: int, rng: np.random.Generator) -> int:
        kind = rng.random()
        if kind < self._popular:
            return int(rng.choice(self._stands))
        if kind < self._near_to:
            return self._near(item, rng)
        return int(rng.integers(self._n_titles))

    def _near(self, item: int, rng: np.random.Generator) -> int:
        candidates = rng.choice(self._had, CANDIDATES)
        candidates = candidates[candidates != item]
        mine = set(self._words(item).tolist())
        best, cosine = int(rng.choice(self._had)), 0.0
        for other in candidates.tolist():
            shared = [word for word in self._words(other).tolist() if word in mine]
            if shared:
                found = float((self._weight[shared] ** 2).sum() / self._length[other])
                if found > cosine:
                    best, cosine = other, found
        return best

    def _words(self, title: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._word[self._starts[title] : self._starts[title + 1]]
        return found

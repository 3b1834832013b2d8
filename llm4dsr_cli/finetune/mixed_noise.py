"""Noise of several kinds in one training: what stands in a sequence by mistake is not always any title at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.finetune.data import Domain
from llm4dsr_cli.gate.counting import word_hashes

# Shares of the kinds in training; what is left is drawn uniformly.
POPULAR, NEAR, FOREIGN = 0.15, 0.15, 0.1
# Of each other domain so many titles.
FOREIGN_TITLES = 5_000
# The nearest of so many random titles is of the item's kind, and rarely its very neighbour.
CANDIDATES = 200


class MixedNoise:
    """Draws titles to replace a domain's items: any title, a popular one, one of the item's own kind, or a foreign one.

    A popular one is drawn by how often it stands in the domain's sequences. One of the item's kind is, of
    ``CANDIDATES`` titles that users have, the one whose words are nearest, by the cosine of their TF-IDF vectors.

    Args:
        n_foreign: so many of the domain's titles, the last ones, are of other domains.
        popular, near, foreign: shares of these kinds.
    """

    def __init__(
        self,
        domain: Domain,
        n_foreign: int = 0,
        *,
        popular: float = POPULAR,
        near: float = NEAR,
        foreign: float = FOREIGN,
    ) -> None:
        self._shares = np.cumsum([popular, near, foreign if n_foreign else 0.0])
        self._n_titles = len(domain.titles)
        self._n_own = len(domain.titles) - n_foreign
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
        kind = int(np.searchsorted(self._shares, rng.random(), side="right"))
        if kind == 0:
            return int(rng.choice(self._stands))
        if kind == 1:
            return self._near(item, rng)
        return int(rng.integers(self._n_own, self._n_titles) if kind == 2 else rng.integers(self._n_own))

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


def mixed(domains: Sequence[Domain]) -> tuple[list[Domain], list[MixedNoise]]:
    """The domains, each with titles of the others at its end, and how noise for each is drawn."""
    extended, noise = [], []
    for domain in domains:
        own = set(domain.titles)
        foreign: dict[str, None] = {}
        for other in domains:
            if other is not domain:
                chosen = np.random.default_rng(len(own)).permutation(len(other.titles))[:FOREIGN_TITLES]
                foreign.update((other.titles[i], None) for i in np.sort(chosen).tolist() if other.titles[i] not in own)
        extended.append(replace(domain, titles=[*domain.titles, *foreign]))
        noise.append(MixedNoise(extended[-1], len(foreign)))
    return extended, noise

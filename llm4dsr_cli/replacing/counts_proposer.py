"""Proposals by counts: the items that other users have beside those of the sequence, and that are called alike.

A candidate i is worth, as a mean over the sequence's other items j,

    c_ij / (c_j + SHRINKAGE) / (c_i + 1) ** DISCOUNT + TITLE_WEIGHT * cosine(i, j)

where c_ij users have both items, c_i have i, and the cosine is that of the titles' TF-IDF vectors: an item-based
neighbourhood model with its popularity discounted (Deshpande and Karypis, ACM TOIS 22(1), 2004) that knows titles. The
three constants were chosen by left-out items of train files (docs/experiments.md).
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.proposals import Gaps, Proposal
from llm4dsr_cli.titles import folded_title

SHRINKAGE = 10.0
DISCOUNT = 0.3
TITLE_WEIGHT = 0.1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CountsProposer:
    """Proposes the candidates with the best counts; the user whose sequence it is does not count.

    Args:
        evidence: who has what.
    """

    name = "counts"
    score_name = "counts_score"

    def __init__(self, evidence: Evidence, candidates: Candidates) -> None:
        self._evidence = evidence
        self._candidates = candidates
        self._items = evidence.numbers(candidates.titles)
        self._titles = _Titles(evidence, candidates.titles)

    def propose(self, windows: Sequence[Gaps], n: int) -> list[list[Proposal]]:
        """For each window at most ``n`` proposals, best first.

        Each gap is filled by a best candidate beside the items that are there, the ones put into earlier gaps among
        them; the proposals differ in their first.
        """
        return [self._of(window, n) for window in windows]

    def _of(self, window: Gaps, n: int) -> list[Proposal]:
        proposals = []
        first = self._best(list(window.titles), window, set(window.excluded), n)
        for candidate, score in first:
            chosen, scores = [candidate], [score]
            while len(chosen) < window.n_gaps:
                titles = [*window.titles, *(self._candidates.titles[i] for i in chosen)]
                more = self._best(titles, window, {*window.excluded, *chosen}, 1)
                if not more:
                    break
                chosen.append(more[0][0])
                scores.append(more[0][1])
            proposals.append(Proposal(tuple(chosen), tuple(scores)))
        return proposals

    def _best(self, titles: list[str], window: Gaps, excluded: set[int], n: int) -> list[tuple[int, float]]:
        worth = self.worth(titles, window.user)
        worth[list(excluded)] = 0
        best = np.argsort(-worth, kind="stable")[:n]
        return [(int(i), float(worth[i])) for i in best if worth[i] > 0]

    def worth(self, titles: Sequence[str], user: Hashable | None = None) -> Floats:
        """What each candidate is worth beside items of these titles, shape (n_candidates,); 0 = nothing speaks for it.

        Args:
            user: whose sequence it is, left out of the counts; None leaves nobody out.
        """
        different = list(dict.fromkeys(map(folded_title, titles)))
        if not different:
            return np.zeros(len(self._candidates))
        return self._by_counts(different, user) + TITLE_WEIGHT * self._titles.similarity(different)

    def _by_counts(self, titles: list[str], user: Hashable | None) -> Floats:
        evidence = self._evidence
        mine = evidence.held_by(user)
        items = evidence.numbers(titles)
        own = np.isin(items, mine)
        rows, partners = evidence.partner_rows(items, own, mine)
        popularity = np.where(items >= 0, evidence.popularity[items] if evidence.n_titles else 0, 0) - own
        of_partner = evidence.popularity[partners] - np.isin(partners, mine)
        total = (rows / (popularity[:, None] + SHRINKAGE)).sum(axis=0) / len(titles)
        # One more than the items, for the candidates that were never counted.
        worth = np.zeros(evidence.n_titles + 1)
        worth[partners] = total / (of_partner + 1) ** DISCOUNT
        found: Floats = worth[self._items]
        return found


class _Titles:
    """The candidates' titles as TF-IDF vectors, by word."""

    def __init__(self, evidence: Evidence, titles: Sequence[str]) -> None:
        self._evidence = evidence
        self._n = len(titles)
        holders: defaultdict[int, array[int]] = defaultdict(lambda: array("i"))
        weights: defaultdict[int, array[float]] = defaultdict(lambda: array("f"))
        for number, title in enumerate(titles):
            for word, weight in evidence.title_vector(title).items():
                holders[word].append(number)
                weights[word].append(weight)
        self._holders = {word: np.frombuffer(numbers, dtype=np.int32) for word, numbers in holders.items()}
        self._weights = {word: np.frombuffer(values, dtype=np.float32) for word, values in weights.items()}

    def similarity(self, titles: Sequence[str]) -> Floats:
        """Mean cosine of each candidate with these titles, shape (n_candidates,)."""
        result = np.zeros(self._n)
        for title in titles:
            for word, weight in self._evidence.title_vector(title).items():
                if word in self._holders:
                    result[self._holders[word]] += weight * self._weights[word]
        return result / len(titles)

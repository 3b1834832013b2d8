"""Beam search over a trie: which titles of the catalog a model would name next. It knows no model, only its answers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.replacing.generate.trie import Node, Trie


@dataclass(frozen=True, slots=True)
class Beam:
    """A beginning of an answer.

    Attributes:
        rows: the trie's rows of the titles that are whole.
        node: where the title that is not whole yet stands.
        log_probability: of all its tokens, in nats.
        n_tokens: how many these are.
        means: the mean log-probability a token of each whole title.
        behind: the log-probability of the whole titles' tokens.
    """

    rows: tuple[int, ...]
    node: Node
    log_probability: float
    n_tokens: int
    means: tuple[float, ...] = ()
    behind: float = 0.0

    @property
    def mean_log_probability(self) -> float:
        """Log-probability a token, so that long titles are not at a loss."""
        return self.log_probability / max(1, self.n_tokens)


@dataclass(frozen=True, slots=True)
class Extension:
    """A beam that is to be read on: the place of the beam it continues, and the token that continues it."""

    parent: int
    token: int


class BeamSearch:
    """The titles that fill a sequence's gaps, one after another: each beam is an answer to all of them.

    All beams have the same number of tokens, so that a beam's total log-probability decides which go on; whole answers
    compete by their mean. No title is named twice, nor one of the excluded.

    Args:
        trie: of the catalog.
        n_titles: how many titles an answer has.
        width: beams to keep, and answers.
        excluded: rows of the trie that no answer may hold.

    Attributes:
        beams: those that are not whole yet; ``extend`` wants a row of log-probabilities for each.
        answers: the best whole ones, best first.
    """

    def __init__(self, trie: Trie, n_titles: int, width: int, excluded: Collection[int] = ()) -> None:
        self.beams = [Beam((), trie.root, 0.0, 0)]
        self.answers: list[Beam] = []
        self._trie = trie
        self._n_titles = n_titles
        self._width = width
        self._excluded = np.array(sorted(excluded), dtype=np.int64)

    def extend(self, log_probabilities: NDArray[np.float32]) -> list[Extension]:
        """Go on by one token.

        Args:
            log_probabilities: of each token to come next, by beam; shape (n_beams, n_vocab), in nats.

        Returns:
            The new beams, in the order of ``beams``; none when the search is over.
        """
        found: list[tuple[float, int, int, Beam]] = []
        for parent, (beam, row) in enumerate(zip(self.beams, log_probabilities, strict=True)):
            tokens, bounds = self._open_children(beam)
            scores = beam.log_probability + row[tokens].astype(np.float64)
            # Of one beam's children no more than this can be among the best.
            for place in np.argsort(-scores, kind="stable")[: self._width].tolist():
                score, token = float(scores[place]), int(tokens[place])
                node = Node(int(bounds[place, 0]), int(bounds[place, 1]), beam.node.depth + 1)
                found.append((score, parent, token, self._advance(beam, node, score)))
        found.sort(key=lambda candidate: -candidate[0])
        best = found[: self._width]
        whole = [beam for *_, beam in best if len(beam.rows) == self._n_titles]
        self.answers = sorted([*self.answers, *whole], key=lambda beam: -beam.mean_log_probability)[: self._width]
        # With as many answers as wanted, only what is better than the worst of them goes on.
        least = self.answers[-1].mean_log_probability if len(self.answers) == self._width else -np.inf
        going_on = [
            (parent, token, beam)
            for _, parent, token, beam in best
            if len(beam.rows) < self._n_titles and beam.mean_log_probability > least
        ]
        self.beams = [beam for *_, beam in going_on]
        return [Extension(parent, token) for parent, token, _ in going_on]

    def _advance(self, beam: Beam, node: Node, score: float) -> Beam:
        if not self._trie.is_leaf(node):
            return Beam(beam.rows, node, score, beam.n_tokens + 1, beam.means, beam.behind)
        mean = (score - beam.behind) / node.depth
        return Beam((*beam.rows, node.start), self._trie.root, score, beam.n_tokens + 1, (*beam.means, mean), score)

    def _open_children(self, beam: Beam) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Tokens and row ranges, shape (n, 2), of the children that hold a title which may be named."""
        tokens, bounds = self._trie.children(beam.node)
        closed = np.union1d(self._excluded, np.array(beam.rows, dtype=np.int64))
        shut = np.diff(np.searchsorted(closed, bounds))
        still = shut < np.diff(bounds)
        return tokens[still], np.column_stack([bounds[:-1], bounds[1:]])[still]

"""The histogram: the survey of data that several machines have scored a part each, in memory that does not grow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.gate.survey import KnownNoise, Survey
from llm4dsr_cli.scores import Scores, score_of, steps_of


@dataclass(frozen=True)
class ScoreHistogram:
    """How often each score is there among the items that could be edited, in thousandths of log-odds.

    A denoiser's scores are whole thousandths: of them nothing is lost. Scores that are fused with counts are not.

    Attributes:
        steps: int64, ascending, shape (n_steps,): the scores that are there, in thousandths.
        counts: int64, shape (n_steps,): so many items have each.
        n_items: how many items there are, with those that could not be edited.
        n_judged: how many of them have a score and are not protected.
    """

    steps: NDArray[np.int64]
    counts: NDArray[np.int64]
    n_items: int
    n_judged: int

    @classmethod
    def of(cls, sequences: Iterable[NDArray[np.floating]], gate: Gate) -> tuple[ScoreHistogram, Scores]:
        """The histogram of some data, and the scores themselves of the items that could be edited.

        Args:
            sequences, gate: as for ``Survey``.
        """
        anything = replace(gate, threshold=-math.inf)
        found: list[Scores] = [np.empty(0, dtype=np.float32)]
        n_items = n_judged = 0
        for log_odds in sequences:
            n_items += len(log_odds)
            n_judged += gate.judged(log_odds)
            found.append(np.asarray(log_odds, dtype=np.float32)[anything.decide(log_odds)])
        editable = np.concatenate(found)
        steps, counts = np.unique(_steps(editable), return_counts=True)
        return cls(steps, counts.astype(np.int64), n_items, n_judged), editable

    @classmethod
    def merged(cls, parts: Sequence[ScoreHistogram]) -> ScoreHistogram:
        """Of all parts together."""
        steps, place = np.unique(np.concatenate([part.steps for part in parts]), return_inverse=True)
        counts = np.zeros(len(steps), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([part.counts for part in parts]))
        return cls(steps, counts, sum(part.n_items for part in parts), sum(part.n_judged for part in parts))


class MergedSurvey(Survey):
    """A survey of what histograms say.

    Args:
        histogram: of all data.
        noise: as for ``Survey``.
        exact: the scores of all items in the step of one threshold, by the step; where they are fused scores, that
            threshold is exact with them alone, and others are so to a thousandth.
    """

    def __init__(
        self, histogram: ScoreHistogram, noise: KnownNoise | None = None, exact: tuple[int, Scores] | None = None
    ) -> None:
        self.n_items, self.n_judged = histogram.n_items, histogram.n_judged
        self.noise = noise
        scores, counts = score_of(histogram.steps), histogram.counts
        if exact is not None:
            step, those = exact
            other = histogram.steps != step
            scores = np.concatenate([scores[other], those])
            counts = np.concatenate([counts[other], np.ones(len(those), dtype=np.int64)])
        order = np.argsort(-scores, kind="stable")
        self._descending = scores[order]
        self._ranks = np.concatenate([[0], np.cumsum(counts[order])])  # so many items come before each of these
        self.n_editable = int(self._ranks[-1])

    def _above(self, thresholds: float | NDArray[np.floating]) -> NDArray[np.integer]:
        above: NDArray[np.integer] = self._ranks[np.searchsorted(-self._descending, -np.asarray(thresholds))]
        return above

    def _score_at(self, ranks: NDArray[np.integer]) -> NDArray[np.floating]:
        scores: NDArray[np.floating] = self._descending[np.searchsorted(self._ranks, ranks, side="right") - 1]
        return scores

    def step(self, share: float) -> int | None:
        """The step that the threshold for a share is in; None where it is infinite."""
        threshold = self.threshold(share)
        return None if math.isinf(threshold) else int(_steps(np.array([threshold]))[0])

    def examples(self, threshold: float, n: int) -> list[tuple[int, int, float]]:
        """None: a histogram knows no items."""
        return []


def scores_in(step: int, scores: Scores) -> Scores:
    """Those of some scores that are in one step of a histogram."""
    found: Scores = scores[_steps(scores) == step]
    return found


def _steps(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    return steps_of(np.asarray(scores, dtype=np.float64)).astype(np.int64)

"""Scores: the arithmetic of noise log-odds and noise probabilities.

Noise log-odds are kept to three decimals, between -20 and 20. Digits beyond that move with the shape of a llama.cpp
batch and tell nothing of an item, and a rounded score survives as a short text: kept scores gate exactly as fresh ones
do. A probability is written with the fewest decimals that give its rounded log-odds back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError

# Records to a batch, which are scored together: a score depends a little on those beside it, so that runs whose results
# are to be equal need equal batches.
BATCH_RECORDS = 64
_STEPS = 1000  # of log-odds in one unit
_LIMIT = 20

Scores = NDArray[np.float32]


class Scorer(Protocol):
    """What judges items: a denoiser, or what stands in for the one whose scores were kept."""

    @property
    def name(self) -> str | None:
        """The denoiser's name, None where it is not known."""

    @property
    def sha256(self) -> str | None:
        """Hash of the denoiser's file, or the first digits of it; None where it is not known."""

    def threshold(self, false_edit_rate: float) -> float:
        """Noise log-odds above which at most this share of the items that belong lies."""

    def score(self, sequences: Iterable[Sequence[str]]) -> list[Scores]:
        """Noise log-odds of each sequence's items, shape (n_items,)."""

    def description(self) -> dict[str, Any]:
        """Name, hashes and base model, for reports."""


def probability(log_odds: NDArray[np.floating]) -> NDArray[np.float64]:
    """Noise probabilities, 0 to 1, of noise log-odds; same shape."""
    # Beyond 700 a float's exponential overflows, and the probability is 0 or 1 long before.
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(log_odds, dtype=np.float64), -700, 700)))


def rounded_probability(log_odds: float) -> float:
    """The noise probability of one log-odds, to five decimals, as audits and reports write it."""
    return round(float(probability(np.array(log_odds))), 5)


def log_odds_of(probability: float) -> float:
    """The log-odds of a probability given by a user.

    Raises:
        OptionError: it lies outside 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise OptionError(f"`threshold` is {probability:g}", remedy="give a probability between 0 and 1")
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability) - math.log1p(-probability)


def canonical(log_odds: NDArray[np.floating]) -> Scores:
    """Noise log-odds rounded to three decimals and clipped to -20 and 20; same shape. NaN stays."""
    return score_of(steps_of(np.asarray(log_odds, dtype=np.float64)))


def score_of(steps: NDArray[np.floating] | NDArray[np.integer]) -> Scores:
    """Canonical log-odds of so many thousandths; same shape."""
    return (steps / _STEPS).astype(np.float32)


def steps_of(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thousandths of canonical log-odds, as whole numbers; same shape: there is no negative zero among them."""
    steps: NDArray[np.float64] = np.rint(np.clip(log_odds, -_LIMIT, _LIMIT) * _STEPS) + 0.0
    return steps


def shortest_probabilities(log_odds: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities with the fewest decimals from which ``log_odds_from`` gives the canonical log-odds; same shape.

    NaN, for an item that nobody judged, stays; orjson writes it as null.
    """
    steps = steps_of(np.asarray(log_odds, dtype=np.float64))
    shortest = np.full(steps.shape, np.nan)
    known = ~np.isnan(steps)
    shortest[known] = _table()[(steps[known] + _LIMIT * _STEPS).astype(np.int64)]
    return shortest


def log_odds_from(probabilities: NDArray[np.float64]) -> Scores:
    """Canonical noise log-odds of probabilities between 0 and 1; same shape."""
    return canonical(_logit(probabilities))


def _logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # 0 and 1, which a person may have written, are clipped afterwards
        return np.log(probabilities) - np.log1p(-probabilities)


@cache
def _table() -> NDArray[np.float64]:
    """Shortest probability of every canonical score, from the smallest to the largest."""
    wanted = np.arange(-_LIMIT * _STEPS, _LIMIT * _STEPS + 1)
    exact = 1 / (1 + np.exp(-wanted / _STEPS))
    table = np.full(len(wanted), np.nan)
    missing = np.ones(len(wanted), dtype=bool)
    decimals = 0
    while missing.any():
        decimals += 1
        short = np.round(exact[missing], decimals)
        # A little less than half a step, so that another machine's logarithm reads the same.
        fits = np.abs(_logit(short) * _STEPS - wanted[missing]) < 0.5 - 1e-6
        found = np.flatnonzero(missing)[fits]
        table[found] = short[fits]
        missing[found] = False
    return table

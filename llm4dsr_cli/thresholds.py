"""Thresholds: what share of the items that belong lies above which noise log-odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import ModelError, OptionError


@dataclass(frozen=True)
class ThresholdCurve:
    """What share of the items that belong lies above which noise log-odds; from windows that training did not see.

    Attributes:
        rates: false-edit rates between 0 and 1, ascending, shape (n,).
        log_odds: at most the share ``rates[i]`` of the items that belong scored above ``log_odds[i]``; shape (n,).
        n_items: how many items that belong were scored.
    """

    rates: NDArray[np.float32]
    log_odds: NDArray[np.float32]
    n_items: int

    def __post_init__(self) -> None:
        """Raises ValueError for what is no threshold curve: a file may come from a stranger."""
        rates, log_odds = self.rates, self.log_odds
        if rates.ndim != 1 or rates.shape != log_odds.shape or {rates.dtype.kind, log_odds.dtype.kind} != {"f"}:
            raise ValueError("a threshold curve without a log-odds for each rate")
        if not ((rates > 0) & (rates < 1)).all() or (rates[1:] <= rates[:-1]).any():
            raise ValueError("a threshold curve whose rates do not ascend between 0 and 1")
        if not np.isfinite(log_odds).all() or (log_odds[1:] > log_odds[:-1]).any():
            raise ValueError("a threshold curve whose log-odds rise or are not finite")
        if type(self.n_items) is not int or self.n_items < 0:
            raise ValueError("a threshold curve of no number of items")

    @classmethod
    def fit(cls, belonging: NDArray[np.floating[Any]], users: NDArray[np.integer[Any]] | None = None) -> ThresholdCurve:
        """From the noise log-odds of items that belong, shape (n_items,), and whose items they are.

        The threshold for a rate is the hierarchical conformal quantile (Lee, Barber and Willett, arXiv 2306.06342):
        every user weighs the same, shared among the user's items, and one user's weight more is put at infinity. A
        random item of a new user, exchangeable with these, exceeds it with at most that probability, however alike the
        items of one user are. With an item a user, and when ``users`` is None, that is the ceil((n + 1)(1 - rate))-th
        smallest score (Angelopoulos and Bates, arXiv 2107.07511, section 1). Rates too small for the users are left
        out.
        """
        scores = np.asarray(belonging, dtype=np.float32)
        owner = np.arange(len(scores)) if users is None else np.unique(users, return_inverse=True)[1]
        items_of = np.bincount(owner)
        order = np.argsort(scores, kind="stable")
        below = np.cumsum(1 / items_of[owner[order]]) if len(scores) else np.zeros(0)
        wanted = np.unique(np.concatenate([np.geomspace(0.0005, 0.5, 120), [0.001, 0.005, 0.01, 0.02, 0.05, 0.1]]))
        # A little less, since the sum of weights is not exact.
        rank = np.searchsorted(below, (len(items_of) + 1) * (1 - wanted) - 1e-6)
        kept = rank < len(scores)
        return cls(wanted[kept].astype(np.float32), scores[order][rank[kept]], len(scores))

    def promised(self, rate: float) -> float:
        """The rate, or the lowest that the calibration promises if that is higher."""
        return max(rate, float(self.rates[0])) if len(self.rates) else rate

    def threshold(self, rate: float) -> float:
        """The noise log-odds above which at most the share ``rate`` of the items that belong lies.

        Raises:
            ModelError: the calibration is too small to promise so low a rate.
        """
        usable = np.flatnonzero(self.rates <= rate * (1 + 1e-6))
        if not len(usable):
            raise ModelError(
                f"its calibration on {self.n_items} items cannot promise a false-edit rate of {rate:g}",
                remedy="give a higher rate, or `threshold`, or calibrate on more sequences",
            )
        return float(self.log_odds[usable[-1]])


def check_rate(false_edit_rate: float) -> None:
    """Raises OptionError unless a false-edit rate lies between 0 and 1."""
    if not 0 < false_edit_rate < 1:
        raise OptionError(f"`false_edit_rate` is {false_edit_rate:g}", remedy="give a share between 0 and 1")

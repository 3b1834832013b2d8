"""The gate: noise log-odds in, edits out. It knows scores and positions, and no model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError


@dataclass(frozen=True)
class Gate:
    """Lets only confident judgements through.

    Attributes:
        threshold: noise log-odds above which an item is edited.
        max_edits: at most so many edits a sequence: a number of items when 1 or more, a share of the sequence's
            items (rounded down) when below 1; None sets no limit. The most suspicious items are edited first.
        protect_last: so many items at a sequence's end are never edited; the recommender's target is there.

    Raises:
        OptionError: an attribute is out of range.
    """

    threshold: float
    max_edits: float | None = None
    protect_last: int = 1

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise OptionError("`threshold` is not a number", remedy="give a probability between 0 and 1")
        if self.max_edits is not None and not (
            0 <= self.max_edits < 1 or (self.max_edits >= 1 and float(self.max_edits).is_integer())
        ):
            raise OptionError(
                f"`max_edits` is {self.max_edits:g}", remedy="give a whole number of items, or a share of them below 1"
            )
        if self.protect_last < 0:
            raise OptionError(f"`protect_last` is {self.protect_last}", remedy="give 0 or more")

    def judged(self, log_odds: NDArray[np.floating]) -> int:
        """How many items of a sequence have a score and are not protected."""
        return int((~np.isnan(log_odds[: max(0, len(log_odds) - self.protect_last)])).sum())

    def decide(self, log_odds: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which items of a sequence to edit.

        At least one item is always kept: of a sequence that is suspicious throughout, the least suspicious one.

        Args:
            log_odds: noise log-odds, shape (n_items,); NaN for an item that nobody could judge, which is never edited.

        Returns:
            bool array of the same shape, True = edit.
        """
        n = len(log_odds)
        edits = np.asarray(log_odds) > self.threshold
        edits[max(0, n - self.protect_last) :] = False
        # One that was judged stays: alone beside others that were not, it says nothing of itself.
        allowed = max(0, n - 1 - int(np.isnan(log_odds).sum()))
        if self.max_edits is not None:
            allowed = min(allowed, int(self.max_edits if self.max_edits >= 1 else round(self.max_edits * n, 9)))
        flagged = np.flatnonzero(edits)
        if len(flagged) > allowed:
            # Stable, so that of equally suspicious items the earlier one is edited.
            by_suspicion = flagged[np.argsort(-np.asarray(log_odds)[flagged], kind="stable")]
            edits[by_suspicion[allowed:]] = False
        return edits

"""The decision: what is to become of each item of a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.records.edits import Action
from llm4dsr_cli.replacing.replacer import Replacement
from llm4dsr_cli.scores import Scores, probability

Fallback = Literal["drop", "keep"]


@dataclass(frozen=True, eq=False)
class Decision:
    """What is to become of each item of one sequence. Positions count from 0; arrays have the shape (n_items,).

    Attributes:
        log_odds: noise log-odds that the gate judged by, float32; fused with counts where a gate file fuses. NaN for an
            item that nobody could judge, which stays.
        flagged: whether the gate wants the item edited.
        action: what is done with flagged items: "drop", "mark", or "replace".
        fallback: what "replace" does with a flagged item that gets no replacement: "drop" or "keep".
        threshold: noise log-odds above which the gate flags an item.
        proposals: for "replace", what was proposed for flagged items, by position; refused proposals too.
    """

    log_odds: Scores
    flagged: NDArray[np.bool_]
    action: Action
    fallback: Fallback
    threshold: float
    proposals: Mapping[int, Replacement]

    @property
    def replacements(self) -> dict[int, Replacement]:
        """What takes an item's place, by position."""
        return {position: proposal for position, proposal in self.proposals.items() if proposal.accepted}

    @property
    def keep(self) -> NDArray[np.bool_]:
        """Whether the item's place stays, with the item or with what replaces it; False where it is dropped."""
        if self.action == "mark" or (self.action == "replace" and self.fallback == "keep"):
            return np.ones(len(self.flagged), dtype=bool)
        kept = ~self.flagged
        kept[list(self.replacements)] = True
        return kept

    @property
    def noise_probability(self) -> NDArray[np.float64]:
        """The items' noise probabilities, 0 to 1, NaN where nobody could judge."""
        return probability(self.log_odds)

    def placed(self, places: Sequence[int], n: int) -> Decision:
        """The decision over ``n`` positions, of which these items have those of ``places``; the others are left.

        So a record's padding comes back, and its order.
        """
        at = list(places)
        if at == list(range(n)):
            return self
        log_odds, flagged = np.full(n, np.nan, dtype=np.float32), np.zeros(n, dtype=np.bool_)
        log_odds[at], flagged[at] = self.log_odds, self.flagged
        proposals = {at[position]: proposal for position, proposal in self.proposals.items()}
        return replace(self, log_odds=log_odds, flagged=flagged, proposals=proposals)

"""Coverage: how many of a run's items a gate has counted. A gate of other data keeps no promise."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.gate.counting import LONGEST_HISTORY
from llm4dsr_cli.gate.evidence import Evidence

# A run is warned below the one share, and refused below the other; so many items have to be seen for either.
WARN_BELOW = 0.5
REFUSE_BELOW = 0.02
ENOUGH_ITEMS = 200
FEW_ITEMS = 20


class Coverage:
    """Counts the items that went through a gate, and those among them that the gate has counted.

    Threads may share one.

    Attributes:
        items: how many items there were, repeated ones each time.
        known: how many of them the gate has counted, known by their titles.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._lock = threading.Lock()
        self.items = 0
        self.known = 0

    def add(self, sequences: Sequence[Sequence[str]]) -> None:
        """Count the items of some sequences; of a long one the last LONGEST_HISTORY, as the gate has counted no more.

        Raises:
            ModelError: many items were seen, and the gate has counted next to none of them.
        """
        last = [titles[-LONGEST_HISTORY:] for titles in sequences]
        known = sum(int(np.count_nonzero(self._evidence.numbers(titles) >= 0)) for titles in last)
        with self._lock:
            self.items += sum(map(len, last))
            self.known += known
        self.check(ENOUGH_ITEMS)

    def merge(self, items: int, known: int) -> None:
        """Add the items that another process has seen."""
        with self._lock:
            self.items += items
            self.known += known

    @property
    def share(self) -> float | None:
        """Share of the items that the gate has counted; None before the first item."""
        return self.known / self.items if self.items else None

    def check(self, least: int = FEW_ITEMS) -> None:
        """Raises ModelError when at least so many items were seen, and the gate has counted next to none of them."""
        if self.items >= least and self.known < REFUSE_BELOW * self.items:
            raise ModelError(
                f"this gate is of other data: it has counted {self.known:,} of the {self.items:,} items seen so far",
                where="`gate`",
                remedy="give the `catalog` that has their titles, or calibrate on them with `llm4dsr calibrate`",
            )

    def warning(self) -> str | None:
        """One sentence where the gate has counted less than half of the items, else None."""
        if self.items < FEW_ITEMS or self.known >= WARN_BELOW * self.items:
            return None
        return (
            f"the gate has counted only {self.known / self.items:.0%} of these items: its rates are of other data; "
            "calibrate on these data with `llm4dsr calibrate`"
        )

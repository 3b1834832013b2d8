"""Proposals: what could stand in the place of a sequence's flagged items."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Gaps:
    """A window whose flagged items are taken out.

    Attributes:
        titles: those of the others, oldest first; what is proposed has to go with them.
        n_gaps: how many items were taken out, at least one.
        excluded: candidates that may not be proposed: those of the sequence, flagged or not, and those whose ids are of
            another kind than the sequence's.
        user: whose sequence it is; None if that is not known.
    """

    titles: Sequence[str]
    n_gaps: int
    excluded: frozenset[int]
    user: Hashable | None = None


@dataclass(frozen=True)
class Proposal:
    """A candidate for every gap, in order, no two the same.

    Attributes:
        candidates: their numbers, at most as many as there are gaps: a proposer may run out of items.
        scores: how good each is to its proposer, higher = better; what the figures are is its own.
    """

    candidates: tuple[int, ...]
    scores: tuple[float, ...]


class Proposer(Protocol):
    """What all proposers have in common: a name, one for what their scores are, and how to ask them."""

    name: str
    score_name: str

    def propose(self, windows: Sequence[Gaps], n: int) -> list[list[Proposal]]:
        """For each window at most ``n`` proposals, best first."""

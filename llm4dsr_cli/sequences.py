"""Sequences of items, as all of the package hands them on: no bytes, no JSON, no paths."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from llm4dsr_cli.scores import Scores

ItemId = int | str


@dataclass(frozen=True, slots=True, eq=False)
class ItemSequence:
    """One user's items, oldest first.

    Attributes:
        titles: of the items.
        user: whose sequence it is. All counts are taken without that user. None for a sequence that names nobody: it
            is of a user of its own, who is known by its titles.
        ids: of the items, as the data have them; None for an item without one. Left out, no item has one.
        log_odds: noise log-odds that were kept, float32, shape (n_items,); None if a denoiser has yet to give them.

    Raises:
        ValueError: ids or log-odds are not as many as the titles.
    """

    titles: Sequence[str]
    user: Hashable | None = None
    ids: Sequence[ItemId | None] = ()
    log_odds: Scores | None = None

    def __post_init__(self) -> None:
        if not len(self.ids):
            object.__setattr__(self, "ids", [None] * len(self.titles))
        if len(self.ids) != len(self.titles):
            raise ValueError(f"{len(self.ids)} ids for {len(self.titles)} titles")
        if self.log_odds is not None and len(self.log_odds) != len(self.titles):
            raise ValueError(f"{len(self.log_odds)} log-odds for {len(self.titles)} titles")

    @property
    def owner(self) -> Hashable:
        """The user; of a sequence that names nobody, its titles."""
        return tuple(self.titles) if self.user is None else self.user

    def altered(self, titles: Sequence[str]) -> ItemSequence:
        """The same user's sequence with other titles, which nobody has judged yet."""
        return replace(self, titles=titles, user=self.owner, log_odds=None)

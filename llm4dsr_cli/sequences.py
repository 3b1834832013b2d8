"""Sequences of items, as all of the package hands them on: no bytes, no JSON, no paths."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.titles import clean_title

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


@dataclass(frozen=True)
class IndexedSequences:
    """Sequences by the numbers of their titles: items with the same title are the same item.

    Attributes:
        titles: the different titles, clean: the catalog's first, then those that only the sequences have, as they came.
        sequences: title numbers of each, oldest first; int64, shape (n_items,).
        users: whose each of them is.
        n_catalog: how many of the titles are the catalog's.
    """

    titles: list[str]
    sequences: list[Indices]
    users: list[Hashable]
    n_catalog: int

    @classmethod
    def build(
        cls, sequences: Iterable[tuple[Hashable, Iterable[str]]], catalog: Iterable[str] = ()
    ) -> IndexedSequences:
        """From (user, titles, oldest first) pairs and a catalog's titles."""
        number: dict[str, int] = {}
        for title in catalog:
            number.setdefault(clean_title(title), len(number))
        n_catalog = len(number)
        rows: list[Indices] = []
        users: list[Hashable] = []
        for user, titles in sequences:
            items = [number.setdefault(clean_title(title), len(number)) for title in titles]
            rows.append(np.array(items, dtype=np.int64))
            users.append(user)
        return cls(list(number), rows, users, n_catalog)

"""Sequences of items, as all of the package hands them on: no bytes, no JSON, no paths."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.scores import Scores
from llm4dsr_cli.titles import clean_title

ItemId = int | float | str


@dataclass(frozen=True, slots=True, eq=False)
class ItemSequence:
    """One user's items, oldest first.

    Attributes:
        titles: of the items; None for one without, which nobody can judge.
        user: whose sequence it is. All counts are taken without that user. None for a sequence that names nobody: it
            is of a user of its own, who is known by its titles.
        ids: of the items, as the data have them; None for an item without one. Left out, no item has one.
        log_odds: noise log-odds that were kept, float32, shape (n_items,), NaN for an item that nobody judged; None if
            a denoiser has yet to give them.
        unjudged_ids: of further items of the user that nobody can judge; no item of theirs is proposed.

    Raises:
        ValueError: ids or log-odds are not as many as the titles.
    """

    titles: Sequence[str | None]
    user: Hashable | None = None
    ids: Sequence[ItemId | None] = ()
    log_odds: Scores | None = None
    unjudged_ids: Sequence[ItemId] = ()

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
        if self.user is not None:
            return self.user
        return tuple(title for title in self.titles if title is not None)

    @property
    def judged(self) -> Indices:
        """Positions of the items that can be judged: those with a title, and with a score where scores were kept."""
        found = np.array([title is not None for title in self.titles], dtype=bool)
        if self.log_odds is not None:
            found &= ~np.isnan(self.log_odds)
        return np.flatnonzero(found)

    def judgeable(self) -> JudgeableSequence:
        """The sequence without the items that nobody can judge."""
        judged = self.judged.tolist()
        if len(judged) == len(self.titles):
            titles = cast("Sequence[str]", self.titles)
            return JudgeableSequence(titles, self.owner, self.ids, self.log_odds, self.unjudged_ids)
        others = sorted(set(range(len(self.titles))).difference(judged))
        return JudgeableSequence(
            [title for i in judged if (title := self.titles[i]) is not None],
            self.owner,
            [self.ids[i] for i in judged],
            None if self.log_odds is None else self.log_odds[judged],
            [*self.unjudged_ids, *(id_ for i in others if (id_ := self.ids[i]) is not None)],
        )

    def altered(self, titles: Sequence[str]) -> JudgeableSequence:
        """The same user's sequence with other titles, which nobody has judged yet."""
        return JudgeableSequence(titles, self.owner, self.ids, None, self.unjudged_ids)


@dataclass(frozen=True, slots=True, eq=False)
class JudgeableSequence(ItemSequence):
    """A sequence of which every item can be judged."""

    titles: Sequence[str]


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

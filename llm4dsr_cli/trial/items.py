"""Items by number, as recommenders know them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.sequences import ItemId, ItemSequence
from llm4dsr_cli.titles import folded_title


class Items:
    """Numbers the different items of the data: by their id, or by their title where they have no id.

    Attributes:
        titles, ids: of each item, as they first came.
    """

    def __init__(self) -> None:
        self.titles: list[str | None] = []
        self.ids: list[ItemId | None] = []
        self._by_id: dict[str, int] = {}
        self._by_title: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.titles)

    def add(self, id_: ItemId | None, title: str | None) -> int:
        """The number of an item, which is taken in where it is new."""
        found = self.number(id_, title)
        if found is not None:
            return found
        number = len(self.titles)
        self.titles.append(title)
        self.ids.append(id_)
        if id_ is not None:
            self._by_id[str(id_)] = number
        if title is not None:
            self._by_title.setdefault(folded_title(title), number)
        return number

    def number(self, id_: ItemId | None, title: str | None) -> int | None:
        """The number of an item of this id, or, of one without id, of this title; None where there is none."""
        if id_ is not None:
            return self._by_id.get(str(id_))
        return None if title is None else self._by_title.get(folded_title(title))

    def placed(self, id_: ItemId | None, title: str) -> int:
        """The number of an item that was put in another's place: one of the data, known by its id or by its title.

        Raises:
            KeyError: the data have no such item.
        """
        found = self.number(id_, title)
        return self._by_title[folded_title(title)] if found is None else found

    def sequence(self, numbers: Indices, user: Hashable) -> ItemSequence:
        """A user's items as cleaning takes them."""
        return ItemSequence([self.titles[i] for i in numbers], user, [self.ids[i] for i in numbers])


@dataclass(frozen=True)
class Histories:
    """One history for each user, oldest item first.

    Attributes:
        items: what the numbers stand for.
        users: whose history it is, as text; None for sequences that name nobody.
        sequences: item numbers, int64, shape (n_items,).
        times: of each interaction, float64, shape (n_items,); None where the records have none.
    """

    items: Items
    users: list[Hashable]
    sequences: list[Indices]
    times: list[np.ndarray[tuple[int], np.dtype[np.float64]]] | None = None

    @classmethod
    def of(cls, sequences: Iterable[ItemSequence], times: Sequence[Sequence[float]] | None = None) -> Histories:
        """The sequences of a user joined to one, its different items in the order in which they first came.

        Overlapping windows of a user would show the recommender in one window what it has to guess in another. A user
        with a single sequence keeps all of it, repeated items too.

        Args:
            times: of the items of each sequence, as many as there are items.
        """
        items = Items()
        own: dict[Hashable, list[tuple[list[int], Sequence[float]]]] = {}
        for number, sequence in enumerate(sequences):
            numbers = [items.add(id_, title) for id_, title in zip(sequence.ids, sequence.titles, strict=True)]
            key = ("nobody", number) if sequence.user is None else sequence.user
            own.setdefault(key, []).append((numbers, [] if times is None else times[number]))
        rows, clocks = [], []
        for parts in own.values():
            joined, clock = parts[0]
            if len(parts) > 1:
                first = dict.fromkeys(item for numbers, _ in parts for item in numbers)
                joined = list(first)
                when = {item: t for numbers, ts in reversed(parts) for item, t in zip(numbers, ts, strict=False)}
                clock = [when[item] for item in joined] if times is not None else []
            rows.append(np.array(joined, dtype=np.int64))
            clocks.append(np.array(clock, dtype=np.float64))
        return cls(items, list(own), rows, None if times is None else clocks)

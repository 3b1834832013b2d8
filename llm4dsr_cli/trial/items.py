"""Items by number, as recommenders know them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.noise import Indices
from llm4dsr_cli.sequences import ItemId, ItemSequence
from llm4dsr_cli.titles import folded_title

# Windows that share fewer items at their ends share them by chance.
MIN_OVERLAP = 2


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

    def add_catalog(self, catalog: Iterable[tuple[ItemId | None, str | None]]) -> None:
        """Take in what may be put in the place of an item: the (id, title) pairs of a catalog that have a title.

        Where no item of the data has an id, a catalog's items are known by their titles.
        """
        nameless = not self._by_id
        for id_, title in catalog:
            if title is not None:
                self.add(None if nameless else id_, title)

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


Interaction = tuple[int, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Histories:
    """One history for each user, oldest item first.

    Attributes:
        items: what the numbers stand for.
        users: whose history it is; of sequences that name nobody, something that no other has.
        sequences: item numbers, int64, shape (n_items,).
        times: of each interaction, shape (n_items,); None where the records have none.
    """

    items: Items
    users: list[Hashable]
    sequences: list[Indices]
    times: list[NDArray[np.float64]] | None = None

    @classmethod
    def of(cls, sequences: Iterable[ItemSequence], times: Sequence[float | Sequence[float]] | None = None) -> Histories:
        """The sequences of a user are joined to one.

        Overlapping windows of a user would show a recommender in one window what it has to guess in another. Where a
        window ends with the items that another begins with, at least MIN_OVERLAP of them, or holds it whole, they are
        one history; what does not overlap is put one after the other, in order of time where there are times, else as
        it comes.

        Args:
            times: for each sequence the time of each of its items, or one time for all of them, which orders a user's
                sequences. Of these a later one that repeats what an earlier one holds is a session of its own.
        """
        items = Items()
        own: dict[Hashable, list[tuple[float, list[Interaction]]]] = {}
        timed = times is not None and not any(isinstance(time, (int, float)) for time in times)
        for number, sequence in enumerate(sequences):
            numbers = [items.add(id_, title) for id_, title in zip(sequence.ids, sequence.titles, strict=True)]
            time = 0.0 if times is None else times[number]
            clock = [0.0] * len(numbers) if isinstance(time, (int, float)) else list(time)
            begins = float(time) if isinstance(time, (int, float)) else clock[0] if clock else 0.0
            key: Hashable = ("nobody", number) if sequence.user is None else sequence.user
            own.setdefault(key, []).append((begins, list(zip(numbers, clock, strict=True))))
        sessions = times is not None and not timed
        whole = [_history(sorted(parts, key=lambda part: part[0]), sessions) for parts in own.values()]
        return cls(
            items,
            list(own),
            [np.array([item for item, _ in history], dtype=np.int64) for history in whole],
            [np.array([time for _, time in history], dtype=np.float64) for history in whole] if timed else None,
        )


def _history(parts: list[tuple[float, list[Interaction]]], sessions: bool) -> list[Interaction]:
    """A user's parts, in order of their times, as one."""
    windows = [window for _, window in parts]
    if sessions and len({time for time, _ in parts}) == len(parts):
        return joined(windows, sessions=True)
    return joined(windows)


def joined(windows: list[list[T]], *, sessions: bool = False) -> list[T]:
    """One history of a user's windows, which may overlap: see ``Histories.of``.

    Args:
        sessions: a window that another holds whole stays, unless that one begins with it and goes on.
    """
    pieces: list[list[T]] = []
    for window in windows:
        merged, others, at = window, [], None
        for piece in pieces:
            both = _merged(piece, merged, sessions)
            if both is None:
                others.append(piece)
            else:
                merged, at = both, len(others) if at is None else at
        # A window that joins two pieces stands where the first of them stood, one that joins none at the end.
        at = len(others) if at is None else at
        pieces = [*others[:at], merged, *others[at:]]
    return [one for piece in pieces for one in piece]


def _merged(one: list[T], other: list[T], sessions: bool) -> list[T] | None:
    """Two windows as one, where one ends as the other begins or holds it whole; None where they do not overlap."""
    for long, short in ((one, other), (other, one)):
        if len(short) < MIN_OVERLAP:
            continue
        places = range(min(1, len(long) - len(short)) if sessions else len(long) - len(short) + 1)
        if any(long[at : at + len(short)] == short for at in places):
            return long
    for size in range(min(len(one), len(other)) - 1, MIN_OVERLAP - 1, -1):
        if one[-size:] == other[:size]:
            return one + other[size:]
        if other[-size:] == one[:size]:
            return other + one[size:]
    return None

"""Pairs of items: how many users have both, a row of partners at a time.

The table of all pairs grows with the square of the histories' length, and hardly any of it is asked for. So a row is
made when it is asked for, from the histories of the users who have the item, found by an inverted index (Zobel and
Moffat, ACM Computing Surveys 38(2), 2006). The rows of the most popular items, which take longest and are asked for
most often, are kept.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

# At most so many bytes of rows are kept.
KEPT_BYTES = 256_000_000
# So many items of histories are counted at a time: as many as stay in a processor's cache.
_AT_ONCE = 250_000
# For less work than this OpenBLAS takes one thread. More of them would wait for one another, busily.
_ONE_THREAD = 2**18

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Numbers = NDArray[np.int32]
# Partners and the users who have both; None stands for all items.
_Row = tuple[Numbers | None, NDArray[np.unsignedinteger]]


class PairCounts:
    """Users who have both items of a pair.

    Popularity alone decides which rows are kept: none is ever thrown out, and threads need no lock, for two of them
    that make a row at once make the same.

    Args:
        starts: int64, shape (n_users + 1,): user u's items are ``held[starts[u]:starts[u + 1]]``.
        held: item numbers, different within a user.
        popularity: users who have the item, shape (n_items,).
    """

    def __init__(self, starts: Ints, held: Numbers, popularity: Ints) -> None:
        n_items = len(popularity)
        lengths = np.diff(starts)
        self._n_items = n_items
        self._starts = starts
        self._held = held
        # numpy sorts integers of 16 bits in linear time.
        by_item = np.argsort(held.astype(np.min_scalar_type(n_items)), kind="stable")
        self._owners = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[by_item]
        self._owned = np.concatenate([[0], np.cumsum(popularity)])
        # Items beside each one in its users' histories: as many partners at most.
        self._beside = np.bincount(held, np.repeat(lengths - 1, lengths), minlength=n_items).astype(np.int64)
        size = 2 ** np.searchsorted([2**8, 2**16], popularity, side="right")
        bytes_at_most = np.minimum(n_items * size, self._beside * (4 + size))
        popular = np.argsort(-popularity, kind="stable")
        self._may_keep = np.zeros(n_items, dtype=bool)
        self._may_keep[popular[np.cumsum(bytes_at_most[popular]) <= KEPT_BYTES]] = True
        self._kept: dict[int, _Row] = {}

    def owners(self, item: int) -> Numbers:
        """Numbers of the users who have an item, ascending."""
        return self._owners[self._owned[item] : self._owned[item + 1]]

    def rows(self, items: Ints) -> tuple[Numbers, Ints]:
        """Users who have a partner beside each item, shape (len(items), n_columns), and the columns' item numbers.

        The numbers ascend. Where partners are many there is a column for every item, whether it is one or not.

        Args:
            items: item numbers; -1, one that was never counted, has no partners.
        """
        rows = [self._row(item) for item in items.tolist()]
        place: Ints | None = None
        if any(partners is None for partners, _ in rows):
            columns = np.arange(self._n_items)
        else:
            seen = np.zeros(self._n_items, dtype=bool)
            for partners, _ in rows:
                seen[partners] = True
            columns = np.flatnonzero(seen)
            place = np.empty(self._n_items, dtype=np.int64)
            place[columns] = np.arange(len(columns))
        table = np.zeros((len(rows), len(columns)), dtype=np.int32)
        for row, (partners, counts) in zip(table, rows, strict=True):
            if partners is None:
                row[:] = counts
            else:
                row[partners.astype(np.int64) if place is None else place[partners]] = counts.astype(np.int32)
        return table, columns

    def _row(self, item: int) -> _Row:
        if item < 0:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint8)
        row = self._kept.get(item)
        if row is None:
            row = self._make_row(item)
            if self._may_keep[item]:
                self._kept[item] = row
        return row

    def _make_row(self, item: int) -> _Row:
        users = self.owners(item)
        narrow = np.min_scalar_type(len(users))
        # To sort a few is faster than to look at all items.
        if self._beside[item] < self._n_items // 6:
            partners, counts = np.unique(self._histories(users), return_counts=True)
            others = partners != item
            return partners[others], counts[others].astype(narrow)
        parts = np.array_split(users, 1 + self._beside[item] // max(self._n_items, _AT_ONCE))
        counted = (np.bincount(self._histories(part), minlength=self._n_items) for part in parts)
        everyone: Ints = reduce(np.add, counted)
        everyone[item] = 0
        if self._n_items * narrow.itemsize <= np.count_nonzero(everyone) * (4 + narrow.itemsize):
            return None, everyone.astype(narrow)
        partners = np.flatnonzero(everyone).astype(np.int32)
        return partners, everyone[partners].astype(narrow)

    def _histories(self, users: Numbers) -> Numbers:
        """The items of these users, one user after the other."""
        starts = self._starts[users]
        lengths = self._starts[users + 1] - starts
        ends = np.cumsum(lengths)
        found: Numbers = self._held[np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)]
        return found


def products(rows: Numbers, weights: Ints | None = None) -> Floats:
    """Scalar product of each two rows, shape (len(rows), len(rows)); exact below 2**53.

    Args:
        weights: whole numbers that the columns weigh, shape (n_columns,); None is 1 for all.
    """
    n = len(rows)
    result = np.zeros((n, n))
    width = max(32, _ONE_THREAD // max(1, n * (n + 1)))
    for first in range(0, rows.shape[1], width):
        part = rows[:, first : first + width].astype(np.float64)
        weighed = part if weights is None else part * weights[first : first + width]
        result += weighed @ part.T
    return result

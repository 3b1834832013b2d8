"""Collaborative evidence: what other users' sequences say of an item beside its neighbours, counted once and kept.

The counts are of users, not of sequences: a user's overlapping windows repeat the same items and would vouch for their
own noise. What is kept is each user's set of items, from which every count follows, so that a user whose sequence is
judged can be left out of the counts exactly (leave-one-out): no item vouches for itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.gate.counting import PartialCounts, counted_together, text_hash, user_hash, word_hashes
from llm4dsr_cli.gate.pairs import PairCounts, products
from llm4dsr_cli.titles import folded_title
from llm4dsr_cli.windows import overlapping_windows

FEATURES = (
    "popularity",
    "nobody else",
    "shared partners",
    "gap of partners",
    "gap of shared partners",
    "title words",
)
# What a partner that nobody has weighs. Weights are whole numbers, so that sums are exact; 1 to 16 divide this one.
_WEIGHT = 720_720
# Pairs grow with the square of a length: of a longer sequence an item's neighbours are those of a window of so many.
LONGEST_CONTEXT = 100
# Their word vectors take some 16 MB.
_TITLES_KEPT = 2**15

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """Which user has which items; both are known by 64-bit hashes of their names.

    Attributes:
        items: uint64, ascending, shape (n_items,): hashes of the different titles, folded.
        users: uint64, ascending, shape (n_users,).
        starts: int64, shape (n_users + 1,): user u's items are ``held[starts[u]:starts[u + 1]]``.
        held: int32, item numbers, ascending within a user.
        words: uint64, ascending, shape (n_words,): hashes of the words of the titles.
        titles_with: int32, shape (n_words,): different titles that hold the word.
    """

    items: NDArray[np.uint64]
    users: NDArray[np.uint64]
    starts: Ints
    held: NDArray[np.int32]
    words: NDArray[np.uint64]
    titles_with: NDArray[np.int32]

    def __post_init__(self) -> None:
        """Raises ValueError for arrays that no counting gives: a file may come from a stranger."""
        wanted = (np.uint64, np.uint64, np.int64, np.int32, np.uint64, np.int32)
        if any(found.ndim != 1 or found.dtype != dtype for found, dtype in zip(self._arrays, wanted, strict=True)):
            raise ValueError("counts of another type")
        starts, held, seen_in = self.starts, self.held, self.titles_with
        if (
            not all(ascends(hashes) for hashes in (self.items, self.users, self.words))
            or len(starts) != len(self.users) + 1
            or (starts[0], starts[-1]) != (0, len(held))
            or (starts[1:] < starts[:-1]).any()
            or not _within(held, 0, len(self.items) - 1)
            or len(seen_in) != len(self.words)
            or not _within(seen_in, 1, np.iinfo(np.int32).max - 1)
        ):
            raise ValueError("counts that do not fit together")
        falls = np.flatnonzero(held[1:] <= held[:-1]) + 1
        if not np.isin(falls, starts).all():
            raise ValueError("users whose items do not ascend")

    def __reduce__(self) -> tuple[type[Evidence], tuple[NDArray[Any], ...]]:
        """A copy takes the counts along, and nothing that was made from them."""
        return Evidence, self._arrays

    @property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.items, self.users, self.starts, self.held, self.words, self.titles_with

    @property
    def n_titles(self) -> int:
        return len(self.items)

    @classmethod
    def count(cls, sequences: Iterable[tuple[Hashable, Sequence[str]]]) -> Evidence:
        """From (user, item titles) pairs, oldest first; a user may have several sequences, in any order.

        Of a user the last LONGEST_HISTORY different items are counted. The words are those of all titles.
        """
        return cls.merged([PartialCounts.of(sequences)])

    @classmethod
    def merged(cls, parts: Sequence[PartialCounts]) -> Evidence:
        """From parts of the data that were counted apart, in their order: what ``count`` gives of all of them."""
        return cls(*counted_together(parts))

    @cached_property
    def popularity(self) -> Ints:
        """Users who have the item, shape (n_items,)."""
        return np.bincount(self.held, minlength=len(self.items)).astype(np.int64)

    @cached_property
    def _pairs(self) -> PairCounts:
        return PairCounts(self.starts, self.held, self.popularity)

    def features(
        self, titles: Sequence[str], user: Hashable | None = None, lenders: Sequence[int] | None = None
    ) -> Floats:
        """What the counts say of each item of a sequence, shape (n_items, len(FEATURES)).

        Popularity is log(1 + users who have it); a 1 marks an item that nobody else has. The others come from means
        over the sequence's other different items. Shared partners: the cosine between two items' rows of partners (the
        items that users have beside them), each weighed by 1 / (1 + users who have it). A gap is how far such a mean
        lies below the largest of the sequence's others, once with all partners alike and once weighed: what has little
        in common with the others is odd where these have much in common (docs/experiments.md). Title words: the cosine
        between the titles' TF-IDF vectors (one term a word, Salton and Buckley 1988, with binary counts).
        Of a very long sequence, the others are those of an overlapping window of LONGEST_CONTEXT items.

        Args:
            user: whose sequence it is; left out of all counts if they hold that user. None leaves nobody out.
            lenders: number of a user who is left out of the counts of each item, -1 for nobody, shape (n_items,).
        """
        names = [folded_title(title) for title in titles]
        mine = self.held_by(user)
        lender = dict(zip(names, [-1] * len(names) if lenders is None else lenders, strict=True))
        result = np.zeros((len(names), len(FEATURES)))
        for window in overlapping_windows(len(names), LONGEST_CONTEXT):
            judged = slice(window.judge_from, window.judge_to)
            found = self._features_of_titles(names[window.start : window.end], mine, lender)
            result[judged] = found[window.judge_from - window.start : window.judge_to - window.start]
        return result

    def _features_of_titles(self, names: list[str], mine: NDArray[np.int32], lender: dict[str, int]) -> Floats:
        different = list(dict.fromkeys(names))
        place = {name: number for number, name in enumerate(different)}
        counted = self._numbers(different)
        own, lenders = _find(mine, counted) >= 0, np.array([lender[name] for name in different], dtype=np.int64)
        by_item = self._features_of(counted, own, mine, lenders, [self.title_vector(name) for name in different])
        return by_item[[place[name] for name in names]]

    def numbers(self, titles: Sequence[str]) -> Ints:
        """The items' numbers, -1 for an item that was never counted."""
        return self._numbers(map(folded_title, titles))

    def _numbers(self, names: Iterable[str]) -> Ints:
        return _find(self.items, np.array([text_hash(name) for name in names], dtype=np.uint64))

    def held_by(self, user: Hashable | None) -> NDArray[np.int32]:
        """The counted items of a user, none for one who was never counted."""
        return self._items_of(self._user_number(user))

    def random_holder(self, item: int, user: Hashable | None, rng: np.random.Generator) -> int:
        """Number of a random user who has this item, another one than ``user``; -1 if there is none."""
        holders = self._pairs.owners(item)
        others = holders[holders != self._user_number(user)]
        return int(rng.choice(others)) if len(others) else -1

    def _user_number(self, user: Hashable | None) -> int:
        return -1 if user is None else int(_find(self.users, np.array([user_hash(user)], dtype=np.uint64))[0])

    def _items_of(self, number: int) -> NDArray[np.int32]:
        return self.held[self.starts[number] : self.starts[number + 1]] if number >= 0 else np.empty(0, dtype=np.int32)

    def title_vector(self, title: str) -> dict[int, float]:
        """TF-IDF of a title's words, of length 1; empty without words. Not to be changed."""
        return self._title_vector(title)

    @cached_property
    def _title_vector(self) -> Callable[[str], dict[int, float]]:
        return lru_cache(maxsize=_TITLES_KEPT)(self._make_title_vector)

    def _make_title_vector(self, title: str) -> dict[int, float]:
        words = word_hashes(title)
        at = _find(self.words, np.array(words, dtype=np.uint64))
        # Words are counted of all titles, of which fewer may be held.
        seen_in = np.minimum(np.where(at >= 0, self.titles_with[at] if len(self.words) else 0, 0), self.n_titles)
        weight = np.log((1 + self.n_titles) / (1 + seen_in)) + 1
        return dict(zip(words, (weight / np.linalg.norm(weight)).tolist(), strict=True)) if words else {}

    def _features_of(
        self,
        items: Ints,
        own: NDArray[np.bool_],
        mine: NDArray[np.int32],
        lenders: Ints,
        vectors: list[dict[int, float]],
    ) -> Floats:
        """Features of different items; ``own`` of them are among ``mine``, the items of the user to leave out."""
        popularity = np.where(items >= 0, self.popularity[items] if len(self.items) else 0, 0) - own.astype(np.float64)
        popularity -= lenders >= 0
        rows, columns = self._pairs.rows(items)
        _leave_out(rows, columns, items, own, mine)
        for place in np.flatnonzero(lenders >= 0).tolist():
            _leave_out(rows, columns, items, np.arange(len(items)) == place, self._items_of(lenders[place]))
        they_have = self.popularity[columns] - (_find(mine, columns) >= 0)
        alike = _mean_of_others(_cosines(products(rows)))
        shared = _mean_of_others(_cosines(products(rows, _WEIGHT // (1 + they_have))))
        return np.column_stack(
            [
                np.log1p(popularity),
                popularity == 0,
                shared,
                _gap(alike),
                _gap(shared),
                _mean_of_others(_dots(vectors)),
            ]
        )

    def partner_rows(
        self, items: Ints, own: NDArray[np.bool_], mine: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], Ints]:
        """Users who have a partner beside each item, shape (len(items), n_partners), and the partners' item numbers.

        The numbers ascend. A partner may be one that nobody but the user to leave out has beside the items.

        Args:
            items: different item numbers; -1, one that was never counted, has no partners.
            own: which of them are among ``mine``, shape (len(items),).
            mine: the items of the user to leave out.
        """
        rows, columns = self._pairs.rows(items)
        there = rows.any(axis=0)
        # Unlike an index, this leaves the rows' layout alone, and with it the order in which sums over them are taken.
        rows, partners = rows.compress(there, axis=1), columns[there]
        _leave_out(rows, partners, items, own, mine)
        return rows, partners


def _find(ascending: NDArray[np.integer], wanted: NDArray[np.integer]) -> Ints:
    """Where each wanted value stands in an ascending array, -1 if it does not."""
    at = np.searchsorted(ascending, wanted)
    there = at < len(ascending)
    there[there] = ascending[at[there]] == wanted[there]
    return np.where(there, at, -1)


def ascends(values: NDArray[np.uint64]) -> bool:
    """Whether each value is larger than the one before it."""
    return bool((values[1:] > values[:-1]).all())


def _within(values: NDArray[np.int32], lowest: int, highest: int) -> bool:
    return not len(values) or bool(lowest <= values.min() and values.max() <= highest)


def _leave_out(
    rows: NDArray[np.int32], columns: Ints, items: Ints, own: NDArray[np.bool_], mine: NDArray[np.int32]
) -> None:
    """Take a user, whose items are ``mine``, out of the rows of those of their items that are ``own``."""
    mine_at, own_at = _find(columns, mine), _find(columns, items[own])
    rows[np.ix_(own, mine_at[mine_at >= 0])] -= 1
    # An item is not beside itself.
    rows[np.flatnonzero(own)[own_at >= 0], own_at[own_at >= 0]] = 0


def _dots(vectors: list[dict[int, float]]) -> Floats:
    """Scalar product of each two sparse vectors, shape (len(vectors), len(vectors))."""
    holders: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for number, vector in enumerate(vectors):
        for word, weight in vector.items():
            holders[word].append((number, weight))
    dots = np.zeros((len(vectors), len(vectors)))
    for number, vector in enumerate(vectors):
        terms: defaultdict[int, list[float]] = defaultdict(list)
        for word, weight in vector.items():
            for other, its_weight in holders[word]:
                terms[other].append(weight * its_weight)
        for other, shared in terms.items():
            dots[number, other] = sum(shared)
    return dots


def _cosines(products: Floats) -> Floats:
    """Of each two of some vectors, from their scalar products."""
    length = np.sqrt(np.diag(products))
    found: Floats = products / np.maximum(length[:, None] * length, 1e-9)
    return found


def _gap(values: Floats) -> Floats:
    """Each value less the largest of the others; zero for a single one."""
    if len(values) < 2:
        return np.zeros(len(values))
    second, largest = np.sort(values)[-2:]
    found: Floats = values - np.where(np.arange(len(values)) == values.argmax(), second, largest)
    return found


def _mean_of_others(between: Floats) -> Floats:
    """Mean of each row of a square matrix, its diagonal left out; zeros for a single item."""
    others: Floats = (between.sum(axis=1) - np.diag(between)) / max(1, len(between) - 1)
    return others

"""Collaborative evidence: what other users' sequences say of an item beside its neighbours, counted once and kept.

The counts are of users, not of sequences: a user's overlapping windows repeat the same items and would vouch for their
own noise. What is kept is each user's set of items, from which every count follows, so that a user whose sequence is
judged can be left out of the counts exactly (leave-one-out): no item vouches for itself.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.titles import clean_title
from llm4dsr_cli.users import user_text
from llm4dsr_cli.windows import overlapping_windows

FEATURES = ("popularity", "nobody else", "association", "shared partners", "title words")
# Of a longer history the last items are counted: pairs grow with the square of a history's length.
LONGEST_HISTORY = 100
# Likewise, of a longer sequence an item's neighbours are those of a window of so many.
LONGEST_CONTEXT = 100
# Pseudo-count of pairs: how many users it takes before a pair that was never seen, or seen once, says much.
PRIOR = 0.1
_PAIRS_AT_ONCE = 4_000_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """Which user has which items; both are known by 64-bit hashes of their names.

    Attributes:
        items: uint64, ascending, shape (n_items,): hashes of the different titles.
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

    @property
    def n_titles(self) -> int:
        return len(self.items)

    @classmethod
    def count(cls, sequences: Iterable[tuple[Hashable, Sequence[str]]]) -> Evidence:
        """From (user, item titles) pairs, oldest first; a user may have several sequences."""
        histories: dict[int, dict[int, None]] = {}
        hashes: dict[str, int] = {}
        words: Counter[int] = Counter()
        for user, titles in sequences:
            history = histories.setdefault(user_hash(user), {})
            for title in map(clean_title, titles):
                item = hashes.setdefault(title, -1)
                if item < 0:
                    item = hashes[title] = _hash(title)
                    words.update(_words(title))
                history.pop(item, None)
                history[item] = None
        users = np.array(sorted(histories), dtype=np.uint64)
        kept = [np.array(list(histories[int(user)])[-LONGEST_HISTORY:], dtype=np.uint64) for user in users]
        flat = np.concatenate([np.empty(0, dtype=np.uint64), *kept])
        items, numbers = np.unique(flat, return_inverse=True)
        starts = np.cumsum([0, *map(len, kept)]).astype(np.int64)
        held = numbers.astype(np.int32)
        for start, end in itertools.pairwise(starts):
            held[start:end].sort()
        known_words = sorted(words)
        return cls(
            items,
            users,
            starts,
            held,
            np.array(known_words, dtype=np.uint64),
            np.array([words[word] for word in known_words], dtype=np.int32),
        )

    @cached_property
    def popularity(self) -> Ints:
        """Users who have the item, shape (n_items,)."""
        return np.bincount(self.held, minlength=len(self.items)).astype(np.int64)

    @cached_property
    def _pairs(self) -> tuple[Ints, NDArray[np.int32], NDArray[np.int32]]:
        """Users who have both items, as rows: item i's partners and counts stand at ``starts[i]:starts[i + 1]``."""
        n = len(self.items)
        lengths = np.diff(self.starts)
        keys, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        gathered: list[Ints] = []
        size = 0

        def merge() -> tuple[Ints, Ints]:
            found, times = np.unique(np.concatenate(gathered), return_counts=True)
            everything = np.concatenate([keys, found])
            distinct, place = np.unique(everything, return_inverse=True)
            total = np.bincount(place, weights=np.concatenate([counts, times])).astype(np.int64)
            gathered.clear()
            return distinct, total

        for length in np.unique(lengths[lengths > 1]):
            rows = self.starts[:-1][lengths == length][:, None] + np.arange(length)
            for part in np.array_split(rows, max(1, rows.size * length // _PAIRS_AT_ONCE)):
                held = self.held[part].astype(np.int64)
                pairs = held[:, :, None] * n + held[:, None, :]
                gathered.append(pairs[:, ~np.eye(length, dtype=bool)].ravel())
                size += gathered[-1].size
                if size > _PAIRS_AT_ONCE:
                    keys, counts = merge()
                    size = 0
        if gathered:
            keys, counts = merge()
        left, right = np.divmod(keys, max(n, 1))
        starts = np.searchsorted(left, np.arange(n + 1)).astype(np.int64)
        return starts, right.astype(np.int32), counts.astype(np.int32)

    def features(self, titles: Sequence[str], user: Hashable | None = None) -> Floats:
        """What the counts say of each item of a sequence, shape (n_items, len(FEATURES)).

        Popularity is log(1 + users who have it); a 1 marks an item that nobody else has. The others are means over the
        sequence's other different items: the association of two items, log((c + k) / (e + k)), where c users have both,
        e would if they were independent, and k is PRIOR; the cosine between their rows of partners (the items that
        users have beside them); and the cosine between their titles' TF-IDF vectors (one term a word, Salton and
        Buckley 1988, with binary counts).
        Of a very long sequence, the others are those of an overlapping window of LONGEST_CONTEXT items.

        Args:
            user: whose sequence it is; left out of all counts if they hold that user. None leaves nobody out.
        """
        names = [clean_title(title) for title in titles]
        mine = self.held_by(user)
        result = np.zeros((len(names), len(FEATURES)))
        for window in overlapping_windows(len(names), LONGEST_CONTEXT):
            judged = slice(window.judge_from, window.judge_to)
            found = self._features_of_titles(names[window.start : window.end], mine)
            result[judged] = found[window.judge_from - window.start : window.judge_to - window.start]
        return result

    def _features_of_titles(self, names: list[str], mine: NDArray[np.int32]) -> Floats:
        different = list(dict.fromkeys(names))
        place = {name: number for number, name in enumerate(different)}
        counted = self.numbers(different)
        by_item = self._features_of(counted, np.isin(counted, mine), mine, [self.title_vector(t) for t in different])
        return by_item[[place[name] for name in names]]

    def numbers(self, titles: Sequence[str]) -> Ints:
        """The items' numbers, -1 for an item that was never counted."""
        hashes = np.array([_hash(clean_title(title)) for title in titles], dtype=np.uint64)
        return _find(self.items, hashes)

    def held_by(self, user: Hashable | None) -> NDArray[np.int32]:
        """The counted items of a user, none for one who was never counted."""
        at = -1 if user is None else int(_find(self.users, np.array([user_hash(user)], dtype=np.uint64))[0])
        return self.held[self.starts[at] : self.starts[at + 1]] if at >= 0 else np.empty(0, dtype=np.int32)

    def title_vector(self, title: str) -> dict[int, float]:
        """TF-IDF of a title's words, of length 1; empty without words."""
        words = _words(title)
        at = _find(self.words, np.array(words, dtype=np.uint64))
        seen_in = np.where(at >= 0, self.titles_with[at] if len(self.words) else 0, 0)
        weight = np.log((1 + self.n_titles) / (1 + seen_in)) + 1
        return dict(zip(words, (weight / np.linalg.norm(weight)).tolist(), strict=True)) if words else {}

    def _features_of(
        self, items: Ints, own: NDArray[np.bool_], mine: NDArray[np.int32], vectors: list[dict[int, float]]
    ) -> Floats:
        """Features of different items; ``own`` of them are among ``mine``, the items of the user to leave out."""
        n = len(items)
        popularity = np.where(items >= 0, self.popularity[items] if len(self.items) else 0, 0) - own.astype(np.float64)
        rows, columns = self.partner_rows(items, own, mine)
        together = np.zeros((n, n))
        there = np.isin(items, columns)
        together[:, there] = rows[:, self._slots[items[there]]]
        n_users = max(1, len(self.users) - bool(len(mine)))
        association = np.log((together + PRIOR) / (popularity[:, None] * popularity / n_users + PRIOR))
        length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        partners = (rows @ rows.T) / np.maximum(length[:, None] * length, 1e-9)
        words = np.array([[_dot(one, other) for other in vectors] for one in vectors])
        return np.column_stack(
            [np.log1p(popularity), popularity == 0, *map(_mean_of_others, (association, partners, words))]
        )

    def partner_rows(self, items: Ints, own: NDArray[np.bool_], mine: NDArray[np.int32]) -> tuple[Floats, Ints]:
        """Users who have a partner beside each item, shape (len(items), n_partners), and the partners' item numbers.

        Args:
            items: different item numbers; -1, one that was never counted, has no partners.
            own: which of them are among ``mine``, shape (len(items),).
            mine: the items of the user to leave out.
        """
        starts, all_partners, all_counts = self._pairs
        spans = [slice(starts[item], starts[item + 1]) if item >= 0 else slice(0) for item in items]
        flat = np.concatenate([all_partners[span] for span in spans])
        slot = self._slots
        slot[flat] = np.arange(len(flat))
        distinct = np.flatnonzero(slot[flat] == np.arange(len(flat)))
        partners = flat[distinct].astype(np.int64)
        slot[partners] = np.arange(len(distinct))
        rows = np.zeros((len(items), len(distinct)))
        for row, span in enumerate(spans):
            rows[row, slot[all_partners[span]]] = all_counts[span]
        for row in np.flatnonzero(own).tolist():
            rows[row, slot[mine[mine != items[row]]]] -= 1
        return rows, partners

    @cached_property
    def _slots(self) -> Ints:
        """Room for a column number of each item; what it holds is of the last call."""
        return np.zeros(len(self.items), dtype=np.int64)


def user_hash(user: Hashable) -> int:
    """64-bit hash of a user's id as text, the same on every machine."""
    return _hash(user_text(user))


@lru_cache(maxsize=100_000)
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@lru_cache(maxsize=100_000)
def _words(title: str) -> list[int]:
    """Hashes of a title's different words of two characters and more."""
    return [_hash(word) for word in dict.fromkeys(re.findall(r"\w\w+", title.casefold()))]


def _find(ascending: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> Ints:
    """Where each wanted value stands in an ascending array, -1 if it does not."""
    at = np.searchsorted(ascending, wanted)
    there = at < len(ascending)
    there[there] = ascending[at[there]] == wanted[there]
    return np.where(there, at, -1)


def _dot(one: dict[int, float], other: dict[int, float]) -> float:
    return sum(weight * other[word] for word, weight in one.items() if word in other)


def _mean_of_others(between: Floats) -> Floats:
    """Mean of each row of a square matrix, its diagonal left out; zeros for a single item."""
    others: Floats = (between.sum(axis=1) - np.diag(between)) / max(1, len(between) - 1)
    return others

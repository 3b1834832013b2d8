"""Counting: who has what, of some of the data; and of all of them, where several machines have counted a part each."""

from __future__ import annotations

import hashlib
import itertools
import re
from array import array
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.titles import folded_title
from llm4dsr_cli.users import user_text

# Of a longer history the last items are counted: pairs grow with the square of a history's length.
LONGEST_HISTORY = 100

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class PartialCounts:
    """Which user has which items, in some of the data. Titles and users are known by 64-bit hashes.

    Attributes:
        titles: uint64, shape (n_titles,): hashes of the different titles, folded, in the order in which they came.
        word_starts: int64, shape (n_titles + 1,): title t's words are ``words[word_starts[t]:word_starts[t + 1]]``.
        words: uint64: hashes of the titles' words.
        users: uint64, ascending, shape (n_users,).
        starts: int64, shape (n_users + 1,): user u's items are ``items[starts[u]:starts[u + 1]]``.
        items: uint32: numbers of titles, each once a user, the last LONGEST_HISTORY of them as they last came.
    """

    titles: Hashes
    word_starts: NDArray[np.int64]
    words: Hashes
    users: Hashes
    starts: NDArray[np.int64]
    items: NDArray[np.uint32]

    @classmethod
    def of(cls, sequences: Iterable[tuple[Hashable, Sequence[str]]]) -> PartialCounts:
        """From (user, item titles) pairs, oldest first; a user may have several sequences, in any order."""
        numbers = _Numbers()
        histories: dict[int, array[int]] = {}
        for user, titles in sequences:
            history = histories.setdefault(user_hash(user), array("I"))
            history.fromlist(list(map(numbers.__getitem__, titles)))
            if len(history) > 2 * LONGEST_HISTORY:
                history[:] = _last_items(history)
        users = sorted(histories)
        flat, starts = array("I"), array("q", [0])
        for user in users:
            flat.extend(_last_items(histories.pop(user)))
            starts.append(len(flat))
        return cls(
            np.array(numbers.hashes, dtype=np.uint64),
            np.array(numbers.word_starts, dtype=np.int64),
            np.array(numbers.words, dtype=np.uint64),
            np.array(users, dtype=np.uint64),
            np.array(starts, dtype=np.int64),
            np.array(flat, dtype=np.uint32),
        )


def counted_together(parts: Sequence[PartialCounts]) -> tuple[NDArray[Any], ...]:
    """The arrays of ``Evidence`` of data that were counted in parts, given in the order of the data."""
    known, first = np.unique(np.concatenate([part.titles for part in parts]), return_index=True)
    flat = np.concatenate([np.searchsorted(known, part.titles).astype(np.uint32)[part.items] for part in parts])
    users, starts = parts[0].users, parts[0].starts
    if len(parts) > 1:
        flat, users, starts = _by_user(parts, flat)
    held = np.bincount(flat, minlength=len(known)) > 0
    # One array to sort, ascending within a user: the user's number stands before the item's.
    keys = np.repeat(np.arange(len(users), dtype=np.uint64) << np.uint64(32), np.diff(starts))
    keys |= (np.cumsum(held) - 1).astype(np.uint32)[flat]
    keys.sort()
    words, titles_with = np.unique(_words_of(parts, first), return_counts=True)
    return known[held], users, starts, keys.astype(np.uint32).astype(np.int32), words, titles_with.astype(np.int32)


def _by_user(
    parts: Sequence[PartialCounts], flat: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], Hashes, NDArray[np.int64]]:
    """What users have in several parts, one user after the other: items, users and where each one's items begin."""
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    begins = np.cumsum(lengths) - lengths
    owners = np.concatenate([part.users for part in parts])
    order = np.argsort(owners, kind="stable")  # what a user has in the parts comes in their order
    users, pieces = np.unique(owners, return_counts=True)
    flat = flat[_ranges(begins[order], lengths[order])]
    ends = np.concatenate([[0], np.cumsum(lengths[order])])
    starts = ends[np.concatenate([[0], np.cumsum(pieces)])]
    several = np.flatnonzero(pieces > 1)
    if len(several):
        histories = [flat[start:end] for start, end in itertools.pairwise(starts.tolist())]
        for user in several.tolist():
            histories[user] = np.array(_last_items(array("I", histories[user].tolist())), dtype=np.uint32)
        flat = np.concatenate(histories)
        starts = np.concatenate([[0], np.cumsum([*map(len, histories)])])
    return flat, users, starts


def _words_of(parts: Sequence[PartialCounts], first: NDArray[np.intp]) -> Hashes:
    """The words of the titles in these places, among the titles of all parts."""
    lengths = np.concatenate([np.diff(part.word_starts) for part in parts])
    begins = np.cumsum(lengths) - lengths
    words: Hashes = np.concatenate([part.words for part in parts])
    return words[_ranges(begins[first], lengths[first])]


def _ranges(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of all ranges of these begins and lengths, one range after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(begins - before, lengths) + np.arange(int(lengths.sum()))


class _Numbers(dict[str, int]):
    """Numbers of titles in the order in which they are first asked for; spellings of one clean title share theirs.

    Attributes:
        hashes: the folded titles' hashes, by number.
        words, word_starts: the hashes of their words, as ``PartialCounts`` has them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hashes = array("Q")
        self.words = array("Q")
        self.word_starts = array("q", [0])
        self._by_hash: dict[int, int] = {}

    def __missing__(self, title: str) -> int:
        folded = folded_title(title)
        found = text_hash(folded)
        number = self._by_hash.setdefault(found, len(self.hashes))
        if number == len(self.hashes):
            self.hashes.append(found)
            self.words.extend(word_hashes(folded))
            self.word_starts.append(len(self.words))
        self[title] = number
        return number


def user_hash(user: Hashable) -> int:
    """64-bit hash of a user's id as text, the same on every machine."""
    return text_hash(user_text(user))


@lru_cache(maxsize=100_000)
def text_hash(text: str) -> int:
    """64-bit hash of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@lru_cache(maxsize=100_000)
def word_hashes(title: str) -> list[int]:
    """Hashes of a title's different words of two characters and more."""
    return [text_hash(word) for word in dict.fromkeys(re.findall(r"\w\w+", title.casefold()))]


def _last_items(history: array[int]) -> array[int]:
    """The last LONGEST_HISTORY different items, in the order in which they last came."""
    last = list(dict.fromkeys(reversed(history)))[:LONGEST_HISTORY]
    return array("I", reversed(last))

"""A sample of users, drawn while their sequences pass by."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from llm4dsr_cli.gate.counting import user_hash

UserSequence = tuple[Hashable, Sequence[str]]


@dataclass
class UserSample:
    """One sequence each of at most ``n_users`` users, drawn at random from a pass over data of any size.

    A user's chance does not depend on how many sequences there are of them, and each of these has the same. The sample
    depends on users and the order of their sequences, not on the order of users: those with the smallest hashes are in
    it (bottom-k sampling, Cohen and Kaplan, PODC 2007).

    Attributes:
        n_users: how many users are drawn.
        shortest: sequences of fewer items are passed over.
        seed: fixes the draw.
        keeps_all: keep every sequence of those who are drawn, for a sample of data that this is a part of.
    """

    n_users: int
    shortest: int = 1
    seed: int = 0
    keeps_all: bool = False
    _drawn: dict[int, tuple[int, UserSequence]] = field(default_factory=dict, init=False)
    _largest: list[int] = field(default_factory=list, init=False)  # a heap of the keys, negated
    _all: dict[int, list[UserSequence]] = field(default_factory=dict, init=False)

    def add(self, user: Hashable, titles: Sequence[str]) -> None:
        """Take in a sequence of a user, oldest item first."""
        if len(titles) < self.shortest:
            return
        key = self._hash(user_hash(user))
        if key in self._drawn:
            count, kept = self._drawn[key]
            takes_place = self._hash(key, count + 1) % (count + 1) == 0
            self._drawn[key] = (count + 1, (user, titles) if takes_place else kept)
        elif len(self._drawn) < self.n_users or key < -self._largest[0]:
            heapq.heappush(self._largest, -key)
            self._drawn[key] = (1, (user, titles))
            if len(self._drawn) > self.n_users:
                evicted = -heapq.heappop(self._largest)
                del self._drawn[evicted]
                self._all.pop(evicted, None)
        if self.keeps_all and key in self._drawn:
            self._all.setdefault(key, []).append((user, titles))

    @property
    def sequences(self) -> list[UserSequence]:
        """The sequences that were drawn, in an order that tells nothing of them."""
        return [self._drawn[key][1] for key in sorted(self._drawn)]

    @property
    def all_sequences(self) -> list[UserSequence]:
        """Every sequence of those who are drawn, a user's own as they came; with ``keeps_all``.

        Who is drawn from all of the data is drawn from each part of them. So a sample that takes in these of all parts,
        one after the other, is the sample of the whole.
        """
        return [one for those in self._all.values() for one in those]

    def _hash(self, *values: int) -> int:
        text = " ".join(map(str, (self.seed, *values)))
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")

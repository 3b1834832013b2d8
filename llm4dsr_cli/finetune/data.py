"""Training data: sequences by domain, split by user, and an endless stream of windows with fresh noise."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.noise import Indices, inject_noise
from llm4dsr_cli.prompts import clean_title

SHORTEST_WINDOW = 3


@dataclass(frozen=True)
class Domain:
    """Sequences that share a catalog: noise for them is drawn from its titles.

    Attributes:
        name: for messages and the training summary.
        titles: the catalog's different titles.
        sequences: title indices of each sequence, oldest first.
        users: whose sequence each is; sequences of one user never fall on two sides of a split.
    """

    name: str
    titles: list[str]
    sequences: list[Indices]
    users: list[Hashable]

    @classmethod
    def build(cls, name: str, catalog: Iterable[str], sequences: Iterable[tuple[Hashable, Sequence[str]]]) -> Domain:
        """From a catalog's titles and (user, titles) pairs; items with the same title count as the same item."""
        index: dict[str, int] = {}
        for title in catalog:
            index.setdefault(clean_title(title), len(index))
        users: list[Hashable] = []
        rows: list[Indices] = []
        for user, titles in sequences:
            if len(titles) >= SHORTEST_WINDOW:
                users.append(user)
                rows.append(np.array([index.setdefault(clean_title(t), len(index)) for t in titles], dtype=np.int64))
        return cls(name, list(index), rows, users)

    def subset(self, keep: NDArray[np.bool_]) -> Domain:
        chosen = np.flatnonzero(keep)
        return Domain(self.name, self.titles, [self.sequences[i] for i in chosen], [self.users[i] for i in chosen])


@dataclass(frozen=True)
class Split:
    """Domains cut by user into three parts that share no user."""

    train: list[Domain]
    validation: list[Domain]
    calibration: list[Domain]


def split_users(domains: Sequence[Domain], *, validation: float, calibration: float) -> Split:
    """Give each user of each domain to training, validation or calibration, by a hash of the user.

    No seed: a run that starts from another run's adapter must hold out the same users, or it would be measured and
    calibrated on users that the adapter has seen.

    Args:
        validation, calibration: shares of the users, 0 to 1.

    Raises:
        OptionError: a part would be empty.
    """
    parts: tuple[list[Domain], list[Domain], list[Domain]] = ([], [], [])
    for domain in domains:
        draw = np.array([_uniform(f"0/{user!r}") for user in domain.users])
        in_validation = draw < validation
        in_calibration = ~in_validation & (draw < validation + calibration)
        for part, keep in zip(parts, (~in_validation & ~in_calibration, in_validation, in_calibration), strict=True):
            if not keep.any():
                raise OptionError(
                    f"{domain.name}: {len(set(domain.users))} users are too few to train, validate and calibrate",
                    remedy="give more sequences",
                )
            part.append(domain.subset(keep))
    return Split(*parts)


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


@dataclass(frozen=True)
class LabelledWindow:
    """A window with injected noise: titles, labels (1 = replaced; int8, shape (n_items,)), and its domain."""

    titles: list[str]
    labels: NDArray[np.int8]
    domain: int


class Sampler:
    """Draws windows with fresh noise; what it draws depends on its seed and the number asked for, on nothing else.

    Args:
        max_window: longer sequences are cut at a random place to this many items.
        rates: each window's noise rate is one of these.
        shorten: share of the windows cut further, to a uniformly random length, so that short ones are known too.
    """

    def __init__(
        self, domains: Sequence[Domain], *, max_window: int, rates: Sequence[float], shorten: float, seed: int
    ) -> None:
        self.domains = domains
        self.max_window = max_window
        self.rates = rates
        self.shorten = shorten
        self.seed = seed
        self._rows = [(number, sequence) for number, domain in enumerate(domains) for sequence in domain.sequences]
        self._order = (-1, np.empty(0, dtype=np.int64))

    @property
    def n_sequences(self) -> int:
        return len(self._rows)

    @property
    def longest_window(self) -> int:
        """Items of the longest window that will ever be drawn."""
        return min(self.max_window, max(len(sequence) for _, sequence in self._rows))

    def draw(self, number: int) -> LabelledWindow:
        """The window of this number; numbers run through all sequences in a new order each epoch."""
        epoch, place = divmod(number, len(self._rows))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self._rows)))
        domain_number, sequence = self._rows[self._order[1][place]]
        domain = self.domains[domain_number]
        rng = np.random.default_rng([self.seed, 1, number])
        length = longest = min(len(sequence), self.max_window)
        if rng.random() < self.shorten:
            length = int(rng.integers(SHORTEST_WINDOW, longest + 1))
        start = int(rng.integers(len(sequence) - length + 1))
        noisy, labels = inject_noise(
            sequence[start : start + length], len(domain.titles), float(rng.choice(self.rates)), rng
        )
        return LabelledWindow([domain.titles[i] for i in noisy], labels, domain_number)

    def windows(self, n: int) -> Iterator[LabelledWindow]:
        """The first ``n`` windows."""
        return (self.draw(number) for number in range(n))

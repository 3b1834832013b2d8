"""Training data: sequences by domain, split by user, and an endless stream of windows with fresh noise."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.noise import Draw, Indices, inject_noise
from llm4dsr_cli.sequences import IndexedSequences
from llm4dsr_cli.users import user_text

SHORTEST_WINDOW = 3
# Share of a window's items that a lesson in suggesting moves to its end.
MOVED_SHARE = 0.3


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
        long_enough = ((user, titles) for user, titles in sequences if len(titles) >= SHORTEST_WINDOW)
        indexed = IndexedSequences.build(long_enough, catalog)
        return cls(name, indexed.titles, indexed.sequences, indexed.users)

    def subset(self, keep: NDArray[np.bool_]) -> Domain:
        chosen = np.flatnonzero(keep)
        return Domain(self.name, self.titles, [self.sequences[i] for i in chosen], [self.users[i] for i in chosen])


@dataclass(frozen=True)
class Split:
    """Domains cut by user into four parts that share no user."""

    train: list[Domain]
    validation: list[Domain]
    calibration: list[Domain]
    test: list[Domain]


def split_users(domains: Sequence[Domain], *, validation: float, calibration: float, test: float) -> Split:
    """Give each user to training, validation, calibration or test, by a hash of the user; in all domains alike.

    No seed: a run that starts from another run's denoiser holds out the same users, so it is neither measured nor
    calibrated on users that the denoiser has seen, be it trained on the very same data. A part that no hash of a
    domain falls into takes the user whose hash is nearest to it, from a part that has others.

    Args:
        validation, calibration, test: shares of the users, 0 to 1.

    Raises:
        OptionError: a domain has too few users for four parts.
    """
    bounds = np.cumsum([validation, calibration, test])
    users = [{user_text(user) for user in domain.users} for domain in domains]
    draw = {user: _uniform(f"0/{user}") for user in set[str]().union(*users)}
    place = {user: int(np.searchsorted(bounds, x, side="right")) for user, x in draw.items()}
    _fill_empty_parts(domains, users, draw, place, [0.0, *bounds.tolist(), 1.0])
    parts: tuple[list[Domain], ...] = ([], [], [], [])
    for domain in domains:
        here = np.array([place[user_text(user)] for user in domain.users])
        for number, part in enumerate(parts):
            part.append(domain.subset(here == number))
    *held_out, train = parts
    return Split(train, *held_out)


def _fill_empty_parts(
    domains: Sequence[Domain],
    users: Sequence[set[str]],
    draw: Mapping[str, float],
    place: dict[str, int],
    edges: Sequence[float],
) -> None:
    """Move one user each, in ``place``, into the parts that are empty in a domain; part i is ``edges[i : i + 2]``."""

    def can_go(user: str) -> bool:
        return all(sum(place[other] == place[user] for other in mine) > 1 for mine in users if user in mine)

    for domain, mine in zip(domains, users, strict=True):
        for part, (low, high) in enumerate(itertools.pairwise(edges)):
            if any(place[user] == part for user in mine):
                continue
            movable = [user for user in mine if can_go(user)]
            if not movable:
                raise OptionError(
                    f"{domain.name}: {len(mine)} users are too few to train on some and hold out others",
                    remedy="give more sequences",
                )
            place[min(movable, key=lambda user: (max(low - draw[user], draw[user] - high), user))] = part


def fingerprint(domains: Sequence[Domain]) -> str:
    """A hash of all titles, users and sequences."""
    digest = hashlib.sha256()
    for domain in domains:
        digest.update("\n".join(domain.titles).encode())
        for user, sequence in zip(domain.users, domain.sequences, strict=True):
            digest.update(f"{user!r}:".encode() + sequence.tobytes())
    return digest.hexdigest()


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


@dataclass(frozen=True)
class LabelledWindow:
    """A window with injected noise: titles, labels (1 = replaced; int8, shape (n_items,)), its domain, and its user."""

    titles: list[str]
    labels: NDArray[np.int8]
    domain: int
    user: Hashable


class Sampler:
    """Draws windows with fresh noise; what it draws depends on its seed and the number asked for, on nothing else.

    The domains take turns, however many sequences each has, so that a small domain is learned beside a large one.

    Args:
        max_window: longer sequences are cut at a random place to this many items.
        rates: each window's noise rate is one of these.
        shorten: share of the windows cut further, to a uniformly random length, so that short ones are known too.
        noise: how each domain's noise is drawn; None draws it uniformly.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        *,
        max_window: int,
        rates: Sequence[float],
        shorten: float,
        seed: int,
        noise: Sequence[Draw] | None = None,
    ) -> None:
        self.domains = domains
        self.max_window = max_window
        self.rates = rates
        self.shorten = shorten
        self.seed = seed
        self.noise = noise
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # by domain: an epoch, and its order

    @property
    def n_sequences(self) -> int:
        return sum(len(domain.sequences) for domain in self.domains)

    @property
    def longest_window(self) -> int:
        """Items of the longest window that will ever be drawn."""
        return min(self.max_window, max(len(sequence) for domain in self.domains for sequence in domain.sequences))

    def draw(self, number: int) -> LabelledWindow:
        """The window of this number; a domain's turns run through all its sequences in a new order each epoch."""
        domain_number, user, window, rng = self._cut(number)
        titles = self.domains[domain_number].titles
        # In use, too, the titles of a window are read once each.
        window = window[np.sort(np.unique(window, return_index=True)[1])]
        draw = None if self.noise is None else self.noise[domain_number]
        noisy, labels = inject_noise(window, len(titles), float(rng.choice(self.rates)), rng, draw)
        return LabelledWindow([titles[i] for i in noisy], labels, domain_number, user)

    def draw_titles(self, number: int) -> list[str]:
        """The window of this number as a lesson in suggesting titles: no noise, some items moved to its end.

        To suggest what belongs in the place of flagged items, a model continues the list of the others; so it learns to
        name the items that were taken out, in any order, from those that were left in theirs. An item that stands twice
        is in it once: what a sequence holds is never suggested for it.
        """
        domain_number, _, window, rng = self._cut(number)
        window = window[np.sort(np.unique(window, return_index=True)[1])]
        moved = rng.random(len(window)) < MOVED_SHARE
        titles = self.domains[domain_number].titles
        return [titles[i] for i in [*window[~moved], *rng.permutation(window[moved])]]

    def _cut(self, number: int) -> tuple[int, Hashable, Indices, np.random.Generator]:
        """Domain, user and items of the window of this number, and the generator that cut it."""
        turn, domain_number = divmod(number, len(self.domains))
        domain = self.domains[domain_number]
        epoch, place = divmod(turn, len(domain.sequences))
        if self._orders.get(domain_number, (-1,))[0] != epoch:
            rng = np.random.default_rng([self.seed, 0, domain_number, epoch])
            self._orders[domain_number] = (epoch, rng.permutation(len(domain.sequences)))
        chosen = self._orders[domain_number][1][place]
        sequence = domain.sequences[chosen]
        rng = np.random.default_rng([self.seed, 1, number])
        length = longest = min(len(sequence), self.max_window)
        if rng.random() < self.shorten:
            length = int(rng.integers(SHORTEST_WINDOW, longest + 1))
        start = int(rng.integers(len(sequence) - length + 1))
        return domain_number, domain.users[chosen], sequence[start : start + length], rng

    def windows(self, n: int, draws: int | None = None) -> Iterator[LabelledWindow]:
        """The first ``n`` windows, as many of each domain.

        Args:
            draws: take each sequence at most so often, so that a domain of few sequences has fewer windows.
        """
        most = [n if draws is None else draws * len(domain.sequences) for domain in self.domains]
        numbers = (divmod(number, len(self.domains)) for number in range(n))
        return (self.draw(turn * len(most) + domain) for turn, domain in numbers if turn < most[domain])

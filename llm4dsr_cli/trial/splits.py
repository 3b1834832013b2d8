"""Splits: what recommenders learn from, and the targets that they are asked for, which nobody ever edits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm4dsr_cli.errors import OptionError
from llm4dsr_cli.noise import Indices
from llm4dsr_cli.sequences import ItemSequence
from llm4dsr_cli.trial.items import Histories, Items

# With fewer, no difference that cleaning makes could be told from chance.
FEWEST_TARGETS = 20
# The shares of all interactions before validation and test begin, of a split by time.
BY_TIME = (0.8, 0.9)


@dataclass(frozen=True)
class Targets:
    """Items that a recommender has to guess, each from a history.

    Attributes:
        sequence: which of the split's sequences the history begins with, int64, shape (n_targets,).
        after: items of the history that come after that sequence, which are never edited.
        target: the items to guess, int64, shape (n_targets,).
    """

    sequence: Indices
    after: list[Indices]
    target: Indices

    def __len__(self) -> int:
        return len(self.target)

    def histories(self, sequences: Sequence[Indices]) -> list[Indices]:
        """What is known before each target, from the split's sequences as they are or edited."""
        return [np.concatenate([sequences[at], after]) for at, after in zip(self.sequence, self.after, strict=True)]

    def edited_histories(
        self, sequences: Sequence[Indices], edited: Sequence[Indices], newest_replaced: Collection[int] = ()
    ) -> list[Indices]:
        """The same of edited sequences, each with the newest item that it had: ``clean`` leaves that alone.

        Args:
            newest_replaced: numbers of the edited sequences in which another item stands in the newest one's place.
        """
        known = [
            edited[at] if len(after) else _with_newest(edited[at], sequences[at], replaced=at in newest_replaced)
            for at, after in zip(self.sequence.tolist(), self.after, strict=True)
        ]
        return [np.concatenate([before, after]) for before, after in zip(known, self.after, strict=True)]

    def chosen(self, chosen: Indices) -> Targets:
        """The targets of these numbers."""
        return Targets(self.sequence[chosen], [self.after[i] for i in chosen], self.target[chosen])


def _with_newest(edited: Indices, whole: Indices, *, replaced: bool) -> Indices:
    newest = whole[-1:]
    if not len(newest) or np.array_equal(edited[-1:], newest):
        return edited
    return np.concatenate([edited[:-1] if replaced else edited, newest])


@dataclass(frozen=True)
class Split:
    """Sequences that may be edited, and targets, which are in none of them.

    Attributes:
        items: what the numbers stand for.
        sequences: int64, shape (n_items,) each: every item of them may be edited.
        users: whose they are.
        trains: whether recommenders learn from a sequence, bool, shape (n_sequences,); the others are histories.
        validation: the targets by which a setting is chosen.
        test: the targets by which it is reported.
        protected: how many items of the data come after each sequence, int64, shape (n_sequences,).
        protect_last: how many items at a sequence's end ``clean`` has to leave alone to do the same to the whole file.
    """

    items: Items
    sequences: list[Indices]
    users: list[object]
    trains: np.ndarray[tuple[int], np.dtype[np.bool_]]
    validation: Targets
    test: Targets
    protected: Indices
    protect_last: int = 2

    def __post_init__(self) -> None:
        for name, targets in (("validation", self.validation), ("test", self.test)):
            if len(targets) < FEWEST_TARGETS:
                raise OptionError(
                    f"{len(targets)} {name} targets are too few to compare recommenders",
                    remedy=f"give {FEWEST_TARGETS} users or more with three items each"
                    + ("" if self.protect_last else ", or `split` leave-two-out"),
                )

    @property
    def n_editable(self) -> int:
        """How many items recommenders learn from; each may be edited."""
        return int(self.lengths[self.trains].sum())

    @property
    def n_items(self) -> int:
        """The same with the items after them, targets and others, which nobody edits."""
        return int((self.lengths + self.protected)[self.trains].sum())

    @property
    def lengths(self) -> Indices:
        """Items of each sequence."""
        return np.array([len(items) for items in self.sequences], dtype=np.int64)

    def item_sequences(self) -> list[ItemSequence]:
        """The sequences as cleaning takes them; each names somebody, so that one's own counts can be left out."""
        return [self.items.sequence(numbers, user) for numbers, user in zip(self.sequences, self.users, strict=True)]

    def with_users(self, n: int, seed: int) -> Split:
        """The same of ``n`` sequences that are drawn at random, with their targets.

        Of those with targets five times FEWEST_TARGETS of each kind are drawn first, so that there is something to
        compare where few have any.
        """
        drawn = np.random.default_rng([seed, 2]).permutation(len(self.sequences))
        needed = [
            drawn[np.isin(drawn, targets.sequence)][: 5 * FEWEST_TARGETS] for targets in (self.test, self.validation)
        ]
        kept = np.sort(np.array(list(dict.fromkeys(np.concatenate([*needed, drawn]).tolist())), dtype=np.int64)[:n])
        place = np.full(len(self.sequences), -1)
        place[kept] = np.arange(len(kept))

        def those(targets: Targets) -> Targets:
            found = targets.chosen(np.flatnonzero(place[targets.sequence] >= 0))
            return replace(found, sequence=place[found.sequence])

        return replace(
            self,
            sequences=[self.sequences[i] for i in kept],
            users=[self.users[i] for i in kept],
            trains=self.trains[kept],
            protected=self.protected[kept],
            validation=those(self.validation),
            test=those(self.test),
        )


def leave_two_out(histories: Histories) -> Split:
    """The last item of each history is its test target, the one before its validation target.

    The validation target stands in the history of the test target, as it is known by then. A history of one or two
    items has no targets; it is learned from.

    Raises:
        OptionError: fewer than FEWEST_TARGETS histories of three items and more.
    """
    split = np.array([len(sequence) >= 3 for sequence in histories.sequences], dtype=bool)
    sequences = [whole[:-2] if two else whole for whole, two in zip(histories.sequences, split, strict=True)]
    at = np.flatnonzero(split)
    last = np.array([histories.sequences[i][-1] for i in at], dtype=np.int64)
    before = np.array([histories.sequences[i][-2] for i in at], dtype=np.int64)
    nothing = np.zeros(0, dtype=np.int64)
    return Split(
        histories.items,
        sequences,
        list(histories.users),
        np.ones(len(sequences), dtype=bool),
        Targets(at, [nothing] * len(at), before),
        Targets(at, [before[i : i + 1] for i in range(len(at))], last),
        2 * split.astype(np.int64),
    )


def by_time(histories: Histories) -> Split:
    """Recommenders learn from what came before a moment that is the same for all users.

    Of each user the first item after BY_TIME[0] of all interactions is a validation target, and the first after
    BY_TIME[1] a test target; all that the user had before it is its history. Users without an item before have no
    target.

    Raises:
        OptionError: the records have no times, or they leave too few targets.
    """
    if histories.times is None:
        raise OptionError(
            "`split` is time, and the records have no times",
            remedy="name the list of the items' times with `time_field`, or give leave-two-out",
        )
    moments = np.quantile(np.concatenate(histories.times), BY_TIME)
    sequences: list[Indices] = []
    found: list[list[tuple[int, Indices, int]]] = [[], []]
    for number, (items, times) in enumerate(zip(histories.sequences, histories.times, strict=True)):
        order = np.argsort(times, kind="stable")
        items, times = items[order], times[order]
        n_learned = int((times <= moments[0]).sum())
        sequences.append(items[:n_learned])
        for which, (after, until) in enumerate(((moments[0], moments[1]), (moments[1], np.inf))):
            those = np.flatnonzero((times > after) & (times <= until))
            if len(those) and those[0]:
                place = int(those[0])
                found[which].append((number, items[n_learned:place], int(items[place])))
    validation, test = (
        Targets(
            np.array([number for number, _, _ in those], dtype=np.int64),
            [after for _, after, _ in those],
            np.array([target for _, _, target in those], dtype=np.int64),
        )
        for those in found
    )
    lengths = np.array([len(items) for items in sequences], dtype=np.int64)
    whole = np.array([len(items) for items in histories.sequences], dtype=np.int64)
    return Split(
        histories.items,
        sequences,
        list(histories.users),
        lengths > 0,
        validation,
        test,
        whole - lengths,
        protect_last=0,
    )

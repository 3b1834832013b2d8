"""What one pass over the data that are to be cleaned gives: who has what, a sample of users, and the items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from llm4dsr_cli.gate.counting import PartialCounts
from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.sample import UserSample, UserSequence
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.sequences import ItemId, ItemSequence, JudgeableSequence

# So many sequences with noise put in tell how to weigh counts against the denoiser (docs/experiments.md).
SAMPLED_USERS = 250
# Items that may be edited: one alone has nothing beside it.
FEWEST_ITEMS = 2


@dataclass(frozen=True)
class Counted:
    """Counts of some data.

    Attributes:
        evidence: who has what.
        sample: a sequence each of some users.
        items: all items; none of them where a catalog names them.
        n_items: how many items the sequences have, repeated ones each time.
        nameless: how many sequences name nobody.
    """

    evidence: Evidence
    sample: UserSample
    items: Candidates
    n_items: int
    nameless: int

    @classmethod
    def of(cls, sequences: Iterable[ItemSequence], *, with_items: bool = True, protect_last: int = 1) -> Counted:
        """From sequences, which are read once; memory grows with the different items that users have.

        The sample is of sequences that have something to judge beside their last ``protect_last`` items.
        """
        items = Candidates()
        sample = UserSample(SAMPLED_USERS, FEWEST_ITEMS + protect_last)
        reading = _Pass(sample, items.add_items if with_items else None)
        evidence = Evidence.count(reading.through(sequences))
        return cls(evidence, reading.sample, items, reading.n_items, reading.nameless)

    @classmethod
    def merged(cls, parts: Sequence[CountedPart]) -> Counted:
        """From parts of the data, in their order: what ``of`` gives of all of them."""
        sample, items = UserSample(SAMPLED_USERS), Candidates()
        for part in parts:
            for user, titles in part.sequences:
                sample.add(user, titles)
            for title, id_ in part.items:
                items.add(title, id_)
        evidence = Evidence.merged([part.counts for part in parts])
        n_items, nameless = sum(part.n_items for part in parts), sum(part.nameless for part in parts)
        return cls(evidence, sample, items, n_items, nameless)


@dataclass(frozen=True)
class CountedPart:
    """Counts of a part of some data, for ``Counted.merged``.

    Attributes:
        counts: who has what.
        sequences: all those of users who may be in the sample.
        items: title and id of the different items; none of them where a catalog names them.
        n_items, nameless: as ``Counted`` has them.
    """

    counts: PartialCounts
    sequences: list[UserSequence]
    items: list[tuple[str, ItemId | None]]
    n_items: int
    nameless: int

    @classmethod
    def of(cls, sequences: Iterable[ItemSequence], *, with_items: bool = True, protect_last: int = 1) -> CountedPart:
        """From sequences, which are read once; as ``Counted.of``."""
        items: dict[tuple[str, ItemId | None], None] = {}

        def take(sequence: ItemSequence) -> None:
            pairs = zip(sequence.titles, sequence.ids, strict=True)
            items.update(dict.fromkeys((title, id_) for title, id_ in pairs if title is not None))

        sample = UserSample(SAMPLED_USERS, FEWEST_ITEMS + protect_last, keeps_all=True)
        reading = _Pass(sample, take if with_items else None)
        counts = PartialCounts.of(reading.through(sequences))
        return cls(counts, reading.sample.all_sequences, list(items), reading.n_items, reading.nameless)


@dataclass
class _Pass:
    """What is noted of sequences while they pass by to be counted."""

    sample: UserSample
    take: Callable[[ItemSequence], None] | None
    n_items: int = field(default=0, init=False)
    nameless: int = field(default=0, init=False)

    def through(self, sequences: Iterable[ItemSequence]) -> Iterator[UserSequence]:
        for sequence in sequences:
            if self.take is not None:
                self.take(sequence)
            self.n_items += len(sequence.titles)
            self.nameless += sequence.user is None
            judgeable: JudgeableSequence = sequence.judgeable()
            self.sample.add(judgeable.owner, judgeable.titles)
            yield judgeable.owner, judgeable.titles

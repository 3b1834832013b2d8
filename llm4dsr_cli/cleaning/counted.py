"""What one pass over the data that are to be cleaned gives: who has what, a sample of users, and the items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.gate.sample import UserSample
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.sequences import ItemSequence, JudgeableSequence

# So many sequences with noise put in tell how to weigh counts against the denoiser (docs/experiments.md).
SAMPLED_USERS = 250
SHORTEST = 3


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
    def of(cls, sequences: Iterable[ItemSequence], *, with_items: bool = True) -> Counted:
        """From sequences, which are read once; memory grows with the different items that users have."""
        sample, items = UserSample(SAMPLED_USERS, SHORTEST), Candidates()
        n_items = nameless = 0

        def passing() -> Iterator[JudgeableSequence]:
            nonlocal n_items, nameless
            for sequence in sequences:
                if with_items:
                    items.add_items(sequence)
                n_items += len(sequence.titles)
                nameless += sequence.user is None
                judgeable = sequence.judgeable()
                sample.add(judgeable.owner, judgeable.titles)
                yield judgeable

        evidence = Evidence.count((one.owner, one.titles) for one in passing())
        return cls(evidence, sample, items, n_items, nameless)

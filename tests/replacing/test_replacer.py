"""Replacement: what is proposed is put in place, scored there, and accepted only where it belongs."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.proposals import Gaps, Proposal
from llm4dsr_cli.replacing.replacer import Replacement, Replacer
from llm4dsr_cli.sequences import ItemSequence, JudgeableSequence
from llm4dsr_cli.windows import overlapping_windows

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CATALOG = [f"{family} {number}" for family in "abc" for number in range(6)]
NUMBER = {title: number for number, title in enumerate(CATALOG)}
Answer = Callable[[Gaps], list[tuple[int, ...]]]


@dataclass
class Listed:
    """Proposes what a function says, and remembers what it was asked."""

    answer: Answer
    asked: list[Gaps] = field(default_factory=list)
    name: str = "listed"
    score_name: str = "minus_number"

    def propose(self, windows: Sequence[Gaps], n: int) -> list[list[Proposal]]:
        self.asked += windows
        return [[Proposal(those, tuple(-float(i) for i in those)) for those in self.answer(w)[:n]] for w in windows]


@dataclass
class Scorer:
    """Scores titles by a function, and remembers them."""

    of: Callable[[list[str]], list[float]]
    calls: list[list[list[str]]] = field(default_factory=list)

    def __call__(self, sequences: list[ItemSequence]) -> list[np.ndarray]:
        self.calls.append([list(sequence.titles) for sequence in sequences])
        return [np.array(self.of(list(sequence.titles)), dtype=np.float32) for sequence in sequences]


def judgeable(titles: list[str], user: Any = None) -> JudgeableSequence:
    return ItemSequence(titles, user).judgeable()


def replacement(candidate: int, score: float, log_odds: Any, accepted: bool) -> Replacement:
    return Replacement(candidate, None, CATALOG[candidate], "listed", "minus_number", score, log_odds, accepted)


def replacer_of(answer: Answer, max_window: int = 6, **more: Any) -> tuple[Replacer, Listed]:
    candidates, listed = Candidates(), Listed(answer)
    for title in CATALOG:
        candidates.add(title, None)
    return Replacer(listed, candidates, max_window, **more), listed


def flags(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


def alone(titles: list[str]) -> list[float]:
    """Noise is what has none of its kind beside it: 2 alone, 0 in a pair, -2 among three."""
    return [4.0 - 2 * sum(other[0] == title[0] for other in titles) for title in titles]


def haphazard(titles: list[str]) -> list[float]:
    """Any other title anywhere in the sequence changes all."""
    rng = random.Random(repr(titles))
    return [float(np.float32(rng.uniform(-4, 4))) for _ in titles]


def draws(gaps: Gaps) -> list[tuple[int, ...]]:
    """Three proposals, or none, by chance; now and then too short."""
    rng = random.Random(repr((gaps.titles, gaps.n_gaps, sorted(gaps.excluded), gaps.user)))
    left = [number for number in range(len(CATALOG)) if number not in gaps.excluded]
    size = rng.choice([gaps.n_gaps, gaps.n_gaps, 1])
    return [tuple(rng.sample(left, size)) for _ in range(3)] if len(left) >= size and rng.random() < 0.9 else []


def naive(
    one: ItemSequence,
    before: list[float],
    flagged: np.ndarray,
    threshold: float,
    max_window: int,
    n: int,
    margin: float,
) -> dict[int, Replacement]:
    """One record, one window, one proposal at a time."""
    found: dict[int, Replacement] = {}
    for window in overlapping_windows(len(flagged), max_window):
        positions = [i for i in range(window.judge_from, window.judge_to) if flagged[i]]
        if not positions:
            continue
        others = [one.titles[i] for i in range(window.start, window.end) if not flagged[i]]
        tried = []
        for proposal in draws(
            Gaps(others, len(positions), frozenset(NUMBER[title] for title in one.titles), one.owner)
        )[:n]:
            titles = list(one.titles)
            put = dict(zip(positions, proposal, strict=False))
            for position, candidate in put.items():
                titles[position] = CATALOG[candidate]
            scores = haphazard(titles)
            tried.append((sum(scores[position] for position in positions), put, scores))
        if not tried:
            continue
        _, put, scores = min(tried, key=lambda entry: entry[0])
        taken = {replacement.candidate for replacement in found.values() if replacement.accepted}
        for position, candidate in put.items():
            after = scores[position]
            accepted = after <= min(threshold, before[position] - margin) and candidate not in taken
            found[position] = replacement(candidate, -float(candidate), after, accepted)
    return found


@unhurried
@given(
    st.lists(st.lists(st.sampled_from(CATALOG), max_size=12), max_size=5),
    st.floats(-3, 3),
    st.integers(2, 7),
    st.integers(1, 3),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.data(),
)
def test_a_batch_is_replaced_as_its_records_are_one_by_one(
    sequences: list[list[str]], threshold: float, max_window: int, n: int, margin: float, data: st.DataObject
) -> None:
    """Guards: a proposal put into another record or position, judged by another's score, or taken though it is worse;
    one item put into two places; a margin or a threshold that is not heeded."""
    users = [None if number % 3 == 2 else number for number in range(len(sequences))]
    records = [ItemSequence(titles, user) for user, titles in zip(users, sequences, strict=True)]
    edits = [np.array(data.draw(st.tuples(*[st.booleans()] * len(titles))), dtype=bool) for titles in sequences]
    scorer = Scorer(haphazard)
    scores = scorer(records)
    before = copy.deepcopy([(one.user, one.titles) for one in records])
    replacer, _ = replacer_of(draws, max_window, n_proposals=n, margin=margin)
    found = replacer.replace(records, scores, edits, threshold, scorer)
    assert found == [
        naive(one, odds.tolist(), flagged, threshold, max_window, n, margin)
        for one, odds, flagged in zip(records, scores, edits, strict=True)
    ]
    assert len(scorer.calls) <= 2
    assert [(one.user, one.titles) for one in records] == before
    for one, replacements in zip(records, found, strict=True):
        put = [CATALOG[replacement.candidate] for replacement in replacements.values() if replacement.accepted]
        assert len({*put, *one.titles}) == len(put) + len({*one.titles})


def test_flagged_items_of_a_sequence_are_replaced_together() -> None:
    """Guards: each gap filled and judged with the other's noise still in place, where neither proposal would do."""
    one = judgeable(["a 0", "b 0", "c 0"])
    replacer, listed = replacer_of(lambda gaps: [(NUMBER["a 1"], NUMBER["a 2"])])
    scorer = Scorer(alone)
    (found,) = replacer.replace([one], [np.array([2.0, 2.0, 2.0])], [flags(".xx")], -1.0, scorer)
    assert scorer.calls == [[["a 0", "a 1", "a 2"]]]
    assert listed.asked == [Gaps(["a 0"], 2, frozenset(NUMBER[title] for title in one.titles), one.owner)]
    assert {position: (r.candidate, r.log_odds, r.accepted) for position, r in found.items()} == {
        1: (NUMBER["a 1"], -2.0, True),
        2: (NUMBER["a 2"], -2.0, True),
    }


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [(3.0, 1.0, True), (3.0, 1.01, False), (1.5, 0.6, False), (1.5, 0.5, True), (1.1, -9.0, True), (9.0, 8.0, False)],
)
def test_what_is_accepted_is_neither_flagged_nor_hardly_better(before: float, after: float, accepted: bool) -> None:
    """Guards: noise put in noise's place, an edit that changes a record for next to nothing."""
    replacer, _ = replacer_of(lambda gaps: [(5,)])
    scorer = Scorer(lambda titles: [after, -5.0])
    (found,) = replacer.replace([judgeable(["b 0", "a 0"])], [np.array([before, -5.0])], [flags("x.")], 1.0, scorer)
    assert found == {0: replacement(5, -5.0, pytest.approx(after), accepted)}


def test_of_several_proposals_the_one_that_the_detector_likes_best_is_taken() -> None:
    """Guards: the proposer's favourite taken unseen."""
    replacer, _ = replacer_of(lambda gaps: [(NUMBER["b 1"],), (NUMBER["a 5"],), (NUMBER["c 1"],)], n_proposals=3)
    scorer = Scorer(alone)
    (found,) = replacer.replace(
        [judgeable(["a 0", "c 0", "a 1"])], [np.array([0, 2.0, 0])], [flags(".x.")], 0.0, scorer
    )
    assert found == {1: replacement(NUMBER["a 5"], -float(NUMBER["a 5"]), -2.0, True)}
    assert len(scorer.calls) == 1


def test_two_windows_put_no_item_into_a_sequence_twice_and_a_refused_one_blocks_none() -> None:
    """Guards: a sequence that names one item twice; a good proposal refused since it was bad in another place."""
    titles = ["a 0", "a 1", "b 0", "a 2", "c 0", "a 3", "a 4"]
    edits = [flags("x.....x")]
    for odds, accepted in (((-3, -3), (True, False)), ((2, -3), (False, True)), ((-3, 2), (True, False))):
        replacer, listed = replacer_of(lambda gaps: [(NUMBER["b 5"],)], max_window=4)
        scorer = Scorer(lambda titles, odds=odds: [odds[0], *[-1.0] * 5, odds[1]])
        (found,) = replacer.replace([judgeable(titles)], [np.full(7, 4.0)], edits, 0.0, scorer)
        assert {position: r.accepted for position, r in found.items()} == {0: accepted[0], 6: accepted[1]}
        # Of the whole sequence, not of the window alone.
        assert [gaps.excluded for gaps in listed.asked] == [frozenset(NUMBER[title] for title in titles)] * 2
        assert [gaps.titles for gaps in listed.asked] == [titles[1:4], titles[3:6]]


def test_where_nothing_is_proposed_nothing_is_replaced_nor_scored() -> None:
    """Guards: a proposer without an idea, or with fewer items than gaps, that stops the run."""
    one = judgeable(["b 0", "c 0", "a 0"])
    for answer, edits, found in (
        (lambda gaps: [], flags("xx."), {}),
        (lambda gaps: [(NUMBER["a 1"],)], flags("..."), {}),
        (lambda gaps: [(NUMBER["a 1"],)], flags("xx."), {0: replacement(NUMBER["a 1"], -1.0, 0.0, True)}),
    ):
        replacer, listed = replacer_of(answer)
        scorer = Scorer(alone)
        assert replacer.replace([one], [np.array([2.0, 2.0, 2.0])], [edits], 0.0, scorer) == [found]
        assert [*itertools.chain(*scorer.calls)] == ([["a 1", "c 0", "a 0"]] if found else [])
        assert len(listed.asked) == edits.any()
    assert replacer.replace([], [], [], 0.0, scorer) == []

"""Proposals by counts: what other users have beside a sequence's items, and what is called like them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.gate.evidence import Evidence
from llm4dsr_cli.replacing.candidates import Candidates
from llm4dsr_cli.replacing.counts_proposer import DISCOUNT, SHRINKAGE, TITLE_WEIGHT, CountsProposer
from llm4dsr_cli.replacing.proposals import Gaps

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Data = list[tuple[int, list[str]]]
TITLES = [f"{name} {kind}" for name in ("red", "blue", "big") for kind in ("ball", "book", "boat", "7")]
NEVER_COUNTED = ["red kite", "?", "green tea"]
sequences = st.lists(st.sampled_from(TITLES), max_size=6)
data_sets = st.lists(st.tuples(st.integers(0, 4), sequences), max_size=12)
catalogs = st.lists(st.sampled_from([*TITLES, *NEVER_COUNTED]), unique=True, max_size=10)
contexts = st.lists(st.sampled_from([*TITLES, *NEVER_COUNTED]), max_size=5)
users = st.none() | st.integers(0, 5)


def proposer_of(data: Data, catalog: list[str]) -> CountsProposer:
    candidates = Candidates()
    for number, title in enumerate(catalog):
        candidates.add(title, number)
    return CountsProposer(Evidence.count(data), candidates)


def naive_worth(data: Data, catalog: list[str], titles: Sequence[str], user: int | None) -> np.ndarray:
    """Straight from the definition: a loop over candidates and items, each counted in sets of titles."""
    holds: dict[int, set[str]] = {}
    for owner, items in data:
        holds.setdefault(owner, set()).update(items)
    everything = set().union(*holds.values())
    with_word = Counter(word for title in everything for word in title.split())
    holds.pop(user, None)

    def having(*wanted: str) -> int:
        return sum(items.issuperset(wanted) for items in holds.values())

    def vector(title: str) -> dict[str, float]:
        words = [word for word in title.split() if len(word) > 1]
        weights = {word: np.log((1 + len(everything)) / (1 + with_word[word])) + 1 for word in words}
        length = np.sqrt(sum(weight**2 for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()}

    others = list(dict.fromkeys(titles))
    worth = np.zeros(len(catalog))
    for i, candidate in enumerate(catalog):
        for other in others:
            if other != candidate:
                worth[i] += having(other, candidate) / (having(other) + SHRINKAGE) / (having(candidate) + 1) ** DISCOUNT
            one, two = vector(candidate), vector(other)
            worth[i] += TITLE_WEIGHT * sum(weight * two.get(word, 0) for word, weight in one.items())
    return worth / max(1, len(others))


@unhurried
@given(data_sets, catalogs, contexts, users)
def test_worth_is_that_of_the_definition_with_the_user_taken_away(
    data: Data, catalog: list[str], titles: list[str], user: int | None
) -> None:
    """Guards the sparse arithmetic: a pair miscounted, the user's own pairs, a repeated item that weighs more."""
    found = proposer_of(data, catalog).worth(titles, user)
    np.testing.assert_allclose(found, naive_worth(data, catalog, titles, user), atol=1e-6)


@unhurried
@given(data_sets, catalogs, contexts, users, st.integers(1, 4), st.integers(1, 3), st.data())
def test_each_gap_gets_the_best_that_is_left_beside_what_is_there_by_then(
    data: Data, catalog: list[str], titles: list[str], user: int | None, n_gaps: int, n: int, draw: st.DataObject
) -> None:
    """Guards: the sequence's own items proposed, one item for two gaps, gaps that know nothing of one another."""
    excluded = draw.draw(st.sets(st.integers(0, len(catalog) - 1))) if catalog else set()
    (proposals,) = proposer_of(data, catalog).propose([Gaps(titles, n_gaps, frozenset(excluded), user)], n)
    allowed = set(range(len(catalog))) - excluded

    def best(context: list[str], taken: Sequence[int]) -> float:
        worth = naive_worth(data, catalog, context, user)
        return max((worth[i] for i in allowed.difference(taken)), default=0)

    firsts = [proposal.candidates[0] for proposal in proposals]
    assert len(set(firsts)) == len(firsts) <= n
    assert len(firsts) == n or best(titles, firsts) < 1e-6
    for rank, proposal in enumerate(proposals):
        context, taken = list(titles), firsts[:rank]
        for number, (candidate, score) in enumerate(zip(proposal.candidates, proposal.scores, strict=True), 1):
            assert candidate in allowed.difference(taken)
            assert naive_worth(data, catalog, context, user)[candidate] == pytest.approx(score, abs=1e-6)
            assert score > 0 and best(context, taken) - 1e-6 <= score
            context.append(catalog[candidate])
            taken = list(proposal.candidates[:number])
        assert len(proposal.candidates) == n_gaps or best(context, taken) < 1e-6


def test_nothing_is_proposed_that_nothing_speaks_for() -> None:
    """Guards: an arbitrary item for a sequence of strangers, for an empty one, and look-ups in empty arrays."""
    catalog = ["Alien", "Heat", "Up"]
    data = [(1, ["Alien", "Heat"]), (2, ["Alien", "Heat"])]
    for one, titles in ((proposer_of(data, catalog), ["Ran"]), (proposer_of([], catalog), ["Ran"])):
        assert one.propose([Gaps(titles, 2, frozenset()), Gaps([], 1, frozenset())], 3) == [[], []]
    assert proposer_of(data, []).propose([Gaps(["Alien"], 1, frozenset())], 1) == [[]]
    ((only,),) = proposer_of(data, catalog).propose([Gaps(["Alien"], 2, frozenset({0}))], 3)
    assert only.candidates == (1,)
    assert proposer_of(data, catalog).propose([Gaps(["Alien"], 2, frozenset({0, 1}))], 3) == [[]]


def test_a_user_does_not_vouch_for_what_was_taken_out() -> None:
    """Guards: noise that comes back by way of the user's other sequences, or another user's that is left out."""
    data = [(1, ["Alien", "Heat"]), (1, ["Alien", "Up"]), (2, ["Alien", "Ran"])]
    one = proposer_of(data, ["Heat", "Up", "Ran"])

    def proposed(user: int | str | None) -> list[int]:
        return [p.candidates[0] for p in one.propose([Gaps(["Alien"], 1, frozenset(), user)], 3)[0]]

    assert proposed(1) == proposed("1") == [2]
    assert proposed(2) == [0, 1]
    assert proposed(None) == proposed(3) == [0, 1, 2]


def test_white_space_in_titles_does_not_matter() -> None:
    """Guards: a stray blank that hides an item from the counts, or lets it count twice."""
    data = [(1, ["red ball", "big  boat"]), (2, ["red ball", "blue book"])]
    tidy = proposer_of(data, ["big boat", "blue book"]).worth(["red ball", "blue book"])
    untidy = proposer_of(data, [" big boat", "blue\nbook"]).worth([" red  ball", "red ball", "blue book\t"])
    assert tidy.all()
    np.testing.assert_array_equal(untidy, tidy)


def test_a_large_catalog_and_many_users_take_little_time() -> None:
    """Guards: a proposal that walks through all pairs of a large data set."""
    rng = np.random.default_rng(0)
    catalog = [f"item {number} of {number % 97}" for number in range(20_000)]
    data = [(user, [catalog[i] for i in rng.integers(0, len(catalog), 20)]) for user in range(2_000)]
    one = proposer_of(data, catalog)
    one.worth(catalog[:1])
    began = time.process_time()
    found = one.propose([Gaps(titles[:10], 3, frozenset(), user) for user, titles in data[:50]], 1)
    assert time.process_time() - began < 10
    assert all(len(proposal.candidates) == 3 for (proposal,) in found)

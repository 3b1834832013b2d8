"""Counted in parts: counts, sample and items of parts of the data are those of the whole."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llm4dsr_cli.cleaning import counted as counted_module
from llm4dsr_cli.cleaning.counted import Counted, CountedPart
from llm4dsr_cli.sequences import ItemSequence


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("with_items", [True, False])
def test_parts_make_the_whole(monkeypatch: pytest.MonkeyPatch, seed: int, with_items: bool) -> None:
    """Guards: a sample of other users, or of other sequences of them; candidates of another order, or an alias of one
    (the same id under two titles) that comes back as an item of its own."""
    monkeypatch.setattr(counted_module, "SAMPLED_USERS", 5)
    rng = random.Random(seed)
    names = [(f"title {n % 25}", n % 20) for n in range(30)]

    def sequence() -> ItemSequence:
        chosen = rng.sample(names, rng.randint(1, 6))
        titles = [title if rng.random() < 0.9 else None for title, _ in chosen]
        return ItemSequence(titles, rng.choice([None, *range(12)]), [id_ for _, id_ in chosen])

    data = [sequence() for _ in range(60)]
    places = sorted(rng.sample(range(61), 3))
    parts = [data[start:end] for start, end in zip([0, *places], [*places, 60], strict=True)]
    whole = Counted.of(data, with_items=with_items)
    merged = Counted.merged([CountedPart.of(part, with_items=with_items) for part in parts])
    assert merged.sample.sequences == whole.sample.sequences
    assert len(whole.sample.sequences) == 5
    assert (merged.n_items, merged.nameless) == (whole.n_items, whole.nameless)
    np.testing.assert_array_equal(merged.evidence.held, whole.evidence.held)
    assert (merged.items.titles, merged.items.ids) == (whole.items.titles, whole.items.ids)
    assert [merged.items.numbers(one) for one in data] == [whole.items.numbers(one) for one in data]


@pytest.mark.parametrize("protect_last", [0, 1, 5])
def test_the_sample_is_of_sequences_in_which_something_may_be_edited(protect_last: int) -> None:
    """Guards: "28 users are too few" of data with 100 who have long sequences: the sample was full of short ones."""
    data = [ItemSequence([f"t{n}" for n in range(20 if user % 10 == 0 else 5)], user) for user in range(1_000)]
    for counted in (
        Counted.of(data, protect_last=protect_last),
        Counted.merged([CountedPart.of(part, protect_last=protect_last) for part in (data[:300], data[300:])]),
    ):
        lengths = [len(titles) for _, titles in counted.sample.sequences]
        assert len(lengths) == (100 if protect_last == 5 else counted_module.SAMPLED_USERS)
        assert min(lengths) >= protect_last + 2

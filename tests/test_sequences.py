"""Sequences by the numbers of their titles, as calibration, labelled data and training all have them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm4dsr_cli.sequences import IndexedSequences
from llm4dsr_cli.titles import clean_title

titles = st.lists(st.sampled_from(["a", " a", "b", "B", "c\n", "c", "d  e", "d e", ""]), max_size=6)


@given(st.lists(st.tuples(st.integers(0, 3), titles), max_size=8), titles)
def test_a_title_has_one_number_and_the_catalog_s_come_first(
    sequences: list[tuple[int, list[str]]], catalog: list[str]
) -> None:
    """Guards two numbers for one title, noise drawn from titles that the catalog does not have, and draws that change
    with the order of the numbers."""
    found = IndexedSequences.build(iter(sequences), iter(catalog))
    clean = [clean_title(title) for title in [*catalog, *(title for _, row in sequences for title in row)]]
    assert found.titles == list(dict.fromkeys(clean))
    assert set(found.titles[: found.n_catalog]) == {clean_title(title) for title in catalog}
    assert found.users == [user for user, _ in sequences]
    for numbers, (_, row) in zip(found.sequences, sequences, strict=True):
        assert numbers.dtype == np.int64
        assert [found.titles[number] for number in numbers] == [clean_title(title) for title in row]

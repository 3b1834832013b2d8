"""Parallel lists: those that are always as long as the items keep step with them, others stay as they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.parsing import parse_record, record_of
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.record_format import RecordFormat

PLAIN = RecordFormat()


def record(number: int, n: int, record_format: RecordFormat = PLAIN, **fields: Any) -> Record:
    data = {"items": [f"t{i}" for i in range(n)], **fields}
    return parse_record(json.dumps(data).encode(), f"in.jsonl:{number}", record_format, None)


def found(lists: ParallelLists, one: Record) -> set[str]:
    return {".".join(names) for names in lists.of(one, dropping=True)}


@settings(deadline=None)
@given(st.lists(st.integers(2, 9), min_size=2, max_size=30, unique=True))
def test_lists_as_long_as_the_items_are_found_whatever_is_in_them(lengths: list[int]) -> None:
    """Guards: ratings out of step because nobody named them; lists of texts, of lists or in an object overlooked."""
    lists = ParallelLists(PLAIN)
    batch = [
        record(
            number,
            n,
            ratings=[4.5] * n,
            words=["w"] * n,
            vectors=[[1, 2]] * n,
            flags=[None] * n,
            deep={"times": [*range(n)], "x": {"y": [True] * n}},
            tags=["a"] * (number % 2),
            name="x" * n,
            objects=[{"a": [1] * n}],
            longer=[0] * (n + 1),
            empty=[],
        )
        for number, n in enumerate(lengths, 1)
    ]
    lists.observe(batch)
    wanted = {"ratings", "words", "vectors", "flags", "deep.times", "deep.x.y"}
    for one in batch:
        assert found(lists, one) == wanted
        rendered = json.loads(one.render([0], parallel=lists.of(one, dropping=True)))
        assert len(rendered["ratings"]) == len(rendered["deep"]["x"]["y"]) == len(rendered["items"])
        assert rendered["tags"] == one.data["tags"] and len(rendered["longer"]) == len(one.titles) + 1
    assert set(lists.kept) == wanted


def test_a_list_whose_length_differs_somewhere_is_left_and_told() -> None:
    """Guards: tags cut with the items because they were three by chance, or left without a word."""
    lists = ParallelLists(PLAIN)
    batch = [record(1, 3, tags=["a", "b", "c"]), record(2, 4, tags=["a"]), record(3, 2, tags=["a", "b"])]
    lists.observe(batch)
    assert [found(lists, one) for one in batch] == [set()] * 3
    assert (lists.kept, lists.left) == ({}, {"tags": "in.jsonl:2"})


def test_a_damaged_list_is_an_error_where_items_are_dropped_and_only_there() -> None:
    """Guards: all ratings out of step because one record lacks one; a record refused that nothing is dropped from."""
    lists = ParallelLists(PLAIN)
    batch = [record(n, 3, ratings=[1, 2, 3]) for n in range(1, 30)] + [record(30, 3, ratings=[1, 2])]
    lists.observe(batch)
    assert found(lists, batch[0]) == {"ratings"}
    assert lists.of(batch[-1], dropping=False) == []
    with pytest.raises(RecordError, match=r'^in\.jsonl:30: "ratings" has 2 entries, "items" 3, .*`not_parallel`'):
        lists.of(batch[-1], dropping=True)


def test_what_was_decided_stays_decided() -> None:
    """Guards: a pipe's first record cut with its tags, the second without."""
    lists = ParallelLists(PLAIN)
    first, second = record(1, 2, tags=["a", "b"]), record(2, 3, tags=["a"])
    lists.observe([first])
    assert found(lists, first) == {"tags"}
    lists.observe([second])
    with pytest.raises(RecordError, match=r"^in\.jsonl:2: "):
        found(lists, second)
    late = ParallelLists(PLAIN)
    late.observe([first])
    assert late.of(first, dropping=False) == []  # nothing was dropped, so nothing is decided
    late.observe([second])
    assert found(late, second) == set()


def test_one_item_tells_nothing() -> None:
    """Guards: a list of one taken for a parallel one because there is one item."""
    lists = ParallelLists(PLAIN)
    batch = [*(record(n, 1, genre=["x"]) for n in range(50)), record(50, 4, genre=["x"])]
    lists.observe(batch)
    assert found(lists, batch[-1]) == set()
    assert lists.left == {}


def test_options_decide_otherwise() -> None:
    """Guards: an option that the lengths overrule."""
    form = RecordFormat(parallel_fields=("tags", "deep.times"), not_parallel=("ratings", "other"))
    fields = {"tags": [1, 2, 3], "ratings": [1, 2, 3], "deep": {"times": [1, 2, 3]}, "other": {"more": [1, 2, 3]}}
    lists = ParallelLists(form)
    one = record(1, 3, form, **fields)
    lists.observe([one])
    assert found(lists, one) == {"tags", "deep.times"}
    with pytest.raises(RecordError, match='"tags" has 2 entries, "items" 3: make them equally long'):
        record(2, 3, form, **{**fields, "tags": [1, 2]})
    with pytest.raises(RecordError, match=r'"deep\.times" is missing'):
        record(2, 3, form, **{**fields, "deep": {}})


@pytest.mark.parametrize("value", [(1, 2, 3), np.arange(3), range(3)])
def test_what_is_as_long_as_the_items_and_no_list_is_refused_before_it_falls_out_of_step(value: Any) -> None:
    """Guards: a tuple or an array of ratings beside a record of Python's, which kept the entry of a dropped item."""
    data = {"items": ["a", "b", "c"], "ratings": value}
    with pytest.raises(RecordError, match=r"\"ratings\" is .* as long as the items: make it a list"):
        ParallelLists(PLAIN).of(record_of(data, "record 1", PLAIN, None), dropping=True)
    kept = RecordFormat(not_parallel=("ratings",))
    assert ParallelLists(kept).of(record_of(data, "record 1", kept, None), dropping=True) == []

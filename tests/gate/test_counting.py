"""Counting in parts: what several machines have counted is, put together, what one would have."""

from __future__ import annotations

import numpy as np
import pytest

from llm4dsr_cli.gate import counting
from llm4dsr_cli.gate.counting import PartialCounts
from llm4dsr_cli.gate.evidence import Evidence

Data = list[tuple[int, list[str]]]


def cut(data: Data, places: list[int]) -> list[Data]:
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_parts_make_the_whole(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Guards: a title or a word that two parts count twice; a user in two parts who is two users, whose later part
    comes first, or whose history is cut a part at a time; an empty part."""
    monkeypatch.setattr(counting, "LONGEST_HISTORY", 6)
    rng = np.random.default_rng(seed)
    spellings = ["Red Ball", "red  ball", "blue ball", "big red boat", "x", "ÄLIEN", "älien"]
    titles = [*spellings, *(f"thing {n} of kind {n % 5}" for n in range(40))]
    data = [
        (int(rng.integers(15)), [str(title) for title in rng.choice(titles, rng.integers(0, 9))])
        for _ in range(int(rng.integers(0, 60)))
    ]
    places = sorted(rng.integers(0, len(data) + 1, 4).tolist())
    parts = [PartialCounts.of(part) for part in cut(data, places)]
    whole, merged = Evidence.count(data), Evidence.merged(parts)
    for name in ("items", "users", "starts", "held", "words", "titles_with"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name), name)


def test_of_a_user_in_two_parts_the_last_items_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: the items that a user had first, because the parts come in another order than the data."""
    monkeypatch.setattr(counting, "LONGEST_HISTORY", 3)
    parts = [PartialCounts.of([(1, ["a", "b", "c"]), (2, ["z"])]), PartialCounts.of([(1, ["d", "b"])])]
    evidence = Evidence.merged(parts)
    popular = {title: int(evidence.popularity[evidence.numbers([title])[0]]) for title in "bcdz"}
    assert popular == dict.fromkeys("bcdz", 1)
    assert evidence.numbers(["a"])[0] == -1

"""A gate of other data is told of, and refused where it has counted next to nothing."""

from __future__ import annotations

import pytest

from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.gate.coverage import ENOUGH_ITEMS, FEW_ITEMS, Coverage
from llm4dsr_cli.gate.evidence import Evidence

KNOWN = [f"known {number}" for number in range(50)]


def coverage() -> Coverage:
    return Coverage(Evidence.count([(user, KNOWN) for user in range(3)]))


def unknown(n: int) -> list[list[str]]:
    """So many items, in sequences of 40 at most."""
    return [[f"unknown {number}" for number in range(first, min(n, first + 40))] for first in range(0, n, 40)]


@pytest.mark.parametrize(("n_unknown", "warned"), [(0, False), (50, False), (51, True), (900, True)])
def test_a_gate_that_counted_less_than_half_of_the_items_is_told_of(n_unknown: int, warned: bool) -> None:
    """Guards: a gate of other data, whose stated rate of .05 was .186, without a word."""
    seen = coverage()
    seen.add([KNOWN, *unknown(n_unknown)])
    seen.check()
    warning = seen.warning()
    assert (warning is not None) == warned
    assert seen.share == pytest.approx(50 / (50 + n_unknown))
    if warning is not None:
        assert f"{seen.share:.0%}" in warning and "llm4dsr calibrate" in warning


def test_a_gate_that_counted_next_to_none_is_refused_as_soon_as_that_is_sure() -> None:
    """Guards: a long run whose edits mean nothing; and one new item, or a stream's first, taken for other data."""
    seen = coverage()
    seen.add(unknown(ENOUGH_ITEMS - 1))
    with pytest.raises(ModelError, match=r"of other data: it has counted 0 of the 199 items"):
        seen.check()
    with pytest.raises(ModelError, match="`gate`"):
        seen.add(unknown(1))
    few = coverage()
    few.add(unknown(FEW_ITEMS - 1))
    few.check()
    assert few.warning() is None and coverage().share is None
    coverage().check()


def test_a_small_share_of_known_items_is_enough_to_go_on() -> None:
    """Guards: a catalog that has grown taken for other data."""
    seen = coverage()
    for _ in range(10):
        seen.add([KNOWN[:3], *unknown(97)])
    seen.check()
    assert "3%" in str(seen.warning())


def test_of_a_history_that_is_too_long_to_be_counted_whole_the_counted_part_is_looked_at() -> None:
    """Guards: a gate of these very data that is "of other data", for 100 items of 6,000 a user are counted."""
    histories = [[f"{user}'s item {number}" for number in range(6_000)] for user in range(3)]
    seen = Coverage(Evidence.count(enumerate(histories)))
    seen.add(histories)
    seen.check()
    assert seen.share == 1 and seen.warning() is None

"""Windows: every item judged once, by the window that sees most around it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm4dsr_cli.windows import overlapping_windows

# A busy machine is no bug.
unhurried = settings(deadline=None, max_examples=300)


@unhurried
@given(st.integers(0, 200), st.integers(1, 50))
@example(3, 2)
@example(12, 11)
@example(16, 5)
def test_every_item_is_judged_exactly_once_by_a_window_that_holds_it(n_items: int, max_window: int) -> None:
    """Guards items judged twice or never, and windows that reach beyond the sequence or what the model can read."""
    windows = overlapping_windows(n_items, max_window)
    judged = [item for window in windows for item in range(window.judge_from, window.judge_to)]
    assert judged == list(range(n_items))
    for window in windows:
        assert 0 <= window.start < window.end <= n_items
        assert window.end - window.start == min(n_items, max_window)
        assert window.start <= window.judge_from < window.judge_to <= window.end


@unhurried
@given(st.integers(1, 200), st.integers(1, 50))
@example(12, 11)
@example(13, 5)
@example(47, 6)
def test_each_item_is_judged_by_the_window_that_sees_most_around_it(n_items: int, max_window: int) -> None:
    """Guards items judged at the edge of one window though another holds them in its middle."""
    windows = overlapping_windows(n_items, max_window)
    for window in windows:
        for item in range(window.judge_from, window.judge_to):
            sees = [min(item - w.start, w.end - 1 - item) for w in windows if w.start <= item < w.end]
            assert min(item - window.start, window.end - 1 - item) == max(sees)


@unhurried
@given(st.integers(1, 200), st.integers(2, 50))
def test_neighbouring_windows_overlap_by_a_quarter(n_items: int, max_window: int) -> None:
    """Guards items inside a long sequence that see almost nothing on one side, and items read more than is worth it."""
    windows = overlapping_windows(n_items, max_window)
    assert all(one.end - other.start >= max_window // 4 for one, other in pairwise(windows))
    assert len(windows) <= max(1, -(-(n_items - 1) // max(1, max_window - max(1, max_window // 4))))
    for window in windows:
        for item in range(window.judge_from, window.judge_to):
            before, after = item - window.start, window.end - 1 - item
            enough = (max(1, max_window // 4) - 1) // 2
            assert before >= min(item, enough)
            assert after >= min(n_items - 1 - item, enough)


def test_no_items_no_windows() -> None:
    """Guards an empty prompt sent to the model."""
    assert overlapping_windows(0, 5) == []

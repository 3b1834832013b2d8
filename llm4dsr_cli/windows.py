"""Windows: pieces of a sequence that the model can read at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Items ``start`` to ``end`` (exclusive) of a sequence; it judges those from ``judge_from`` to ``judge_to``."""

    start: int
    end: int
    judge_from: int
    judge_to: int


def overlapping_windows(n_items: int, max_window: int) -> list[Window]:
    """Cut a sequence into windows of at most ``max_window`` items, in order.

    Neighbouring windows overlap by a quarter of a window (docs/experiments.md, "The overlap of windows"); each item is
    judged by exactly one of them, the one that sees most of its surroundings: the smaller of the number of items before
    and after it is largest.

    Args:
        n_items: length of the sequence; 0 gives no windows.
        max_window: largest window, at least 1.
    """
    if n_items <= max_window:
        return [Window(0, n_items, 0, n_items)] if n_items else []
    step = max(1, max_window - max(1, max_window // 4))
    starts = [*range(0, n_items - max_window, step), n_items - max_window]
    windows = []
    judged = 0
    for i, start in enumerate(starts):
        end = start + max_window
        # Half-way through the overlap with the next window, the next one begins to see more.
        until = n_items if i + 1 == len(starts) else (starts[i + 1] + end + 1) // 2
        windows.append(Window(start, end, judged, until))
        judged = until
    return windows

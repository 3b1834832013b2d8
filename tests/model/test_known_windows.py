"""Windows that stand again are read once, in bounded memory; a resumed run reads what the stopped one would have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from llm4dsr_cli.model.denoiser import Denoiser
from llm4dsr_cli.model.engine import Request
from llm4dsr_cli.model.known_windows import KnownWindows

# As in test_engine.py: the random model amplifies what the shape of a batch changes (16-bit weights).
TOLERANCE = 0.6
PLENTY = 1 << 20

RandomTitles = Callable[[int, int], list[list[str]]]


class Reading:
    """A denoiser that notes how many windows it reads."""

    def __init__(self, denoiser: Denoiser, patch: pytest.MonkeyPatch) -> None:
        self.denoiser = denoiser
        self.windows = 0
        decode = denoiser._engine._decode

        def counted(requests: list[Request], candidates: np.ndarray) -> list[np.ndarray]:
            self.windows += len(requests)
            return decode(requests, candidates)

        patch.setattr(denoiser._engine, "_decode", counted)

    def __call__(self, sequences: Iterable[list[str]]) -> int:
        """How many windows it takes to score these."""
        before = self.windows
        self.denoiser.score(sequences)
        return self.windows - before


def load(path: Path, base: Path, known_bytes: int) -> Denoiser:
    return Denoiser.load(str(path), base=str(base), weights="bf16", threads=1, known_bytes=known_bytes)


def test_what_stands_again_is_not_read_again_and_scores_the_same(
    tiny_base: Path, tiny_denoiser: Path, random_titles: RandomTitles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: tokens read twice in one run; scores of another window, or of another place in it."""
    first, others = random_titles(20, 1), random_titles(20, 2)
    with load(tiny_denoiser, tiny_base, 0) as denoiser:
        alone = [denoiser.score([titles])[0] for titles in [*others, *first]]
    with load(tiny_denoiser, tiny_base, PLENTY) as denoiser:
        reading = Reading(denoiser, monkeypatch)
        given = denoiser.score(first)
        read = reading.windows
        again = denoiser.score([*others, *first])
        assert reading.windows == read + len(others)
    for titles, one, other in zip([*others, *first], again, alone, strict=True):
        assert len(one) == len(titles)
        np.testing.assert_allclose(one, other, atol=TOLERANCE)
    assert all(map(np.array_equal, again[len(others) :], given))


def test_a_growing_history_is_read_once(
    tiny_base: Path, tiny_denoiser: Path, random_titles: RandomTitles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: files with a record for each item of a history, of which each holds all that the last one held; and an
    item that another window judges taken from one that sees less around it."""
    with load(tiny_denoiser, tiny_base, PLENTY) as denoiser, load(tiny_denoiser, tiny_base, 0) as naive:
        size = denoiser.metadata.max_window
        history = [title for titles in random_titles(10 * size, 5) for title in titles][: 10 * size]
        reading, plain = Reading(denoiser, monkeypatch), Reading(naive, monkeypatch)
        for length in range(3, len(history)):
            prefix = [history[:length]]
            np.testing.assert_allclose(denoiser.score(prefix)[0], naive.score(prefix)[0], atol=TOLERANCE)
        # A window that is read anew is the last one, or one that judges more than it did.
        assert reading.windows < len(history) * 2 < plain.windows / 2


def test_memory_is_bounded_and_what_was_asked_for_longest_ago_goes_first() -> None:
    """Guards: a stream that fills the memory, and a window that comes again and again thrown away for its age."""
    items = np.arange(10)
    known = KnownWindows(20_000)
    windows = [np.arange(number, number + 50, dtype=np.int32) for number in range(1_000)]
    for tokens in windows:
        known.keep(tokens, 10, items, np.full(10, tokens[0], dtype=np.float32))
        known.keep(windows[0], 10, items, np.zeros(10, dtype=np.float32))
        assert known.find(windows[0], items) is not None
        assert len(known) <= 20_000 // 300
    assert known.find(windows[1], items) is None
    found = known.find(windows[-1], items)
    assert found is not None and (found == 999).all()


def test_only_items_that_a_window_judged_are_known() -> None:
    """Guards: a resumed run, which cannot know more, that reads other windows than the run that was stopped."""
    known = KnownWindows(PLENTY)
    tokens = np.arange(30, dtype=np.int32)
    known.keep(tokens, 4, np.array([0, 1]), np.array([1, 2], dtype=np.float32))
    assert known.find(tokens, np.array([1, 2])) is None
    known.keep(tokens, 4, np.array([2, 2]), np.array([3, 3], dtype=np.float32))
    found = known.find(tokens, np.array([0, 1, 2]))
    assert found is not None
    assert np.array_equal(found, [1, 2, 3, np.nan], equal_nan=True)


def test_what_is_recalled_is_known_as_if_it_had_just_been_scored(
    tiny_base: Path, tiny_denoiser: Path, random_titles: RandomTitles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: a resumed run whose batches, and with them last digits, differ from those of one that was not stopped."""
    titles = [title for some in random_titles(40, 9) for title in some]
    before = [titles[:50], titles[20:33], titles[:9], titles[60:62]]
    after = [titles[:60], titles[5:30], titles[20:33], titles[:9], titles[:8]]
    with load(tiny_denoiser, tiny_base, PLENTY) as whole, load(tiny_denoiser, tiny_base, PLENTY) as resumed:
        scores = whole.score(before)
        resumed.recall(before, scores)
        first, second = Reading(whole, monkeypatch), Reading(resumed, monkeypatch)
        for one, other in zip(whole.score(after), resumed.score(after), strict=True):
            assert np.array_equal(one, other)
        assert first.windows == second.windows > 0

"""Progress and widths where there is no terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from llm4dsr_cli import console
from llm4dsr_cli.console import Console, width_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time that progress sees, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    yield now


def test_off_a_terminal_a_line_a_minute_says_how_far_it_is(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards: hours of silence in a log, or a line for each batch."""
    with Console().progress() as advance:
        for done in range(1, 241):
            clock[0] += 1
            advance(f"{done} records", done / 480)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "60 records, 12% done, 7:00 left",
        "120 records, 25% done, 6:00 left",
        "180 records, 38% done, 5:00 left",
        "240 records, 50% done, 4:00 left",
    ]


def test_progress_without_an_end_or_a_wish_for_it(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Guards: a share of a pipe, which has no end that is known; and lines in a quiet run."""
    for quiet in (False, True):
        with Console(quiet=quiet).progress() as advance:
            clock[0] += console.LINE_EVERY + 1
            advance("7 records", None)
            advance("8 records", None)
    assert capsys.readouterr().err == "7 records\n"


def test_what_is_no_terminal_is_eighty_columns_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: tables in a pipe that depend on the width of some terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    assert width_of(io.StringIO()) == 80

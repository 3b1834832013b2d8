"""Unreadable rows: those of a log that nobody can judge, and that stay as they are."""

from __future__ import annotations

from llm4dsr_cli.errors import RecordError

_KEPT = 10


class Unreadable:
    """Which rows cannot be read, however often a file is.

    Attributes:
        first: what is wrong with the first of them.
    """

    def __init__(self) -> None:
        self.first: list[RecordError] = []
        self._rows: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def add(self, row: int, error: RecordError) -> None:
        """Note what is wrong with a row, by its number from 0."""
        if row not in self._rows and len(self.first) < _KEPT:
            self.first.append(error)
        self._rows.add(row)

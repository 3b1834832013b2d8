"""What was taken back."""

from __future__ import annotations

from dataclasses import dataclass

Place = tuple[int, int]  # line of the output, from 1; position of the item in the record, from 0


@dataclass
class Undone:
    """What was taken back, of how much; records are those that were edited."""

    edits: int = 0
    of_edits: int = 0
    records: int = 0
    of_records: int = 0

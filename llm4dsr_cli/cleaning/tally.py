"""The tally of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.edits import EditedRecord
from llm4dsr_cli.records.record import OnError, Record
from llm4dsr_cli.records.unjudged import Unjudged

_NUMBERS = ("records", "items", "edited_records", "edited_items", "replaced_items", "skipped", "unread")


@dataclass
class RunCounts:
    """What a run has done so far; padding is no item.

    Attributes:
        skipped: lines that are no records.
        unread: rows of a log that cannot be read, and stay as they are.
    """

    records: int = 0
    items: int = 0
    edited_records: int = 0
    edited_items: int = 0
    replaced_items: int = 0
    skipped: int = 0
    unread: int = 0
    unjudged: Unjudged = field(default_factory=Unjudged)

    def add(self, record: Record, edited: EditedRecord | None = None) -> None:
        self.records += 1
        self.items += len(record.order)
        self.unjudged.add(record)
        if edited is not None:
            self.edited_records += bool(edited.audit)
            self.edited_items += len(edited.audit)
            self.replaced_items += edited.replaced

    def merge(self, other: RunCounts) -> None:
        """Add what another part of the run has done."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.unjudged.merge(other.unjudged)

    def as_dict(self) -> dict[str, Any]:
        """The counts, for reports."""
        return {**{name: getattr(self, name) for name in _NUMBERS}, "unjudged_items": self.unjudged.total}

    def skipping(self, then: OnError = lambda error, line: None) -> OnError:
        """For ``on_error``: counts each line as skipped and hands it on."""

        def skip(error: RecordError, line: bytes) -> None:
            self.skipped += 1
            then(error, line)

        return skip

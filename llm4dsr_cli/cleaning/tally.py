"""The tally of a run."""

from __future__ import annotations

from dataclasses import dataclass

from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.edits import EditedRecord
from llm4dsr_cli.records.record import OnError, Record


@dataclass
class RunCounts:
    """What a run has done so far."""

    records: int = 0
    items: int = 0
    edited_records: int = 0
    edited_items: int = 0
    replaced_items: int = 0
    skipped: int = 0

    def add(self, record: Record, edited: EditedRecord | None = None) -> None:
        self.records += 1
        self.items += len(record.titles)
        if edited is not None:
            self.edited_records += bool(edited.audit)
            self.edited_items += len(edited.audit)
            self.replaced_items += edited.replaced

    def skipping(self, then: OnError = lambda error, line: None) -> OnError:
        """For ``on_error``: counts each line as skipped and hands it on."""

        def skip(error: RecordError, line: bytes) -> None:
            self.skipped += 1
            then(error, line)

        return skip

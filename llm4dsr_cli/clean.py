"""Cleaning: records in, records out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from llm4dsr_cli.denoiser import Denoiser
from llm4dsr_cli.edits import Action, EditedRecord, edit_record
from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.gate import Gate
from llm4dsr_cli.records import Record


@dataclass
class Counts:
    """What a run has done so far."""

    records: int = 0
    items: int = 0
    edited_records: int = 0
    edited_items: int = 0
    skipped: int = 0

    def add(self, record: Record, edited: EditedRecord) -> None:
        self.records += 1
        self.items += len(record.titles)
        self.edited_records += bool(edited.audit)
        self.edited_items += len(edited.audit)


@dataclass
class Cleaner:
    """Scores records, gates their items and edits them.

    Attributes:
        annotate: add each item's noise probability to its record.
        counts: kept up to date while ``clean`` runs.
    """

    denoiser: Denoiser
    gate: Gate
    action: Action = "drop"
    annotate: bool = False
    counts: Counts = field(default_factory=Counts)

    def clean(
        self, batches: Iterable[list[Record]], on_error: Callable[[RecordError, bytes], None] | None = None
    ) -> Iterator[list[EditedRecord]]:
        """For each batch of records, the edited ones in the same order.

        ``on_error`` gets the line of each record that cannot be edited, with the error; without it, the error is
        raised.

        Raises:
            RecordError: a field that is to be added is in the record already.
        """
        for records in batches:
            scores = self.denoiser.score(record.titles for record in records)
            results = []
            for record, log_odds in zip(records, scores, strict=True):
                try:
                    edited = edit_record(
                        record,
                        log_odds,
                        self.gate.decide(log_odds),
                        action=self.action,
                        annotate=self.annotate,
                        output_line=self.counts.records + 1,
                        threshold=self.gate.threshold,
                    )
                except RecordError as error:
                    if on_error is None:
                        raise
                    on_error(error, record.line)
                    continue
                self.counts.add(record, edited)
                results.append(edited)
            yield results

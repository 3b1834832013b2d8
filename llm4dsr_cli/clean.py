"""Cleaning: records in, records out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic

import numpy as np

from llm4dsr_cli.counts import Counts
from llm4dsr_cli.edits import Action, EditedRecord, edit_record
from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.gate import Gate, probability
from llm4dsr_cli.reader import OnError, R
from llm4dsr_cli.records import Record
from llm4dsr_cli.scored import Scores, shortest_probabilities


@dataclass
class Cleaner(Generic[R]):
    """Scores records, gates their items and edits them.

    Attributes:
        score: noise log-odds of each record's items, shape (n_items,); a denoiser's, or kept ones.
        annotate: add each item's noise probability to its record.
        fuse: makes other log-odds of a record and its own, as a gate file does.
        counts: kept up to date while ``clean`` runs.
    """

    score: Callable[[list[R]], list[Scores]]
    gate: Gate
    action: Action = "drop"
    annotate: bool = False
    fuse: Callable[[Record, Scores], Scores] | None = None
    counts: Counts = field(default_factory=Counts)

    def log_odds(self, records: list[R]) -> list[Scores]:
        """What the gate judges by: noise log-odds of each record's items, fused where there is a way to."""
        scores = self.score(records)
        if self.fuse is None:
            return scores
        return [self.fuse(record, log_odds) for record, log_odds in zip(records, scores, strict=True)]

    def clean(self, batches: Iterable[list[R]], on_error: OnError | None = None) -> Iterator[list[EditedRecord]]:
        """For each batch of records, the edited ones in the same order.

        ``on_error`` gets the line of each record that cannot be edited, with the error; without it, the error is
        raised. ``counts.skipping`` makes one that counts.

        Raises:
            RecordError: a field that is to be added is in the record already.
        """
        for records in batches:
            results = []
            for record, log_odds in zip(records, self.log_odds(records), strict=True):
                try:
                    edited = self._edit(record, log_odds)
                except RecordError as error:
                    if on_error is None:
                        raise
                    on_error(error, record.line)
                    continue
                self.counts.add(record, edited)
                results.append(edited)
            yield results

    def _edit(self, record: R, log_odds: Scores) -> EditedRecord:
        annotation = None
        if self.annotate:
            # Fused log-odds are not rounded, and have no shortest text.
            fused = self.fuse is not None
            annotation = np.round(probability(log_odds), 5) if fused else shortest_probabilities(log_odds)
        return edit_record(
            record,
            log_odds,
            self.gate.decide(log_odds),
            action=self.action,
            annotation=annotation,
            output_line=self.counts.records + 1,
            threshold=self.gate.threshold,
        )

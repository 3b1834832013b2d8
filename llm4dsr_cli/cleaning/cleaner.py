"""The cleaner: batches of records in, edited records and their audit out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic

from llm4dsr_cli.cleaning.decision import Decision
from llm4dsr_cli.cleaning.editing import additions, chances, record_edits
from llm4dsr_cli.cleaning.run import Cleaning
from llm4dsr_cli.cleaning.tally import RunCounts
from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.records.edits import EditedRecord, edit_record
from llm4dsr_cli.records.parallel import ParallelLists
from llm4dsr_cli.records.record import OnError, R
from llm4dsr_cli.scores import rounded_probability


@dataclass
class Cleaner(Generic[R]):
    """Turns a cleaning's decisions into output lines, audit lines and a tally.

    Attributes:
        cleaning: decides.
        annotate: add each item's noise probability to its record.
        counts: kept up to date while ``clean`` runs.
        nameless: how many records named no user.
        lists: the lists that run parallel to the items.
    """

    cleaning: Cleaning
    annotate: bool = False
    counts: RunCounts = field(default_factory=RunCounts)
    nameless: int = field(default=0, init=False)
    lists: ParallelLists = field(init=False)

    def __post_init__(self) -> None:
        self.lists = ParallelLists(self.cleaning.record_format)

    def clean(self, batches: Iterable[list[R]], on_error: OnError | None = None) -> Iterator[list[EditedRecord]]:
        """For each batch of records, the edited ones in the same order.

        ``on_error`` gets the line of each record that cannot be edited, with the error; without it, the error is
        raised. ``counts.skipping`` makes one that counts.

        Raises:
            RecordError: a field that is to be added is in the record already, or a list that runs parallel to the items
                elsewhere is of another length.
        """
        for records in batches:
            results = []
            self.lists.observe(records)
            decisions = self.cleaning.decide_batch([self.cleaning.sequence(record) for record in records])
            for record, decision in zip(records, decisions, strict=True):
                self.nameless += record.data.get(self.cleaning.user_field) is None
                try:
                    edited = self._edit(record, decision)
                except RecordError as error:
                    if on_error is None:
                        raise
                    on_error(error, record.render())
                    continue
                self.counts.add(record, edited)
                results.append(edited)
            yield results

    def _edit(self, record: R, decision: Decision) -> EditedRecord:
        decision = decision.placed(record.order, len(record.titles))
        edits = record_edits(record, decision, self.cleaning.candidates)
        return edit_record(
            record,
            edits,
            add=additions(decision, annotate=self.annotate, fused=self.cleaning.fuses),
            output_line=self.counts.records + 1,
            threshold=rounded_probability(decision.threshold),
            parallel=self.lists.of(record, dropping=any(edit.action == "drop" for edit in edits)),
            user=record.data.get(self.cleaning.user_field),
            chances=chances(decision.log_odds, fused=self.cleaning.fuses) if edits else (),
            expected=self._expected,
        )

    @cached_property
    def _expected(self) -> dict[float, float] | None:
        """Share of the edits that is right, by the share of the data that is noise; None where nobody can say."""
        surveyed = self.cleaning.surveyed
        return None if surveyed is None else surveyed.right(self.cleaning.gate.threshold)

"""Cleaning: records in, records out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from llm4dsr_cli.cleaning.tally import RunCounts
from llm4dsr_cli.errors import RecordError
from llm4dsr_cli.gate.gate import Gate
from llm4dsr_cli.records.edits import Action, EditedRecord, Fallback, Substitute, edit_record
from llm4dsr_cli.records.record import OnError, R, Record
from llm4dsr_cli.replacing.replacer import Replacement, Replacer
from llm4dsr_cli.scores import Scores, probability, shortest_probabilities


@dataclass
class Cleaner(Generic[R]):
    """Scores records, gates their items and edits them.

    Attributes:
        score: noise log-odds of each record's items, shape (n_items,); a denoiser's, or kept ones.
        annotate: add each item's noise probability to its record.
        fuse: makes other log-odds of a record and its own, as a gate file does.
        replacer: proposes items for the action "replace".
        fallback: what that action does where no proposal is accepted.
        counts: kept up to date while ``clean`` runs.
    """

    score: Callable[[list[R]], list[Scores]]
    gate: Gate
    action: Action = "drop"
    annotate: bool = False
    fuse: Callable[[Record, Scores], Scores] | None = None
    replacer: Replacer | None = None
    fallback: Fallback = "drop"
    counts: RunCounts = field(default_factory=RunCounts)

    def log_odds(self, records: list[R]) -> list[Scores]:
        """What the gate judges by: noise log-odds of each record's items, fused where there is a way to."""
        if not records:
            return []
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
            scores = self.log_odds(records)
            decisions = [self.gate.decide(log_odds) for log_odds in scores]
            proposed = self._replacements(records, scores, decisions)
            for record, log_odds, edits, replacements in zip(records, scores, decisions, proposed, strict=True):
                try:
                    edited = self._edit(record, log_odds, edits, replacements)
                except RecordError as error:
                    if on_error is None:
                        raise
                    on_error(error, record.line)
                    continue
                self.counts.add(record, edited)
                results.append(edited)
            yield results

    def _replacements(
        self, records: list[R], scores: list[Scores], decisions: list[NDArray[np.bool_]]
    ) -> list[dict[int, Replacement]]:
        if self.action != "replace" or self.replacer is None:
            return [{} for _ in records]
        return self.replacer.replace(records, scores, decisions, self.gate.threshold, self.log_odds)

    def _edit(
        self, record: R, log_odds: Scores, edits: NDArray[np.bool_], replacements: dict[int, Replacement]
    ) -> EditedRecord:
        annotation = None
        if self.annotate:
            shown = log_odds.copy()
            for position, replacement in replacements.items():
                if replacement.accepted:
                    shown[position] = replacement.log_odds
            # Fused log-odds are not rounded, and have no shortest text.
            fused = self.fuse is not None
            annotation = np.round(probability(shown), 5) if fused else shortest_probabilities(shown)
        return edit_record(
            record,
            log_odds,
            edits,
            action=self.action,
            annotation=annotation,
            output_line=self.counts.records + 1,
            threshold=self.gate.threshold,
            substitutes={position: self._substitute(record, position, r) for position, r in replacements.items()},
            fallback=self.fallback,
        )

    def _substitute(self, record: R, position: int, replacement: Replacement) -> Substitute:
        assert self.replacer is not None
        candidates, proposer = self.replacer.candidates, self.replacer.proposer
        return Substitute(
            item=candidates.item(replacement.candidate, record, position) if replacement.accepted else None,
            title=candidates.titles[replacement.candidate],
            proposer=proposer.name,
            score={proposer.score_name: replacement.score},
            log_odds=replacement.log_odds,
            accepted=replacement.accepted,
        )

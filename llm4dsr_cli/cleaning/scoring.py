"""Scoring: records in, scored lines out, and scored records' kept scores in place of a denoiser's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from llm4dsr_cli.cleaning.tally import RunCounts
from llm4dsr_cli.errors import ModelError
from llm4dsr_cli.records.record import Record
from llm4dsr_cli.records.scored_line import MODEL_DIGITS, ScoredRecord, scored_line
from llm4dsr_cli.scores import Scores


@dataclass
class KeptScores:
    """Gives scored records' log-odds back, and sees to it that one denoiser gave them all.

    Attributes:
        sha256: of that denoiser; None takes the one that the first record names.
        whose: what needs that denoiser, for messages.
        remedy: what to do about records of another one, for messages.
    """

    sha256: str | None = None
    whose: str = "the records before it"
    remedy: str = "score all records again"
    _digits: str | None = field(default=None, init=False)

    def __call__(self, records: list[ScoredRecord]) -> list[Scores]:
        """Noise log-odds of each record.

        Raises:
            ModelError: another denoiser scored one of them.
        """
        for record in records:
            if self._digits is None:
                self._digits = record.model if self.sha256 is None else self.sha256[:MODEL_DIGITS]
            if record.model != self._digits:
                raise ModelError(
                    f"scored by another denoiser ({record.model}...) than {self.whose} ({self._digits}...)",
                    where=record.where,
                    remedy=self.remedy,
                )
        return [record.log_odds for record in records]

    @property
    def model(self) -> str | None:
        """The denoiser's SHA-256, or the digits of it that are known; None before the first record."""
        return self.sha256 or self._digits


def score_records(
    batches: Iterable[list[Record]], score: Callable[[list[Record]], list[Scores]], sha256: str, counts: RunCounts
) -> Iterator[list[bytes]]:
    """For each batch of records their scored lines; a batch is counted when the next one is asked for.

    Args:
        score: noise log-odds of each record's items, shape (n_items,).
        sha256: of the file of the denoiser that scores.
        counts: kept up to date.
    """
    for records in batches:
        scores = score(records)
        yield [scored_line(record, log_odds, sha256) for record, log_odds in zip(records, scores, strict=True)]
        for record in records:
            counts.add(record)

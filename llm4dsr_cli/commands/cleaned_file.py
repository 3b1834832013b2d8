"""A file that is cleaned in two passes: its scores are kept between them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llm4dsr_cli.commands.options import ErrorOptions
from llm4dsr_cli.commands.resumption import how_to_go_on, scoring_state, write_scores
from llm4dsr_cli.errors import Llm4dsrError, OptionError, RecordError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.commands.destinations import Destination
    from llm4dsr_cli.commands.outputs import Outputs
    from llm4dsr_cli.commands.record_options import EditedRecordOptions
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.reader import LineReader
    from llm4dsr_cli.records.record import OnError, Record
    from llm4dsr_cli.records.resumable import ScratchFile
    from llm4dsr_cli.records.scored_line import ScoredRecord
    from llm4dsr_cli.sequences import ItemSequence

# Scores that took less time are not kept for a run that ends with an error: making them again costs less than a file
# that somebody has to think about.
WORTH_KEEPING = 30.0  # seconds


@dataclass
class CleanedFile:
    """A file that is cleaned; or a pipe, which is never scored before.

    Attributes:
        name: what it was given as.
        source: its path; of a log, a ``Gathered``.
        records: the options that read it.
        outputs: where its records go; None to say only what would be done.
        scratch: its scores are kept in a file named after this, for a run that is stopped; None for a file that goes
            with the run.
        counts: what was read of it.
        adds: the fields that its records are to get.
        catalog: its titles, once they are loaded.
    """

    name: str
    source: str
    records: EditedRecordOptions
    outputs: Outputs | None
    scratch: str | None
    counts: RunCounts
    adds: Sequence[str] = ()
    catalog: Catalog | None = field(default=None, init=False)
    _kept: ScratchFile | None = field(default=None, init=False)
    _skips: bool = field(default=False, init=False)

    @classmethod
    def of(
        cls,
        destination: Destination,
        outputs: Outputs | None,
        records: EditedRecordOptions,
        console: Console,
        user_field: str,
        errors: ErrorOptions,
        adds: Sequence[str],
    ) -> CleanedFile:
        """A log is gathered, and taken back to by the outputs.

        Raises what ``gathered``, ``take_back_to`` and ``refuse_added`` raise.
        """
        from llm4dsr_cli.cleaning.tally import RunCounts
        from llm4dsr_cli.records.logs.gathered import Gathered, is_stream
        from llm4dsr_cli.records.resumable import scratch_name

        counts = RunCounts()
        asks_format = records.format is None and is_stream(destination.source)
        source, records = records.gathered(destination.source, console, user_field, errors, counts)
        if outputs is not None:
            outputs.take_back_to(source, asks_format=asks_format)
        if isinstance(source, Gathered):
            source.refuse_added(adds)
        target = destination.target
        scratch = None if target is None or source == "-" else scratch_name(target)
        return cls(destination.source, source, records, outputs, scratch, counts, adds)

    @property
    def is_file(self) -> bool:
        """Whether it can be read twice."""
        from llm4dsr_cli.records.reader import can_be_read_twice

        return can_be_read_twice(self.source)

    def check(self, *, resume: bool) -> None:
        """Refuse a file that cannot be read, or scores of another run.

        Raises:
            Llm4dsrError, OptionError, OutputError: it is so.
        """
        from llm4dsr_cli.records.reader import LineReader
        from llm4dsr_cli.records.resumable import check_part

        if self.is_file:
            with LineReader.open(self.source):
                pass
        if self.scratch is None:
            if resume:
                raise OptionError(
                    "--resume needs regular files",
                    remedy="leave it out, or write to files and read them",
                )
        elif self.is_file:
            check_part(self.scratch, resume=resume)

    def read(self, reader: LineReader, on_error: OnError | None) -> Iterator[list[Record]]:
        """The records of a reader, in batches.

        Raises RecordError, where there is no ``on_error``, of one that has a field already that it is to get: before
        anything is scored, and not when it is written.
        """
        from llm4dsr_cli.records.reader import read_records
        from llm4dsr_cli.scores import BATCH_RECORDS

        batches = read_records(reader, BATCH_RECORDS, self.records.record_format(), self.catalog, on_error)
        return _refusing(self.adds, batches) if self.adds and on_error is None else batches

    def unscored(self, user_field: str, *, skips: bool) -> Iterator[ItemSequence]:
        """The sequences of the records; nothing is told of what is skipped, for a later pass tells of it."""
        from llm4dsr_cli.records.reader import LineReader

        with LineReader.open(self.source) as reader:
            for batch in self.read(reader, _silent if skips else None):
                for record in batch:
                    yield record.sequence(user_field)

    def open(self, stack: ExitStack, denoiser: Denoiser, *, resume: bool, began: float) -> None:
        """Open the outputs and the file of the denoiser's scores, until the stack is closed."""
        from llm4dsr_cli.records.resumable import ScratchFile

        folder = None if self.scratch is not None else stack.enter_context(tempfile.TemporaryDirectory())
        state = {} if self.scratch is None else scoring_state(self.source, self.records, denoiser)
        self._kept = ScratchFile(self.scratch or Path(str(folder), "scores"), state, resume=resume)
        stack.enter_context(self._kept)
        stack.enter_context(_forgotten_on_error(self._kept, lambda: time.monotonic() - began < WORTH_KEEPING))
        if self.outputs is not None:
            stack.enter_context(self.outputs.open())

    def score(self, cleaning: Cleaning, errors: ErrorOptions, console: Console) -> None:
        """Score the records that an earlier run has not."""
        from llm4dsr_cli.cleaning.scoring import recall_records, score_records
        from llm4dsr_cli.records.reader import LineReader
        from llm4dsr_cli.records.scored_line import scores_line, with_scores

        denoiser = cast("Denoiser", cleaning.scorer)

        def recall(lines: list[bytes], records: list[Record]) -> None:
            kept_records = zip(records, lines, strict=True)
            recall_records([with_scores(record, line, denoiser.sha256) for record, line in kept_records], denoiser)

        kept, counts = self._scores, self.counts
        outputs = self.outputs
        on_error = errors.leaving_out(counts, console) if outputs is None else outputs.skipping(counts, console)
        self._skips = on_error is not None
        with LineReader.open(self.source) as reader, console.progress() as advance:
            batches = kept.remaining(self.read(reader, on_error), _written_for, recall)
            lines = score_records(batches, cleaning.scorer, counts, lambda record, scores, _: scores_line(scores))
            write_scores(lines, kept, counts, reader, advance)
        kept.finish()

    def scored(self, reader: LineReader, cleaning: Cleaning) -> Iterator[list[ScoredRecord]]:
        """The records again, each with its scores."""
        from llm4dsr_cli.records.scored_line import with_scores

        with self._scores.part.open("rb") as lines:
            for batch in self.read(reader, _silent if self._skips else None):
                yield [with_scores(record, lines.readline(), str(cleaning.scorer.sha256)) for record in batch]

    def sequences(self, cleaning: Cleaning) -> Iterator[ItemSequence]:
        """The sequences of the records, with their scores."""
        from llm4dsr_cli.records.reader import LineReader

        with LineReader.open(self.source) as reader:
            for batch in self.scored(reader, cleaning):
                yield from map(cleaning.sequence, batch)

    def write(self, outputs: Outputs, cleaning: Cleaning, console: Console) -> Cleaner[ScoredRecord]:
        """Clean the records; what was done to them."""
        from llm4dsr_cli.cleaning.cleaner import Cleaner
        from llm4dsr_cli.records.reader import LineReader

        cleaner: Cleaner[ScoredRecord] = Cleaner(cleaning, outputs.annotate)
        cleaner.counts.skipped, cleaner.counts.unread = self.counts.skipped, self.counts.unread
        with LineReader.open(self.source) as reader:
            outputs.write(reader, cleaner, lambda on_error: self.scored(reader, cleaning), console)
        return cleaner

    def keep_scores(self) -> None:
        """Let the scores outlive this run, for one that writes; without effect where they go with the run."""
        self._scores.kept = self.scratch is not None

    def how_to_go_on(self) -> list[str]:
        """A sentence about the scores that a run that did not end has left, if it has left any."""
        return how_to_go_on(self._kept)

    @property
    def _scores(self) -> ScratchFile:
        assert self._kept is not None
        return self._kept


def _refusing(names: Sequence[str], batches: Iterable[list[Record]]) -> Iterator[list[Record]]:
    """The same batches. Raises RecordError where a record has one of the fields."""
    from llm4dsr_cli.records.record import refuse_fields

    for batch in batches:
        for record in batch:
            refuse_fields(record.data, names, record.where)
        yield batch


def _silent(error: RecordError, line: bytes) -> None:
    """For ``on_error``: another pass tells of what is skipped."""


@contextmanager
def _forgotten_on_error(kept: ScratchFile, forgets: Callable[[], bool]) -> Iterator[None]:
    try:
        yield
    except Llm4dsrError:
        if forgets():
            kept.forget()
        raise


def _written_for(line: bytes, record: Record) -> bool:
    return line.count(b",") + 1 == len(record.titles) or (line == b"[]" and not record.titles)

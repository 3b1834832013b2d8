"""Cleaning a file in two passes: score all of it, look at what an edit would do, and only then edit and write."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llm4dsr_cli.commands.inputs import exit_code
from llm4dsr_cli.commands.options import ErrorOptions
from llm4dsr_cli.commands.outlook import surveyed
from llm4dsr_cli.commands.resumption import how_to_go_on, write_scores
from llm4dsr_cli.errors import Llm4dsrError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.run import Cleaning
    from llm4dsr_cli.commands.outputs import Outputs
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.model.denoiser import Denoiser
    from llm4dsr_cli.records.reader import LineReader
    from llm4dsr_cli.records.record import OnError, Record
    from llm4dsr_cli.records.resumable import ScratchFile, State
    from llm4dsr_cli.records.scored_line import ScoredRecord
    from llm4dsr_cli.sequences import ItemSequence

# Scores that took less time are not kept for a run that ends with an error: making them again costs less than a file
# that somebody has to think about.
WORTH_KEEPING = 30.0  # seconds

Read = Callable[["LineReader", "OnError | None"], Iterator["list[Record]"]]


def clean_file(
    source: str,
    cleaning: Cleaning,
    read: Read,
    outputs: Outputs | None,
    errors: ErrorOptions,
    console: Console,
    *,
    scratch: str | None,
    state: State,
    resume: bool,
    examples: int,
) -> int:
    """Score the records of a file, say what edits would do, and clean them; the exit code.

    Args:
        read: the records of a reader, in batches.
        outputs: where the records go; None to say only what would be done.
        errors: what happens to lines that are no records.
        scratch: the scores are kept in a file named after this, for a run that is stopped; None for a file that goes
            with the run.
        state: what the scores depend on.
        resume: go on with the scores of an earlier run.
        examples: how many edits are shown before they are made.
    """
    from llm4dsr_cli.cleaning.cleaner import Cleaner
    from llm4dsr_cli.cleaning.scoring import recall_records, score_records
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.records.reader import LineReader
    from llm4dsr_cli.records.resumable import ScratchFile
    from llm4dsr_cli.records.scored_line import scores_line, with_scores

    counts = RunCounts()
    silent: OnError = lambda error, line: None  # noqa: E731 - the first pass tells of what is skipped
    kept: ScratchFile | None = None

    def scored(reader: LineReader) -> Iterator[list[ScoredRecord]]:
        """The records again, each with its scores."""
        assert kept is not None
        with kept.part.open("rb") as lines:
            for batch in read(reader, silent if skips else None):
                yield [with_scores(record, lines.readline(), str(cleaning.scorer.sha256)) for record in batch]

    def recall(lines: list[bytes], records: list[Record]) -> None:
        denoiser = cast("Denoiser", cleaning.scorer)
        kept_records = zip(records, lines, strict=True)
        recall_records([with_scores(record, line, denoiser.sha256) for record, line in kept_records], denoiser)

    def sequences() -> Iterator[ItemSequence]:
        with LineReader.open(source) as reader:
            for batch in scored(reader):
                yield from map(cleaning.sequence, batch)

    began = time.monotonic()
    try:
        with ExitStack() as stack:
            folder = None if scratch is not None else stack.enter_context(tempfile.TemporaryDirectory())
            kept = ScratchFile(scratch or Path(str(folder), "scores"), state, resume=resume)
            stack.enter_context(kept)
            stack.enter_context(_forgotten_on_error(kept, lambda: time.monotonic() - began < WORTH_KEEPING))
            if outputs is not None:
                stack.enter_context(outputs.open())
            on_error = errors.leaving_out(counts, console) if outputs is None else outputs.skipping(counts, console)
            skips = on_error is not None
            with LineReader.open(source) as reader, console.progress() as advance:
                batches = kept.remaining(read(reader, on_error), _written_for, recall)
                lines = score_records(batches, cleaning.scorer, counts, lambda record, scores, _: scores_line(scores))
                write_scores(lines, kept, counts, reader, advance)
            kept.finish()
            cleaning = surveyed(cleaning, sequences, console, examples)
            if outputs is None:
                kept.kept = scratch is not None
            else:
                cleaner: Cleaner[ScoredRecord] = Cleaner(cleaning, outputs.annotate)
                cleaner.counts.skipped = counts.skipped
                with LineReader.open(source) as reader:
                    outputs.write(reader, cleaner, lambda on_error: scored(reader), console)
    except KeyboardInterrupt:
        nothing = outputs is None or outputs.appears_whole
        told = ["interrupted: nothing was written" if nothing else "interrupted", *how_to_go_on(kept, counts)]
        raise KeyboardInterrupt(": ".join(told)) from None
    except Llm4dsrError:
        for sentence in how_to_go_on(kept, counts):
            console.say(sentence)
        raise
    return exit_code(counts, None, console) if outputs is None else outputs.tell(cleaner, console)


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

"""What commands read: files or streams, lines that are no records, and records that name no user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llm4dsr_cli.errors import OptionError, RecordError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.record import OnError, RecordFormat
    from llm4dsr_cli.records.writer import OutputFile
    from llm4dsr_cli.sequences import ItemSequence

SHOWN_REJECTS = 10
SKIPPED = 3


def is_pipe(source: str) -> bool:
    """Whether a path is no file but a stream, which is read or written only once."""
    # A missing file or a folder gets the sentence of whoever opens it.
    return source == "-" or (Path(source).exists() and not Path(source).is_file() and not Path(source).is_dir())


def read_sequences(
    source: str, form: RecordFormat, catalog: Catalog | None, user_field: str, on_error: OnError | None
) -> tuple[list[ItemSequence], int]:
    """The records as sequences, and how many of them name nobody."""
    from llm4dsr_cli.records.reader import LineReader, read_records
    from llm4dsr_cli.records.record import user_of
    from llm4dsr_cli.sequences import ItemSequence

    sequences: list[ItemSequence] = []
    nameless = 0
    with LineReader.open(source) as reader:
        for batch in read_records(reader, 1024, form, catalog, on_error):
            sequences += [ItemSequence(one.titles, user_of(one, user_field), one.ids) for one in batch]
            nameless += sum(record.data.get(user_field) is None for record in batch)
    return sequences, nameless


def warn_of_nameless(console: Console, count: int, user_field: str, otherwise: str) -> None:
    """Say how many records name no user, and what follows if users have several of them."""
    if count:
        console.warn(
            f'{count:,} records have no "{user_field}": each counts as a user of its own; '
            f"if users have several records, name the field with --user-field, or {otherwise}"
        )


def skips(on_error: str) -> bool:
    """Whether lines that are no records are skipped.

    Raises:
        OptionError: an unknown way.
    """
    if on_error not in ("fail", "skip"):
        raise OptionError(f"--on-error {on_error}: no such way", remedy="choose fail or skip")
    return on_error == "skip"


def rejects_path(on_error: str, rejects: str | None, target: str) -> str | None:
    """Where skipped lines go; None when none are skipped.

    Raises:
        OptionError: an unknown way, or no place for them.
    """
    if not skips(on_error):
        if rejects is not None:
            raise OptionError(f"--rejects {rejects}: no lines are skipped", remedy="add --on-error skip")
        return None
    if rejects is None and target == "-":
        raise OptionError("skipped lines have no place to go", remedy="give --rejects FILE")
    return rejects or f"{target}.rejects.jsonl"


def skipping(
    counts: RunCounts, rejects: OutputFile | None, console: Console
) -> Callable[[RecordError, bytes], None] | None:
    """For ``on_error``: counts, keeps and, for the first ones, tells of each line; None where an error is to stop."""
    return None if rejects is None else _telling(counts, rejects, console)


def leaving_out(on_error: str, counts: RunCounts, console: Console) -> Callable[[RecordError, bytes], None] | None:
    """``skipping`` for commands that write no records, so that skipped lines need no place to go."""
    return _telling(counts, None, console) if skips(on_error) else None


def _telling(counts: RunCounts, rejects: OutputFile | None, console: Console) -> Callable[[RecordError, bytes], None]:
    def keep(error: RecordError, line: bytes) -> None:
        if rejects is not None:
            rejects.write(line)
        if counts.skipped <= SHOWN_REJECTS:
            console.warn(f"skipped {error}")

    return counts.skipping(keep)


def exit_code(counts: RunCounts, rejects: str | None, console: Console) -> int:
    """The run's exit code; says how many lines were skipped, if any were, and where they are."""
    if not counts.skipped:
        return 0
    where = "" if rejects is None else f"; they are in {rejects}"
    console.warn(f"skipped {counts.skipped:,} lines that are no records{where}")
    return SKIPPED

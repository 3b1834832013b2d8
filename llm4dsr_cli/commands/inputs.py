"""What commands read: files or streams, lines that are no records, and records that name no user."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llm4dsr_cli.errors import OptionError, RecordError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.record import OnError
    from llm4dsr_cli.records.record_format import RecordFormat
    from llm4dsr_cli.records.writer import OutputFile
    from llm4dsr_cli.sequences import JudgeableSequence
    from llm4dsr_cli.titles import CutTitles

SHOWN_REJECTS = 10
_IDS = 1000  # of the records, are enough to tell columns apart
SKIPPED = 3


def is_pipe(source: str) -> bool:
    """Whether a path is no file but a stream, which is read or written only once."""
    # A missing file or a folder gets the sentence of whoever opens it.
    return source == "-" or (Path(source).exists() and not Path(source).is_file() and not Path(source).is_dir())


def read_sequences(
    source: str,
    record_format: RecordFormat,
    catalog: Catalog | None,
    user_field: str,
    on_error: OnError | None,
    counts: RunCounts,
) -> tuple[list[JudgeableSequence], int]:
    """The records as sequences of what can be judged, and how many of them name nobody; ``counts`` gets them all."""
    from llm4dsr_cli.records.reader import LineReader, read_records

    sequences: list[JudgeableSequence] = []
    nameless = 0
    with LineReader.open(source) as reader:
        for batch in read_records(reader, 1024, record_format, catalog, on_error):
            for record in batch:
                counts.add(record)
                sequences.append(record.sequence(user_field).judgeable())
                nameless += record.data.get(user_field) is None
    return sequences, nameless


def first_ids(source: str, record_format: RecordFormat) -> set[str]:
    """Ids of the first records of a file, as texts; none of an input that can be read only once, or is no such file."""
    from llm4dsr_cli.errors import Llm4dsrError
    from llm4dsr_cli.records.catalog import Catalog
    from llm4dsr_cli.records.reader import LineReader, can_be_read_twice, read_records

    found: set[str] = set()
    if not can_be_read_twice(source):
        return found
    # A catalog of nothing: strings are ids. What is wrong with the input is told when it is read.
    with suppress(Llm4dsrError), LineReader.open(source) as reader:
        for batch in read_records(reader, 64, record_format, Catalog(), lambda error, line: None):
            found.update(str(id_) for record in batch for id_ in record.ids if id_ is not None)
            if len(found) >= _IDS:
                break
    return found


def may_hold_objects(source: str) -> bool:
    """Whether a record may have an object within: items that are objects take all of the catalog's fields.

    Bare ids never need them, and a catalog's descriptions may be larger than all the rest. True for an input that can
    be read only once.
    """
    from llm4dsr_cli.errors import Llm4dsrError
    from llm4dsr_cli.records.reader import LineReader, can_be_read_twice

    if not can_be_read_twice(source):
        return True
    # What is wrong with the input is told when it is read.
    with suppress(Llm4dsrError), LineReader.open(source) as reader:
        return any(line.count(b"{") > 1 for batch in reader.batches(1024) for _, line in batch)
    return True


def tell_catalog(catalog: Catalog | None, console: Console) -> None:
    """Say where a catalog's ids and titles come from, and what in it contradicts itself."""
    if catalog is None:
        return
    console.say(catalog.about)
    if catalog.contradictions:
        more = f", and {catalog.contradictions - 1:,} more are like it" if catalog.contradictions > 1 else ""
        console.warn(f"{catalog.contradiction}{more}: the first of them counts")


def tell_unjudged(counts: RunCounts, catalog: Catalog | None, console: Console, undone: str = "left out") -> None:
    """Say how many items nobody could judge, if there are any."""
    told = counts.unjudged.describe(catalog, undone=undone)
    if told is not None:
        console.warn(told)


def tell_cut(cut_titles: CutTitles, console: Console) -> None:
    """Say how many titles were cut, if they are many."""
    told = cut_titles.describe()
    if told is not None:
        console.say(told)


# What follows where counts judge.
VOUCHING = "a user's records vouch for each other's noise (--no-fusion judges without counts)"


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
        return SKIPPED if counts.unread else 0
    where = "" if rejects is None else f"; they are in {rejects}"
    console.warn(f"skipped {counts.skipped:,} lines that are no records{where}")
    return SKIPPED

"""What happens to lines that are no records, for the commands that read records."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llm4dsr_cli.errors import OptionError, RecordError

if TYPE_CHECKING:
    from llm4dsr_cli.cleaning.tally import RunCounts
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.writer import OutputFile

SHOWN_REJECTS = 10
SKIPPED = 3


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

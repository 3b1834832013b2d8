"""``llm4dsr show``"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from llm4dsr_cli.commands.edited_sequences import INDENT, edited_item, surroundings
from llm4dsr_cli.commands.options import NoColor
from llm4dsr_cli.console import Part
from llm4dsr_cli.streams import write_out

if TYPE_CHECKING:
    from llm4dsr_cli.records.audit import AuditedEdit, AuditedRecord

_DONE = {"drop": "dropped", "mark": "marked", "replace": "replaced"}


def show(
    audit: Annotated[
        str, typer.Argument(metavar="AUDIT", help="What `clean` or `apply` wrote with --audit; - for standard input.")
    ],
    first: Annotated[
        int | None, typer.Option("--first", metavar="N", min=1, help="Only the first N records. [default: all]")
    ] = None,
    no_color: NoColor = False,
) -> None:
    """Print what was edited: each item with its noise probability, its place in the sequence, and what took its place.

    On a terminal the more suspicious an item is, the redder it is.

    Example: llm4dsr show edits.jsonl --first 20
    """
    from llm4dsr_cli.console import Console, styled, width_of
    from llm4dsr_cli.records.audit import read_audit
    from llm4dsr_cli.records.reader import LineReader

    columns = width_of(sys.stdout) - 1
    color = Console(color=not no_color).color and sys.stdout.isatty()
    with LineReader.open(audit) as reader:
        for record in islice(read_audit(reader), first):
            for line in _lines(record, columns):
                write_out(f"{styled(line, color=color)}\n")


def _lines(record: AuditedRecord, columns: int) -> Iterator[list[Part]]:
    yield [(f"{record.unit} {record.output_line}", "bold"), (f"  {record.user_text}" if record.user_text else "", "")]
    for edit in record.edits:
        done = f"  ({_DONE[edit.action]})"
        yield [*edited_item(edit.title, edit.noise_probability, columns - len(done)), (done, "dim")]
        if record.titles is not None:
            yield surroundings(record.titles, record.chances or [], edit.position, columns)
        if edit.proposal is not None:
            yield _proposed(edit)


def _proposed(edit: AuditedEdit) -> list[Part]:
    assert edit.proposal is not None
    accepted = edit.proposal.accepted
    told = "in its place" if accepted else "nothing fitted; proposed was"
    return [
        (f"{INDENT}{told}: ", ""),
        (edit.proposal.title, "green" if accepted else ""),
        (f" ({edit.proposal.noise_probability:.3f}, {edit.proposal.proposer})", "dim"),
    ]

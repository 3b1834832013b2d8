"""``llm4dsr undo``"""

from __future__ import annotations

from typing import Annotated

import typer

from llm4dsr_cli.commands.options import Quiet, given
from llm4dsr_cli.errors import OptionError


def undo(
    audit: Annotated[str, typer.Argument(metavar="AUDIT", help="What `clean` or `apply` wrote with --audit.")],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The OUT of the same run, JSON lines or a log; - for standard input.")
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="Where what was read comes back; - for standard output. A folder gets a file of FILE's name.",
        ),
    ],
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="LIST",
            help="Take back these edits alone: a text file with one a line, the line of FILE, or the number of a log's "
            "sequence (from 1), and the item's position in the record as it was (from 0), as in: 12 3. What follows a "
            "# is a comment. The page of `llm4dsr report` gives such a file.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Take edits back: all of them, byte for byte, or those of a list.

    All edits taken back, every line is again what was read (in JSON lines, a Windows line ending apart), and a log is
    again the file that it was; not so of Parquet. Of some edits taken back, the lines are what they would be without
    these edits; fields that --annotate or --action mark have added stay.

    Example: llm4dsr undo edits.jsonl cleaned.jsonl restored.jsonl --only undo.txt
    """
    from llm4dsr_cli.commands.destinations import placed
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.undo import read_places, undo_edits
    from llm4dsr_cli.records.writer import check_paths

    inputs = given({"AUDIT": audit, "FILE": file, "--only": only})
    if [*inputs.values()].count("-") > 1:
        raise OptionError("two inputs are standard input", remedy="give files")
    target = placed(file, target)
    check_paths(inputs, {"OUT": target})
    undone = undo_edits(audit, file, target, None if only is None else read_places(only))
    Console(quiet=quiet).say(
        f"took back {undone.edits:,} of {undone.of_edits:,} edits, in {undone.records:,} of {undone.of_records:,} "
        "edited records"
    )

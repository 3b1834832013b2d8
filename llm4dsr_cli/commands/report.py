"""``llm4dsr report``"""

from __future__ import annotations

from typing import Annotated

import typer

from llm4dsr_cli.commands.options import Quiet, given


def report(
    target: Annotated[str, typer.Argument(metavar="OUT.html", help="Where the page goes; - for standard output.")],
    audit: Annotated[str, typer.Option("--audit", metavar="FILE", help="What `clean` or `apply` wrote with --audit.")],
    scored: Annotated[
        str | None,
        typer.Option(
            "--scored",
            metavar="FILE",
            help="JSON lines with noise_probability, of `score` or of `clean --annotate`: the histogram is of all "
            "their items. [default: the items of edited records alone]",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a page of an audit, to look at edits and to choose those that `llm4dsr undo` takes back.

    One file for a browser, which loads nothing: sequences with their probabilities as colours, what took an item's
    place, the most edited items and users, a histogram, and a search.

    Example: llm4dsr report edits.html --audit edits.jsonl
    """
    from llm4dsr_cli.console import Console
    from llm4dsr_cli.records.writer import check_paths
    from llm4dsr_cli.review.page import write_report

    check_paths(given({"--audit": audit, "--scored": scored}), {"OUT.html": target})
    shown = write_report(target, audit, scored)
    Console(quiet=quiet).say(f"{target}: {len(shown['edits']):,} edits in {len(shown['records']):,} records")
